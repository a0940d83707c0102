//! A backup of a running controller, as an admin takes it.

use super::*;
use crate::{
    restore,
    rules::tests::balance,
    store::{Read, RedbDisk, View},
};
use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const BACKUP: &str = "/v2.0/overweave/backup";

/// A directory of a test's own, gone when it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("ow-backup-{}", Uuid::new_v4()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// The store that a backup restores to.
    fn restored(&self, backup: &[u8]) -> crate::store::Snapshot {
        let file = self.0.join("backup");
        std::fs::write(&file, backup).unwrap();
        let data = self.0.join(Uuid::new_v4().to_string());
        restore(&file, &data).unwrap();
        let disk = RedbDisk::open(&data, crate::resources::decode).unwrap();
        Embedded::read(&disk).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn asked(who: &str) -> Request<Body> {
    let request = Request::post(BACKUP).header("x-auth-token", who);
    request.body(Body::empty()).unwrap()
}

/// Waits for something that another task does.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_mins(1), async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "in a minute not yet: {what}");
}

#[tokio::test]
async fn a_backup_is_an_admins_and_is_audited() {
    let dir = Scratch::new();
    let (audit, writer) = Audit::open(&dir.0).unwrap();
    tokio::spawn(writer);
    let cloud = Cloud::new().await;
    let core = Core::new(
        Arc::clone(&cloud.api.core.store),
        Facts::default(),
        Clock::default(),
        audit,
    );
    std::fs::write(dir.0.join("ca.key"), "the key").unwrap();
    let core = Arc::new(core.of_dir(&dir.0));
    let api = Api::new(core, Arc::new(Stats::new().unwrap()), "http");
    let cloud = Cloud {
        router: api.clone().router(),
        api,
    };
    assert_eq!(cloud.ask("", "POST", BACKUP, Value::Null).await.0, 401);
    for who in ["a", "r", "s"] {
        cloud
            .refused(who, "POST", BACKUP, Value::Null, 403, "PolicyNotAuthorized")
            .await;
    }
    for method in ["GET", "PUT", "DELETE"] {
        assert_eq!(cloud.ask("admin", method, BACKUP, Value::Null).await.0, 405);
    }
    let response = cloud.router.clone().oneshot(asked("admin")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["cache-control"], "no-store");
    let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await;
    let snapshot = dir.restored(&bytes.unwrap());
    // And what it replaces.
    assert_eq!(snapshot.len(), cloud.api.core.store.snapshot().len() + 1);
    let log = dir.0.join("audit.jsonl");
    let lines = || -> Vec<(String, String, String)> {
        let text = std::fs::read_to_string(&log).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        let field = |line: &Value, name: &str| line[name].as_str().unwrap().to_owned();
        lines
            .filter(|line: &Value| line["kind"] == "backup")
            .map(|line| {
                (
                    field(&line, "user"),
                    field(&line, "verb"),
                    field(&line, "outcome"),
                )
            })
            .collect()
    };
    let line = |user: &str, verb: &str, outcome: &str| {
        (user.to_owned(), verb.to_owned(), outcome.to_owned())
    };
    until("the end is noted", || lines().len() == 5).await;
    let denied = |who: &str| line(who, "begin", "PolicyNotAuthorized");
    let (begun, done) = (
        line("admin", "begin", "done"),
        line("admin", "create", "done"),
    );
    assert_eq!(
        lines(),
        [denied("a"), denied("r"), denied("s"), begun, done]
    );
}

#[tokio::test]
async fn one_backup_is_made_at_a_time_and_one_cut_off_makes_room() {
    let cloud = Cloud::new().await;
    // More than the channel holds, so that the first is not done before it is read.
    let long = "x".repeat(200);
    let bulk: Vec<Value> = (0..2000)
        .map(|n| json!({"name": format!("n{n}"), "description": long}))
        .collect();
    cloud
        .ask(
            "admin",
            "PUT",
            &format!("/v2.0/quotas/{ADMIN}"),
            json!({"quota": {"network": -1}}),
        )
        .await;
    let made = cloud
        .ask("admin", "POST", "/v2.0/networks", json!({"networks": bulk}))
        .await;
    assert_eq!(made.0, 201);
    let first = cloud.router.clone().oneshot(asked("admin")).await.unwrap();
    assert_eq!(first.status(), 200);
    let second = cloud.raw(asked("admin")).await;
    assert_eq!(second.0, 503);
    assert!(second.2.to_string().contains("another one"), "{}", second.2);
    drop(first);
    until("the first has ended", || {
        cloud.api.backups.available_permits() == 1
    })
    .await;
    assert_eq!(
        cloud
            .router
            .clone()
            .oneshot(asked("admin"))
            .await
            .unwrap()
            .status(),
        200
    );
}

/// Eight clients write all the while; what they were told before the backup began is in it, and what is in it is one state.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_under_writes_is_one_state_with_all_that_was_acknowledged_before() {
    let cloud = Arc::new(Cloud::new().await);
    let unlimited = json!({"quota": {"network": -1, "subnet": -1, "port": -1}});
    cloud
        .ask("admin", "PUT", &format!("/v2.0/quotas/{A}"), unlimited)
        .await;
    let network = cloud.network("a").await;
    cloud.subnet("a", &network, "10.0.0.0/16").await;
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (cloud, network) = (Arc::clone(&cloud), network.clone());
        let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
        writers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let kept = cloud.port("a", json!({"network_id": network})).await;
                let gone = cloud.port("a", json!({"network_id": network})).await;
                let path = format!("/v2.0/ports/{}", id(&gone));
                assert_eq!(cloud.ask("a", "DELETE", &path, Value::Null).await.0, 204);
                acknowledged.lock().unwrap().insert(id(&kept));
            }
        });
    }
    let count = || acknowledged.lock().unwrap().len();
    let dir = Scratch::new();
    for round in 1..=3 {
        let wanted = count() + 100;
        until("ports before", || count() >= wanted).await;
        let before = acknowledged.lock().unwrap().clone();
        let response = cloud.router.clone().oneshot(asked("admin")).await.unwrap();
        // The text is asked for only now, when much more is written.
        let at = count();
        let wanted = at + 100;
        until("ports meanwhile", || count() >= wanted).await;
        let bytes = axum::body::to_bytes(response.into_body(), usize::MAX).await;
        let snapshot = dir.restored(&bytes.unwrap());
        balance(&View::of(&snapshot), A);
        let ports: BTreeSet<String> = snapshot
            .scan("port/")
            .map(|(key, _)| key.trim_start_matches("port/").to_owned())
            .collect();
        assert!(before.is_subset(&ports), "round {round}");
        // Each writer may have had two ports that it had not told of.
        assert!(ports.len() <= at + 16, "not what came later");
        let latest = snapshot.scan("").map(|(_, entry)| entry.revision()).max();
        assert!(latest <= Some(snapshot.revision()));
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
}
