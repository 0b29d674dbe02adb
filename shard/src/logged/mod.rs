//! Logged events between cores: publishing at qos 1 and 2, and whoever follows the logs.
//!
//! ```text
//!   home core of a publisher          owner core of the partition            home core of a subscriber
//!   publish_logged ─ flush_run ─ Append ─> log ─ committed ─┬─ the plain path (qos 0)
//!        Stored <──── Settled ─────────────┘                └─ Logged ────────> readers: live ─> Run
//!                                          log <─ Fetch, Begin, Acked ───────── readers: behind
//!                                           └── Fetched, Began ───────────────> … until they have caught up
//! ```
//!
//! The owner orders the events and knows which cores follow which patterns; it tells a core of each run that matches, once,
//! whoever is there. Everything about one subscription (what it was handed, what it acknowledged, whether it keeps up) is
//! known at its home core. One that does not keep up costs no memory: it reads from the log.
//!
//! What a core has to tell itself goes the same way as what it tells others, through a queue instead of a mailbox: there is
//! one order of things, and nothing calls back into what is being worked on.

mod fetching;
pub mod letters;
mod news;
mod order;
mod owner;
mod patterns;
pub mod pieces;
mod plain;
mod publishing;
mod queue;
mod queueing;
mod readers;
mod start;
mod wish;

pub use letters::LogLetter;
pub use news::LoggedNews;
pub use pieces::Piece;
pub use publishing::{NO_LOG, Unlogged};
pub use queue::{GivenUp, QueueLetter};
pub use wish::{From, LoggedPublish, LoggedWish, QOS_2_UNNAMED};

use std::collections::VecDeque;
use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::letter::Letter;
use crate::limits::Limits;
use crate::log::disk::{DiskDone, DiskOp};
use crate::log::{Log, LogNews, RecoveredLog, Settings, Settled};
use crate::post::Post;
use crate::shard::Shard;
use order::Order;
use owner::Owner;
use publishing::Publishing;
use queue::Queues;
use queueing::{is_of_queues, is_queue_reader};
use readers::{Readers, Window};

/// The logged part of a shard.
#[derive(Debug)]
pub(crate) struct Logged {
    pub(crate) log: Log,
    publishing: Option<Publishing>,
    pub(crate) order: Order,
    pub(crate) owner: Owner,
    pub(crate) readers: Readers,
    pub(crate) queues: Queues,
    news: VecDeque<LoggedNews>,
    /// What this core tells itself.
    local: VecDeque<LogLetter>,
    /// Since 1970, ms.
    unix_ms: u64,
    /// Ever: events of qos 0 on a topic that is always logged, which the log did not take.
    pub(crate) unlogged_events: u64,
    /// Ever: gaps in what this core heard of partitions.
    pub(crate) gaps: u64,
    /// Of these, what nobody has polled yet.
    unlogged: Option<Unlogged>,
    core: u16,
    cores: u16,
    hasher: FixedState,
    limits: Limits,
}

impl Logged {
    pub(crate) fn new(core: u16, cores: u16, hasher: &FixedState, limits: Limits) -> Self {
        Self {
            log: Log::new(core, cores, None, hasher),
            publishing: None,
            order: Order::new(hasher),
            owner: Owner::new(hasher, limits.names_remembered, cores),
            readers: Readers::new(hasher, limits.names_remembered, window(&limits), 0),
            queues: Queues::new(core, cores, None, hasher, limits.names_remembered),
            news: VecDeque::new(),
            local: VecDeque::new(),
            unix_ms: 0,
            unlogged_events: 0,
            gaps: 0,
            unlogged: None,
            core,
            cores,
            hasher: hasher.clone(),
            limits,
        }
    }

    /// Whether somebody acknowledged what its owner does not know, this core told itself something that it has not heard,
    /// or a queue has something to do: more letters may come of it.
    #[inline]
    pub(crate) fn has_more_to_say(&self) -> bool {
        self.readers.has_acked() || !self.local.is_empty() || self.queues.has_work()
    }

    fn set(&mut self, settings: Option<Arc<Settings>>) {
        let names = self.limits.names_remembered;
        let partitions = settings.as_ref().map_or(0, |settings| settings.partitions);
        self.log = Log::new(self.core, self.cores, settings.clone(), &self.hasher);
        self.queues = Queues::new(self.core, self.cores, settings.clone(), &self.hasher, names);
        self.publishing = settings.map(|settings| Publishing::new(settings, &self.hasher, names));
        self.readers = Readers::new(&self.hasher, names, window(&self.limits), partitions);
    }
}

fn window(limits: &Limits) -> Window {
    Window {
        bytes: limits.unacked_bytes_per_subscription.max(1),
        events: limits.unacked_events_per_subscription.max(1),
    }
}

/// Posts a letter, or keeps it for this core itself.
fn say(core: u16, local: &mut VecDeque<LogLetter>, post: &mut Post, to: u16, letter: LogLetter) {
    if to == core {
        local.push_back(letter);
    } else {
        post.send(to, Letter::Log(letter));
    }
}

impl Shard {
    /// What the log is configured with; `None`: there is no data directory, and nothing is logged. Before anything else.
    pub fn set_log(&mut self, settings: Option<Arc<Settings>>) {
        self.logged.set(settings);
    }

    /// Whether anything is logged.
    #[must_use]
    pub fn has_log(&self) -> bool {
        self.logged.log.settings().is_some()
    }

    /// This core's part of the log is new and empty: a data directory that was just made.
    pub fn handle_empty_log(&mut self, epoch: u64) {
        self.logged.log.handle_empty(epoch);
        self.pump_log();
    }

    /// The next thing for a connection of this core. Poll until `None` after each input: what one input leads to is bounded
    /// by that input and by what the subscriptions have room for.
    pub fn poll_logged(&mut self) -> Option<LoggedNews> {
        if self.logged.news.is_empty() {
            if self.logged.readers.news_taken() {
                self.fetch_waiting();
                self.pump_log();
            } else if self.logged.queues.has_work() {
                self.pump_log();
            }
        }
        self.logged.news.pop_front()
    }

    /// The next thing for the disk. Polled at the end of a turn: what one turn appends is one write.
    pub fn poll_disk(&mut self) -> Option<DiskOp> {
        self.logged.log.poll_disk()
    }

    /// The next thing that whoever runs the gateway should know of this core's log.
    pub fn poll_log_news(&mut self) -> Option<LogNews> {
        self.logged.log.poll_news()
    }

    /// What came of something that [`Shard::poll_disk`] gave.
    pub fn handle_disk(&mut self, done: DiskDone) {
        self.logged.log.handle_disk(done);
        self.pump_log();
        let have_begun = self.begin_safe();
        let logged = &mut self.logged;
        if logged.queues.begin_safe(&mut logged.log) || have_begun {
            self.pump_log();
        }
    }

    /// The wall clock, ms since 1970: before each [`Shard::handle_time`].
    pub fn set_unix_ms(&mut self, unix_ms: u64) {
        self.logged.unix_ms = unix_ms;
    }

    /// What recovery found for this core.
    pub fn handle_recovered(&mut self, found: RecoveredLog) {
        self.logged.log.handle_recovered(found);
        self.pump_log();
    }

    /// Tells the owners of durable cursors now what was acknowledged.
    pub fn flush_acknowledged(&mut self) {
        self.tell_acked();
        self.pump_log();
    }

    /// Writes, syncs and seals what was taken, and takes no more.
    pub fn stop_log(&mut self) {
        self.flush_acknowledged();
        self.logged.queues.stop(&mut self.logged.log);
        self.logged.log.stop();
        self.pump_log();
    }

    /// Whether the log has stopped.
    #[must_use]
    pub fn is_log_stopped(&self) -> bool {
        !self.has_log() || self.logged.log.is_stopped()
    }

    /// Whether the log has stopped, and nothing tells its end from that of one that was sealed.
    #[must_use]
    pub fn is_log_sealed(&self) -> bool {
        !self.has_log() || self.logged.log.is_sealed()
    }

    /// The time was told.
    pub(crate) fn logged_time(&mut self) {
        if !self.has_log() {
            return;
        }
        self.logged.log.handle_time(self.now_us, self.logged.unix_ms);
        self.logged.order.handle_time(self.now_us);
        self.tell_quiet();
        self.readers_time();
        self.tell_acked();
        let logged = &mut self.logged;
        logged
            .queues
            .handle_time(self.now_us, logged.unix_ms, &mut logged.log);
        self.pump_log();
    }

    /// When [`Shard::logged_time`] has something to do, us.
    pub(crate) fn logged_due_us(&self) -> Option<u64> {
        let log_us = self
            .logged
            .log
            .poll_timeout_ms()
            .map(|ms| ms.saturating_mul(1_000));
        let queues_us = self.logged.queues.due_us();
        let order_us = self.logged.order.due_us();
        [
            log_us,
            order_us,
            self.quiet_due_us(),
            self.readers_due_us(),
            queues_us,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Tells another core, or this one, something of the logs.
    pub(crate) fn say(&mut self, to: u16, letter: LogLetter) {
        say(self.core, &mut self.logged.local, &mut self.post, to, letter);
    }

    /// Takes a letter about the logs.
    pub(crate) fn log_letter(&mut self, from: u16, letter: LogLetter) {
        match letter {
            LogLetter::Append {
                from,
                partition,
                class,
                events,
            } => self.append(from, partition, class, events),
            LogLetter::Settled(settled) => self.settled(settled),
            LogLetter::AppendRefused {
                from: peer,
                partition,
                events,
                refusal,
            } => self.events_refused(from, peer, partition, events, &refusal),
            LogLetter::Reopen {
                from: peer,
                partition,
            } => self.reopen_here(from, peer, partition),
            LogLetter::Reopened {
                from: peer,
                partition,
            } => self.reopened(peer, partition),
            LogLetter::Begin(begin) => self.begin_here(from, *begin),
            LogLetter::Began { sub, epoch, result } => self.began(sub, epoch, result),
            LogLetter::Unfollow { pattern } => self.unfollowed(from, &pattern),
            LogLetter::Logged {
                partition,
                after,
                until,
                stored,
            } => self.hear(partition, after, until, stored.as_ref()),
            LogLetter::Fetch(fetch) => self.fetch_here(from, fetch),
            LogLetter::Unfetch { sub, partition } => self.unfetch_here(from, sub, partition),
            LogLetter::Fetched {
                sub,
                partition,
                fetched,
            } => self.fetched(sub, partition, fetched),
            LogLetter::Acked { cursor, sub, at } => self.acked_here(from, &cursor, sub, &at),
            LogLetter::Opened { cursor, sub } => self.opened_here(from, &cursor, sub),
            LogLetter::Released { cursor, sub, is_void } => self.released_here(from, &cursor, sub, is_void),
            LogLetter::Superseded { sub } => self.reader_superseded(sub),
        }
    }

    /// Passes on what the log has, and what this core told itself, until there is nothing.
    pub(crate) fn pump_log(&mut self) {
        loop {
            if let Some(letter) = self.logged.local.pop_front() {
                self.log_letter(self.core, letter);
            } else if let Some(committed) = self.logged.log.poll_committed() {
                self.logged.queues.committed(&committed);
                self.committed(committed);
            } else if let Some(settled) = self.logged.log.poll_settled() {
                self.settled(settled);
            } else if let Some((reader, reading)) = self.logged.log.poll_read() {
                if is_queue_reader(reader) {
                    let logged = &mut self.logged;
                    logged.queues.read_done(reader, reading, &mut logged.log);
                } else {
                    self.fetch_read(reader, reading);
                }
            } else if !self.logged.queues.has_work() || !self.pump_queues() {
                return;
            }
        }
    }

    /// Events are stored: their publisher is told, here or at its home core.
    fn settled(&mut self, settled: Settled) {
        let (Settled::Stored { from, .. } | Settled::Again { from, .. }) = &settled;
        if from.core != self.core {
            let home = from.core;
            self.say(home, LogLetter::Settled(settled));
            return;
        }
        if is_of_queues(*from) {
            match settled {
                Settled::Stored { events, .. } => self.logged.queues.aside_stored(events.id(0)),
                Settled::Again { id, .. } => self.logged.queues.aside_stored(id),
            }
            return;
        }
        match &settled {
            Settled::Stored {
                from,
                partition,
                events,
                ..
            } if self.logged.order.holds_up(*from, *partition) => {
                let ids = (0..events.len()).map(|at| events.id(at));
                self.logged.order.settled((*from, *partition), ids);
            }
            Settled::Again {
                from, id, partition, ..
            } => self
                .logged
                .order
                .settled((*from, *partition), std::iter::once(*id)),
            Settled::Stored { .. } => {}
        }
        self.logged.news.push_back(match settled {
            Settled::Stored {
                from,
                partition,
                first,
                events,
            } => LoggedNews::Stored {
                to: from,
                partition,
                first,
                events,
            },
            Settled::Again {
                from,
                id,
                partition,
                offset,
            } => LoggedNews::StoredBefore {
                to: from,
                id,
                partition,
                offset,
            },
        });
    }
}
