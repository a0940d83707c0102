//! What is known of a TCP connection of which not every packet passes here?
//!
//! Behind an appliance whose replies take another way, or that took over in the middle, sequence numbers prove nothing. So the segment
//! is taken for what it says: a SYN opens, whatever follows shows that it was answered, a FIN or reset closes.

use net::tcp::{TcpSegment, flag};

use super::{Stage, Track, entry::State, machine::Timeouts};

/// In `State::flags`: a FIN or reset was seen.
const ENDS: u8 = 1;

pub(super) fn begin(state: &mut State, segment: &TcpSegment) {
    let edge = flag::SYN | flag::FIN | flag::RST;
    let stage = if segment.flags & edge != 0 {
        Stage::New
    } else {
        Stage::Replied
    };
    state.set_stage(stage);
}

pub(super) fn advance(state: &mut State, segment: &TcpSegment) -> Track {
    if segment.has(flag::FIN) || segment.has(flag::RST) {
        state.flags |= ENDS;
        state.set_stage(Stage::New);
    } else if segment.has(flag::SYN) {
        if state.flags & ENDS != 0 {
            return Track::Renew;
        }
    } else if state.flags & ENDS == 0 {
        state.set_stage(Stage::Replied);
    }
    Track::Ok
}

pub(super) fn timeout(state: &State, t: &Timeouts) -> u32 {
    if state.stage() == Stage::Replied {
        t.tcp_established
    } else {
        t.tcp_syn_sent
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    fn segment(flags: u16) -> TcpSegment {
        TcpSegment {
            flags,
            seq: 7,
            ack: 8,
            window: 9,
            payload: 0,
            window_scale: None,
        }
    }

    fn after(all: &[u16]) -> (State, Track) {
        let mut state = State::new_zeroed();
        begin(&mut state, &segment(all[0]));
        let mut track = Track::Ok;
        for flags in &all[1..] {
            track = advance(&mut state, &segment(*flags));
        }
        (state, track)
    }

    #[test]
    fn a_syn_waits_shortly_what_follows_it_long_and_what_ends_shortly_again() {
        let t = Timeouts::default();
        for (all, stays) in [
            (&[flag::SYN][..], false),
            (&[flag::SYN, flag::SYN], false),
            (&[flag::SYN, flag::ACK], true),
            (&[flag::ACK], true),
            (&[flag::ACK, flag::SYN, flag::ACK], true),
            (&[flag::ACK, flag::FIN | flag::ACK], false),
            (&[flag::ACK, flag::FIN | flag::ACK, flag::ACK], false),
            (&[flag::ACK, flag::RST], false),
            (&[flag::RST], false),
        ] {
            let (state, track) = after(all);
            assert_eq!(track, Track::Ok, "{all:?}");
            assert_eq!(state.stage() == Stage::Replied, stays, "{all:?}");
            let expected = if stays {
                t.tcp_established
            } else {
                t.tcp_syn_sent
            };
            assert_eq!(timeout(&state, &t), expected, "{all:?}");
            assert_eq!(state.stage().is_expendable(), !stays, "{all:?}");
        }
    }

    #[test]
    fn a_syn_behind_the_end_begins_another() {
        let (_, track) = after(&[flag::ACK, flag::RST, flag::SYN]);
        assert_eq!(track, Track::Renew);
    }
}
