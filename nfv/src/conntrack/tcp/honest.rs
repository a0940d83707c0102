//! Two honest ends talk through a watcher, over links that lose, repeat and reorder: nothing of what they say may be refused,
//! also while somebody who does not see their numbers shouts in between.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::keyed_hash::scramble;

/// A fixed sequence of choices.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u32) -> u32 {
        self.0 = scramble(self.0.wrapping_add(0x9e37_79b9_7f4a_7c15));
        u32::try_from(self.0 % u64::from(n)).unwrap()
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
/// One end: sends `to_send` bytes, then its FIN; accepts in order only, and repeats what was not acknowledged.
struct End {
    passive: bool,
    isn: u32,
    scale: Option<u8>,
    /// Scaling is on: both ends said so.
    scaled: bool,
    synchronized: bool,
    acked: u32,
    next: u32,
    highest: u32,
    last: u32,
    peer_room: u32,
    received: Option<u32>,
    /// Bytes that it has room for.
    room: u32,
    peer_fin: bool,
}

impl End {
    fn new(passive: bool, dice: &mut Dice) -> Self {
        let isn = dice.below(u32::MAX);
        let scale = (!dice.one_in(4)).then(|| u8::try_from(dice.below(15)).unwrap());
        let to_send = 1 + dice.below(400_000);
        Self {
            passive,
            isn,
            scale,
            scaled: false,
            synchronized: false,
            acked: isn,
            next: isn,
            highest: isn,
            // Behind SYN, data and FIN.
            last: isn.wrapping_add(to_send).wrapping_add(2),
            peer_room: 0,
            received: None,
            room: 60_000,
            peer_fin: false,
        }
    }

    fn done(&self) -> bool {
        self.acked == self.last && self.peer_fin
    }

    fn shift(&self) -> u8 {
        if self.scaled {
            self.scale.unwrap_or(0)
        } else {
            0
        }
    }

    fn plain(&self, seq: u32, payload: u32, flags: u16) -> TcpSegment {
        let syn = flags & flag::SYN != 0;
        let window = self.room >> if syn { 0 } else { self.shift() };
        TcpSegment {
            flags: flags
                | if self.received.is_some() {
                    flag::ACK
                } else {
                    0
                },
            seq,
            ack: self.received.unwrap_or(0),
            window: u16::try_from(window.min(0xffff)).unwrap(),
            payload,
            window_scale: if syn { self.scale } else { None },
        }
    }

    /// Something from `seq` on, up to `limit`: SYN, data, FIN.
    fn chunk(&mut self, seq: u32, limit: u32, dice: &mut Dice) -> Option<TcpSegment> {
        if seq == self.isn {
            self.raise(seq.wrapping_add(1));
            return Some(self.plain(seq, 0, flag::SYN));
        }
        let data_left = self.last.wrapping_sub(1).wrapping_sub(seq);
        let room = limit.wrapping_sub(seq);
        if seq == self.last || room == 0 || room > 1 << 31 {
            return None;
        }
        // A segment, or a super-frame of many.
        let most = if dice.one_in(3) { 65_000 } else { 1_400 };
        let payload = data_left.min(room).min(1 + dice.below(most));
        let fin = payload == data_left && room > payload;
        if payload == 0 && !fin {
            return None;
        }
        self.raise(seq.wrapping_add(payload).wrapping_add(u32::from(fin)));
        Some(self.plain(seq, payload, if fin { flag::FIN } else { flag::PSH }))
    }

    fn raise(&mut self, end: u32) {
        if !at_most(end, self.highest) {
            self.highest = end;
        }
    }

    fn speak(&mut self, dice: &mut Dice) -> Option<TcpSegment> {
        if self.passive && self.received.is_none() {
            return None;
        }
        match dice.below(10) {
            // A timeout: again from what was not acknowledged.
            0 if self.next != self.acked => {
                let seq = self.acked;
                self.chunk(seq, self.highest, dice)
            }
            // A keepalive, or a probe of a closed window.
            1 if self.synchronized && self.next == self.acked => {
                Some(self.plain(self.acked.wrapping_sub(1), dice.below(2), 0))
            }
            2 if self.synchronized && self.peer_room == 0 && self.next == self.acked => {
                let limit = self.acked.wrapping_add(1);
                let probe = self.chunk(self.acked, limit, dice)?;
                self.next = probe.end();
                Some(probe)
            }
            3 if self.synchronized => {
                // The reader takes its time: room shrinks, closes, and opens.
                self.room = [0, 1_000, 60_000, 900_000][dice.below(4) as usize];
                Some(self.plain(self.next, 0, 0))
            }
            _ if self.next == self.isn => {
                let syn = self.chunk(self.isn, 0, dice)?;
                self.next = syn.end();
                Some(syn)
            }
            _ if self.synchronized => {
                let limit = self.acked.wrapping_add(self.peer_room);
                let segment = self.chunk(self.next, limit, dice)?;
                self.next = segment.end();
                Some(segment)
            }
            _ => None,
        }
    }

    /// Returns an acknowledgment, if one is due.
    fn hear(&mut self, s: &TcpSegment) -> Option<TcpSegment> {
        if s.has(flag::ACK) && at_most(self.acked, s.ack) && at_most(s.ack, self.highest) {
            self.acked = s.ack;
            if !at_most(self.acked, self.next) {
                self.next = self.acked;
            }
            self.synchronized |= self.received.is_some() || s.has(flag::SYN);
        }
        if s.has(flag::SYN) {
            if self.received.is_none() {
                self.received = Some(s.seq.wrapping_add(1));
                self.scaled = self.scale.is_some() && s.window_scale.is_some();
                self.peer_room = u32::from(s.window);
            }
        } else if self.received.is_some() {
            let shift = match (self.scaled, PEER_SCALE.get()) {
                (true, [a, b]) => {
                    if self.passive {
                        a
                    } else {
                        b
                    }
                }
                (false, _) => 0,
            };
            if s.has(flag::ACK) && s.ack == self.acked {
                self.peer_room = u32::from(s.window) << shift;
            }
        }
        let expected = self.received?;
        if s.seq == expected && s.end() != expected && self.room > 0 {
            self.received = Some(s.end());
            self.peer_fin |= s.has(flag::FIN);
        }
        let passive_syn = s.has(flag::SYN) && self.next == self.isn;
        let occupies = s.end() != s.seq && !passive_syn;
        let is_old = s.seq != expected && at_most(s.seq, expected);
        (occupies || is_old).then(|| self.plain(self.next, 0, 0))
    }
}

thread_local! {
    /// What shift each end announced, for the other to read windows by.
    static PEER_SCALE: std::cell::Cell<[u8; 2]> = const { std::cell::Cell::new([0, 0]) };
}

/// Lets the ends talk; returns the watcher's last state, and whether they came to an end.
fn talk(seed: u64, shouting: bool) -> (State, bool) {
    let mut dice = Dice(seed);
    let mut ends = [End::new(false, &mut dice), End::new(true, &mut dice)];
    PEER_SCALE.set([ends[0].scale.unwrap_or(0), ends[1].scale.unwrap_or(0)]);
    let mut state: State = zerocopy::FromZeros::new_zeroed();
    // Links to the watcher, in order; links from it, in any.
    let mut to_watcher: [VecDeque<TcpSegment>; 2] = Default::default();
    let mut beyond: [VecDeque<TcpSegment>; 2] = Default::default();
    for _ in 0..60_000 {
        let who = dice.below(2) as usize;
        let side = Side::BOTH[who];
        match dice.below(3) {
            0 => {
                if let Some(s) = ends[who].speak(&mut dice).filter(|_| !dice.one_in(20)) {
                    to_watcher[who].push_back(s);
                }
            }
            1 => {
                let Some(s) = to_watcher[who].pop_front() else {
                    continue;
                };
                if state.stage() == Stage::Free {
                    assert!(begins(&s), "{s:?}");
                    begin(&mut state, &s);
                } else {
                    let before = state;
                    assert_eq!(
                        advance(&mut state, side, &s),
                        Track::Ok,
                        "seed {seed}: {side:?} {s:?} in {before:?}"
                    );
                }
                if !dice.one_in(20) {
                    beyond[who].push_back(s);
                    if dice.one_in(30) {
                        beyond[who].push_back(s);
                    }
                }
            }
            _ => {
                let waiting = u32::try_from(beyond[who].len()).unwrap();
                if waiting == 0 {
                    continue;
                }
                let at = dice.below(waiting.min(3)) as usize;
                let s = beyond[who].remove(at).unwrap();
                let answer = ends[1 - who].hear(&s);
                to_watcher[1 - who].extend(answer);
            }
        }
        if shouting && state.stage() != Stage::Free && dice.one_in(4) {
            shout(&mut state, &mut dice);
        }
        if ends.iter().all(End::done) && to_watcher.iter().all(VecDeque::is_empty) {
            return (state, true);
        }
    }
    (state, false)
}

/// Somebody who does not know where the windows are.
fn shout(state: &mut State, dice: &mut Dice) {
    let side = Side::BOTH[dice.below(2) as usize];
    let far = |at: u32, dice: &mut Dice| at.wrapping_add(1 << 30).wrapping_add(dice.below(1 << 30));
    let flags = [
        flag::RST,
        flag::RST | flag::ACK,
        flag::ACK,
        flag::ACK | flag::FIN,
        flag::SYN | flag::ACK,
    ][dice.below(5) as usize];
    let s = TcpSegment {
        flags,
        seq: far(side.of(&state.windows).end, dice),
        ack: far(side.other().of(&state.windows).end, dice),
        window: 65_535,
        payload: dice.below(1000),
        window_scale: None,
    };
    // Before the answer a bare ACK is heard, because it may be an honest challenge.
    if state.stage() == Stage::SynSent && flags == flag::ACK {
        return;
    }
    let before = *state;
    assert_eq!(
        advance(state, side, &s),
        Track::Invalid,
        "{s:?} in {before:?}"
    );
    assert!(*state == before);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn nothing_that_honest_ends_say_is_refused(seed in any::<u64>(), shouting in any::<bool>()) {
        let (state, over) = talk(seed, shouting);
        if over {
            prop_assert!(state.stage() >= Stage::LastAck, "{:?}", state);
        }
    }
}

#[test]
fn honest_ends_come_to_their_end() {
    // Else the property above would hold for ends that never say much.
    let over = (0..40).filter(|seed| talk(*seed, false).1).count();
    assert!(over > 30, "{over} of 40");
}
