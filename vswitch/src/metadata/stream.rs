//! How does a task read and write a connection?
//!
//! The bytes are the stack's own buffers: whoever does not read is sent no more, whoever is not read waits.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use net::{Id, Now, ids::kind};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

use super::stack::{ConnId, Stacks};

/// What the tasks of connections share with the stacks' own.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) stacks: RefCell<Stacks>,
    /// A connection was read, written or closed: there is something to send.
    pub(super) wake: Notify,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Stream {
    shared: Rc<Shared>,
    port: Id<kind::Port>,
    id: ConnId,
}

impl Stream {
    pub(super) fn new(shared: Rc<Shared>, port: Id<kind::Port>, id: ConnId) -> Self {
        Self { shared, port, id }
    }

    /// Opens a connection in the name of the other end, to another port of the service's. `None`: there is no room for it.
    pub(super) fn connect(&self, to: u16, now: Now) -> Option<Self> {
        let mut stacks = self.shared.stacks.borrow_mut();
        let id = stacks.connect(self.port, self.id, to, now)?;
        drop(stacks);
        self.shared.wake.notify_one();
        Some(Self::new(Rc::clone(&self.shared), self.port, id))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut stacks = self.shared.stacks.borrow_mut();
        let read = stacks.read(self.port, self.id, buf.initialize_unfilled(), cx);
        drop(stacks);
        read.map_ok(|read| {
            buf.advance(read);
            self.shared.wake.notify_one();
        })
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut stacks = self.shared.stacks.borrow_mut();
        let written = stacks.write(self.port, self.id, buf, cx);
        drop(stacks);
        self.shared.wake.notify_one();
        written
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.wake.notify_one();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.stacks.borrow_mut().close(self.port, self.id);
        self.shared.wake.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.stacks.borrow_mut().close(self.port, self.id);
        self.shared.wake.notify_one();
    }
}
