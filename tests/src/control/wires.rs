//! How do messages travel, and what becomes of them when a stream is cut?

use std::{collections::BTreeMap, time::Duration};

use controller::{
    compile::intent::HostName,
    hosts::publish::{Conn, Event},
};
use hostconfig::wire::{self, from_controller, from_host};
use net::Now;

use super::{CALM, Item, Region, certificate};

/// One stream.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own that a test notes"
)]
pub(super) struct Link {
    pub(super) host: String,
    /// The host's number of it.
    pub(super) stream: u64,
    /// Of which process of the host.
    pub(super) boot: u64,
    /// Of which process of the controller.
    pub(super) reign: u64,
    /// Nothing more gets through.
    pub(super) cut: bool,
    /// When the last message to the host, and from it, arrives.
    pub(super) down: Now,
    pub(super) up: Now,
    /// What the host is known to hold, since it said hello.
    pub(super) believed: Option<BTreeMap<String, Vec<u8>>>,
    /// It named nothing in its hello.
    pub(super) blank: bool,
    /// The controller heard an acknowledgement on it.
    pub(super) settled: bool,
    /// The controller ended it: it hears nothing more of it.
    pub(super) ended: bool,
}

#[derive(Debug, Clone)]
pub(super) enum ToHost {
    Connected,
    Message(wire::FromController),
    Lost(&'static str),
}

#[derive(Debug, Clone)]
pub(super) enum ToController {
    Connected,
    Message(wire::FromHost),
    Closed,
}

impl std::fmt::Display for ToHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connected => f.write_str("connected"),
            Self::Lost(why) => write!(f, "lost: {why}"),
            Self::Message(message) => match &message.message {
                Some(from_controller::Message::Update(update)) => write!(
                    f,
                    "update to {}, whole {}, {} in, {} out",
                    update.generation,
                    update.whole,
                    update.upserts.len(),
                    update.removals.len()
                ),
                other => write!(f, "{other:?}"),
            },
        }
    }
}

impl std::fmt::Display for ToController {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Connected => f.write_str("connected"),
            Self::Closed => f.write_str("closed"),
            Self::Message(message) => match &message.message {
                Some(from_host::Message::Hello(hello)) => write!(
                    f,
                    "hello of {} with {} sections",
                    hello.generation,
                    hello.sections.len()
                ),
                Some(from_host::Message::Ack(ack)) => {
                    let of = ack.generation;
                    write!(
                        f,
                        "acknowledgement of {of}, complaints {:?}",
                        ack.complaints
                    )
                }
                other => write!(f, "{other:?}"),
            },
        }
    }
}

impl Region {
    pub(super) fn conns_of(&self, host: &str) -> Vec<Conn> {
        let of = self.links.iter().filter(|(_, link)| link.host == host);
        of.map(|(conn, _)| *conn).collect()
    }

    /// Cuts the streams of a host.
    pub fn cut_host(&mut self, host: &str) {
        for conn in self.conns_of(host) {
            self.cut(conn, false);
        }
    }

    /// Cuts a stream. Of what was on the way some has arrived already and is only not read yet. Both ends notice some time
    /// later, `soon` if an end of it said so.
    pub(super) fn cut(&mut self, conn: Conn, soon: bool) {
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        if link.cut {
            return;
        }
        link.cut = true;
        let (mut down, mut up) = (self.dice.below(3), self.dice.below(3));
        let spare = |left: &mut usize| {
            let spared = *left > 0;
            *left = left.saturating_sub(1);
            spared
        };
        self.queue.retain(|_, item| match item {
            Item::ToHost(to, _) if *to == conn => spare(&mut down),
            Item::ToController(to, _) if *to == conn => spare(&mut up),
            _ => true,
        });
        self.note(&format!("{conn:?} is cut"));
        self.notice(conn, soon);
    }

    fn notice(&mut self, conn: Conn, soon: bool) {
        let notice = if soon {
            CALM.notice
        } else {
            self.weather.notice
        };
        let (down, up) = (self.dice.within(notice), self.dice.within(notice));
        self.down(conn, down, ToHost::Lost("cut"));
        self.up(conn, up, ToController::Closed);
    }

    /// To the host, behind all that is on its way there.
    pub(super) fn down(&mut self, conn: Conn, after: Duration, what: ToHost) {
        let link = self.links.get_mut(&conn).unwrap();
        link.down = link.down.max(self.now + after);
        let at = link.down;
        self.sequence += 1;
        self.queue
            .insert((at, self.sequence), Item::ToHost(conn, what));
    }

    /// To the controller, behind all that is on its way there.
    pub(super) fn up(&mut self, conn: Conn, after: Duration, what: ToController) {
        let link = self.links.get_mut(&conn).unwrap();
        link.up = link.up.max(self.now + after);
        let at = link.up;
        self.sequence += 1;
        self.queue
            .insert((at, self.sequence), Item::ToController(conn, what));
    }

    pub(super) fn conn(&self, host: &str, stream: u64) -> Option<Conn> {
        let boot = self.hosts[host].boot;
        let is = |link: &Link| (link.host.as_str(), link.stream, link.boot) == (host, stream, boot);
        let mut found = self.links.iter().filter(|(_, link)| is(link));
        found.next().map(|(conn, _)| *conn)
    }

    pub(super) fn connect(&mut self, name: &str, stream: u64) {
        let conn = Conn(u64::try_from(self.links.len()).unwrap() + 1);
        let host = &self.hosts[name];
        let answered = self.brain.is_some() && !host.away;
        let link = Link {
            host: name.to_owned(),
            stream,
            boot: host.boot,
            reign: self.reign,
            cut: !answered,
            down: self.now,
            up: self.now,
            believed: None,
            blank: false,
            settled: false,
            ended: false,
        };
        self.links.insert(conn, link);
        let (up, down) = (
            self.dice.within(self.weather.delay),
            self.dice.within(self.weather.delay),
        );
        if answered {
            self.up(conn, up, ToController::Connected);
            self.down(conn, down, ToHost::Connected);
        } else {
            self.down(conn, down, ToHost::Lost("nobody answers"));
        }
    }

    pub(super) fn send_up(&mut self, name: &str, stream: u64, message: &wire::FromHost) {
        if let Some(from_host::Message::Ack(ack)) = &message.message {
            let host = self.hosts.get_mut(name).unwrap();
            host.heard.acks += 1;
            let running = host
                .machine
                .running()
                .expect("it acknowledges what it runs");
            assert_eq!(
                (ack.generation, ack.digest.as_slice()),
                (running.generation.get(), running.digest().0.as_slice()),
                "{name} acknowledges what it does not run"
            );
        }
        let Some(conn) = self.conn(name, stream) else {
            return;
        };
        if self.links[&conn].cut {
            return;
        }
        for _ in 0..=usize::from(self.dice.percent(self.weather.twice)) {
            let delay = self.dice.within(self.weather.delay);
            self.up(conn, delay, ToController::Message(message.clone()));
        }
    }

    pub(super) fn tell_host(&mut self, conn: Conn, what: ToHost) {
        let link = &self.links[&conn];
        let (name, stream, boot) = (link.host.clone(), link.stream, link.boot);
        self.note(&format!("{name} hears on {stream}: {what}"));
        let now = self.now;
        let host = self.hosts.get_mut(&name).unwrap();
        let Some(agent) = host.agent.as_mut().filter(|_| host.boot == boot) else {
            return;
        };
        match what {
            ToHost::Connected => agent.connected(stream, now),
            ToHost::Lost(why) => agent.lost(stream, why, now),
            ToHost::Message(message) => {
                if let Some(from_controller::Message::Update(update)) = &message.message {
                    host.heard.updates += 1;
                    host.heard.wholes += usize::from(update.whole);
                    let keys = update.upserts.iter().map(|section| section.key.clone());
                    host.heard.upserts.extend(keys);
                    host.heard.removals.extend(update.removals.iter().cloned());
                }
                agent.received(stream, message, now);
            }
        }
        let delay = self.weather.delay;
        self.settle_within(&name, delay);
    }

    pub(super) fn tell_controller(&mut self, conn: Conn, what: ToController) {
        let link = self.links.get_mut(&conn).unwrap();
        if link.reign != self.reign || self.brain.is_none() {
            return;
        }
        let name = link.host.clone();
        let heard = format!("controller hears on {conn:?} of {name}: {what}");
        let event = match what {
            ToController::Connected => {
                // As the edge does: a stream was let in by a commit that may still be on its way.
                while self.follow() {}
                Event::Connected(conn, HostName::from(name.as_str()), certificate(&name))
            }
            ToController::Closed => {
                link.settled = false;
                Event::Closed(conn)
            }
            ToController::Message(message) => {
                match &message.message {
                    Some(from_host::Message::Hello(hello)) => {
                        let named = hello.sections.iter();
                        let named = named.map(|s| (s.key.clone(), s.hash.clone()));
                        link.blank = hello.sections.is_empty();
                        link.believed = Some(named.collect());
                    }
                    Some(from_host::Message::Ack(_)) => link.settled = !link.ended,
                    _ => {}
                }
                Event::Heard(conn, message)
            }
        };
        self.note(&heard);
        self.publish(event);
    }
}
