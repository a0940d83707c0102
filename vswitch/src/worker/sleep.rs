//! What wakes a worker?
//!
//! One `epoll_wait` for everything: its ports' devices, the underlay, its bell, and an alarm. The alarm stays set from one sleep to
//! the next: a timer that is set at each sleep and taken back at each wake-up is two exits to the hypervisor in a virtual
//! machine, more than the packet costs that woke it.
//!
//! # Invariants
//! - It never sleeps past the time that it was told; an alarm of before may wake it earlier, once.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use net::{Now, PortId};
use rustix::{
    event::{Timespec, epoll},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create,
        timerfd_settime,
    },
};

use super::ring::Bell;

/// Who has something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Whoever rings the bell.
    Bell,
    /// The underlay.
    Underlay,
    /// A port's device.
    Port(PortId),
}

const BELL: u64 = u64::MAX;
const UNDERLAY: u64 = u64::MAX - 1;
const ALARM: u64 = u64::MAX - 2;
/// Events that one call tells of.
const EVENTS: usize = 64;
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};
/// Where there is no alarm.
const COARSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 1_000_000,
};

impl Source {
    fn token(self) -> epoll::EventData {
        epoll::EventData::new_u64(match self {
            Self::Bell => BELL,
            Self::Underlay => UNDERLAY,
            Self::Port(id) => id.0.into(),
        })
    }
}

/// All that a worker waits for.
#[derive(Debug)]
pub(super) struct Sleep {
    epoll: OwnedFd,
    alarm: OwnedFd,
    /// For when the alarm is set.
    set: Option<Now>,
}

impl Sleep {
    /// Waits for the bell alone, to begin with.
    pub(super) fn new(bell: &Bell) -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let sleep = Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            alarm: timerfd_create(TimerfdClockId::Monotonic, flags)?,
            set: None,
        };
        sleep.add(bell.as_fd(), Source::Bell)?;
        let token = epoll::EventData::new_u64(ALARM);
        epoll::add(&sleep.epoll, &sleep.alarm, token, epoll::EventFlags::IN)?;
        Ok(sleep)
    }

    /// Waits for a descriptor too.
    pub(super) fn add(&self, fd: BorrowedFd<'_>, source: Source) -> io::Result<()> {
        epoll::add(&self.epoll, fd, source.token(), epoll::EventFlags::IN)?;
        Ok(())
    }

    /// No longer waits for a descriptor.
    pub(super) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        epoll::delete(&self.epoll, fd)?;
        Ok(())
    }

    /// Says who has something now.
    pub(super) fn look(&mut self, each: &mut dyn FnMut(Source)) {
        self.wait(Some(AT_ONCE), each);
    }

    /// Sleeps until somebody has something, or it is this time, and says who.
    pub(super) fn sleep(&mut self, now: Now, until: Option<Now>, each: &mut dyn FnMut(Source)) {
        let most = match until {
            Some(until) if until <= now => Some(AT_ONCE),
            Some(until) if !self.rings_by(until) => Some(COARSE),
            Some(_) | None => None,
        };
        self.wait(most, each);
    }

    /// Sees to it that the alarm rings at this time at the latest.
    fn rings_by(&mut self, time: Now) -> bool {
        if self.set.is_some_and(|set| set <= time) {
            return true;
        }
        let nanos = time.nanos();
        let value = Itimerspec {
            it_interval: AT_ONCE,
            it_value: Timespec {
                tv_sec: (nanos / 1_000_000_000).try_into().unwrap_or(i64::MAX),
                // Zero would turn it off.
                tv_nsec: (nanos % 1_000_000_000).max(1).try_into().unwrap_or(1),
            },
        };
        let done = timerfd_settime(&self.alarm, TimerfdTimerFlags::ABSTIME, &value);
        self.set = done.is_ok().then_some(time);
        done.is_ok()
    }

    fn wait(&mut self, most: Option<Timespec>, each: &mut dyn FnMut(Source)) {
        let mut room = [const { MaybeUninit::<epoll::Event>::uninit() }; EVENTS];
        // Interrupted is as good as woken.
        let Ok((events, _)) = epoll::wait(&self.epoll, &mut room, most.as_ref()) else {
            return;
        };
        for event in events {
            match event.data.u64() {
                BELL => each(Source::Bell),
                UNDERLAY => each(Source::Underlay),
                ALARM => {
                    self.set = None;
                    // Silent already is what was wanted.
                    let _rung = rustix::io::read(&self.alarm, &mut [0; 8]);
                }
                port => each(Source::Port(PortId(
                    u32::try_from(port).unwrap_or(u32::MAX),
                ))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::worker::{crew, monotonic};

    fn sleep() -> (Sleep, super::super::Seat) {
        let seat = crew(1, 1).unwrap().pop().unwrap();
        (Sleep::new(seat.bell()).unwrap(), seat)
    }

    #[test]
    fn it_sleeps_until_its_time_and_an_alarm_of_before_wakes_it_once() {
        let (mut sleep, _seat) = sleep();
        let begun = monotonic();
        let soon = begun + Duration::from_millis(3);
        sleep.sleep(begun, Some(soon), &mut |_| panic!("nobody has anything"));
        assert!(monotonic() >= soon);

        let now = monotonic();
        let (soon, later) = (
            now + Duration::from_millis(3),
            now + Duration::from_millis(6),
        );
        assert!(sleep.rings_by(soon));
        // It had been set for earlier, and need not be set again.
        sleep.sleep(now, Some(later), &mut |_| panic!("nobody has anything"));
        assert!(monotonic() >= soon);
        assert_eq!(sleep.set, None, "it rang");
        sleep.sleep(now, Some(later), &mut |_| panic!("nobody has anything"));
        assert!(monotonic() >= later);
    }

    #[test]
    fn an_earlier_time_moves_the_alarm_and_a_past_one_does_not_sleep() {
        let (mut sleep, _seat) = sleep();
        let now = monotonic();
        assert!(sleep.rings_by(now + Duration::from_hours(1)));
        let soon = now + Duration::from_millis(3);
        sleep.sleep(now, Some(soon), &mut |_| panic!("nobody has anything"));
        assert!(monotonic() >= soon);
        sleep.sleep(monotonic(), Some(now), &mut |_| {
            panic!("nobody has anything")
        });
    }

    #[test]
    fn the_bell_is_heard_while_there_is_no_time() {
        let (mut sleep, seat) = sleep();
        seat.bell().ring();
        let mut heard = vec![];
        sleep.sleep(monotonic(), None, &mut |source| heard.push(source));
        assert_eq!(heard, [Source::Bell]);
    }
}
