//! What is answered to a request?
//!
//! GET and HEAD of a page, by whom the port says is asking. What passed a proxy on its way is refused, as EC2 and Neutron do: a workload that
//! relays requests of others must not be made to give its own secrets away.
//!
//! # Limits
//! 16 KiB of request head, 10 s to say it or to say the next, a minute for a connection, 8 KiB of a body, which nobody reads.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    http::request::Parts,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use net::{Id, Now, ids::kind};
use tokio::time::timeout;

use super::{Counters, directory::Directory, nova::Nova, stream::Stream, tree};
use crate::worker::SharedTables;

/// To say a request's head, or the next request's.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// For a connection.
const LIFE: Duration = Duration::from_mins(1);
/// Bytes of a request's head.
const HEAD_MAX: usize = 16 << 10;
/// Headers of a request.
const HEADERS_MAX: usize = 64;

/// What the answers are made of.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) directory: Arc<ArcSwap<Directory>>,
    pub(super) counters: Arc<Counters>,
    pub(super) nova: Option<Nova>,
    pub(super) tables: SharedTables,
    pub(super) clock: fn() -> Now,
}

/// Serves a connection to its end.
pub(super) async fn serve(
    stream: Stream,
    (port, from): (Id<kind::Port>, SocketAddr),
    context: &Context,
) {
    let service = service_fn(move |request: Request<Incoming>| async move {
        let answer = answer(&request.into_parts().0, (port, from), context).await;
        context.counters.answered(answer.status().as_u16());
        Ok::<_, Infallible>(answer)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    // How it ends is the workload's own affair: what it did not get it asks for again.
    drop(timeout(LIFE, connection).await);
}

/// Answers one request.
pub(super) async fn answer(
    asked: &Parts,
    (port, from): (Id<kind::Port>, SocketAddr),
    context: &Context,
) -> Response<Full<Bytes>> {
    let Parts {
        method,
        uri,
        headers,
        ..
    } = asked;
    if method != Method::GET && method != Method::HEAD {
        let mut refused = said(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only");
        let allowed = HeaderValue::from_static("GET, HEAD");
        refused.headers_mut().insert(ALLOW, allowed);
        return refused;
    }
    if headers.contains_key("x-forwarded-for") || headers.contains_key("forwarded") {
        return said(
            StatusCode::FORBIDDEN,
            "what was forwarded by a proxy is not answered",
        );
    }
    let Some(instance) = context.directory.load().instance(port) else {
        return said(StatusCode::NOT_FOUND, "no such instance");
    };
    if let Some(nova) = &context.nova
        && let Some((device, project)) = instance.novas()
    {
        let own: Vec<IpAddr> = instance.addresses().collect();
        let addr = seen_as(from.ip(), &own);
        return nova.ask(asked, (device, project), addr).await;
    }
    match tree::page(uri.path(), &instance) {
        Some(page) => {
            let mut answer = Response::new(Full::new(page.body.into()));
            let kind = HeaderValue::from_static(page.kind);
            answer.headers_mut().insert(CONTENT_TYPE, kind);
            answer
        }
        None => said(StatusCode::NOT_FOUND, "no such page"),
    }
}

/// The address by which others know the instance: the one that it asks from, if that is its own; else, as from a link-local one, the first of that
/// family that it has.
pub(super) fn seen_as(from: IpAddr, own: &[IpAddr]) -> IpAddr {
    let first = |wanted: &dyn Fn(&IpAddr) -> bool| own.iter().copied().find(wanted);
    first(&|own| *own == from)
        .or_else(|| first(&|own| own.is_ipv4() == from.is_ipv4()))
        .or_else(|| own.first().copied())
        .unwrap_or(from)
}

pub(super) fn said(code: StatusCode, what: &str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(format!("{what}\n").into()));
    *answer.status_mut() = code;
    let kind = HeaderValue::from_static("text/plain; charset=UTF-8");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}
