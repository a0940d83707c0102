use super::*;
use axum::{
    Router,
    extract::{RawQuery, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::{net::TcpListener, task::JoinHandle};

const NOW: Seconds = Seconds::new(1_000_000);

fn token(user: &str, roles: &[&str], project: Option<&str>) -> Value {
    let roles: Vec<Value> = roles
        .iter()
        .map(|name| json!({"id": name, "name": name}))
        .collect();
    let mut token = json!({
        "user": {"id": user, "name": format!("{user}'s name"), "domain": {"id": "default"}},
        "expires_at": NOW.plus(3600).iso_micros(),
        "roles": roles,
    });
    if let Some(project) = project {
        token["project"] = json!({"id": project, "name": "p"});
    }
    json!({"token": token})
}

/// A Keystone that knows some tokens, and counts how often it is asked.
async fn keystone() -> (String, Arc<AtomicUsize>, JoinHandle<()>) {
    async fn validate(
        State(asked): State<Arc<AtomicUsize>>,
        RawQuery(query): RawQuery,
        headers: HeaderMap,
    ) -> Response {
        asked.fetch_add(1, Ordering::SeqCst);
        let of = |name: &str| {
            headers
                .get(name)
                .and_then(|v| v.to_str().ok())
                .unwrap_or("")
        };
        let (by, subject) = (of("x-auth-token"), of("x-subject-token"));
        let expired = query.as_deref() == Some("allow_expired=1");
        let told = match (by, subject) {
            ("good", "good") => token("eve", &["member", "reader"], Some("blue")),
            ("root", "root") => token("root", &["admin"], Some("ops")),
            ("nova", "nova") => token("nova", &["service"], Some("service")),
            ("nova", "late") if expired => token("eve", &["member"], Some("blue")),
            ("lost", "lost") => token("eve", &["admin"], None),
            ("odd", "odd") => token("eve", &["admin"], Some("a/b")),
            ("broken", "broken") => return (StatusCode::BAD_GATEWAY, "sorry").into_response(),
            _ => return (StatusCode::UNAUTHORIZED, "{}").into_response(),
        };
        axum::Json(told).into_response()
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let router = Router::new()
        .route("/identity/v3/auth/tokens", get(validate))
        .with_state(Arc::clone(&asked));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/identity", listener.local_addr().unwrap());
    let served = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, asked, served)
}

#[tokio::test]
async fn a_token_is_what_the_other_keystone_says() {
    let (url, asked, _served) = keystone().await;
    let judge = Judge::new(&url, None).unwrap();
    let eve = judge.caller("good", None, NOW).await.unwrap().unwrap();
    assert_eq!(
        (eve.user_id.as_str(), eve.project_id.as_str()),
        ("eve", "blue")
    );
    assert!(eve.member && !eve.admin && !eve.service);
    let root = judge.caller("root", None, NOW).await.unwrap().unwrap();
    assert!(root.admin);
    // Without a project no role counts.
    let lost = judge.caller("lost", None, NOW).await.unwrap().unwrap();
    assert!(!lost.admin && lost.project_id.is_empty());
    for bad in ["", "nobody", "with\nline", &"x".repeat(LONGEST + 1)] {
        assert!(
            judge.caller(bad, None, NOW).await.unwrap().is_none(),
            "{bad:?}"
        );
    }
    // What it cannot be is nobody's.
    assert!(matches!(
        judge.caller("odd", None, NOW).await,
        Err(NoAnswer::Shape)
    ));
    let broken = judge.caller("broken", None, NOW).await;
    assert!(matches!(
        broken,
        Err(NoAnswer::Status(StatusCode::BAD_GATEWAY))
    ));
    // It is believed for a minute, a refusal for some seconds.
    let before = asked.load(Ordering::SeqCst);
    judge
        .caller("good", None, NOW.plus(GOOD_FOR - 1))
        .await
        .unwrap()
        .unwrap();
    assert!(
        judge
            .caller("nobody", None, NOW.plus(BAD_FOR - 1))
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(asked.load(Ordering::SeqCst), before);
    judge
        .caller("good", None, NOW.plus(GOOD_FOR))
        .await
        .unwrap()
        .unwrap();
    judge
        .caller("nobody", None, NOW.plus(BAD_FOR))
        .await
        .unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), before + 2);
}

#[tokio::test]
async fn a_service_may_go_on_with_what_expired() {
    let (url, _, _served) = keystone().await;
    let judge = Judge::new(&url, None).unwrap();
    assert!(judge.caller("late", None, NOW).await.unwrap().is_none());
    assert!(
        judge
            .caller("late", Some("good"), NOW)
            .await
            .unwrap()
            .is_none()
    );
    let late = judge
        .caller("late", Some("nova"), NOW)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(late.user_id, "eve");
    assert!(
        judge
            .caller("late", None, NOW.plus(1))
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn without_an_answer_nobody_is_let_in() {
    let (url, _, served) = keystone().await;
    let judge = Judge::new(&url, None).unwrap();
    judge.caller("good", None, NOW).await.unwrap().unwrap();
    served.abort();
    assert!(served.await.unwrap_err().is_cancelled());
    judge.caller("good", None, NOW).await.unwrap().unwrap();
    let gone = judge.caller("good", None, NOW.plus(GOOD_FOR)).await;
    assert!(matches!(gone, Err(NoAnswer::Unreachable(_))), "{gone:?}");
}

#[tokio::test]
async fn no_more_is_remembered_than_there_is_room_for() {
    let judge = Judge::new("http://127.0.0.1:1", None).unwrap();
    for n in 0..REMEMBERED + 100 {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&n.to_be_bytes());
        judge.remember(digest, NOW.plus(1), None, NOW);
    }
    assert_eq!(judge.known.len(), REMEMBERED);
    judge.remember([0xff; 32], NOW.plus(9), None, NOW.plus(2));
    assert_eq!(judge.known.len(), 1);
}

#[test]
fn only_an_address_is_one() {
    for (url, host, port, path) in [
        ("http://k.example:5000/v3/", "k.example", 5000, "/v3"),
        ("http://k.example", "k.example", 80, "/v3"),
        ("http://[::1]:35357/identity", "::1", 35357, "/identity/v3"),
    ] {
        let judge = Judge::new(url, None).unwrap();
        assert_eq!(
            (judge.host.as_str(), judge.port, judge.path.as_str()),
            (host, port, path)
        );
    }
    for url in [
        "",
        "k.example",
        "ftp://k.example",
        "http://",
        "http://k/v3?x=1",
    ] {
        assert!(
            matches!(Judge::new(url, None), Err(JudgeError::Url(_))),
            "{url}"
        );
    }
    let missing = Path::new("/nonexistent/ca.pem");
    let error = Judge::new("https://k.example/v3", Some(missing)).unwrap_err();
    assert!(matches!(error, JudgeError::Certificates { .. }), "{error}");
}
