//! How does an admin take a backup of a running controller?
//!
//! One snapshot of the store, the CA and the admin's cloud as one text, streamed. Whoever may ask for it has all that the
//! controller knows, so it is an admin's, and the audit says when it was begun and how it ended.
//!
//! # Attack
//! One backup is made at a time, and a client that takes no part of it for [`PATIENCE`] is cut off: its snapshot would be
//! kept for ever. What is cut off has no proper end, and no checksum.

use crate::{
    api::{
        Api, ApiError,
        error::respond_empty,
        finish,
        handlers::{Answer, Asked},
    },
    backup,
    policy::Nothing,
    refusal::Refusal,
    rules::Caller,
    store::Scribe,
};
use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, Method, Request, Response, StatusCode, header},
};
use bytes::Bytes;
use futures::stream;
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Parts that wait for the client: of 64 KiB and at most one record more.
const PARTS: usize = 4;
/// How long a part may wait.
const PATIENCE: Duration = Duration::from_mins(1);

/// A part of the text, or that this was the last.
type Piece = Option<Bytes>;

/// /v2.0/overweave/backup
pub(super) async fn take(State(api): State<Api>, request: Request<Body>) -> Response<Body> {
    let started = Instant::now();
    let method = request.method().clone();
    let answer: Answer = async {
        let asked = api.read(request).await?;
        if method != Method::POST {
            return Err(ApiError::no_method(&["POST"]));
        }
        begin(&api, &asked).await
    }
    .await;
    let response = finish(answer);
    api.stats
        .request("backup", "create", response.status(), started.elapsed());
    response
}

async fn begin(api: &Api, asked: &Asked) -> Answer {
    let turn = turn(api, &asked.caller);
    let turn = api.audited(&asked.caller, "begin", "backup", &[], turn);
    let turn = turn.await?;
    let core = Arc::clone(&api.core);
    let scribe = match tokio::task::spawn_blocking(move || backup::scribe(&core)).await {
        Ok(Ok(scribe)) => scribe,
        Ok(Err(error)) => return Err(ApiError::NoBackup(error.to_string())),
        Err(error) => return Err(ApiError::NoBackup(error.to_string())),
    };
    let (pieces, taken) = mpsc::channel(PARTS);
    let (api, caller) = (api.clone(), Arc::clone(&asked.caller));
    tokio::spawn(write(api, caller, scribe, pieces, turn));
    let mut response = respond_empty(StatusCode::OK);
    *response.body_mut() = body(taken);
    for (name, value) in [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

fn turn(api: &Api, caller: &Caller) -> Result<OwnedSemaphorePermit, ApiError> {
    if !caller.may("create_backup", &Nothing, caller.admin) {
        return Err(Refusal::denied("rule:create_backup").into());
    }
    let turn = Arc::clone(&api.backups).try_acquire_owned();
    turn.ok()
        .ok_or_else(|| ApiError::NoBackup("another one is being made".to_owned()))
}

/// Hands the text over and notes how that ended.
async fn write(
    api: Api,
    caller: Arc<Caller>,
    mut scribe: Scribe,
    pieces: mpsc::Sender<Piece>,
    turn: OwnedSemaphorePermit,
) {
    let revision = scribe.revision().to_string();
    let outcome = loop {
        let piece = match scribe.part() {
            Ok(part) => part.map(Bytes::from),
            Err(error) => {
                tracing::error!(%error, "a backup could not be made");
                break "Unreadable";
            }
        };
        let last = piece.is_none();
        match tokio::time::timeout(PATIENCE, pieces.send(piece)).await {
            Ok(Ok(())) if last => break "done",
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => break "CutOff",
        }
    };
    drop((scribe, turn));
    let now = api.core.clock.now();
    api.core
        .audit
        .note(now, &caller, "create", "backup", &[revision], outcome)
        .await;
}

/// A body that ends well only after the last part.
fn body(taken: mpsc::Receiver<Piece>) -> Body {
    Body::from_stream(stream::unfold(Some(taken), |taken| async {
        let mut taken = taken?;
        match taken.recv().await {
            Some(Some(part)) => Some((Ok(part), Some(taken))),
            Some(None) => None,
            None => Some((Err(io::Error::other("the backup was cut off")), None)),
        }
    }))
}
