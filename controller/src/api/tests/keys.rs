//! The key manager: Barbican's v1 API as its client uses it.

use super::*;
use crate::store::Read as _;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

const SECRETS: &str = "/key-manager/v1/secrets";
const CONTAINERS: &str = "/key-manager/v1/containers";

/// The path of a reference.
fn path(reference: &Value) -> String {
    let reference = reference.as_str().unwrap();
    let path = reference.strip_prefix("http://cloud.example:9696");
    path.unwrap().to_owned()
}

impl Cloud {
    /// A secret with a text; where it is.
    async fn secret(&self, who: &str, name: &str, text: &str) -> String {
        let body = json!({"name": name, "payload": text, "payload_content_type": "text/plain"});
        let (status, made) = self.ask(who, "POST", SECRETS, body).await;
        assert_eq!(status, 201, "{made}");
        path(&made["secret_ref"])
    }

    /// A request with headers and a body as they are; the status, headers and bytes.
    async fn plain(
        &self,
        (who, method, path): (&str, &str, &str),
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (u16, HeaderMap, Vec<u8>) {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("x-auth-token", who)
            .header("host", "cloud.example:9696");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_vec())).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (parts.status.as_u16(), parts.headers, bytes.to_vec())
    }

    /// A refusal by the key manager, with this status and these words in it.
    async fn told(&self, asked: (&str, &str, &str), body: Value, status: u16, words: &str) {
        let (who, method, path) = asked;
        let (have, answer) = self.ask(who, method, path, body.clone()).await;
        let text = answer["description"].as_str().unwrap_or_default();
        assert_eq!(have, status, "{method} {path} {body}: {answer}");
        assert!(text.contains(words), "{method} {path} {body}: {answer}");
        assert_eq!(answer["code"], status);
        assert!(answer["title"].is_string());
    }
}

#[tokio::test]
async fn a_secret_is_stored_shown_read_and_deleted_and_its_payload_is_nowhere_else() {
    let cloud = Cloud::new().await;
    let secret = cloud.secret("a", "s", "hunter2 hunter2").await;
    let (status, shown) = cloud.get("a", &secret).await;
    assert_eq!(status, 200);
    assert_eq!(shown["name"], "s");
    assert_eq!(shown["status"], "ACTIVE");
    assert_eq!(shown["secret_type"], "opaque");
    assert_eq!(shown["content_types"], json!({"default": "text/plain"}));
    assert_eq!(shown["creator_id"], "user-a");
    let text = [("accept", "text/plain")];
    let payload = format!("{secret}/payload");
    let (status, headers, bytes) = cloud.plain(("a", "GET", &payload), &text, b"").await;
    assert_eq!((status, bytes.as_slice()), (200, &b"hunter2 hunter2"[..]));
    assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
    assert_eq!(headers["cache-control"], "no-store");
    let other = [("accept", "application/octet-stream")];
    assert_eq!(
        cloud.plain(("a", "GET", &payload), &other, b"").await.0,
        406
    );
    let (_, list) = cloud.get("a", SECRETS).await;
    assert_eq!(list["total"], 1);
    assert!(!format!("{shown}{list}").contains("hunter2"));
    let snapshot = cloud.api.core.store.snapshot();
    for (key, entry) in snapshot.scan("") {
        let bytes = String::from_utf8(entry.record().encode().unwrap()).unwrap();
        let debug = format!("{:?}", entry.record());
        assert!(
            !bytes.contains("hunter2") && !debug.contains("hunter2"),
            "{key}"
        );
    }
    assert_eq!(cloud.ask("a", "DELETE", &secret, Value::Null).await.0, 204);
    cloud
        .told(
            ("a", "GET", &secret),
            Value::Null,
            404,
            "could not be found",
        )
        .await;
    cloud
        .told(
            ("a", "GET", &payload),
            Value::Null,
            404,
            "could not be found",
        )
        .await;
    assert_eq!(cloud.get("a", SECRETS).await.1["secrets"], json!([]));
}

#[tokio::test]
async fn bytes_come_in_base64_or_as_they_are_once_and_go_as_they_are() {
    let cloud = Cloud::new().await;
    let bytes: Vec<u8> = (0..=255).collect();
    let mut text = BASE64.encode(&bytes);
    text.insert(76, '\n'); // as base64(1) writes it
    let body = json!({
        "payload": text, "payload_content_type": "application/octet-stream",
        "payload_content_encoding": "base64",
    });
    let (status, made) = cloud.ask("a", "POST", &format!("{SECRETS}/"), body).await;
    assert_eq!(status, 201, "{made}");
    let first = path(&made["secret_ref"]);
    let any = [("accept", "*/*")];
    let read = cloud
        .plain(("a", "GET", &format!("{first}/payload")), &any, b"")
        .await;
    assert_eq!((read.0, read.2), (200, bytes.clone()));
    // Announced, and given its payload once.
    let (_, made) = cloud
        .ask("a", "POST", SECRETS, json!({"name": "later"}))
        .await;
    let later = path(&made["secret_ref"]);
    assert_eq!(cloud.get("a", &later).await.1.get("content_types"), None);
    let payload = format!("{later}/payload");
    cloud
        .told(("a", "GET", &payload), Value::Null, 404, "has no payload")
        .await;
    let raw = [("content-type", "application/octet-stream")];
    assert_eq!(cloud.plain(("a", "PUT", &later), &raw, b"").await.0, 400);
    assert_eq!(cloud.plain(("a", "PUT", &later), &raw, &bytes).await.0, 204);
    assert_eq!(cloud.plain(("a", "PUT", &later), &raw, &bytes).await.0, 409);
    assert_eq!(
        cloud.plain(("a", "GET", &payload), &any, b"").await.2,
        bytes
    );
    let coded = [raw[0], ("content-encoding", "base64")];
    let (_, made) = cloud.ask("a", "POST", SECRETS, json!({})).await;
    let coded_one = path(&made["secret_ref"]);
    let put = cloud
        .plain(("a", "PUT", &coded_one), &coded, text.as_bytes())
        .await;
    assert_eq!(put.0, 204);
    let payload = format!("{coded_one}/payload");
    assert_eq!(
        cloud.plain(("a", "GET", &payload), &any, b"").await.2,
        bytes
    );
}

#[tokio::test]
async fn what_a_secret_may_not_be_is_refused_by_its_field_and_not_quoted() {
    let cloud = Cloud::new().await;
    let text = |payload: Value| json!({"payload": payload, "payload_content_type": "text/plain"});
    let secret_word = "hunter2-hunter2";
    for (body, words) in [
        (json!([]), "Malformed JSON"),
        (json!({"nonsense": 1}), "'nonsense'"),
        (json!({"name": 1}), "'name'"),
        (json!({"name": "x".repeat(256)}), "'name'"),
        (json!({"secret_type": "odd"}), "'secret_type'"),
        (json!({"bit_length": 0}), "'bit_length'"),
        (json!({"bit_length": "128"}), "'bit_length'"),
        (json!({"expiration": "tomorrow"}), "'expiration'"),
        (json!({"expiration": "2001-01-01T00:00:00"}), "'expiration'"),
        (json!({"payload": secret_word}), "'payload_content_type'"),
        (json!({"payload_content_type": "text/plain"}), "'payload'"),
        (text(json!("")), "it is empty"),
        (text(json!(1)), "'payload'"),
        (
            json!({"payload": secret_word, "payload_content_type": "image/png"}),
            "'payload_content_type'",
        ),
        (
            json!({"payload": secret_word, "payload_content_type": "application/octet-stream"}),
            "'payload_content_encoding'",
        ),
        (
            with(
                text(json!("aGk=")),
                json!({"payload_content_encoding": "base64"}),
            ),
            "'payload_content_encoding'",
        ),
        (
            json!({"payload": secret_word, "payload_content_type": "application/octet-stream", "payload_content_encoding": "base64"}),
            "not in base64",
        ),
    ] {
        cloud
            .told(("a", "POST", SECRETS), body.clone(), 400, words)
            .await;
        let (_, answer) = cloud.ask("a", "POST", SECRETS, body).await;
        assert!(!answer.to_string().contains(secret_word));
    }
    let large = text(json!("x".repeat(20_001)));
    cloud
        .told(("a", "POST", SECRETS), large, 413, "20000")
        .await;
    assert_eq!(
        cloud
            .ask("a", "POST", SECRETS, text(json!("x".repeat(20_000))))
            .await
            .0,
        201
    );
    for query in ["limit=x", "offset=-1", "sort=name", "nonsense=1"] {
        let path = format!("{SECRETS}?{query}");
        cloud
            .told(("a", "GET", &path), Value::Null, 400, "can't be asked for")
            .await;
    }
    cloud
        .told(("a", "PATCH", SECRETS), Value::Null, 405, "")
        .await;
}

#[tokio::test]
async fn a_projects_secrets_are_its_own_and_its_readers_read_no_payload() {
    let cloud = Cloud::new().await;
    let secret = cloud.secret("a", "s", "x").await;
    let payload = format!("{secret}/payload");
    for who in ["b", "admin"] {
        for (method, path) in [("GET", &secret), ("GET", &payload), ("DELETE", &secret)] {
            cloud
                .told((who, method, path), Value::Null, 404, "could not be found")
                .await;
        }
        let put = cloud
            .plain(
                (who, "PUT", &secret),
                &[("content-type", "text/plain")],
                b"y",
            )
            .await;
        assert_eq!(put.0, 404);
        assert_eq!(cloud.get(who, SECRETS).await.1["total"], 0);
        let named =
            json!({"type": "generic", "secret_refs": [{"name": "x", "secret_ref": secret}]});
        cloud
            .told(
                (who, "POST", CONTAINERS),
                named,
                404,
                "Secret provided for 'x'",
            )
            .await;
    }
    assert_eq!(cloud.get("r", &secret).await.0, 200);
    for (method, path) in [
        ("GET", &payload),
        ("DELETE", &secret),
        ("POST", &SECRETS.to_owned()),
    ] {
        cloud
            .told(
                ("r", method, path),
                Value::Null,
                403,
                "disallowed by policy",
            )
            .await;
    }
    let (status, answer) = cloud.get("", &secret).await;
    assert_eq!((status, &answer["error"]["code"]), (401, &json!(401)));
}

#[tokio::test]
async fn lists_come_by_pages_and_filters() {
    let cloud = Cloud::new().await;
    for at in 0..12 {
        cloud.secret("a", &format!("s{at}"), "x").await;
    }
    let (_, first) = cloud.get("a", SECRETS).await;
    assert_eq!(first["secrets"].as_array().unwrap().len(), 10);
    assert_eq!(first["total"], 12);
    assert!(first.get("previous").is_none());
    let (_, next) = cloud.get("a", &path(&first["next"])).await;
    assert_eq!(next["secrets"].as_array().unwrap().len(), 2);
    assert!(next.get("next").is_none());
    let (_, back) = cloud.get("a", &path(&next["previous"])).await;
    assert_eq!(back["secrets"], first["secrets"]);
    let (_, one) = cloud
        .get("a", &format!("{SECRETS}?name=s7&secret_type=opaque"))
        .await;
    assert_eq!(
        (&one["total"], &one["secrets"][0]["name"]),
        (&json!(1), &json!("s7"))
    );
    assert_eq!(
        cloud.get("a", &format!("{SECRETS}?bits=128")).await.1["total"],
        0
    );
    let (_, none) = cloud.get("a", &format!("{SECRETS}?limit=0")).await;
    assert_eq!((&none["total"], &none["secrets"]), (&json!(12), &json!([])));
}

#[tokio::test]
async fn a_project_has_a_thousand_secrets_and_what_has_expired_makes_room() {
    let cloud = Cloud::new().await;
    let now = cloud.api.core.clock.now();
    let filled = transact::<_, ()>(cloud.api.core.store.as_ref(), move |view| {
        for at in 0..1_000 {
            let secret = crate::keys::Secret {
                id: Uuid::from_u128(at),
                name: None,
                secret_type: "opaque".to_owned(),
                algorithm: None,
                bit_length: None,
                mode: None,
                expiration: (at == 0).then(|| now.plus(3600)),
                creator_id: String::new(),
                created: now,
                updated: now,
                payload: None,
            };
            view.put(crate::keys::secret_key(A, secret.id), Arc::new(secret));
        }
        Ok(())
    });
    filled.await.unwrap();
    cloud
        .told(("a", "POST", SECRETS), json!({}), 403, "Quota exceeded")
        .await;
    transact::<_, ()>(cloud.api.core.store.as_ref(), move |view| {
        let key = crate::keys::secret_key(A, Uuid::from_u128(0));
        let mut secret = crate::keys::Secret::clone(&view.get(&key).unwrap());
        secret.expiration = Some(now.minus(1));
        view.put(key, Arc::new(secret));
        Ok(())
    })
    .await
    .unwrap();
    let gone = format!("{SECRETS}/{}", Uuid::from_u128(0));
    cloud
        .told(("a", "GET", &gone), Value::Null, 404, "could not be found")
        .await;
    assert_eq!(cloud.get("a", SECRETS).await.1["total"], 999);
    assert_eq!(cloud.ask("a", "POST", SECRETS, json!({})).await.0, 201);
    cloud
        .told(("a", "POST", SECRETS), json!({}), 403, "Quota exceeded")
        .await;
}

#[tokio::test]
async fn a_container_names_what_its_type_has() {
    let cloud = Cloud::new().await;
    let (certificate, key) = (
        cloud.secret("a", "c", "c").await,
        cloud.secret("a", "k", "k").await,
    );
    let refs = |all: &[(&str, &str)]| {
        let all = all
            .iter()
            .map(|(name, of)| json!({"name": name, "secret_ref": of}));
        json!(all.collect::<Vec<Value>>())
    };
    let both = refs(&[("certificate", &certificate), ("private_key", &key)]);
    let body = json!({"type": "certificate", "name": "tls", "secret_refs": both});
    let (status, made) = cloud
        .ask("a", "POST", &format!("{CONTAINERS}/"), body.clone())
        .await;
    assert_eq!(status, 201, "{made}");
    let container = path(&made["container_ref"]);
    let (_, shown) = cloud.get("a", &container).await;
    assert_eq!(shown["type"], "certificate");
    assert_eq!(path(&shown["secret_refs"][1]["secret_ref"]), key);
    assert_eq!(cloud.get("b", &container).await.0, 404);
    let (_, list) = cloud
        .get("a", &format!("{CONTAINERS}?type=certificate"))
        .await;
    assert_eq!(list["containers"], json!([shown]));
    for (over, words) in [
        (json!({"type": "odd"}), "'type'"),
        (json!({"more": 1}), "'more'"),
        (json!({"secret_refs": {}}), "'secret_refs'"),
        (json!({"secret_refs": [1]}), "no object"),
        (
            json!({"secret_refs": [{"name": "certificate", "secret_ref": "x"}]}),
            "leads to no secret",
        ),
        (
            json!({"secret_refs": refs(&[("private_key", &key)])}),
            "has a certificate",
        ),
        (
            json!({"secret_refs": refs(&[("certificate", &certificate), ("odd", &key)])}),
            "no 'odd'",
        ),
        (
            json!({"secret_refs": refs(&[("certificate", &certificate), ("private_key", &certificate)])}),
            "twice",
        ),
        (json!({"type": "rsa"}), "has a public_key"),
    ] {
        let body = with(body.clone(), over);
        cloud
            .told(("a", "POST", CONTAINERS), body, 400, words)
            .await;
    }
    // Its secrets stay, and it stays without them.
    assert_eq!(cloud.ask("a", "DELETE", &key, Value::Null).await.0, 204);
    assert_eq!(cloud.get("a", &container).await.0, 200);
    assert_eq!(
        cloud.ask("a", "DELETE", &container, Value::Null).await.0,
        204
    );
    assert_eq!(cloud.get("a", &certificate).await.0, 200);
}

#[tokio::test]
async fn its_client_finds_it_in_the_catalogue_and_by_its_version() {
    let cloud = Cloud::new().await;
    let (_, catalog) = cloud.get("a", "/identity/v3/auth/catalog").await;
    let own = catalog["catalog"].as_array().unwrap().iter();
    let own = own
        .clone()
        .find(|row| row["type"] == "key-manager")
        .unwrap();
    let url = path(&own["endpoints"][0]["url"]);
    let (status, versions) = cloud.get("", &url).await;
    assert_eq!(
        (status, &versions["versions"][0]["id"]),
        (300, &json!("v1"))
    );
    let href = path(&versions["versions"][0]["links"][0]["href"]);
    let (status, version) = cloud.get("", &href).await;
    assert_eq!(
        (status, &version["version"]["max_version"]),
        (200, &json!("1.0"))
    );
}
