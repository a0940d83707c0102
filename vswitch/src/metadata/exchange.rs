//! What do the stacks do with any packets at all?
//!
//! The stacks without a thread, a runtime and workers: packets in, frames out. Whatever is said is said back, or it is a request for a page. For
//! tests that send what no client would, and for simulated hosts.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use hostconfig::HostConfig;
use hyper::{Request, body::Body as _};
use net::Now;
use rtrb::RingBuffer;

use super::{
    Counters, Counts, Inward, Outward,
    directory::Directory,
    server,
    stack::{Limits, Opened, Stacks},
};
use crate::datapath::Tables;

/// Frames of a turn.
const FRAMES: usize = 256;
/// Bytes of a request's head.
const HEAD_MAX: usize = 16 << 10;
/// What ends it.
const END: &str = "\r\n\r\n";

/// Stacks that say back what they are told, or the pages that are asked for.
#[derive(Debug)]
pub struct Exchange {
    stacks: Stacks,
    counters: Arc<Counters>,
    open: Vec<Talk>,
    pages: Option<server::Context>,
}

/// A connection.
#[derive(Debug)]
struct Talk {
    of: Opened,
    /// What is left of what was said to it.
    heard: Vec<u8>,
}

impl Exchange {
    /// With these limits; what is said is said back.
    pub fn new(limits: Limits, seed: u64) -> Self {
        let counters = Arc::new(Counters::default());
        Self {
            stacks: Stacks::new(limits, seed, Arc::clone(&counters)),
            counters,
            open: Vec::new(),
            pages: None,
        }
    }

    /// The same, where requests are answered by the config that it is [told](Self::told), one a connection.
    pub fn with_pages(limits: Limits, seed: u64) -> Self {
        let echo = Self::new(limits, seed);
        let context = server::Context {
            directory: Arc::new(ArcSwap::from_pointee(Directory::default())),
            counters: Arc::clone(&echo.counters),
            nova: None,
            // No names are asked for here.
            tables: Arc::new(ArcSwap::from_pointee(Tables::empty(seed))),
            clock: || Now::ZERO,
        };
        Self {
            pages: Some(context),
            ..echo
        }
    }

    /// Answers by this config from now on.
    pub fn told(&mut self, config: &HostConfig) {
        if let Some(pages) = &self.pages {
            pages.directory.store(Arc::new(Directory::new(config)));
        }
    }

    /// One turn: these packets come in; the frames that go out.
    pub fn turn(&mut self, inward: impl IntoIterator<Item = Inward>, now: Now) -> Vec<Outward> {
        for inward in inward {
            self.stacks.take(inward);
        }
        let (ring, mut out) = RingBuffer::new(FRAMES);
        let turn = self.stacks.turn(now, &mut [ring]);
        let opened = turn.opened.into_iter();
        self.open.extend(opened.map(|of| Talk {
            of,
            heard: Vec::new(),
        }));
        self.answer();
        let frames = std::iter::from_fn(|| out.pop().ok());
        frames.collect()
    }

    fn answer(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let (stacks, pages) = (&mut self.stacks, self.pages.as_ref());
        self.open.retain_mut(|talk| {
            let of = talk.of;
            let mut said = [0; 512];
            match stacks.read(of.port, of.id, &mut said, &mut cx) {
                Poll::Pending => true,
                Poll::Ready(Ok(0) | Err(_)) => {
                    stacks.close(of.port, of.id);
                    false
                }
                Poll::Ready(Ok(n)) => {
                    let said = said.get(..n).unwrap_or_default();
                    let Some(pages) = pages else {
                        let written = stacks.write(of.port, of.id, said, &mut cx);
                        return !matches!(written, Poll::Ready(Err(_)));
                    };
                    talk.heard.extend_from_slice(said);
                    let text = String::from_utf8_lossy(&talk.heard);
                    let Some((head, _)) = text.split_once(END) else {
                        return talk.heard.len() < HEAD_MAX;
                    };
                    // A page that is larger than what a socket holds is cut off: its reader hears that by its length.
                    let page = page(head, of, pages).unwrap_or_default();
                    let _written = stacks.write(of.port, of.id, &page, &mut cx);
                    stacks.close(of.port, of.id);
                    false
                }
            }
        });
    }

    /// What was counted.
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }
}

/// The answer to a request of this head; `None`: it is none.
fn page(head: &str, of: Opened, pages: &server::Context) -> Option<Vec<u8>> {
    let mut lines = head.split("\r\n");
    let mut words = lines.next()?.split(' ');
    let mut asked = Request::builder().method(words.next()?).uri(words.next()?);
    for line in lines {
        let (name, value) = line.split_once(':')?;
        asked = asked.header(name, value.trim());
    }
    let asked = asked.body(()).ok()?.into_parts().0;
    let mut cx = Context::from_waker(Waker::noop());
    // Only Nova takes time, and there is none.
    let Poll::Ready(answer) = pin!(server::answer(&asked, (of.port, of.from), pages)).poll(&mut cx)
    else {
        return None;
    };
    let (head, mut body) = answer.into_parts();
    let body = match Pin::new(&mut body).poll_frame(&mut cx) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().ok()?,
        Poll::Ready(Some(Err(never))) => match never {},
        Poll::Ready(None) | Poll::Pending => Bytes::new(),
    };
    let (status, length) = (head.status, body.len());
    let mut said = format!("HTTP/1.1 {status}\r\ncontent-length: {length}{END}").into_bytes();
    said.extend_from_slice(&body);
    Some(said)
}
