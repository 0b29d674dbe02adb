//! The order of a publisher's events when some of them are refused for a moment.
//!
//! An owner that has no room for one run may have room for the next, which is on its way already; taken, it would stand before
//! the first, which comes again later. So a refusal that is worth another try holds up what comes behind it, of the same
//! connection to the same partition:
//!
//! ```text
//!   home core of the publisher                                    owner core of the partition
//!     r1, r2 ──────────────────────────── Append ───────────────>  r1 refused: the connection is shut out,
//!     r1, r2 refused  <──────────────── AppendRefused ───────────  so r2 is refused, too
//!     from r1 on, what comes is refused here
//!     nothing else is on its way  <──── Reopen, Reopened ───────>  it is shut out no more
//!     passes: r1, then r2, then what came behind them …
//! ```
//!
//! What was refused has to come again in the order in which it came first; whatever else comes waits behind it, is refused
//! likewise, and has its turn then. A publisher may send it again one by one or all at once, before or behind new events. What
//! does not come again in time is given up, and holds up nobody.
//!
//! Nothing is kept of connections that are not refused anything. An owner remembers who is shut out for as long as two letters
//! take; a home core remembers ids, [`IDS_MAX`] at most. Of those beyond it the order is what their publisher makes of it.

use std::collections::{HashMap, VecDeque};

use fluxar_protocol::{Code, Id};
use foldhash::fast::FixedState;

use super::publishing::{SealedRun, refusal_words};
use super::queueing::is_of_queues;
use super::{LogLetter, LoggedNews};
use crate::log::{Events, LogRefusal};
use crate::peer::PeerId;
use crate::shard::Shard;

/// Ids of refused events that a core remembers, about 60 bytes each.
const IDS_MAX: usize = 128 * 1024;
/// Of these, how many of events that wait behind refused ones of one connection and partition.
const IDS_OF_ONE_MAX: usize = 16 * 1024;
/// What was refused is waited for so long, us, beyond the time that its publisher was told to let pass.
const PATIENCE_US: u64 = 2_000_000;

/// Who must not pass whom: as a home core, and as an owner.
#[derive(Debug)]
pub(crate) struct Order {
    holds: HashMap<Way, Hold, FixedState>,
    /// Ids that all of them remember.
    ids: usize,
    /// No hold's patience ends before this, us.
    due_us: u64,
    /// As an owner: connections of other cores that are shut out of a partition, and why.
    shut: HashMap<Way, LogRefusal, FixedState>,
}

/// A connection and a partition.
type Way = (PeerId, u16);

/// What was refused of one connection to one partition.
#[derive(Debug)]
struct Hold {
    refusal: LogRefusal,
    /// What the owner refused since it was asked to open again: older than all in `turn`.
    returned: VecDeque<Id>,
    /// What has to come, in this order.
    turn: VecDeque<Id>,
    /// All of these, with the round in which each was sent again last; 0: it was not.
    known: HashMap<Id, u32, FixedState>,
    /// How often patience was at an end, from 1 on.
    round: u32,
    /// The owner was asked to open again, and has not answered: more may be returned.
    is_shut: bool,
    /// When those that did not come again are given up, us.
    until_us: u64,
}

/// What becomes of the next events of a run, all before this place in it.
enum Turn {
    Passes(usize),
    Waits(usize, LogRefusal),
}

impl Order {
    pub(crate) fn new(hasher: &FixedState) -> Self {
        Self {
            holds: HashMap::with_hasher(hasher.clone()),
            ids: 0,
            due_us: u64::MAX,
            shut: HashMap::with_hasher(hasher.clone()),
        }
    }

    /// Whether anything of a connection was refused that has not come again.
    #[inline]
    pub(super) fn holds_up(&self, peer: PeerId, partition: u16) -> bool {
        !self.holds.is_empty() && self.holds.contains_key(&(peer, partition))
    }

    /// Ids that are remembered, and connections that are shut out.
    pub(crate) fn len(&self) -> usize {
        self.ids + self.holds.len() + self.shut.len()
    }

    /// What becomes of the events of a run from `at` on.
    fn turn(&mut self, way: Way, events: &Events, at: usize, now_us: u64) -> Turn {
        let Some(hold) = self.holds.get_mut(&way) else {
            return Turn::Passes(events.len());
        };
        let known = hold.known.len();
        let others = self.ids - known;
        let passes = hold.passes(events.id(at), others);
        let mut end = at + 1;
        while end < events.len() && !hold.is_over() {
            if hold.is_next(events.id(end)) != passes {
                break;
            }
            hold.passes(events.id(end), others);
            end += 1;
        }
        self.ids = others + hold.known.len();
        let turn = if passes {
            hold.until_us = now_us + hold.patience_us();
            Turn::Passes(end)
        } else {
            Turn::Waits(end, hold.refusal.clone())
        };
        if hold.is_over() {
            self.holds.remove(&way);
        }
        turn
    }

    /// The owner has refused events that had passed; whether it is to be asked to open again.
    fn returned(
        &mut self,
        way: Way,
        events: &Events,
        refusal: &LogRefusal,
        (is_elsewhere, now_us): (bool, u64),
    ) -> bool {
        let hasher = self.holds.hasher().clone();
        let hold = self.holds.entry(way).or_insert_with(|| Hold {
            refusal: refusal.clone(),
            returned: VecDeque::new(),
            turn: VecDeque::new(),
            known: HashMap::with_hasher(hasher),
            round: 1,
            is_shut: false,
            until_us: 0,
        });
        hold.refusal = refusal.clone();
        hold.until_us = now_us + hold.patience_us();
        self.due_us = self.due_us.min(hold.until_us);
        for at in 0..events.len() {
            let id = events.id(at);
            if self.ids < IDS_MAX && hold.known.insert(id, 0).is_none() {
                hold.returned.push_back(id);
                self.ids += 1;
            }
        }
        if is_elsewhere {
            return !std::mem::replace(&mut hold.is_shut, true);
        }
        self.reopened(way);
        false
    }

    /// All that the owner had refused has been returned.
    fn reopened(&mut self, way: Way) {
        let Some(hold) = self.holds.get_mut(&way) else {
            return;
        };
        hold.is_shut = false;
        hold.returned.append(&mut hold.turn);
        std::mem::swap(&mut hold.returned, &mut hold.turn);
        if hold.is_over() {
            self.holds.remove(&way);
        }
    }

    /// A connection of this core is gone.
    pub(crate) fn forget(&mut self, peer: PeerId) {
        if !self.holds.is_empty() {
            self.retain(|(other, _), _| *other != peer);
        }
    }

    fn retain(&mut self, mut wanted: impl FnMut(&Way, &mut Hold) -> bool) {
        self.ids = 0;
        self.due_us = u64::MAX;
        self.holds.retain(|way, hold| {
            let is_wanted = wanted(way, hold);
            if is_wanted {
                self.ids += hold.known.len();
                self.due_us = self.due_us.min(hold.until_us);
            }
            is_wanted
        });
    }

    /// Gives up what did not come again.
    pub(crate) fn handle_time(&mut self, now_us: u64) {
        if now_us < self.due_us {
            return;
        }
        self.retain(|_, hold| {
            if now_us >= hold.until_us {
                hold.until_us = now_us + hold.patience_us();
                hold.give_up();
            }
            !hold.is_over()
        });
    }

    /// When [`Order::handle_time`] has something to do, us.
    pub(crate) fn due_us(&self) -> Option<u64> {
        (!self.holds.is_empty()).then_some(self.due_us)
    }
}

impl Hold {
    fn is_next(&self, id: Id) -> bool {
        !self.is_shut && self.turn.front() == Some(&id)
    }

    /// Whether an event may go to the owner now; if not, it waits for its turn. `others`: ids that other holds remember.
    fn passes(&mut self, id: Id, others: usize) -> bool {
        if self.is_next(id) {
            self.turn.pop_front();
            self.known.remove(&id);
            return true;
        }
        let ids = self.known.len();
        if let Some(again) = self.known.get_mut(&id) {
            *again = self.round;
        } else if ids < IDS_OF_ONE_MAX && ids + others < IDS_MAX {
            self.known.insert(id, 0);
            self.turn.push_back(id);
        }
        false
    }

    fn is_over(&self) -> bool {
        !self.is_shut && self.turn.is_empty()
    }

    fn patience_us(&self) -> u64 {
        let (.., retry_after_ms) = refusal_words(&self.refusal);
        u64::from(retry_after_ms.unwrap_or_default()) * 1_000 + PATIENCE_US
    }

    /// Patience is at an end: up to the first that its publisher still sends again, all are given up.
    fn give_up(&mut self) {
        if self.is_shut {
            return;
        }
        while let Some(id) = self.turn.front()
            && self.known.get(id) != Some(&self.round)
        {
            self.known.remove(id);
            self.turn.pop_front();
        }
        self.round += 1;
    }
}

/// Whether what is refused so is worth another try, and holds up what comes behind it. (A log that stops takes nothing more
/// of anybody.)
fn holds_up(refusal: &LogRefusal) -> bool {
    match refusal {
        LogRefusal::Recovering
        | LogRefusal::Behind
        | LogRefusal::DiskFull
        | LogRefusal::DiskFailed(_)
        | LogRefusal::TooManyIds => true,
        LogRefusal::TooManyCursors | LogRefusal::TooManyRows | LogRefusal::Stopping | LogRefusal::NoLog => {
            false
        }
    }
}

impl Shard {
    /// Hands on a run of a connection of which something was refused.
    pub(super) fn hand_on_in_turn(&mut self, peer: PeerId, run: SealedRun) {
        let SealedRun {
            from,
            partition,
            class,
            events,
        } = run;
        let mut at = 0;
        while at < events.len() {
            let turn = self
                .logged
                .order
                .turn((peer, partition), &events, at, self.now_us);
            let (Turn::Passes(end) | Turn::Waits(end, _)) = turn;
            let part = events.slice(at..end);
            at = end;
            match turn {
                Turn::Passes(_) => self.hand_on(SealedRun {
                    from,
                    partition,
                    class,
                    events: part,
                }),
                Turn::Waits(_, refusal) => {
                    let (.., retry_after_ms) = refusal_words(&refusal);
                    self.logged.news.push_back(LoggedNews::Refused {
                        to: peer,
                        events: part,
                        code: Code::Unavailable,
                        message: "an event that you sent before this one was refused for a moment: send that again first".into(),
                        retry_after_ms,
                    });
                }
            }
        }
    }

    /// Why a connection's events are not to be appended, if something was refused that it sent before them.
    #[inline]
    pub(super) fn shut_out(&self, from: Option<PeerId>, partition: u16) -> Option<LogRefusal> {
        let shut = &self.logged.order.shut;
        if shut.is_empty() {
            return None;
        }
        shut.get(&(from?, partition)).cloned()
    }

    /// Events of a connection were not appended here, at the owner: what came behind them is not, either.
    pub(super) fn append_refused(
        &mut self,
        from: Option<PeerId>,
        partition: u16,
        events: Events,
        refusal: LogRefusal,
    ) {
        match from {
            Some(peer) if peer.core != self.core => {
                if holds_up(&refusal) && !is_of_queues(peer) {
                    self.logged.order.shut.insert((peer, partition), refusal.clone());
                }
                self.say(
                    peer.core,
                    LogLetter::AppendRefused {
                        from: peer,
                        partition,
                        events,
                        refusal,
                    },
                );
            }
            Some(peer) => self.events_refused(self.core, peer, partition, events, &refusal),
            None => self.not_stored(None, events, &refusal),
        }
    }

    /// Events of a connection of this core were not taken by their partition's owner.
    pub(super) fn events_refused(
        &mut self,
        owner: u16,
        from: PeerId,
        partition: u16,
        events: Events,
        refusal: &LogRefusal,
    ) {
        if holds_up(refusal) && !is_of_queues(from) {
            let way = (from, partition);
            let now = (owner != self.core, self.now_us);
            if self.logged.order.returned(way, &events, refusal, now) {
                self.say(owner, LogLetter::Reopen { from, partition });
            }
        }
        self.not_stored(Some(from), events, refusal);
    }

    /// The home core of a connection that is shut out sends nothing more of it until this is answered.
    pub(super) fn reopen_here(&mut self, core: u16, from: PeerId, partition: u16) {
        self.logged.order.shut.remove(&(from, partition));
        self.say(core, LogLetter::Reopened { from, partition });
    }

    /// The owner has returned all that it had refused of a connection.
    pub(super) fn reopened(&mut self, from: PeerId, partition: u16) {
        self.logged.order.reopened((from, partition));
    }
}
