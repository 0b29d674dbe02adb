//! What home cores and owner cores tell each other of logged events.
//!
//! Between two cores letters keep their order, and much rests on it: a [`LogLetter::Began`] or [`LogLetter::Fetched`] stands
//! in the same row as the [`LogLetter::Logged`] before and behind it.

use std::sync::Arc;

use super::pieces::Piece;
use crate::log::class::Class;
use crate::log::{CursorName, Events, LogRefusal, Settled, Stored};
use crate::peer::PeerId;

/// How a home core finds one of its subscriptions again; stale ones are recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubHandle {
    pub(crate) at: u32,
    pub(crate) serial: u32,
}

/// Between a home core and the owner of a partition.
#[derive(Debug, Clone)]
pub enum LogLetter {
    /// To the owner: events to append.
    Append {
        /// Who published them; `None`: nobody who waits.
        from: Option<PeerId>,
        /// Where.
        partition: u16,
        /// How.
        class: Class,
        /// They.
        events: Events,
    },
    /// From the owner: events of one of the receiving core's connections are stored.
    Settled(Settled),
    /// From the owner: events of one of the receiving core's connections were not taken.
    AppendRefused {
        /// Who published them.
        from: PeerId,
        /// Where.
        partition: u16,
        /// They.
        events: Events,
        /// Why. What the connection sent behind them is refused, too, if they are worth another try.
        refusal: LogRefusal,
    },
    /// To the owner: a connection of which something was refused may append again. Nothing is on its way.
    Reopen {
        /// Who.
        from: PeerId,
        /// Where.
        partition: u16,
    },
    /// From the owner: it may, and all that was refused was told.
    Reopened {
        /// Who.
        from: PeerId,
        /// Where.
        partition: u16,
    },
    /// To the owner: a subscription begins. From now on the owner tells the sending core of what matches its pattern.
    Begin(Box<Begin>),
    /// From the owner: where the subscription begins.
    Began {
        /// Which.
        sub: SubHandle,
        /// The incarnation of the logs.
        epoch: u64,
        /// In each of the owner's partitions that it covers; or why not.
        result: Result<Vec<Begun>, BeginRefusal>,
    },
    /// To the owner: no subscription of the sending core has this pattern any more.
    Unfollow {
        /// The pattern.
        pattern: Arc<str>,
    },
    /// From the owner: in `(after, until]` nothing else is committed that matches what the receiving core follows.
    Logged {
        /// Where.
        partition: u16,
        /// What the receiving core was told last.
        after: u64,
        /// What it knows of with this.
        until: u64,
        /// Newly committed events, some of which match; `None`: there are none.
        stored: Option<Stored>,
    },
    /// To the owner: read for a subscription that is behind.
    Fetch(Box<Fetch>),
    /// To the owner: the subscription is over; what it fetched from this partition is not wanted any more.
    Unfetch {
        /// Which.
        sub: SubHandle,
        /// Where.
        partition: u16,
    },
    /// From the owner: what was read, only what matches.
    Fetched {
        /// For whom.
        sub: SubHandle,
        /// Where.
        partition: u16,
        /// What.
        fetched: Fetched,
    },
    /// To the owner: how far the holder of a durable cursor has come.
    Acked {
        /// The cursor.
        cursor: Arc<CursorName>,
        /// Who holds it.
        sub: SubHandle,
        /// Partitions and offsets.
        at: Vec<(u16, u64)>,
    },
    /// To the owner: the holder of a durable cursor has begun, in all partitions that it covers.
    Opened {
        /// The cursor.
        cursor: Arc<CursorName>,
        /// Who holds it.
        sub: SubHandle,
    },
    /// To the owner: the holder of a durable cursor is gone.
    Released {
        /// The cursor.
        cursor: Arc<CursorName>,
        /// Who held it.
        sub: SubHandle,
        /// Its subscription never began: the cursor is what it was before, or is forgotten.
        is_void: bool,
    },
    /// From an owner: another subscription holds the durable cursor now.
    Superseded {
        /// Whose it was.
        sub: SubHandle,
    },
}

/// See [`LogLetter::Begin`].
#[derive(Debug, Clone)]
pub struct Begin {
    /// Which subscription.
    pub sub: SubHandle,
    /// When it was asked for, µs, and on which core: of two holders of one name the later wins, at every owner.
    pub stamp: (u64, u16),
    /// Its pattern.
    pub pattern: Arc<str>,
    /// Its cursor, if it has a name.
    pub cursor: Option<Arc<CursorName>>,
    /// Where it is to begin.
    pub start: Start,
    /// Whether retained events come first.
    pub retain: bool,
    /// Whether its cursor may be made where it is not there: its connection has not made too many.
    pub may_make: bool,
}

/// [`super::From`], to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// At its cursor; without one as [`Start::New`].
    Default,
    /// At the committed end.
    New,
    /// Before the first that is held.
    All,
    /// Behind these positions of this incarnation.
    Epoch {
        /// Which.
        epoch: u64,
        /// Partitions and offsets, ascending.
        at: Arc<[(u16, u64)]>,
    },
    /// Before the first of this time.
    TimeMs(u64),
}

/// Where a subscription begins in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// Where.
    pub partition: u16,
    /// The position behind which it begins.
    pub position: u64,
    /// Retained events up to `position` come first.
    pub has_table: bool,
    /// As in [`LogLetter::Logged`]: with this letter the receiving core is told of everything up to `until`.
    pub after: u64,
    /// See `after`.
    pub until: u64,
    /// A durable cursor was made for it.
    pub is_made: bool,
}

/// Why a subscription does not begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BeginRefusal {
    /// A partition is being recovered.
    Recovering,
    /// The epoch is not one of this log's.
    UnknownEpoch {
        /// It.
        epoch: u64,
        /// That of the log.
        ours: u64,
    },
    /// A position that was never given out.
    NeverGivenOut {
        /// Where.
        partition: u16,
        /// It.
        offset: u64,
        /// The last that was.
        committed: u64,
    },
    /// Its cursor is not there, and may have been lost by damage on the disk.
    CursorsLost {
        /// Where.
        partition: u16,
        /// The first offset that is held.
        first: u64,
    },
    /// Somebody asked for the same cursor later.
    Superseded,
    /// It would need a cursor that is not there, and its connection has made as many as it may.
    TooManyMade,
    /// The log keeps no more cursors.
    Log(LogRefusal),
}

/// See [`LogLetter::Fetch`].
#[derive(Debug, Clone)]
pub struct Fetch {
    /// For whom.
    pub sub: SubHandle,
    /// Its pattern.
    pub pattern: Arc<str>,
    /// Where.
    pub partition: u16,
    /// Behind this offset.
    pub after: u64,
    /// Up to this one, `u64::MAX`: as far as it goes.
    pub until: u64,
    /// Of the retained events, instead of all.
    pub of_table: bool,
    /// What is damaged of them is left out.
    pub skips_damaged: bool,
    /// Nothing older than this, ms since 1970, before the first that is not.
    pub since_ms: u64,
    /// At most so many bytes, or one event.
    pub bytes_max: u32,
    /// At most so many events.
    pub events_max: u32,
}

/// See [`LogLetter::Fetched`].
#[derive(Debug, Clone)]
pub enum Fetched {
    /// What matches, in order. Nothing else does up to `until`.
    Events {
        /// The events; there may be none.
        pieces: Vec<Piece>,
        /// The position that is reached with them.
        until: u64,
    },
    /// Nothing is committed behind the position.
    End,
    /// What comes behind the position is not held any more.
    Gone {
        /// The first offset that is held.
        first: u64,
    },
    /// What comes behind the position was damaged on the disk.
    Damaged {
        /// The first offset of the damage.
        first: u64,
        /// The last.
        last: u64,
    },
    /// It could not be read now.
    Failed,
}
