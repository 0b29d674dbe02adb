//! The publishers of one thread: which of them has to send how many, now.
//!
//! In a closed loop each has a window, counted at the slowest of its readers wherever that lives. A window that nothing
//! moves for a second is taken as lost and opened again, so that a server that drops does not end the run; what comes
//! after all still counts as delivered. Where publishes are stored, the window counts those that were not acknowledged, and a
//! disk is given more time. In an open loop a schedule says what is due, and a publish that cannot
//! leave in time keeps the moment at which it was due.

use crate::tally::{Tally, Timetable};
use crate::worker::shared::Shared;

use super::pacing::{Left, OpenLoop, Sent};

/// A full window that nothing moves for so long is given up, ns; and one that waits for a disk.
const GIVE_UP_NS: u64 = 1_000_000_000;
const GIVE_UP_STORED_NS: u64 = 10_000_000_000;

/// How publishers are paced.
#[derive(Debug, Clone)]
pub enum Pace {
    /// So many that were not received.
    Window(u64),
    /// When they are due.
    Open(Box<OpenLoop>),
}

/// One publisher.
#[derive(Debug, Clone)]
pub struct Publisher {
    /// Its number in stamps.
    pub number: u32,
    /// Its topic.
    pub topic: u32,
    /// Index of its connection.
    pub peer: u32,
    /// How many it sent: the number of the next one.
    pub sent: u64,
    /// Its connection is gone.
    pub gone: bool,
    /// Everything below is not waited for any more.
    given_up: u64,
    /// How far its slowest reader was when that last moved, and when.
    heard: u64,
    moved_ns: u64,
}

/// What one publish needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Index of the publisher.
    pub publisher: usize,
    /// When it was due, ns of the monotonic clock.
    pub intended_ns: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Publishing {
    /// This thread's.
    pub publishers: Vec<Publisher>,
    pace: Pace,
    timetable: Timetable,
    /// Arrivals that one publish should lead to.
    readers: u64,
    sent: Sent,
    /// Who is looked at first: the one behind the last that sent.
    turn: usize,
    give_up_ns: u64,
    /// Publishes of each publisher at most, in a closed loop.
    most: u64,
    /// Windows that were given up.
    windows_lost: u64,
}

/// What publishers found out besides their tallies.
#[derive(Debug, Clone, Copy, Default)]
pub struct Published {
    /// Publishes that left more than [`super::pacing::LATE_NS`] late.
    pub late: u64,
    /// That were due in the measured time and never left.
    pub unsent: u64,
    /// Windows that were given up.
    pub windows_lost: u64,
}

impl Publishing {
    /// Publishers with their number and topic, as many readers as each topic has, and the pace.
    #[must_use]
    pub fn new(publishers: Vec<Publisher>, readers: u64, pace: Pace) -> Publishing {
        Publishing {
            publishers,
            pace,
            timetable: Timetable::default(),
            readers,
            sent: Sent::default(),
            turn: 0,
            give_up_ns: GIVE_UP_NS,
            most: u64::MAX,
            windows_lost: 0,
        }
    }

    /// Publishes are stored, and no more than so many of each publisher.
    #[must_use]
    pub fn stored(self, most: Option<u64>) -> Publishing {
        Publishing {
            give_up_ns: GIVE_UP_STORED_NS,
            most: most.unwrap_or(u64::MAX),
            ..self
        }
    }

    /// The run begins.
    pub fn begin(&mut self, timetable: &Timetable) {
        self.timetable = timetable.clone();
        self.sent = Sent::new(timetable);
        for publisher in &mut self.publishers {
            publisher.moved_ns = timetable.start_ns;
        }
    }

    /// When something is due next, as far as that depends on time alone.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        match &self.pace {
            Pace::Open(schedule) => schedule.next_ns(&self.timetable),
            Pace::Window(_) => None,
        }
    }

    /// Whether something is due that did not leave, and still may.
    #[must_use]
    pub fn is_behind(&self, now_ns: u64) -> bool {
        match &self.pace {
            Pace::Open(schedule) => {
                !self.publishers.is_empty() && schedule.is_behind(&self.timetable, now_ns)
            }
            Pace::Window(_) => false,
        }
    }

    /// Calls `publish` for what is to be sent now, at most `most` times; it says whether the connection has room.
    pub fn pump(
        &mut self,
        now_ns: u64,
        most: usize,
        shared: &Shared,
        mut publish: impl FnMut(&Publisher, Order) -> bool,
    ) {
        if self.publishers.is_empty() {
            return;
        }
        let before = self.sent.all;
        match &mut self.pace {
            Pace::Window(window) => {
                let window = *window;
                self.pump_windows(window, now_ns, most, shared, publish);
            }
            Pace::Open(schedule) => {
                let (publishers, timetable) = (&mut self.publishers, &self.timetable);
                let (sent, readers) = (&mut self.sent, self.readers);
                schedule.pump(timetable, now_ns, most, |at, intended_ns| {
                    let publisher = &mut publishers[at];
                    if publisher.gone {
                        return Left::Gone;
                    }
                    let order = Order {
                        publisher: at,
                        intended_ns,
                    };
                    if !publish(publisher, order) {
                        return Left::Waits;
                    }
                    publisher.sent += 1;
                    sent.count(timetable.phase(intended_ns), 1, readers);
                    Left::Sent
                });
            }
        }
        if self.sent.all != before {
            for publisher in &self.publishers {
                shared.published[publisher.number as usize]
                    .store(publisher.sent, std::sync::atomic::Ordering::Relaxed);
            }
        }
    }

    fn pump_windows(
        &mut self,
        window: u64,
        now_ns: u64,
        most: usize,
        shared: &Shared,
        mut publish: impl FnMut(&Publisher, Order) -> bool,
    ) {
        if now_ns >= self.timetable.measured_to_ns() {
            return;
        }
        let phase = self.timetable.phase(now_ns);
        let mut left = most as u64;
        for step in 0..self.publishers.len() {
            if left == 0 {
                break;
            }
            let at = (self.turn + step) % self.publishers.len();
            let publisher = &mut self.publishers[at];
            if publisher.gone {
                continue;
            }
            let heard = match shared.heard(publisher.number as usize) {
                Some(position) => position,
                // Without subscribers there is nobody to wait for; if they are gone, nobody to publish to.
                None if self.readers == 0 => publisher.sent,
                None => continue,
            };
            if heard != publisher.heard {
                publisher.heard = heard;
                publisher.moved_ns = now_ns;
            }
            let mut under_way = publisher.sent - publisher.sent.min(heard.max(publisher.given_up));
            if under_way >= window && now_ns.saturating_sub(publisher.moved_ns) >= self.give_up_ns {
                publisher.given_up = publisher.sent;
                publisher.moved_ns = now_ns;
                self.windows_lost += 1;
                under_way = 0;
            }
            let before = publisher.sent;
            let count = window.saturating_sub(under_way).min(left);
            let count = count.min(self.most.saturating_sub(before));
            for _ in 0..count {
                let order = Order {
                    publisher: at,
                    intended_ns: now_ns,
                };
                if !publish(publisher, order) {
                    break;
                }
                publisher.sent += 1;
            }
            let count = publisher.sent - before;
            left -= count;
            self.sent.count(phase, count, self.readers);
        }
        self.turn = (self.turn + 1) % self.publishers.len();
    }

    /// The server refused a publish that was due then, or about then.
    pub fn refused(&mut self, due_ns: u64) {
        self.sent.refused(self.timetable.phase(due_ns), self.readers);
    }

    /// A publisher's connection is gone; whether any is left.
    pub fn gone(&mut self, publisher: usize) -> bool {
        self.publishers[publisher].gone = true;
        self.publishers.iter().any(|publisher| !publisher.gone)
    }

    /// Sent altogether, and the arrivals that the measured ones should lead to.
    #[must_use]
    pub fn sent(&self) -> (u64, u64) {
        (self.sent.all, self.sent.expected_measured)
    }

    /// The end.
    #[must_use]
    pub fn finish(self) -> (Vec<Tally>, Published) {
        let (late, unsent) = match self.pace {
            Pace::Open(schedule) => schedule.finish(&self.timetable),
            Pace::Window(_) => (0, 0),
        };
        let published = Published {
            late,
            unsent,
            windows_lost: self.windows_lost,
        };
        (self.sent.tallies, published)
    }
}

impl Publisher {
    /// One that has not sent anything.
    #[must_use]
    pub fn new(number: u32, topic: u32, peer: u32) -> Publisher {
        Publisher {
            number,
            topic,
            peer,
            sent: 0,
            gone: false,
            given_up: 0,
            heard: 0,
            moved_ns: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pacing::OVERTIME_NS;
    use super::*;
    use crate::arrivals::{Plan, Schedule};
    use crate::scenario::{Arrivals, Payload, Scenario, Workload};

    fn publishing(pace: Pace) -> Publishing {
        let mut publishing = Publishing::new(vec![Publisher::new(0, 0, 0)], 2, pace);
        publishing.begin(&Timetable {
            start_ns: 1_000,
            phases: vec![(2_000, 10_000_000_000)],
        });
        publishing
    }

    fn pumped(publishing: &mut Publishing, now_ns: u64, shared: &Shared) -> usize {
        let mut count = 0;
        publishing.pump(now_ns, 1_000, shared, |_, _| {
            count += 1;
            true
        });
        count
    }

    #[test]
    fn a_window_follows_the_slowest_reader() {
        let shared = Shared::new(1, 1);
        let mut publishing = publishing(Pace::Window(10));
        shared.set_heard(0, 0, 0);
        assert_eq!(pumped(&mut publishing, 1_500, &shared), 10);
        assert_eq!(pumped(&mut publishing, 1_600, &shared), 0);
        shared.set_heard(0, 0, 4);
        assert_eq!(pumped(&mut publishing, 2_500, &shared), 4);
        let (tallies, _) = publishing.finish();
        assert_eq!((tallies[0].sent, tallies[0].expected), (4, 8));
    }

    #[test]
    fn what_is_stored_has_a_bound_and_time() {
        let shared = Shared::new(1, 1);
        let mut publishing = publishing(Pace::Window(10)).stored(Some(15));
        shared.set_heard(0, 0, 0);
        assert_eq!(pumped(&mut publishing, 2_000, &shared), 10);
        assert_eq!(pumped(&mut publishing, 5 * GIVE_UP_NS, &shared), 0);
        shared.set_heard(0, 0, 10);
        assert_eq!(pumped(&mut publishing, 6 * GIVE_UP_NS, &shared), 5);
        shared.set_heard(0, 0, 15);
        assert_eq!(pumped(&mut publishing, 7 * GIVE_UP_NS, &shared), 0);
        assert_eq!(publishing.finish().1.windows_lost, 0);
    }

    #[test]
    fn a_window_that_nothing_moves_is_given_up() {
        let shared = Shared::new(1, 1);
        let mut publishing = publishing(Pace::Window(10));
        shared.set_heard(0, 0, 0);
        assert_eq!(pumped(&mut publishing, 2_000, &shared), 10);
        assert_eq!(pumped(&mut publishing, GIVE_UP_NS, &shared), 0);
        assert_eq!(pumped(&mut publishing, 2_000 + GIVE_UP_NS, &shared), 10);
        // What comes after all opens nothing that was opened already.
        shared.set_heard(0, 0, 7);
        assert_eq!(pumped(&mut publishing, 2_100 + GIVE_UP_NS, &shared), 0);
        shared.set_heard(0, 0, 12);
        assert_eq!(pumped(&mut publishing, 2_200 + GIVE_UP_NS, &shared), 2);
        assert_eq!(publishing.finish().1.windows_lost, 1);
    }

    #[test]
    fn an_overloaded_open_loop_ends_and_tells_what_never_left() {
        let scenario = Scenario {
            workload: Workload::FanOut {
                topics: 1,
                publishers: 1,
                subscribers: 2,
            },
            arrivals: Arrivals::Constant { per_s: 100.0 },
            payload: Payload::default(),
            warmup_ms: 0,
            duration_ms: 1_000,
        };
        let schedule = Schedule::new(Plan::constant(&scenario, 100.0), vec![0], 1, 1);
        let mut publishing = Publishing::new(
            vec![Publisher::new(0, 0, 0)],
            2,
            Pace::Open(Box::new(OpenLoop::new(schedule))),
        );
        let (start_ns, to_ns) = (1_000, 1_000_001_000);
        publishing.begin(&Timetable {
            start_ns,
            phases: vec![(start_ns, to_ns)],
        });
        let shared = Shared::new(1, 1);
        assert_eq!(pumped(&mut publishing, start_ns + 500_000_000, &shared), 50);
        // The connection has no room until late.
        publishing.pump(to_ns, 1_000, &shared, |_, _| false);
        let overtime_ns = to_ns + OVERTIME_NS;
        publishing.pump(overtime_ns - 1, 20, &shared, |_, _| true);
        assert!(publishing.is_behind(overtime_ns - 1) && !publishing.is_behind(overtime_ns));
        assert_eq!(pumped(&mut publishing, overtime_ns, &shared), 0);
        let (tallies, published) = publishing.finish();
        assert_eq!((tallies[0].sent, published.unsent), (70, 30));
    }

    #[test]
    fn a_connection_without_room_is_tried_again() {
        let shared = Shared::new(1, 1);
        let mut publishing = publishing(Pace::Window(10));
        shared.set_heard(0, 0, 0);
        let mut room = 3;
        publishing.pump(2_000, 1_000, &shared, |publisher, _| {
            let has = publisher.sent < room;
            room = room.max(1);
            has
        });
        assert_eq!(publishing.sent().0, 3);
        assert_eq!(pumped(&mut publishing, 2_100, &shared), 7);
    }
}
