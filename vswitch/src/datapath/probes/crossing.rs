//! Do frames come out of one appliance that went in?
//!
//! Each `interval` a frame goes in by the ingress port, and one by the egress port where replies pass the appliance too. What did not come
//! out by the other port until the next is due is missed; `misses` in a row make the instance silent, and the first time that all come out
//! it is up again.
//!
//! # Attack
//! A frame bears a number that only the switch can foresee, so nobody but who saw it go in can bring it out.

use std::{hash::BuildHasher as _, time::Duration};

use net::{Id, Now, Packet, ids::kind};

use super::{
    Sent,
    frames::{PathProbe, crossing},
    watch::payload,
};
use crate::datapath::tables::crossings::Crossed;

/// An instance that is asked.
#[derive(Debug)]
pub(super) struct Crossing {
    pub(super) crossed: Crossed,
    /// Do frames pass it? `None`: it is not known yet.
    pub(super) verdict: Option<bool>,
    missed: u8,
    /// When the next frames go in.
    pub(super) due: Now,
    /// Which frames are under way; none before the first.
    round: u64,
    /// Those that came out, forward and back.
    came: [bool; 2],
    secret: u64,
}

impl Crossing {
    pub(super) fn new(crossed: Crossed, due: Now, secret: u64) -> Self {
        Self {
            crossed,
            verdict: None,
            missed: 0,
            due,
            round: 0,
            came: [false; 2],
            secret,
        }
    }

    /// It is asked otherwise from now on; what is known of it stays.
    pub(super) fn follow(&mut self, crossed: &Crossed, now: Now) {
        if self.crossed != *crossed {
            self.crossed = crossed.clone();
            (self.round, self.missed, self.due) = (0, 0, now);
        }
    }

    /// The number of this round's frame in a direction.
    fn number(&self, back: bool) -> [u8; 8] {
        let keyed = foldhash::quality::FixedState::with_seed(self.secret);
        let of = (self.crossed.pair, self.round, back);
        keyed.hash_one(of).to_be_bytes()
    }

    fn ways(&self) -> impl Iterator<Item = bool> + use<> {
        let both = self.crossed.both;
        [false, true].into_iter().filter(move |back| !back || both)
    }

    fn all_came(&self) -> bool {
        let [forward, back] = self.came;
        forward && (back || !self.crossed.both)
    }

    /// It is due: what did not come out is missed, and the next go in.
    pub(super) fn turn(&mut self, now: Now, sent: &mut Vec<Sent>) {
        if self.round > 0 && !self.all_came() {
            self.missed = self.missed.saturating_add(1);
            if self.missed >= self.crossed.how.misses {
                self.verdict = Some(false);
            }
        }
        self.round = self.round.saturating_add(1);
        self.came = [false; 2];
        let interval = self.crossed.how.interval_ms.max(1);
        self.due = now + Duration::from_millis(interval.into());
        let [before, behind] = self.crossed.ends();
        let [ingress, egress] = self.crossed.ports;
        for back in self.ways() {
            let (port, from, to) = if back {
                (egress, behind, before)
            } else {
                (ingress, before, behind)
            };
            let frame = crossing(&PathProbe {
                from,
                to,
                number: self.number(back),
            });
            sent.push(Sent {
                port,
                frame,
                label: self.crossed.label,
            });
        }
    }

    /// A frame that comes out of one of its ports.
    pub(super) fn hear(&mut self, port: Id<kind::Port>, packet: &Packet) {
        let [ingress, egress] = self.crossed.ports;
        for back in self.ways() {
            let (of, out) = (self.number(back), if back { ingress } else { egress });
            if let Some(came) = self.came.get_mut(usize::from(back))
                && port == out
                && payload(packet).starts_with(&of)
            {
                *came = true;
            }
        }
        if self.round > 0 && self.all_came() {
            self.missed = 0;
            self.verdict = Some(true);
        }
    }
}
