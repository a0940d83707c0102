//! How do others speak to a worker?
//!
//! They tell it [`Command`]s over a bounded queue and ring its bell; it obeys between two turns.

use std::{
    any::Any,
    sync::mpsc::{self, SyncSender},
    thread,
};

use net::{Now, PortId};

use super::{Corridor, ring::Bell};
use crate::{
    effort::Effort,
    io::{PortIo, Underlay},
};

/// What may be asked of a corridor between two turns.
pub type Question<C> = Box<dyn FnOnce(&mut C, Now) + Send>;

/// What a worker can be told.
pub enum Command<C> {
    /// Serve this queue of a port; one that it has already is replaced.
    AddPort(PortId, Box<dyn PortIo>),
    /// Let go of a port's queue.
    RemovePort(PortId),
    /// Serve this underlay, or none.
    SetUnderlay(Option<Box<dyn Underlay>>),
    /// Ask the corridor anything: it is between two turns. A reply travels by what the closure holds.
    Ask(Question<C>),
    /// Say what was done so far; there is room for the answer.
    Effort(SyncSender<Effort>),
    /// Send what is to be sent, and end.
    Shutdown,
}

impl<C> std::fmt::Debug for Command<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::AddPort(..) => "AddPort",
            Self::RemovePort(_) => "RemovePort",
            Self::SetUnderlay(_) => "SetUnderlay",
            Self::Ask(_) => "Ask",
            Self::Effort(_) => "Effort",
            Self::Shutdown => "Shutdown",
        })
    }
}

/// The worker has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the worker has ended")]
pub struct WorkerGone;

/// A worker, as others see it.
#[derive(Debug)]
pub struct Handle<C> {
    commands: SyncSender<Command<C>>,
    bell: Bell,
    thread: Option<thread::JoinHandle<()>>,
}

/// Wakes a worker that has something to look at.
#[derive(Debug, Clone)]
pub struct Ringer(Bell);

impl Ringer {
    /// Wakes it, if it sleeps.
    pub fn ring(&self) {
        self.0.ring();
    }
}

impl<C: Corridor> Handle<C> {
    /// What wakes it.
    pub fn ringer(&self) -> Ringer {
        Ringer(self.bell.clone())
    }

    /// Of a worker that has no thread yet.
    pub(super) fn new(commands: SyncSender<Command<C>>, bell: Bell) -> Self {
        Self {
            commands,
            bell,
            thread: None,
        }
    }

    /// It runs on this thread.
    pub(super) fn runs(&mut self, thread: thread::JoinHandle<()>) {
        self.thread = Some(thread);
    }

    /// Tells it something; waits while its queue is full.
    ///
    /// # Errors
    /// When it has ended.
    pub fn tell(&self, command: Command<C>) -> Result<(), WorkerGone> {
        self.commands.send(command).or(Err(WorkerGone))?;
        self.bell.ring();
        Ok(())
    }

    /// Asks its corridor, between two turns, and waits for the answer. All that was told before is done by then, and the tables
    /// that stood when it was asked are the ones that it runs.
    ///
    /// # Errors
    /// When it has ended.
    pub fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut C, Now) -> T + Send + 'static,
    ) -> Result<T, WorkerGone> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.tell(Command::Ask(Box::new(move |corridor, now| {
            // Whoever asked may have gone away.
            drop(reply.send(question(corridor, now)));
        })))?;
        answer.recv().or(Err(WorkerGone))
    }

    /// What it did so far.
    ///
    /// # Errors
    /// When it has ended.
    pub fn effort(&self) -> Result<Effort, WorkerGone> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.tell(Command::Effort(reply))?;
        answer.recv().or(Err(WorkerGone))
    }

    /// Ends it: what it holds goes out first.
    ///
    /// # Errors
    /// The panic that ended it before.
    pub fn stop(mut self) -> Result<(), Box<dyn Any + Send>> {
        self.shut_down()
    }

    fn shut_down(&mut self) -> Result<(), Box<dyn Any + Send>> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        if self.tell(Command::Shutdown) == Err(WorkerGone) {
            tracing::debug!("the worker had ended before");
        }
        thread.join()
    }
}

impl<C> Drop for Handle<C> {
    fn drop(&mut self) {
        if self.thread.is_some() && self.commands.send(Command::Shutdown).is_ok() {
            self.bell.ring();
        }
    }
}
