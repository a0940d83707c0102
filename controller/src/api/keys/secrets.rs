//! How is a secret stored, shown and read?

use super::{Page, answered, fields, id_of, invalid, project, reference, text};
use crate::{
    api::{
        Api, ApiError,
        error::{respond, respond_empty},
        handlers::{Answer, Asked},
    },
    keys::{
        BYTES, CONTENT_TYPES, Keyring, LARGEST, MOST, SECRET_TYPES, Sealed, Secret, TEXT, is_there,
        place, secret, secret_key,
    },
    refusal::Refusal,
    store::{Read, View, transact},
    time::Seconds,
};
use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use rand::RngCore as _;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use uuid::Uuid;

/// What a key's length may be, in bits.
pub(super) const MOST_BITS: u32 = 32_767;
const SCHEMA: &str = "Secret";
const KNOWN: &[&str] = &[
    "name",
    "algorithm",
    "mode",
    "bit_length",
    "secret_type",
    "expiration",
    "payload",
    "payload_content_type",
    "payload_content_encoding",
];
/// Filters of the list.
const FILTERS: &[&str] = &["name", "alg", "mode", "bits", "secret_type"];

pub(super) async fn many(State(api): State<Api>, request: Request<Body>) -> Response<Body> {
    let of = &api;
    let answer = async |request: Request<Body>| {
        let method = request.method().clone();
        let asked = of.read(request).await?;
        match method {
            Method::GET => list(of, &asked),
            Method::POST => create(of, &asked).await,
            _ => Err(ApiError::no_method(&["GET", "POST"])),
        }
    };
    answered(of, request, "secrets", answer).await
}

pub(super) async fn one(
    State(api): State<Api>,
    Path(id): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    let of = &api;
    let answer = async |request: Request<Body>| {
        let method = request.method().clone();
        let asked = of.read(request).await?;
        match method {
            Method::GET => show(of, &id, &asked),
            Method::PUT => fill(of, &id, &asked).await,
            Method::DELETE => delete(of, &id, &asked).await,
            _ => Err(ApiError::no_method(&["GET", "PUT", "DELETE"])),
        }
    };
    answered(of, request, "secrets", answer).await
}

pub(super) async fn payload(
    State(api): State<Api>,
    Path(id): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    let of = &api;
    let answer = async |request: Request<Body>| {
        let method = request.method().clone();
        let asked = of.read_any(request).await?;
        match method {
            Method::GET => open(of, &id, &asked),
            _ => Err(ApiError::no_method(&["GET"])),
        }
    };
    answered(of, request, "secrets", answer).await
}

fn keyring(api: &Api) -> Result<Arc<Keyring>, ApiError> {
    let keyring = api.core.facts.keyring.clone();
    keyring.ok_or_else(|| ApiError::Unavailable {
        reason: "this controller has no key for secrets".to_owned(),
    })
}

/// The caller's secret.
fn own(read: &impl Read, project: &str, id: &str, now: Seconds) -> Result<Arc<Secret>, Refusal> {
    let found = secret(read, project, id_of("Secret", id)?, now);
    found.ok_or_else(|| Refusal::missing("Secret", id))
}

fn row(asked: &Asked, secret: &Secret) -> Value {
    let mut row = json!({
        "secret_ref": reference(asked, "secrets", secret.id),
        "name": secret.name.clone().unwrap_or_else(|| secret.id.to_string()),
        "secret_type": secret.secret_type,
        "algorithm": secret.algorithm,
        "bit_length": secret.bit_length,
        "mode": secret.mode,
        "expiration": secret.expiration.map(Seconds::bare),
        "creator_id": secret.creator_id,
        "created": secret.created.bare(),
        "updated": secret.updated.bare(),
        "status": "ACTIVE",
    });
    if let (Some((kind, _)), Some(row)) = (&secret.payload, row.as_object_mut()) {
        row.insert("content_types".to_owned(), json!({"default": kind}));
    }
    row
}

fn list(api: &Api, asked: &Asked) -> Answer {
    let project = project(&asked.caller, "secrets:get", false)?;
    let (page, filters) = Page::of(asked, FILTERS)?;
    let (snapshot, now) = (api.core.store.snapshot(), api.core.clock.now());
    let fits = |secret: &Secret| {
        is_there(secret, now)
            && filters.iter().all(|(name, wanted)| {
                let text = |own: &Option<String>| own.as_deref() == Some(*wanted);
                match *name {
                    "name" => text(&secret.name),
                    "alg" => text(&secret.algorithm),
                    "mode" => text(&secret.mode),
                    "bits" => {
                        secret.bit_length.map(|bits| bits.to_string()).as_deref() == Some(*wanted)
                    }
                    _ => secret.secret_type == *wanted,
                }
            })
    };
    let prefix = format!("secret/{project}/");
    let all = snapshot.scan(&prefix);
    let all: Vec<&Secret> = all
        .filter_map(|(_, entry)| entry.peek::<Secret>())
        .filter(|secret| fits(secret))
        .collect();
    let when = |secret: &&Secret| (secret.created, secret.id);
    let row = |secret: &&Secret| row(asked, secret);
    Ok(page.told(asked, "secrets", all, (when, row)))
}

fn show(api: &Api, id: &str, asked: &Asked) -> Answer {
    let project = project(&asked.caller, "secret:get", false)?;
    let snapshot = api.core.store.snapshot();
    let secret = own(&snapshot, project, id, api.core.clock.now())?;
    Ok(respond(StatusCode::OK, &row(asked, &secret)))
}

/// A content type without what it says of letters: text is always in UTF-8.
fn content_type(said: &str) -> Result<&'static str, Refusal> {
    let (kind, more) = said.split_once(';').unwrap_or((said, ""));
    let more = more.trim().to_ascii_lowercase();
    let is_known = more.is_empty() || more == "charset=utf-8";
    let kind = kind.trim().to_ascii_lowercase();
    let found = CONTENT_TYPES.iter().find(|known| **known == kind);
    found.filter(|_| is_known).copied().ok_or_else(|| {
        let reason = format!("it is none of {}", CONTENT_TYPES.join(", "));
        invalid(SCHEMA, "payload_content_type", reason)
    })
}

/// The bytes of a payload in one of its forms.
fn bytes(said: &[u8], kind: &str, in_base64: bool) -> Result<Vec<u8>, ApiError> {
    let wrong = |reason: &str| invalid(SCHEMA, "payload", reason);
    let bytes = if in_base64 {
        let whole = said.iter().filter(|byte| !byte.is_ascii_whitespace());
        let whole: Vec<u8> = whole.copied().collect();
        let bytes = BASE64.decode(whole);
        bytes.ok().ok_or_else(|| wrong("it is not in base64"))?
    } else {
        said.to_vec()
    };
    if bytes.is_empty() {
        return Err(wrong("it is empty").into());
    }
    if bytes.len() > LARGEST {
        return Err(ApiError::BodyTooLarge { limit: LARGEST });
    }
    if kind == TEXT && std::str::from_utf8(&bytes).is_err() {
        return Err(wrong("it is no text in UTF-8").into());
    }
    Ok(bytes)
}

fn seal(api: &Api, id: Uuid, bytes: &[u8]) -> Result<Sealed, ApiError> {
    let mut nonce = [0; 12];
    rand::rng().fill_bytes(&mut nonce);
    Ok(keyring(api)?.seal(&place(id), nonce, bytes))
}

/// The payload that a create says, if it says one.
fn said(fields: &Map<String, Value>) -> Result<Option<(&'static str, Vec<u8>)>, ApiError> {
    let kind = text(fields, SCHEMA, "payload_content_type")?;
    let encoding = text(fields, SCHEMA, "payload_content_encoding")?;
    let wrong = |name: &str, reason: &str| ApiError::from(invalid(SCHEMA, name, reason));
    let payload = match fields.get("payload") {
        None | Some(Value::Null) if kind.is_some() || encoding.is_some() => {
            return Err(wrong("payload", "it must be there with its content type"));
        }
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(payload)) => payload.as_bytes(),
        Some(_) => return Err(wrong("payload", "it is no text")),
    };
    let kind = kind.ok_or_else(|| wrong("payload_content_type", "a payload needs one"))?;
    let kind = content_type(&kind)?;
    match (kind, encoding.as_deref()) {
        (BYTES, Some("base64")) => Ok(Some((kind, bytes(payload, kind, true)?))),
        (TEXT, None) => Ok(Some((kind, bytes(payload, kind, false)?))),
        (BYTES, _) => Err(wrong("payload_content_encoding", "bytes are in base64")),
        (_, _) => Err(wrong("payload_content_encoding", "text has none")),
    }
}

async fn create(api: &Api, asked: &Asked) -> Answer {
    let caller = &asked.caller;
    let project = project(caller, "secrets:post", true)?.to_owned();
    let fields = fields(asked, SCHEMA, KNOWN)?;
    let (id, now) = (Uuid::new_v4(), api.core.clock.now());
    let kind = text(&fields, SCHEMA, "secret_type")?;
    let kind = kind.unwrap_or_else(|| "opaque".to_owned());
    if !SECRET_TYPES.contains(&kind.as_str()) {
        let reason = format!("it is none of {}", SECRET_TYPES.join(", "));
        return Err(invalid(SCHEMA, "secret_type", reason).into());
    }
    let bits = match fields.get("bit_length") {
        None | Some(Value::Null) => None,
        Some(bits) => {
            let number = bits.as_u64().and_then(|bits| u32::try_from(bits).ok());
            let number = number.filter(|bits| (1..=MOST_BITS).contains(bits));
            let reason = format!("it is no number from 1 to {MOST_BITS}");
            Some(number.ok_or_else(|| invalid(SCHEMA, "bit_length", reason))?)
        }
    };
    let expiration = match text(&fields, SCHEMA, "expiration")? {
        None => None,
        Some(end) => {
            let end = Seconds::parse(&end).filter(|end| *end > now);
            let reason = "it is no time of ISO 8601 to come";
            Some(end.ok_or_else(|| invalid(SCHEMA, "expiration", reason))?)
        }
    };
    let payload = match said(&fields)? {
        Some((kind, bytes)) => Some((kind.to_owned(), seal(api, id, &bytes)?)),
        None => None,
    };
    let made = Secret {
        id,
        name: text(&fields, SCHEMA, "name")?,
        secret_type: kind,
        algorithm: text(&fields, SCHEMA, "algorithm")?,
        bit_length: bits,
        mode: text(&fields, SCHEMA, "mode")?,
        expiration,
        creator_id: caller.user_id.clone(),
        created: now,
        updated: now,
        payload,
    };
    let stored = transact(api.core.store.as_ref(), move |view: &mut View| {
        let prefix = format!("secret/{project}/");
        // What has expired makes room.
        let all = view.scan(&prefix);
        let gone = all.filter(|(_, entry)| {
            let secret = entry.peek::<Secret>();
            secret.is_some_and(|secret| !is_there(secret, now))
        });
        let gone: Vec<String> = gone.map(|(key, _)| key.to_owned()).collect();
        for key in gone {
            view.delete(&key);
        }
        if view.scan(&prefix).count() >= MOST {
            return Err(Refusal::OverQuota { kind: "secret" });
        }
        view.put(secret_key(&project, id), Arc::new(made.clone()));
        Ok(())
    });
    let stored = stored.await;
    let ids = [id.to_string()];
    let stored = api.audited(caller, "create", "secret", &ids, stored);
    stored.await?;
    Ok(super::made("secret_ref", &reference(asked, "secrets", id)))
}

async fn fill(api: &Api, id: &str, asked: &Asked) -> Answer {
    let caller = &asked.caller;
    let project = project(caller, "secret:put", true)?.to_owned();
    let header = |name: &str| {
        let value = asked.headers.get(name).map(HeaderValue::to_str);
        value.and_then(Result::ok).unwrap_or_default()
    };
    let kind = content_type(header("content-type"))?;
    let in_base64 = match header("content-encoding") {
        "" => false,
        "base64" => true,
        _ => {
            let reason = "it is none, or base64";
            return Err(invalid(SCHEMA, "Content-Encoding", reason).into());
        }
    };
    let uuid = id_of("Secret", id)?;
    let sealed = seal(api, uuid, &bytes(&asked.body, kind, in_base64)?)?;
    let (now, named) = (api.core.clock.now(), id.to_owned());
    let filled = transact(api.core.store.as_ref(), move |view: &mut View| {
        let before = own(view, &project, &named, now)?;
        if before.payload.is_some() {
            let text = "Secret already has data, cannot modify it.";
            return Err(Refusal::conflict("SecretHasData", text));
        }
        let after = Secret {
            payload: Some((kind.to_owned(), sealed.clone())),
            updated: now,
            ..Secret::clone(&before)
        };
        view.put(secret_key(&project, uuid), Arc::new(after));
        Ok(())
    });
    let filled = filled.await;
    let ids = [id.to_owned()];
    let filled = api.audited(caller, "update", "secret", &ids, filled);
    filled.await?;
    Ok(respond_empty(StatusCode::NO_CONTENT))
}

async fn delete(api: &Api, id: &str, asked: &Asked) -> Answer {
    let caller = &asked.caller;
    let project = project(caller, "secret:delete", true)?.to_owned();
    let (now, named) = (api.core.clock.now(), id.to_owned());
    let gone = transact(api.core.store.as_ref(), move |view: &mut View| {
        let secret = own(view, &project, &named, now)?;
        view.delete(&secret_key(&project, secret.id));
        Ok::<(), Refusal>(())
    });
    let gone = gone.await;
    let ids = [id.to_owned()];
    let gone = api.audited(caller, "delete", "secret", &ids, gone);
    gone.await?;
    Ok(respond_empty(StatusCode::NO_CONTENT))
}

/// Does the caller take this form?
fn takes(headers: &HeaderMap, kind: &str) -> bool {
    let Some(accept) = headers.get(header::ACCEPT) else {
        return true;
    };
    let accept = accept.to_str().unwrap_or_default();
    let family = kind.split('/').next().unwrap_or_default();
    let mut forms = accept.split(',');
    forms.any(|form| {
        let form = form.split(';').next().unwrap_or_default().trim();
        form == kind || form == "*/*" || form.strip_suffix("/*") == Some(family)
    })
}

fn open(api: &Api, id: &str, asked: &Asked) -> Answer {
    let project = project(&asked.caller, "secret:decrypt", true)?;
    let snapshot = api.core.store.snapshot();
    let secret = own(&snapshot, project, id, api.core.clock.now())?;
    let (kind, sealed) = secret.payload.as_ref().ok_or_else(|| {
        Refusal::no_such("NoPayload", "Not Found. Secret has no payload.".to_owned())
    })?;
    if !takes(&asked.headers, kind) {
        return Err(ApiError::NotAcceptable);
    }
    let opened = keyring(api)?.unseal(&place(secret.id), sealed);
    let opened = opened.map_err(|unopened| ApiError::Sealed(unopened.to_string()))?;
    let mut response = respond_empty(StatusCode::OK);
    *response.body_mut() = Body::from(opened);
    let form = if kind == TEXT {
        "text/plain; charset=utf-8"
    } else {
        BYTES
    };
    for (name, value) in [
        (header::CONTENT_TYPE, form),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}
