//! The callers of one thread: which calls are open, which answers came.

use std::collections::VecDeque;

use crate::ledger::{Arrival, Ledger};
use crate::stamp::Stamp;
use crate::tally::{Tally, Timetable};
use crate::worker::shared::LiveLatency;

use super::pacing::{Left, OpenLoop, Sent};

/// An answer that takes longer counts as lost, ns.
pub const ANSWER_NS: u64 = 5_000_000_000;
/// How often open calls are looked through for those that took too long, ns.
const LOOK_NS: u64 = 250_000_000;

/// One caller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Its number in stamps.
    pub number: u32,
    /// What it calls.
    pub method: u32,
    /// Index of its connection.
    pub peer: u32,
    /// How many calls it made: the number of the next one.
    pub sent: u64,
    gone: bool,
    /// In a closed loop: open calls with the moment at which they were made, oldest first.
    open: VecDeque<(u64, u64)>,
    /// Calls that it may make at once.
    room: u32,
    /// It stands in [`Calling::ready`].
    is_ready: bool,
    answers: Ledger,
}

impl Caller {
    /// One that has not called.
    #[must_use]
    pub fn new(number: u32, method: u32, peer: u32) -> Caller {
        Caller {
            number,
            method,
            peer,
            sent: 0,
            gone: false,
            open: VecDeque::new(),
            room: 0,
            is_ready: false,
            answers: Ledger::default(),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Calling {
    /// This thread's.
    pub callers: Vec<Caller>,
    /// In an open loop: when calls are due.
    schedule: Option<OpenLoop>,
    in_flight: u32,
    timetable: Timetable,
    sent: Sent,
    /// Callers that have room, in a closed loop.
    ready: VecDeque<u32>,
    delivered: u64,
    delivered_measured: u64,
    /// Answers that came when they had been given up.
    overdue: u64,
    /// Answers to calls that nobody here made.
    foreign: u64,
    look_ns: u64,
}

/// What callers found out besides their tallies.
#[derive(Debug, Clone, Copy, Default)]
pub struct Called {
    /// Calls that left late, in an open loop.
    pub late: u64,
    /// That were due and never left.
    pub unsent: u64,
    /// Answers that came after more than [`ANSWER_NS`].
    pub overdue: u64,
    /// Answers that were not this run's.
    pub foreign: u64,
}

impl Calling {
    /// Callers with so many calls in flight each, or with a schedule.
    #[must_use]
    pub fn new(callers: Vec<Caller>, in_flight: u32, schedule: Option<OpenLoop>) -> Calling {
        Calling {
            callers,
            schedule,
            in_flight,
            timetable: Timetable::default(),
            sent: Sent::default(),
            ready: VecDeque::new(),
            delivered: 0,
            delivered_measured: 0,
            overdue: 0,
            foreign: 0,
            look_ns: 0,
        }
    }

    /// The run begins.
    pub fn begin(&mut self, timetable: &Timetable) {
        self.timetable = timetable.clone();
        self.sent = Sent::new(timetable);
        self.look_ns = timetable.start_ns + LOOK_NS;
        if self.schedule.is_none() {
            for (index, caller) in self.callers.iter_mut().enumerate() {
                caller.room = self.in_flight;
                caller.is_ready = true;
                caller.open.reserve(self.in_flight as usize);
                self.ready.push_back(index as u32);
            }
        }
    }

    /// When something is due next, as far as that depends on time alone.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        self.schedule.as_ref()?.next_ns(&self.timetable)
    }

    /// Whether something is due that did not leave, and still may.
    #[must_use]
    pub fn is_behind(&self, now_ns: u64) -> bool {
        self.schedule
            .as_ref()
            .is_some_and(|schedule| schedule.is_behind(&self.timetable, now_ns))
    }

    /// Calls `call` for what is to be called now, at most `most` times; it says whether the connection has room.
    pub fn pump(&mut self, now_ns: u64, most: usize, mut call: impl FnMut(&Caller, Stamp) -> bool) {
        if self.callers.is_empty() {
            return;
        }
        if let Some(schedule) = &mut self.schedule {
            let (callers, timetable, sent) = (&mut self.callers, &self.timetable, &mut self.sent);
            return schedule.pump(timetable, now_ns, most, |caller, intended_ns| {
                let caller = &mut callers[caller];
                if caller.gone {
                    return Left::Gone;
                }
                let stamp = Stamp {
                    publisher: caller.number,
                    sequence: caller.sent,
                    intended_ns,
                };
                if !call(caller, stamp) {
                    return Left::Waits;
                }
                caller.sent += 1;
                sent.count(timetable.phase(intended_ns), 1, 1);
                Left::Sent
            });
        }
        if now_ns >= self.look_ns {
            self.look_ns = now_ns + LOOK_NS;
            self.give_up(now_ns);
        }
        if now_ns >= self.timetable.measured_to_ns() {
            return;
        }
        let phase = self.timetable.phase(now_ns);
        let mut left = most;
        for _ in 0..self.ready.len() {
            let Some(index) = self.ready.pop_front() else {
                break;
            };
            let caller = &mut self.callers[index as usize];
            let mut count = 0;
            while caller.room > 0 && left > 0 && !caller.gone {
                let stamp = Stamp {
                    publisher: caller.number,
                    sequence: caller.sent,
                    intended_ns: now_ns,
                };
                if !call(caller, stamp) {
                    break;
                }
                caller.open.push_back((caller.sent, now_ns));
                caller.sent += 1;
                caller.room -= 1;
                left -= 1;
                count += 1;
            }
            if caller.room > 0 && !caller.gone {
                self.ready.push_back(index);
            } else {
                caller.is_ready = false;
            }
            self.sent.count(phase, count, 1);
            if left == 0 {
                break;
            }
        }
    }

    /// Calls whose answers took too long make room for others.
    fn give_up(&mut self, now_ns: u64) {
        for index in 0..self.callers.len() {
            let caller = &mut self.callers[index];
            let mut freed = 0;
            while let Some(&(_, at_ns)) = caller.open.front()
                && now_ns.saturating_sub(at_ns) >= ANSWER_NS
            {
                caller.open.pop_front();
                freed += 1;
            }
            self.free(index, freed);
        }
    }

    fn free(&mut self, index: usize, count: u32) {
        let caller = &mut self.callers[index];
        caller.room += count;
        if caller.room > 0 && !caller.is_ready && !caller.gone {
            caller.is_ready = true;
            self.ready.push_back(index as u32);
        }
    }

    /// An answer came to a caller.
    pub fn answer(&mut self, index: u32, payload: &[u8], now_ns: u64, live: &LiveLatency) {
        let index = index as usize;
        let caller = &mut self.callers[index];
        let is_own = |stamp: &Stamp| {
            stamp.publisher == caller.number
                && stamp.sequence < caller.sent
                && stamp.intended_ns >= self.timetable.start_ns
        };
        let Some(stamp) = Stamp::read(payload).filter(is_own) else {
            self.foreign += 1;
            return;
        };
        let repeated = caller.answers.arrived(stamp.sequence) == Arrival::Repeated;
        let phase = self.timetable.phase(stamp.intended_ns);
        if self.schedule.is_none() {
            let at = caller
                .open
                .iter()
                .position(|&(sequence, _)| sequence == stamp.sequence);
            if let Some(at) = at {
                caller.open.remove(at);
                self.free(index, 1);
            }
        }
        if repeated {
            if let Some(phase) = phase {
                self.sent.tallies[phase].duplicated += 1;
            }
            return;
        }
        let latency_ns = now_ns.saturating_sub(stamp.intended_ns);
        if latency_ns >= ANSWER_NS {
            self.overdue += 1;
            return;
        }
        self.delivered += 1;
        if let Some(phase) = self.timetable.phase(now_ns) {
            self.sent.tallies[phase].arrived += 1;
        }
        if let Some(phase) = phase {
            self.sent.tallies[phase].deliver(latency_ns, 1);
            self.delivered_measured += 1;
            live.add(latency_ns, 1);
        }
    }

    /// A call was refused. Which one, nobody says: the oldest is taken.
    pub fn refused(&mut self, index: u32, now_ns: u64) {
        let oldest = self.callers[index as usize].open.pop_front();
        let at_ns = oldest.map_or(now_ns, |(_, at_ns)| at_ns);
        self.sent.refused(self.timetable.phase(at_ns), 1);
        if oldest.is_some() {
            self.free(index as usize, 1);
        }
    }

    /// A caller's connection is gone; whether any is left.
    pub fn gone(&mut self, index: u32) -> bool {
        self.callers[index as usize].gone = true;
        self.callers.iter().any(|caller| !caller.gone)
    }

    /// Sent altogether, and the answers that the measured ones should have.
    #[must_use]
    pub fn sent(&self) -> (u64, u64) {
        (self.sent.all, self.sent.expected_measured)
    }

    /// Answers so far, and those of the measured time.
    #[must_use]
    pub fn delivered(&self) -> (u64, u64) {
        (self.delivered, self.delivered_measured)
    }

    /// The end.
    #[must_use]
    pub fn finish(self) -> (Vec<Tally>, Called) {
        let timetable = &self.timetable;
        let (late, unsent) = self
            .schedule
            .map_or((0, 0), |schedule| schedule.finish(timetable));
        let called = Called {
            late,
            unsent,
            overdue: self.overdue,
            foreign: self.foreign,
        };
        (self.sent.tallies, called)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::PAYLOAD_BYTES_MIN;

    fn payload(stamp: &Stamp) -> Vec<u8> {
        let mut payload = vec![0; PAYLOAD_BYTES_MIN];
        payload[..4].copy_from_slice(&[0xa1, 0x61, b's', 0x54]);
        stamp.write(&mut payload);
        payload
    }

    fn pumped(calling: &mut Calling, now_ns: u64) -> Vec<Stamp> {
        let mut stamps = Vec::new();
        calling.pump(now_ns, 1_000, |_, stamp| {
            stamps.push(stamp);
            true
        });
        stamps
    }

    #[test]
    fn an_answer_makes_room_and_a_lost_one_does_after_a_while() {
        let live = LiveLatency::default();
        let mut calling = Calling::new(vec![Caller::new(4, 0, 0), Caller::new(5, 0, 1)], 3, None);
        calling.begin(&Timetable {
            start_ns: 1_000,
            phases: vec![(1_000, 60_000_000_000)],
        });
        let stamps = pumped(&mut calling, 2_000);
        assert_eq!(stamps.len(), 6);
        assert!(pumped(&mut calling, 2_100).is_empty());
        // Out of turn, and one twice.
        for index in [2, 0, 0] {
            calling.answer(0, &payload(&stamps[index]), 3_000, &live);
        }
        assert_eq!(pumped(&mut calling, 3_100).len(), 2);
        assert_eq!(pumped(&mut calling, 2_000 + ANSWER_NS).len(), 4);
        calling.answer(0, &payload(&stamps[1]), 3_000 + ANSWER_NS, &live);
        let (tallies, called) = calling.finish();
        assert_eq!(
            (tallies[0].delivered, tallies[0].duplicated, called.overdue),
            (2, 1, 1)
        );
        assert_eq!((tallies[0].expected, tallies[0].arrived), (12, 2));
    }

    #[test]
    fn an_answer_to_nobodys_call_is_foreign() {
        let live = LiveLatency::default();
        let mut calling = Calling::new(vec![Caller::new(4, 0, 0)], 1, None);
        calling.begin(&Timetable {
            start_ns: 1_000,
            phases: vec![(1_000, 60_000_000_000)],
        });
        let stamp = pumped(&mut calling, 2_000)[0];
        for other in [
            Stamp {
                publisher: 5,
                ..stamp
            },
            Stamp { sequence: 1, ..stamp },
            Stamp {
                sequence: u64::MAX,
                ..stamp
            },
            Stamp {
                intended_ns: 999,
                ..stamp
            },
        ] {
            calling.answer(0, &payload(&other), 3_000, &live);
        }
        calling.answer(0, b"something else", 3_000, &live);
        assert_eq!(calling.delivered(), (0, 0));
        assert_eq!(calling.finish().1.foreign, 5);
    }

    #[test]
    fn a_refusal_is_not_a_loss() {
        let mut calling = Calling::new(vec![Caller::new(0, 0, 0)], 1, None);
        calling.begin(&Timetable {
            start_ns: 1_000,
            phases: vec![(1_000, 60_000_000_000)],
        });
        assert_eq!(pumped(&mut calling, 2_000).len(), 1);
        calling.refused(0, 3_000);
        assert_eq!(pumped(&mut calling, 3_000).len(), 1);
        let (tallies, _) = calling.finish();
        assert_eq!(
            (tallies[0].sent, tallies[0].refused, tallies[0].lost()),
            (2, 1, 1)
        );
    }
}
