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

pub mod letters;
mod news;
#[allow(dead_code)]
mod queue;
mod wish;

pub use letters::LogLetter;
pub use news::LoggedNews;
pub use queue::{GivenUp, QueueLetter};
pub use wish::{From, LoggedPublish, LoggedWish};

use std::sync::Arc;

use fluxar_protocol::{Code, Id};

use crate::log::Settings;
use crate::log::disk::{DiskDone, DiskOp};
use crate::peer::PeerId;
use crate::refusal::Refusal;
use crate::shard::Shard;

impl Shard {
    /// What the log is configured with; `None`: there is no data directory, and nothing is logged. Before anything else.
    pub fn set_log(&mut self, _settings: Option<Arc<Settings>>) {}

    /// Whether anything is logged.
    #[must_use]
    pub fn has_log(&self) -> bool {
        false
    }

    /// Whether what is published at qos 0 to this topic is logged, too.
    pub fn always_logged(&mut self, _topic: &str) -> bool {
        false
    }

    /// Takes an event to be logged; what becomes of it is told by [`Shard::poll_logged`], behind [`Shard::flush_run`].
    /// `event` is a whole compact envelope without ref, whose target is `topic`, both checked by the caller.
    pub fn publish_logged(&mut self, _peer: PeerId, _topic: &str, _event: &[u8], _how: LoggedPublish) {}

    /// Subscribes a connection of this core at qos 1 or 2. Whether it is accepted is told by [`Shard::poll_logged`].
    ///
    /// # Errors
    /// As [`Shard::subscribe`]; `failed_precondition` without a log.
    pub fn subscribe_logged(
        &mut self,
        _peer: PeerId,
        _sub: Id,
        _pattern: &str,
        _wish: LoggedWish<'_>,
    ) -> Result<(), Refusal> {
        Err(Refusal::fixed(
            Code::FailedPrecondition,
            "this gateway has no log",
        ))
    }

    /// A subscriber has handled everything up to this position; a member of a group, exactly these: `first`, and behind
    /// it each delta from the one before. What was never handed out is ignored.
    pub fn acknowledge(
        &mut self,
        _peer: PeerId,
        _sub: Id,
        _partition: u16,
        _first: u64,
        _deltas: impl Iterator<Item = u64>,
    ) {
    }

    /// Ends a logged subscription of this core's, because its connection cannot take the next event. Nothing is told but
    /// to the owners; the caller tells its peer.
    pub fn abandon_logged(&mut self, peer: PeerId, sub: Id) {
        let _ = self.end_subscription(peer, sub);
    }

    /// The session behind a connection was cut and goes on: what its subscriptions have not acknowledged comes again, with
    /// `dup`.
    pub fn rewind_logged(&mut self, _peer: PeerId) {}

    /// The next thing for a connection of this core. Poll until `None` after each input.
    pub fn poll_logged(&mut self) -> Option<LoggedNews> {
        None
    }

    /// The next thing for the disk. Polled at the end of a turn: what one turn appends is one write.
    pub fn poll_disk(&mut self) -> Option<DiskOp> {
        None
    }

    /// What came of something that [`Shard::poll_disk`] gave.
    pub fn handle_disk(&mut self, _done: DiskDone) {}

    /// The wall clock, ms since 1970: before each [`Shard::handle_time`].
    pub fn set_unix_ms(&mut self, _unix_ms: u64) {}

    /// A part of what recovery found.
    pub fn handle_recovered(&mut self, _share: crate::log::recovery::Recovered) {}

    /// Writes, syncs and seals what was taken, and takes no more.
    pub fn stop_log(&mut self) {}

    /// Whether the log has stopped.
    #[must_use]
    pub fn is_log_stopped(&self) -> bool {
        true
    }
}
