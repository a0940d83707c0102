use super::*;

/// A conversation: `a` is the initiator, `b` the other end.
struct Talk {
    state: State,
}

fn segment(flags: u16, seq: u32, ack: u32, payload: u32) -> TcpSegment {
    TcpSegment {
        flags,
        seq,
        ack,
        window: 1000,
        payload,
        window_scale: None,
    }
}

const A: Side = Side::Original;
const B: Side = Side::Reply;
const SYN_ACK: u16 = flag::SYN | flag::ACK;
const FIN_ACK: u16 = flag::FIN | flag::ACK;

impl Talk {
    fn begin(syn: TcpSegment) -> Self {
        let mut state: State = zerocopy::FromZeros::new_zeroed();
        assert!(begins(&syn));
        begin(&mut state, &syn);
        Self { state }
    }

    /// `a` starts at 100, `b` at 500; both have a window of 1000.
    fn established() -> Self {
        let mut t = Self::begin(segment(flag::SYN, 99, 0, 0));
        t.ok(B, segment(SYN_ACK, 499, 100, 0));
        t.ok(A, segment(flag::ACK, 100, 500, 0));
        assert_eq!(t.state.stage(), Stage::Established);
        t
    }

    fn see(&mut self, side: Side, s: TcpSegment) -> Track {
        let before = self.state;
        let track = advance(&mut self.state, side, &s);
        if track != Track::Ok {
            assert!(before == self.state, "what is refused changes nothing");
        }
        track
    }

    #[track_caller]
    fn ok(&mut self, side: Side, s: TcpSegment) {
        assert_eq!(self.see(side, s), Track::Ok, "{s:?} in {:?}", self.state);
    }

    #[track_caller]
    fn refused(&mut self, side: Side, s: TcpSegment) {
        assert_eq!(
            self.see(side, s),
            Track::Invalid,
            "{s:?} in {:?}",
            self.state
        );
    }

    #[track_caller]
    fn is(&self, stage: Stage, seconds: u32) {
        assert_eq!(self.state.stage(), stage);
        assert_eq!(timeout(&self.state, &Timeouts::default()), seconds);
    }
}

#[test]
fn only_a_syn_alone_begins() {
    for flags in [
        flag::ACK,
        SYN_ACK,
        flag::SYN | flag::FIN,
        flag::SYN | flag::RST,
        flag::RST,
        flag::FIN,
        0,
    ] {
        assert!(!begins(&segment(flags, 1, 1, 0)), "{flags:#x}");
    }
    // ECN set-up (RFC 3168 §6.1.1) is a SYN like any other.
    assert!(begins(&segment(flag::SYN | 0xc0, 1, 0, 0)));
}

#[test]
fn a_connection_from_first_to_last() {
    let mut t = Talk::begin(segment(flag::SYN, 99, 0, 0));
    t.is(Stage::SynSent, 120);
    t.ok(B, segment(SYN_ACK, 499, 100, 0));
    t.is(Stage::SynReceived, 60);
    t.ok(A, segment(flag::ACK, 100, 500, 0));
    t.is(Stage::Established, 12 * 3600);
    t.ok(A, segment(flag::ACK | flag::PSH, 100, 500, 300));
    t.is(Stage::Established, 300);
    t.ok(B, segment(flag::ACK, 500, 400, 700));
    t.ok(A, segment(flag::ACK, 400, 1200, 0));
    t.is(Stage::Established, 12 * 3600);
    t.ok(A, segment(FIN_ACK, 400, 1200, 0));
    t.is(Stage::FinWait, 120);
    t.ok(B, segment(flag::ACK, 1200, 401, 0));
    t.is(Stage::CloseWait, 240);
    t.ok(B, segment(flag::ACK, 1200, 401, 50));
    t.ok(A, segment(flag::ACK, 401, 1250, 0));
    t.ok(B, segment(FIN_ACK, 1250, 401, 0));
    t.is(Stage::LastAck, 30);
    t.ok(A, segment(flag::ACK, 401, 1251, 0));
    t.is(Stage::TimeWait, 120);
    // The last FIN again, because its ACK was lost.
    t.ok(B, segment(FIN_ACK, 1250, 401, 0));
    t.ok(A, segment(flag::ACK, 401, 1251, 0));
    t.is(Stage::TimeWait, 120);
    assert_eq!(t.see(A, segment(flag::SYN, 90_000, 0, 0)), Track::Renew);
    assert_eq!(t.see(B, segment(flag::SYN, 7, 0, 0)), Track::Renew);
}

#[test]
fn fin_and_ack_in_one_segment_close_in_three() {
    let mut t = Talk::established();
    t.ok(B, segment(FIN_ACK, 500, 100, 20));
    t.ok(A, segment(FIN_ACK, 100, 521, 0));
    t.is(Stage::LastAck, 30);
    t.ok(B, segment(flag::ACK, 521, 101, 0));
    t.is(Stage::TimeWait, 120);
}

#[test]
fn both_ends_close_at_once() {
    let mut t = Talk::established();
    t.ok(A, segment(FIN_ACK, 100, 500, 0));
    t.ok(B, segment(FIN_ACK, 500, 100, 0));
    t.is(Stage::LastAck, 30);
    t.ok(A, segment(flag::ACK, 101, 501, 0));
    t.is(Stage::LastAck, 30);
    t.ok(B, segment(flag::ACK, 501, 101, 0));
    t.is(Stage::TimeWait, 120);
}

#[test]
fn both_ends_open_at_once() {
    let mut t = Talk::begin(TcpSegment {
        window_scale: Some(7),
        ..segment(flag::SYN, 99, 0, 0)
    });
    t.ok(
        B,
        TcpSegment {
            window_scale: Some(7),
            ..segment(flag::SYN, 499, 0, 0)
        },
    );
    t.is(Stage::SynReceived, 60);
    t.ok(A, segment(SYN_ACK, 99, 500, 0));
    t.ok(B, segment(SYN_ACK, 499, 100, 0));
    t.is(Stage::Established, 12 * 3600);
    t.ok(A, segment(flag::ACK, 100, 500, 900));
    t.ok(B, segment(flag::ACK, 500, 1000, 900));
}

#[test]
fn windows_scale_only_if_both_ends_say_so() {
    for (offered, accepted, room) in [
        (Some(7), Some(3), 8000),
        (Some(7), None, 1000),
        (None, Some(3), 1000),
    ] {
        let mut t = Talk::begin(TcpSegment {
            window_scale: offered,
            ..segment(flag::SYN, 99, 0, 0)
        });
        t.ok(
            B,
            TcpSegment {
                window_scale: accepted,
                ..segment(SYN_ACK, 499, 100, 0)
            },
        );
        t.ok(A, segment(flag::ACK, 100, 500, 0));
        // The window in a SYN is never scaled; this one is b's first that may be.
        t.ok(B, segment(flag::ACK, 500, 100, 0));
        t.ok(A, segment(flag::ACK, 100 + room, 500, 0));
        t.refused(A, segment(flag::ACK, 101 + room, 500, 0));
    }
}

#[test]
fn sequence_numbers_wrap() {
    let isn = u32::MAX - 10;
    let mut t = Talk::begin(segment(flag::SYN, isn, 0, 0));
    t.ok(B, segment(SYN_ACK, u32::MAX, isn + 1, 0));
    t.ok(A, segment(flag::ACK, isn + 1, 0, 500));
    t.ok(B, segment(flag::ACK, 0, 490 - 1, 500));
    t.ok(A, segment(flag::ACK, 489, 500, 0));
    // Long ago, and never.
    t.ok(
        A,
        segment(flag::ACK, isn.wrapping_sub(2 * ROOM_UNIT), 500, 0),
    );
    t.refused(A, segment(flag::ACK, 489 + 3 * ROOM_UNIT, 500, 0));
}

#[test]
fn what_kernels_send_in_a_connection_is_never_refused() {
    let mut t = Talk::established();
    t.ok(A, segment(flag::ACK, 100, 500, 1000));
    // Again, whole and in part.
    t.ok(A, segment(flag::ACK, 100, 500, 1000));
    t.ok(A, segment(flag::ACK, 600, 500, 100));
    t.ok(
        B,
        TcpSegment {
            window: 0,
            ..segment(flag::ACK, 500, 1100, 0)
        },
    );
    // A window probe: one byte past a closed window (RFC 9293 §3.8.6.1), or none before it (as Linux does).
    t.ok(A, segment(flag::ACK, 1100, 500, 1));
    t.ok(A, segment(flag::ACK, 1099, 500, 0));
    t.ok(
        B,
        TcpSegment {
            window: 0,
            ..segment(flag::ACK, 500, 1100, 0)
        },
    );
    t.ok(B, segment(flag::ACK, 500, 1101, 0));
    // A keepalive, empty or with a byte of garbage (RFC 9293 §3.8.4), and its answer.
    t.ok(A, segment(flag::ACK, 1100, 500, 0));
    t.ok(A, segment(flag::ACK, 1100, 500, 1));
    t.ok(B, segment(flag::ACK, 500, 1101, 0));
    // A window that shrank behind what is under way.
    t.ok(A, segment(flag::ACK, 1101, 500, 900));
    t.ok(
        B,
        TcpSegment {
            window: 10,
            ..segment(flag::ACK, 500, 1101, 0)
        },
    );
    t.ok(A, segment(flag::ACK, 1101, 500, 900));
    // Acknowledgments that were overtaken.
    t.ok(B, segment(flag::ACK, 500, 2001, 0));
    t.ok(B, segment(flag::ACK, 500, 1101, 0));
    // A SYN and ACK again, because the ACK was lost.
    t.ok(B, segment(SYN_ACK, 499, 100, 0));
}

#[test]
fn what_ran_over_the_window_may_be_followed_up() {
    let mut t = Talk::established();
    t.ok(A, segment(flag::ACK, 1000, 500, 400));
    t.ok(A, segment(flag::ACK, 1400, 500, 0));
    t.refused(A, segment(flag::ACK, 1401, 500, 0));
    t.ok(A, segment(flag::RST, 1400, 0, 0));
    t.is(Stage::Closed, 10);
}

#[test]
fn a_super_frame_counts_with_all_its_bytes() {
    let mut t = Talk::begin(TcpSegment {
        window_scale: Some(10),
        ..segment(flag::SYN, 99, 0, 0)
    });
    t.ok(
        B,
        TcpSegment {
            window_scale: Some(10),
            ..segment(SYN_ACK, 499, 100, 0)
        },
    );
    t.ok(A, segment(flag::ACK, 100, 500, 0));
    t.ok(B, segment(flag::ACK, 500, 100, 0));
    for n in 0..15 {
        t.ok(A, segment(flag::ACK, 100 + n * 65_000, 500, 65_000));
    }
    t.ok(B, segment(flag::ACK, 500, 100 + 15 * 65_000, 0));
    t.refused(B, segment(flag::ACK, 500, 101 + 15 * 65_000, 0));
}

#[test]
fn data_in_a_syn_may_stay_unacknowledged_but_the_syn_may_not() {
    let fast_open = segment(flag::SYN, 99, 0, 400);
    let mut t = Talk::begin(fast_open);
    t.refused(B, segment(SYN_ACK, 499, 99, 0));
    t.refused(B, segment(SYN_ACK, 499, 501, 0));
    t.ok(B, segment(SYN_ACK, 499, 100, 0));
    t.ok(A, segment(flag::ACK, 100, 500, 400));
    let mut t = Talk::begin(fast_open);
    t.ok(B, segment(SYN_ACK, 499, 500, 0));
    // The server answers before the handshake's third step (RFC 7413 §3).
    t.ok(B, segment(flag::ACK, 500, 500, 600));
    t.ok(B, segment(flag::ACK, 1100, 500, 400));
    t.ok(A, segment(flag::ACK, 500, 1500, 0));
    t.is(Stage::Established, 12 * 3600);
}

#[test]
fn a_syn_that_is_repeated_without_its_data_takes_nothing_back() {
    let mut t = Talk::begin(segment(flag::SYN, 99, 0, 400));
    t.ok(A, segment(flag::SYN, 99, 0, 0));
    t.ok(B, segment(SYN_ACK, 499, 500, 0));
    t.ok(B, segment(flag::ACK, 500, 500, 600));
    t.ok(A, segment(flag::SYN, 99, 0, 0));
    t.ok(B, segment(SYN_ACK, 499, 500, 0));
    t.ok(A, segment(flag::ACK, 500, 1100, 0));
    t.is(Stage::Established, 12 * 3600);
}

#[test]
fn an_end_that_begins_anew_is_followed() {
    let mut t = Talk::begin(segment(flag::SYN, 99, 0, 0));
    t.ok(A, segment(flag::SYN, 900_000, 0, 0));
    t.refused(B, segment(SYN_ACK, 499, 100, 0));
    t.ok(B, segment(SYN_ACK, 499, 900_001, 0));
    // Behind an answer it may be anybody's: what was agreed on goes on, until the other end agrees to the new one.
    t.ok(A, segment(flag::SYN, 2_000_000, 0, 0));
    let mut other = Talk { state: t.state };
    other.ok(A, segment(flag::ACK, 900_001, 500, 10));
    other.is(Stage::Established, 300);
    assert_eq!(
        advance(&mut t.state, B, &segment(SYN_ACK, 3_000_000, 2_000_001, 0)),
        Track::Renew
    );
}

#[test]
fn what_is_out_of_the_window_is_refused() {
    let mut t = Talk::established();
    t.refused(A, segment(flag::ACK, 1101, 500, 0));
    t.ok(
        A,
        segment(flag::ACK, 100_u32.wrapping_sub(ROOM_UNIT), 500, 0),
    );
    t.refused(A, segment(flag::ACK, 100, 501, 0));
    t.refused(A, segment(FIN_ACK, 5000, 500, 0));
    for flags in [
        0,
        flag::FIN,
        flag::SYN | flag::FIN,
        flag::SYN | flag::RST,
        0x3f,
    ] {
        t.refused(A, segment(flags, 100, 500, 0));
    }
    t.is(Stage::Established, 12 * 3600);
}

#[test]
fn a_reset_must_hit_the_edge_to_end_the_connection() {
    let mut t = Talk::established();
    t.ok(B, segment(flag::ACK, 500, 100, 200));
    t.ok(A, segment(flag::ACK, 100, 700, 0));
    t.refused(B, segment(flag::RST, 50_000, 0, 0));
    t.refused(B, segment(flag::RST, 0_u32.wrapping_sub(50_000), 0, 0));
    t.is(Stage::Established, 12 * 3600);
    // A blind one inside the window: its receiver challenges it (RFC 5961 §3.2).
    t.ok(B, segment(flag::RST, 650, 0, 0));
    t.is(Stage::Established, 300);
    t.ok(A, segment(flag::ACK, 100, 700, 0));
    t.is(Stage::Established, 12 * 3600);
    t.ok(B, segment(flag::RST, 700, 0, 0));
    t.is(Stage::Closed, 10);
    assert_eq!(t.see(A, segment(flag::SYN, 900, 0, 0)), Track::Renew);
}

#[test]
fn a_reset_of_an_end_that_has_closed_already_ends_the_connection() {
    // The server closes while data still comes, and its socket is gone.
    let mut t = Talk::established();
    t.ok(B, segment(flag::FIN | flag::ACK, 500, 100, 0));
    t.ok(A, segment(flag::ACK, 100, 500, 200));
    t.ok(B, segment(flag::RST, 499, 0, 0));
    t.is(Stage::FinWait, 120);
    t.ok(B, segment(flag::RST, 500, 0, 0));
    t.is(Stage::Closed, 10);
    // Without a FIN the number before the next is anybody's guess.
    let mut t = Talk::established();
    t.ok(B, segment(flag::ACK, 500, 100, 200));
    t.ok(B, segment(flag::RST, 699, 0, 0));
    t.is(Stage::Established, 300);
}

#[test]
fn a_reset_that_answers_a_syn_must_acknowledge_it() {
    let mut t = Talk::begin(segment(flag::SYN, 99, 0, 0));
    t.refused(B, segment(flag::RST, 0, 0, 0));
    t.refused(B, segment(flag::RST | flag::ACK, 0, 99, 0));
    t.refused(B, segment(flag::RST | flag::ACK, 0, 101, 0));
    t.refused(A, segment(flag::RST, 98, 0, 0));
    t.ok(B, segment(flag::RST | flag::ACK, 0, 100, 0));
    t.is(Stage::Closed, 10);
}

#[test]
fn a_syn_inside_a_connection_is_left_to_its_receiver() {
    let mut t = Talk::established();
    t.ok(A, segment(flag::SYN, 77_000, 0, 0));
    t.is(Stage::Established, 12 * 3600);
    // The challenge, and the reset of an end that started anew (RFC 9293 §3.5.1).
    t.ok(B, segment(flag::ACK, 500, 100, 0));
    t.ok(A, segment(flag::RST, 100, 0, 0));
    t.is(Stage::Closed, 10);
}

#[test]
fn ends_that_agree_on_another_connection_are_believed() {
    // Both were started anew, and nobody saw the first connection end.
    let mut t = Talk::established();
    t.ok(A, segment(flag::SYN, 77_000, 0, 0));
    t.refused(B, segment(SYN_ACK, 88_000, 77_000, 0));
    t.refused(A, segment(SYN_ACK, 88_000, 77_001, 0));
    assert_eq!(t.see(B, segment(SYN_ACK, 88_000, 77_001, 0)), Track::Renew);
    // An end that still has it challenges the SYN: then nothing is pending.
    t.ok(B, segment(flag::ACK, 500, 100, 0));
    t.refused(B, segment(SYN_ACK, 88_000, 77_001, 0));
    t.is(Stage::Established, 12 * 3600);
}

#[test]
fn a_peer_with_an_old_connection_is_heard_and_reset() {
    let mut t = Talk::begin(segment(flag::SYN, 99, 0, 0));
    t.refused(B, segment(flag::ACK, 9000, 7000, 10));
    t.refused(A, segment(flag::RST, 7000, 0, 0));
    t.ok(B, segment(flag::ACK, 9000, 7000, 0));
    t.refused(A, segment(flag::RST, 7001, 0, 0));
    t.ok(A, segment(flag::RST, 7000, 0, 0));
    t.is(Stage::SynSent, 120);
    t.ok(A, segment(flag::SYN, 99, 0, 0));
    t.ok(B, segment(SYN_ACK, 499, 100, 0));
    t.ok(A, segment(flag::ACK, 100, 500, 0));
    t.is(Stage::Established, 12 * 3600);
}

#[test]
fn syn_cookies_may_answer_twice() {
    let mut t = Talk::begin(segment(flag::SYN, 99, 0, 0));
    t.ok(B, segment(SYN_ACK, 499, 100, 0));
    t.ok(A, segment(flag::SYN, 99, 0, 0));
    t.ok(B, segment(SYN_ACK, 40_000, 100, 0));
    t.ok(A, segment(flag::ACK, 100, 40_001, 10));
    t.is(Stage::Established, 300);
}

#[test]
fn nothing_but_a_syn_speaks_before_the_answer() {
    let mut t = Talk::begin(segment(flag::SYN, 99, 0, 0));
    t.refused(A, segment(flag::ACK, 100, 0, 10));
    t.refused(A, segment(SYN_ACK, 99, 1, 0));
    t.refused(B, segment(FIN_ACK, 499, 100, 0));
    t.refused(B, segment(flag::ACK, 499, 100, 10));
}

#[test]
fn a_quote_must_lie_in_what_was_sent() {
    let mut t = Talk::established();
    t.ok(A, segment(flag::ACK, 100, 500, 800));
    assert!(has_sent(&t.state, A, 500) && has_sent(&t.state, A, 900));
    assert!(!has_sent(&t.state, A, 901) && !has_sent(&t.state, A, 500_000_000));
    assert!(!has_sent(&t.state, B, 900));
}

#[test]
fn what_was_said_long_ago_passes_and_changes_nothing() {
    // Delayed on its way, or again because an answer was: its receiver knows it.
    let mut t = Talk::established();
    for late in [
        segment(flag::ACK, 99_u32.wrapping_sub(ROOM_UNIT), 500, 0),
        segment(flag::ACK, 100, 500_u32.wrapping_sub(ACK_LAG + 1), 0),
        segment(FIN_ACK, 100_u32.wrapping_sub(2 * ROOM_UNIT), 500, 10),
    ] {
        let before = t.state;
        t.ok(A, late);
        assert!(t.state == before, "{late:?}");
    }
}

#[test]
fn who_has_begun_or_answered_does_so_once() {
    let mut t = Talk::established();
    // A SYN of the end that answered, an answer of the end that began, and flags that no stack sends together.
    t.refused(B, segment(flag::SYN, 500, 0, 0));
    t.refused(A, segment(SYN_ACK, 100, 500, 0));
    t.refused(A, segment(flag::RST | flag::URG, 100, 500, 0));
    t.refused(B, segment(SYN_ACK | flag::URG, 499, 100, 0));
    t.ok(B, segment(SYN_ACK, 499, 100, 0));
}
