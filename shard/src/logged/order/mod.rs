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
//! Of each topic, what was refused has to come again in the order in which it came first; whatever else of that topic comes waits
//! behind it, is refused likewise, and has its turn then. Topics of one partition do not wait for one another: a publisher
//! may send what was refused again topic by topic, one by one or all at once, before or behind new events.
//!
//! What does not come again in time is given up, and holds up nobody. If what is left does not pass either, it is of a publisher
//! that gives up each event sooner than its turn comes; then the whole topic is let go.
//!
//! Only time in which the publisher is heard counts, and of each silence what it was told to let pass and a little. Behind a silence
//! it may say what it said before it had read of a refusal, in whatever order: because its network stood still, because it is back
//! after a pause, or because this core was busy with something else and the input lay there. Each of these may last longer than
//! patience does.
//!
//! Nothing is kept of connections that are not refused anything. An owner remembers who is shut out for as long as two letters
//! take; a home core remembers ids, [`IDS_OF_ONE_MAX`] of a connection and [`IDS_MAX`] of all. Of those beyond it the order is
//! what their publisher makes of it.

mod hold;

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;

use fluxar_protocol::{Code, Id};
use foldhash::fast::FixedState;

use super::pieces::topic_of;
use super::publishing::{SealedRun, retry_after_ms};
use super::queueing::is_of_queues;
use super::{LogLetter, LoggedNews};
use crate::log::{Events, LogRefusal};
use crate::peer::PeerId;
use crate::shard::Shard;
use hold::Hold;

/// Ids of refused events that a core remembers, about 75 bytes each; 200, where each has a topic of its own.
const IDS_MAX: usize = 128 * 1024;
/// Of these, how many of one connection.
const IDS_OF_ONE_MAX: usize = 16 * 1024;
/// What was refused of a publisher that was not heard for so long is forgotten, us: it may be gone.
const SILENCE_US: u64 = 600_000_000;
/// Where the ids of others have no room: so long, us.
const SILENCE_FULL_US: u64 = 60_000_000;
/// How often it is looked for what is to be given up or forgotten, us.
const LOOK_US: u64 = 100_000;

/// Who must not pass whom: as a home core, and as an owner.
#[derive(Debug)]
pub(crate) struct Order {
    /// The connections of this core that something was refused of.
    peers: HashMap<PeerId, HeldUp, FixedState>,
    /// Ids that all of them remember.
    ids: usize,
    /// When it is looked for what is to be given up, us, if anything is held up.
    due_us: u64,
    /// As an owner: connections of other cores that are shut out of a partition, and why.
    shut: HashMap<(PeerId, u16), LogRefusal, FixedState>,
}

/// A connection that something was refused of.
#[derive(Debug, Default)]
struct HeldUp {
    /// By partition.
    holds: BTreeMap<u16, Hold>,
    /// Ids that these remember.
    ids: usize,
    /// When it was heard last, us.
    heard_us: u64,
}

/// What becomes of the next events of a run, all before this place in it.
enum Turn {
    Passes(usize),
    Waits(usize, LogRefusal),
}

impl Order {
    pub(crate) fn new(hasher: &FixedState) -> Self {
        Self {
            peers: HashMap::with_hasher(hasher.clone()),
            ids: 0,
            due_us: 0,
            shut: HashMap::with_hasher(hasher.clone()),
        }
    }

    /// Whether anything of a connection was refused in this partition that has not come again.
    #[inline]
    pub(super) fn holds_up(&self, peer: PeerId, partition: u16) -> bool {
        !self.peers.is_empty()
            && self
                .peers
                .get(&peer)
                .is_some_and(|held_up| held_up.holds.contains_key(&partition))
    }

    /// A connection is heard. Whether anything of it was refused in this partition that has not come again.
    #[inline]
    pub(super) fn hear(&mut self, peer: PeerId, partition: u16, now_us: u64) -> bool {
        if self.peers.is_empty() {
            return false;
        }
        self.peers.get_mut(&peer).is_some_and(|held_up| {
            held_up.hear(now_us);
            held_up.holds.contains_key(&partition)
        })
    }

    /// Ids that are remembered, connections that are held up, and connections that are shut out.
    pub(crate) fn len(&self) -> usize {
        self.ids + self.peers.len() + self.shut.len()
    }

    /// What becomes of the events of a run from `at` on.
    fn turn(&mut self, (peer, partition): (PeerId, u16), events: &Events, at: usize) -> Turn {
        let hasher = self.peers.hasher().clone();
        let Some(held_up) = self.peers.get_mut(&peer) else {
            return Turn::Passes(events.len());
        };
        let Some(hold) = held_up.holds.get_mut(&partition) else {
            return Turn::Passes(events.len());
        };
        let (others, of_others) = (self.ids - held_up.ids, held_up.ids - hold.len());
        hold.give_up();
        let ids_max = (IDS_MAX - others).min(IDS_OF_ONE_MAX).saturating_sub(of_others);
        let mut passed = None;
        let mut end = at;
        while end < events.len() && (end == at || !hold.is_over()) {
            let topic = hasher.hash_one(topic_of(events.get(end)));
            let passes = hold.is_next(topic, events.id(end));
            if *passed.get_or_insert(passes) != passes {
                break;
            }
            if passes {
                hold.pass(topic);
            } else {
                hold.wait(topic, events.id(end), ids_max);
            }
            end += 1;
        }
        held_up.ids = of_others + hold.len();
        self.ids = others + held_up.ids;
        let turn = if passed == Some(false) {
            Turn::Waits(end, hold.refusal().clone())
        } else {
            Turn::Passes(end)
        };
        self.end_if_over(peer, partition);
        turn
    }

    /// Forgets what holds up nothing any more.
    fn end_if_over(&mut self, peer: PeerId, partition: u16) {
        let Some(held_up) = self.peers.get_mut(&peer) else {
            return;
        };
        if held_up.holds.get(&partition).is_some_and(Hold::is_over) {
            held_up.holds.remove(&partition);
            if held_up.holds.is_empty() {
                self.peers.remove(&peer);
            }
        }
    }

    /// The owner has refused events that had passed; whether it is to be asked to open again.
    fn returned(
        &mut self,
        (peer, partition): (PeerId, u16),
        events: &Events,
        refusal: &LogRefusal,
        (is_elsewhere, now_us): (bool, u64),
    ) -> bool {
        let hasher = self.peers.hasher().clone();
        if self.peers.is_empty() {
            self.due_us = now_us + LOOK_US;
        }
        let held_up = self.peers.entry(peer).or_insert_with(|| HeldUp {
            heard_us: now_us,
            ..HeldUp::default()
        });
        let ids_max = (IDS_MAX - self.ids).min(IDS_OF_ONE_MAX.saturating_sub(held_up.ids));
        let hold = held_up.holds.entry(partition);
        let hold = hold.or_insert_with(|| Hold::new(refusal.clone(), &hasher));
        let new = hold.take_back(events, refusal, ids_max);
        held_up.ids += new;
        self.ids += new;
        if is_elsewhere {
            return hold.shut();
        }
        self.reopened(peer, partition);
        false
    }

    /// All that the owner had refused has been returned.
    fn reopened(&mut self, peer: PeerId, partition: u16) {
        let Some(held_up) = self.peers.get_mut(&peer) else {
            return;
        };
        let Some(hold) = held_up.holds.get_mut(&partition) else {
            return;
        };
        hold.reopen();
        self.end_if_over(peer, partition);
    }

    /// Events of a connection are stored. A copy of one of them that was refused need not come again, and is waited for no more.
    pub(super) fn settled(&mut self, (peer, partition): (PeerId, u16), ids: impl Iterator<Item = Id>) {
        let Some(held_up) = self.peers.get_mut(&peer) else {
            return;
        };
        let Some(hold) = held_up.holds.get_mut(&partition) else {
            return;
        };
        let gone = hold.forget(ids);
        held_up.ids -= gone;
        self.ids -= gone;
        self.end_if_over(peer, partition);
    }

    /// A connection of this core is gone.
    pub(crate) fn forget(&mut self, peer: PeerId) {
        if let Some(held_up) = self.peers.remove(&peer) {
            self.ids -= held_up.ids;
        }
    }

    /// Gives up what did not come again, and forgets those that are not heard any more.
    pub(crate) fn handle_time(&mut self, now_us: u64) {
        if self.peers.is_empty() || now_us < self.due_us {
            return;
        }
        self.due_us = now_us + LOOK_US;
        let has_room = self.ids + IDS_OF_ONE_MAX <= IDS_MAX;
        let silence_us = if has_room { SILENCE_US } else { SILENCE_FULL_US };
        self.ids = 0;
        self.peers.retain(|_, held_up| {
            held_up.give_up(now_us.saturating_sub(held_up.heard_us) >= silence_us);
            self.ids += held_up.ids;
            !held_up.holds.is_empty()
        });
    }

    /// When [`Order::handle_time`] has something to do, us.
    pub(crate) fn due_us(&self) -> Option<u64> {
        (!self.peers.is_empty()).then_some(self.due_us)
    }
}

impl HeldUp {
    fn hear(&mut self, now_us: u64) {
        let silence_us = now_us.saturating_sub(self.heard_us);
        if silence_us > 0 {
            self.holds.values_mut().for_each(|hold| hold.hear(silence_us));
            self.heard_us = now_us;
        }
    }

    /// Gives up what is due, or all.
    fn give_up(&mut self, all: bool) {
        self.ids = 0;
        self.holds.retain(|_, hold| {
            let is_kept = hold.is_shut() || !all && !hold.give_up();
            self.ids += if is_kept { hold.len() } else { 0 };
            is_kept
        });
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
    /// Something is refused to a connection that is not there any more: nobody will send it again.
    pub fn publisher_gone(&mut self, peer: PeerId) {
        self.logged.order.forget(peer);
    }

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
            let turn = self.logged.order.turn((peer, partition), &events, at);
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
                    let retry_after_ms = retry_after_ms(&refusal);
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
        self.logged.order.reopened(from, partition);
    }
}
