//! Work queues: groups at qos 1 and 2. Each event goes to one member; what is not acknowledged in time, or is held by a
//! member that is lost, goes to another.
//!
//! ```text
//!   home core of a member              owner core of a partition
//!   join ────────── Join ────────────> queue ─ ledger: given, to be given again, done <── the log reads
//!   Accepted <───── Joined ───────────   │                      │
//!   Run <────────── Work ─────────────── ┴─ deals by room       └──> its cursor; dead letters
//!   acknowledge ─── Worked ──────────>
//! ```
//!
//! A queue is a cursor of the log, by the name of pattern, group and `durable` (and of nobody in particular: a group is
//! whoever joined under its name). Where it stands outlives its members and the process. Each partition's owner deals the
//! events of that partition to all members, so no two cores deal the same event; how many events one member takes at a time
//! over all owners is shared out by its home core ([`home`]).
//!
//! At least once: an event is done with when somebody who was given it acknowledges it, when it expires, or when it
//! was given too often and is set aside ([`aside`]). Two members have it at a time only if the first one's time was over.

mod aside;
mod dealing;
mod failure;
mod home;
mod ledger;
mod letters;
mod line;
mod lot;
mod members;
mod owner;
mod source;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use fluxar_protocol::Id;
use foldhash::fast::FixedState;

pub(crate) use aside::DeadLetter;
pub use dealing::GivenUp;
pub(crate) use dealing::QUEUE_READERS;
pub use letters::QueueLetter;

use crate::log::{Committed, CursorName, ReaderId, Reading, Settings};
use crate::logged::LoggedNews;
use crate::logged::letters::Start;
use crate::peer::PeerId;
use home::{Memberships, News};
use owner::WorkQueues;
pub(crate) use source::Source;

/// What a core knows of work queues: the members among its connections, and the queues over its partitions.
#[derive(Debug)]
pub(crate) struct Queues {
    core: u16,
    /// How many partitions there are.
    partitions: u16,
    home: Memberships,
    owner: WorkQueues,
    letters: VecDeque<(u16, QueueLetter)>,
}

impl Queues {
    pub(crate) fn new(
        core: u16,
        cores: u16,
        settings: Option<Arc<Settings>>,
        hasher: &FixedState,
        names_remembered: usize,
    ) -> Self {
        let partitions = settings.as_ref().map_or(0, |settings| settings.partitions);
        Self {
            core,
            partitions,
            home: Memberships::new(core, cores, hasher),
            owner: WorkQueues::new(core, cores, settings, hasher, names_remembered),
            letters: VecDeque::new(),
        }
    }

    /// A connection of this core joins a queue. There is a log, its texts were checked, and its subscription's id is new.
    /// `in_flight` 0: as many as usual.
    pub(crate) fn join(
        &mut self,
        peer: PeerId,
        sub: Id,
        (pattern, group, durable): (&str, &str, Option<&str>),
        start: Start,
        in_flight: u32,
    ) {
        let queue = Arc::new(CursorName {
            principal: "".into(),
            name: durable.unwrap_or_default().into(),
            pattern: pattern.into(),
            group: group.into(),
        });
        self.home
            .join(peer, sub, queue, start, in_flight, self.partitions);
    }

    /// A member's subscription was ended; whether it was one.
    pub(crate) fn leave(&mut self, peer: PeerId, sub: Id) -> bool {
        self.home.leave(peer, sub)
    }

    /// A connection of this core takes nothing more at the moment, or does again.
    pub(crate) fn set_busy(&mut self, peer: PeerId, busy: bool) {
        self.home.set_busy(peer, busy);
    }

    /// A member has handled exactly these; whether it is one.
    pub(crate) fn acknowledge(
        &mut self,
        peer: PeerId,
        sub: Id,
        partition: u16,
        offsets: impl Iterator<Item = u64>,
    ) -> bool {
        self.home.acknowledge(peer, sub, partition, offsets)
    }

    /// A member's session was cut and goes on: what it has not acknowledged goes back to its queue.
    pub(crate) fn rewind(&mut self, peer: PeerId, sub: Id) {
        self.home.rewind(peer, sub);
    }

    /// Takes a letter of another core.
    pub(crate) fn handle_letter(&mut self, from: u16, letter: QueueLetter, log: &mut impl Source) {
        if letter.matter.is_for_owner() {
            self.owner.handle(letter, log);
        } else {
            self.home.handle(from, letter);
        }
    }

    /// Events were committed in one of this core's partitions.
    pub(crate) fn committed(&mut self, committed: &Committed) {
        self.owner.committed(committed);
    }

    /// Something was read for a reader with [`QUEUE_READERS`].
    pub(crate) fn read_done(&mut self, reader: ReaderId, reading: Reading, log: &mut impl Source) {
        self.owner.read_done(reader, reading, log);
    }

    /// The disk has made something safe: what waited for a queue's place goes on. Whether anything did.
    pub(crate) fn begin_safe(&mut self, log: &mut impl Source) -> bool {
        self.owner.begin_safe(log)
    }

    /// An event of [`Queues::poll_append`] is in the log, by its id.
    pub(crate) fn aside_stored(&mut self, id: Id) {
        self.owner.aside_stored(id);
    }

    /// An event of [`Queues::poll_append`] was not taken, by its id.
    pub(crate) fn aside_refused(&mut self, id: Id) {
        self.owner.aside_refused(id);
    }

    /// Tells the time: monotonic, us, and since 1970, ms.
    pub(crate) fn handle_time(&mut self, now_us: u64, unix_ms: u64, log: &mut impl Source) {
        self.owner.handle_time(now_us, unix_ms, log);
    }

    /// When [`Queues::handle_time`] has something to do, us.
    pub(crate) fn due_us(&self) -> Option<u64> {
        self.owner.due_us()
    }

    /// Does what can be done now. Behind each input, before what follows is polled.
    pub(crate) fn work(&mut self, log: &mut impl Source) {
        loop {
            while let Some((to, letter)) = self.home.poll_letter() {
                if to == self.core {
                    self.owner.handle(letter, log);
                } else {
                    self.letters.push_back((to, letter));
                }
            }
            self.owner.pump(log);
            while let Some(letter) = self.owner.poll_letter() {
                if letter.member.peer.core == self.core {
                    self.home.handle(self.core, letter);
                } else {
                    self.letters.push_back((letter.member.peer.core, letter));
                }
            }
            if !self.home.has_letters() && !self.owner.is_dirty() {
                break;
            }
        }
    }

    /// The next letter to another core.
    pub(crate) fn poll_letter(&mut self) -> Option<(u16, QueueLetter)> {
        self.letters.pop_front()
    }

    /// The next thing for a member among this core's connections. One that was refused or ended is none any more.
    ///
    /// `epoch` is the shard's: the log of this core may still be recovering while that of the partition's owner is ready, and
    /// does not know it then.
    pub(crate) fn poll_news(&mut self, epoch: u64) -> Option<LoggedNews> {
        let (to, sub, news) = self.home.poll_news()?;
        Some(match news {
            News::Accepted(at) => LoggedNews::Accepted { to, sub, epoch, at },
            News::Refused(failure) => LoggedNews::RefusedSub {
                to,
                sub,
                code: failure.code,
                message: failure.message,
                retry_after_ms: failure.retry_after_ms,
                details: failure.details,
            },
            News::Work { piece, dup } => LoggedNews::Run {
                to,
                sub,
                positions: piece.positions,
                count: piece.count,
                dup,
                events: piece.events,
            },
            News::Ended(failure) => LoggedNews::Ended {
                to,
                sub,
                code: failure.code,
                message: failure.message,
                details: failure.details,
            },
        })
    }

    /// The next event to be appended to the log, to a partition of any core.
    pub(crate) fn poll_append(&mut self) -> Option<DeadLetter> {
        self.owner.poll_append()
    }

    /// The next event that no member could handle and that is given up.
    pub(crate) fn poll_given_up(&mut self) -> Option<GivenUp> {
        self.owner.poll_given_up()
    }

    /// Hands all cursors to the log, which is about to stop.
    pub(crate) fn stop(&mut self, log: &mut impl Source) {
        self.owner.stop(log);
    }

    /// Whether [`Queues::work`] has something to do, or there is something to poll.
    #[inline]
    pub(crate) fn has_work(&self) -> bool {
        !self.letters.is_empty()
            || self.home.has_letters()
            || self.home.has_news()
            || self.owner.has_output()
            || self.owner.is_dirty()
    }

    /// Alarms that are set, and the partitions of queues that there are.
    #[cfg(test)]
    fn alarms(&self) -> (usize, usize) {
        self.owner.alarms()
    }

    /// Queues over this core's partitions whose members wait for the disk.
    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.owner.waiting()
    }

    /// Members among this core's connections, and those of the queues over its partitions.
    pub(crate) fn members(&self) -> usize {
        self.home.len() + self.owner.members()
    }
}
