use super::*;
use std::path::{Path, PathBuf};

fn text(value: &str) -> Arc<dyn Record> {
    Arc::new(value.to_owned())
}

fn decode(_: &str, json: &[u8]) -> Result<Arc<dyn Record>, serde_json::Error> {
    serde_json::from_slice::<String>(json).map(|text| Arc::new(text) as Arc<dyn Record>)
}

fn memory() -> Embedded {
    let (store, writer) = Embedded::open(Arc::new(MemoryDisk::new(Uuid::nil()))).unwrap();
    tokio::spawn(writer);
    store
}

/// A directory of this test's own, gone when it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ow-store-{name}-{}", Uuid::new_v4()));
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

async fn put(store: &dyn Store, key: &'static str, value: &'static str) -> Revision {
    transact::<_, ()>(store, move |view| {
        view.put(key, text(value));
        Ok(())
    })
    .await
    .unwrap()
    .revision
}

#[tokio::test]
async fn a_memory_disk_outlives_its_store_and_can_be_restored_as_another_incarnation() {
    let disk = Arc::new(MemoryDisk::new(Uuid::from_u128(1)));
    let open = |disk: &Arc<MemoryDisk>| {
        let (store, writer) = Embedded::open(Arc::<MemoryDisk>::clone(disk)).unwrap();
        tokio::spawn(writer);
        store
    };
    let store = open(&disk);
    put(&store, "a/1", "one").await;
    let backup = store.snapshot();
    let last = put(&store, "a/2", "two").await;
    drop(store);
    let again = open(&disk).snapshot();
    assert_eq!((again.revision(), again.len()), (last, 2));
    assert_eq!(again.incarnation(), Uuid::from_u128(1));
    let restored = open(&Arc::new(MemoryDisk::restored(&backup, Uuid::from_u128(2))));
    let snapshot = restored.snapshot();
    assert_eq!(snapshot.revision(), backup.revision());
    assert!(snapshot.entry("a/1").is_some() && snapshot.entry("a/2").is_none());
    assert_eq!(snapshot.incarnation(), Uuid::from_u128(2));
    assert!(again.replaced().is_empty());
    assert_eq!(snapshot.replaced(), [Uuid::from_u128(1)]);
    // A backup of the restored one knows both.
    let third = open(&Arc::new(MemoryDisk::restored(
        &snapshot,
        Uuid::from_u128(3),
    )));
    let both = [Uuid::from_u128(1), Uuid::from_u128(2)];
    assert_eq!(third.snapshot().replaced(), both);
}

#[tokio::test]
async fn a_commit_is_seen_by_readers_and_watchers_in_order() {
    let store = memory();
    let (before, mut watcher) = store.watch();
    let first = put(&store, "a/1", "one").await;
    let second = put(&store, "a/2", "two").await;
    assert!(second > first);
    assert!(before.entry("a/1").is_none(), "a snapshot does not change");
    let after = store.snapshot();
    assert_eq!(
        after.get::<String>("a/2").as_deref().map(String::as_str),
        Some("two")
    );
    assert_eq!(after.entry("a/1").unwrap().revision(), first);
    assert_eq!(after.scan("a/").count(), 2);
    for revision in [first, second] {
        match watcher.next().await.unwrap() {
            Event::Commit(commit) => {
                assert_eq!(commit.revision, revision);
                assert_eq!(commit.changes.len(), 1);
            }
            Event::Resync(_) => panic!("nothing was missed"),
        }
    }
}

#[tokio::test]
async fn a_refused_transaction_leaves_nothing() {
    let store = memory();
    put(&store, "a", "one").await;
    let refused = transact::<(), &str>(&store, |view| {
        view.put("a", text("two"));
        view.put("b", text("new"));
        view.delete("a");
        assert!(view.entry("b").is_some() && view.entry("a").is_none());
        Err("no")
    })
    .await;
    assert!(matches!(refused, Err(TransactError::Refused("no"))));
    let snapshot = store.snapshot();
    assert_eq!(
        snapshot.get::<String>("a").as_deref().map(String::as_str),
        Some("one")
    );
    assert!(snapshot.entry("b").is_none());
}

#[tokio::test]
async fn a_view_records_what_it_read() {
    let store = memory();
    put(&store, "a/1", "one").await;
    let view = View::of(&store.snapshot());
    assert!(view.entry("b").is_none());
    assert_eq!(view.scan("a/").count(), 1);
    assert_eq!(
        view.reads(),
        [
            ReadRange::Key("b".to_owned()),
            ReadRange::Prefix("a/".to_owned(), String::new())
        ]
    );
}

#[tokio::test]
async fn a_failed_sync_fails_all_that_stood_on_it_and_the_store_goes_on() {
    let disk = MemoryDisk::new(Uuid::nil()).failing(|revision| revision.get() == 2);
    let (store, writer) = Embedded::open(Arc::new(disk)).unwrap();
    tokio::spawn(writer);
    put(&store, "a", "one").await;
    let failed = transact::<_, ()>(&store, |view| {
        view.put("a", text("lost"));
        Ok(())
    })
    .await;
    assert!(matches!(failed, Err(TransactError::Unavailable(_))));
    assert_eq!(
        store
            .snapshot()
            .get::<String>("a")
            .as_deref()
            .map(String::as_str),
        Some("one")
    );
    let revision = put(&store, "b", "after").await;
    assert!(revision.get() > 2);
    assert_eq!(store.snapshot().scan("").count(), 2);
}

#[tokio::test]
async fn concurrent_counters_lose_no_update() {
    let store = Arc::new(memory());
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            transact::<_, ()>(store.as_ref(), |view| {
                let now = view.get::<u64>("n").map_or(0, |n| *n);
                view.put("n", Arc::new(now + 1));
                Ok(now)
            })
            .await
            .unwrap()
            .value
        });
    }
    let mut seen: Vec<u64> = tasks.join_all().await;
    seen.sort_unstable();
    assert_eq!(seen, (0..200).collect::<Vec<_>>());
    assert_eq!(store.snapshot().get::<u64>("n").as_deref(), Some(&200));
}

#[tokio::test]
async fn a_slow_watcher_is_told_to_resync() {
    let store = memory();
    let (_, mut watcher) = store.watch();
    for _ in 0..1100 {
        put(&store, "k", "v").await;
    }
    match watcher.next().await.unwrap() {
        Event::Resync(snapshot) => assert_eq!(snapshot.revision(), store.snapshot().revision()),
        Event::Commit(_) => panic!("more than the channel holds"),
    }
    let revision = put(&store, "k", "w").await;
    match watcher.next().await.unwrap() {
        Event::Commit(commit) => assert_eq!(commit.revision, revision),
        Event::Resync(_) => panic!("it has caught up"),
    }
}

#[tokio::test]
async fn a_watcher_that_was_away_takes_what_came_as_one() {
    let store = memory();
    let (_, mut watcher) = store.watch();
    for _ in 0..10 {
        put(&store, "k", "v").await;
    }
    let some = watcher.some(4).await.unwrap();
    let rest = watcher.some(100).await.unwrap();
    assert_eq!((some.len(), rest.len()), (4, 6));
    let revisions = some.iter().chain(&rest).map(|event| match event {
        Event::Commit(commit) => commit.revision,
        Event::Resync(_) => panic!("nothing was missed"),
    });
    let revisions: Vec<_> = revisions.collect();
    assert!(revisions.is_sorted() && revisions.last() == Some(&store.snapshot().revision()));
    // One that missed some is told so once, and then goes on.
    for _ in 0..1100 {
        put(&store, "k", "w").await;
    }
    let all = watcher.some(usize::MAX).await.unwrap();
    assert!(matches!(all.as_slice(), [Event::Resync(_)]));
    put(&store, "k", "x").await;
    assert_eq!(watcher.some(9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let dir = Scratch::new("restart");
    let mut incarnation = None;
    for round in 0..3_usize {
        let disk = RedbDisk::open(&dir.0, decode).unwrap();
        let (store, writer) = Embedded::open(Arc::new(disk)).unwrap();
        let writer = tokio::spawn(writer);
        let snapshot = store.snapshot();
        assert_eq!(
            *incarnation.get_or_insert(snapshot.incarnation()),
            snapshot.incarnation()
        );
        assert_eq!(snapshot.scan("r/").count(), round);
        transact::<_, ()>(&store, move |view| {
            view.put(format!("r/{round}"), text("x"));
            Ok(())
        })
        .await
        .unwrap();
        drop(store);
        writer.await.unwrap();
    }
}

/// Writes a whole backup.
fn backed_up(snapshot: Snapshot, beside: Beside, file: &Path) -> Result<u64, DiskError> {
    let mut scribe = Scribe::new(snapshot, beside);
    let mut to = BackupFile::create(file)?;
    while let Some(part) = scribe.part()? {
        to.write(&part)?;
    }
    to.keep()
}

#[tokio::test]
async fn a_backup_restores_as_a_new_incarnation_under_known_names_alone() {
    let store = memory();
    put(&store, "a", "one").await;
    put(&store, "b", "two").await;
    let dir = Scratch::new("backup");
    std::fs::create_dir_all(&dir.0).unwrap();
    let file = dir.0.join("backup.json");
    std::fs::write(dir.0.join("ca.key"), b"secret").unwrap();
    let names = &["ca.key", "ca.pem"];
    let beside = Beside::read(&dir.0, names).unwrap();
    assert_eq!(backed_up(store.snapshot(), beside, &file).unwrap(), 2);
    let target = dir.0.join("restored");
    assert_eq!(restore(&file, &target, names, decode).unwrap(), 2);
    assert_eq!(std::fs::read(target.join("ca.key")).unwrap(), b"secret");
    assert!(!target.join("ca.pem").exists());
    let again = restore(&file, &target, names, decode);
    assert!(matches!(again, Err(DiskError::Occupied(_))));
    let stranger = restore(&file, &dir.0.join("third"), &["ca.pem"], decode);
    assert!(matches!(stranger, Err(DiskError::Damaged { .. })));
    assert!(!dir.0.join("third").exists());
    let disk = RedbDisk::open(&target, decode).unwrap();
    let loaded = disk.load().unwrap();
    assert_ne!(loaded.incarnation, store.snapshot().incarnation());
    assert_eq!(loaded.revision, store.snapshot().revision());
    let key = format!("{REPLACED}{}", store.snapshot().incarnation());
    assert!(loaded.map.get(&key).is_some(), "it knows what it replaces");
    assert_eq!(loaded.map.len(), 3);
    let busy = restore(&file, &target, names, decode);
    assert!(matches!(busy, Err(DiskError::InUse(_))), "{busy:?}");
    let busy = RedbDisk::open_existing(&target, decode);
    assert!(matches!(busy, Err(DiskError::InUse(_))), "{busy:?}");
}

/// Parts end where lines do, and what they add up to does not depend on how many there are.
#[tokio::test]
async fn a_backup_of_many_parts_is_whole() {
    let store = memory();
    let long = "x".repeat(1000);
    transact::<_, ()>(&store, move |view| {
        for n in 0..500 {
            view.put(format!("k/{n:04}"), text(&long));
        }
        Ok(())
    })
    .await
    .unwrap();
    let mut scribe = Scribe::new(store.snapshot(), Beside::default());
    let mut parts = Vec::new();
    while let Some(part) = scribe.part().unwrap() {
        assert!(part.len() < 70_000 && part.ends_with(b"\n"));
        parts.push(part);
    }
    assert!(parts.len() > 8, "{}", parts.len());
    assert!(scribe.part().unwrap().is_none());
    let dir = Scratch::new("parts");
    std::fs::create_dir_all(&dir.0).unwrap();
    let file = dir.0.join("f");
    let records = backed_up(store.snapshot(), Beside::default(), &file).unwrap();
    assert_eq!(records, 500);
    assert_eq!(std::fs::read(&file).unwrap(), parts.concat());
    restore(&file, &dir.0.join("to"), &[], decode).unwrap();
    let loaded = RedbDisk::open(&dir.0.join("to"), decode).unwrap().load();
    let keys: Vec<String> = loaded
        .unwrap()
        .map
        .range("")
        .map(|(k, _)| k.to_string())
        .filter(|key| !key.starts_with(REPLACED))
        .collect();
    assert_eq!(keys.len(), 500);
    assert_eq!(keys.last().map(String::as_str), Some("k/0499"));
}

#[tokio::test]
async fn a_backup_cut_off_or_changed_anywhere_is_refused_by_name() {
    let store = memory();
    put(&store, "a", "one").await;
    put(&store, "b", "two").await;
    let dir = Scratch::new("damage");
    std::fs::create_dir_all(&dir.0).unwrap();
    let file = dir.0.join("the-backup");
    backed_up(store.snapshot(), Beside::default(), &file).unwrap();
    let whole = std::fs::read(&file).unwrap();
    let target = dir.0.join("to");
    let mut damaged: Vec<Vec<u8>> = (0..whole.len()).map(|at| whole[..at].to_vec()).collect();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        damaged.push(changed);
    }
    damaged.push([whole.as_slice(), b"\n"].concat());
    damaged.push([whole.as_slice(), &whole].concat());
    for bytes in damaged {
        std::fs::write(&file, &bytes).unwrap();
        let refused = restore(&file, &target, &[], decode).unwrap_err();
        assert!(matches!(refused, DiskError::NotWhole(_)), "{refused:?}");
        assert!(refused.to_string().ends_with("/the-backup"), "{refused}");
        assert!(!target.exists());
        // What came over a network is judged before it has the name.
        let mut to = BackupFile::create(&dir.0.join("copy")).unwrap();
        to.write(&bytes).unwrap();
        assert!(matches!(to.keep(), Err(DiskError::NotWhole(_))));
    }
    let left = std::fs::read_dir(&dir.0).unwrap().count();
    assert_eq!(left, 1, "neither a copy nor a part of one");
}

#[test]
fn a_record_of_a_newer_schema_is_refused_with_the_reason() {
    let dir = Scratch::new("newer");
    let disk = RedbDisk::open(&dir.0, decode).unwrap();
    disk.load().unwrap();
    disk.commit_raw(
        7,
        &[0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, b'k', b'"', b'"'],
    );
    let error = disk.load().unwrap_err();
    assert!(matches!(error, DiskError::Newer { found: 0xffff, .. }));
    assert!(error.to_string().contains("newer overweave"));
}

#[test]
fn a_file_of_the_layout_before_is_moved_over_once_and_refused_by_its_binaries() {
    let dir = Scratch::new("moved");
    let disk = RedbDisk::open(&dir.0, decode).unwrap();
    let made = disk.load().unwrap();
    let old = |n: u8| [&[0, 1, 0, 0, 0, 0, 0, 0, 0, n], br#""one""#.as_slice()].concat();
    disk.commit_by_key("b", &old(3));
    disk.commit_by_key("a", &old(4));
    for _ in 0..2 {
        let loaded = disk.load().unwrap();
        assert_eq!(loaded.incarnation, made.incarnation);
        assert_eq!((loaded.map.len(), loaded.next), (2, 2));
        for (key, revision) in [("a", 4), ("b", 3)] {
            let entry = loaded.map.get(key).unwrap();
            assert_eq!(entry.revision(), Revision(revision));
            assert_eq!(entry.peek::<String>().map(String::as_str), Some("one"));
        }
        // An old binary reads an envelope's first two bytes as its schema.
        let left = disk.by_key();
        assert_eq!(left.len(), 1);
        assert!(u16::from_be_bytes([left[0].1[0], left[0].1[1]]) > 1);
    }
    disk.commit_by_key("c", &[0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, b'"', b'"']);
    let newer = disk.load().unwrap_err();
    assert!(matches!(newer, DiskError::Newer { ref key, .. } if key == "c"));
}

#[test]
fn a_key_at_two_places_is_damage_and_so_is_half_a_record() {
    for (place, envelope) in [
        (
            1,
            [&[0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1][..], b"k\"x\""].concat(),
        ),
        (1, vec![0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 9, b'k']),
        (1, vec![0, 1, 0]),
    ] {
        let dir = Scratch::new("twice");
        let disk = RedbDisk::open(&dir.0, decode).unwrap();
        disk.load().unwrap();
        disk.commit_raw(
            0,
            &[&[0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1][..], b"k\"x\""].concat(),
        );
        assert_eq!(disk.load().unwrap().map.len(), 1);
        disk.commit_raw(place, &envelope);
        assert!(matches!(disk.load(), Err(DiskError::Damaged { .. })));
    }
}

/// Whatever is written, overwritten, deleted and written again, the file has what the store has.
#[tokio::test]
async fn random_transactions_are_read_back_as_they_were() {
    use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
    for seed in 0..6 {
        let dir = Scratch::new("places");
        let mut luck = SmallRng::seed_from_u64(seed);
        for _ in 0..4 {
            let disk = RedbDisk::open(&dir.0, decode).unwrap();
            let (store, writer) = Embedded::open(Arc::new(disk)).unwrap();
            let writer = tokio::spawn(writer);
            for _ in 0..12 {
                let refused = luck.random_bool(0.2);
                let steps = luck.random_range(1..9);
                let steps = (0..steps).map(|_| (luck.random_range(0..24), luck.random_bool(0.6)));
                let steps: Vec<(u8, bool)> = steps.collect();
                let done = transact::<(), ()>(&store, move |view| {
                    for (key, put) in &steps {
                        let key = format!("k/{key}");
                        if *put {
                            let times = view.get::<String>(&key).map_or(0, |had| had.len());
                            view.put(key, text(&"x".repeat(times + 1)));
                        } else {
                            view.delete(&key);
                        }
                    }
                    if refused { Err(()) } else { Ok(()) }
                });
                assert_eq!(done.await.is_err(), refused);
            }
            let there = |snapshot: &Snapshot| -> Vec<(String, Revision, String)> {
                let all = snapshot.scan("").map(|(key, entry)| {
                    let value = entry.peek::<String>().unwrap().clone();
                    (key.to_owned(), entry.revision(), value)
                });
                all.collect()
            };
            let had = there(&store.snapshot());
            drop(store);
            writer.await.unwrap();
            let disk = RedbDisk::open(&dir.0, decode).unwrap();
            let again = Embedded::read(&disk).unwrap();
            assert_eq!(there(&again), had);
        }
    }
}
