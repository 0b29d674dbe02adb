//! What the home core of a queue's member and the owners of its partitions tell each other.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use fluxar_protocol::{Code, Id};

use crate::log::CursorName;
use crate::logged::letters::Start;
use crate::logged::pieces::Piece;
use crate::peer::PeerId;

/// What a member of a work queue is called on all cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberName {
    /// Its connection.
    pub peer: PeerId,
    /// Its subscription.
    pub sub: Id,
    /// Which membership of its home core. A subscription's id may be used again when it is ended, and letters about the
    /// membership before may be under way still: they are not about this one.
    pub serial: u32,
}

/// A letter about a member of a work queue.
#[derive(Debug, Clone)]
pub struct QueueLetter {
    /// The member.
    pub member: MemberName,
    /// What about it.
    pub matter: Matter,
}

/// See [`QueueLetter`].
#[derive(Debug, Clone)]
pub enum Matter {
    /// To the owners of the partitions that the pattern covers: it joins.
    Join(Box<Join>),
    /// From an owner: it has joined, and the queue stands at these positions in the owner's partitions.
    Joined(Vec<(u16, u64)>),
    /// From an owner: it has not joined.
    NotJoined(Box<Failure>),
    /// To an owner: it is gone.
    Leave {
        /// It went before all owners had let it join: a queue that began with it, and has no other member, has not begun.
        is_void: bool,
    },
    /// From an owner: work for it.
    Work {
        /// The events.
        piece: Piece,
        /// How often each of them may have been given before.
        dup: u32,
    },
    /// To an owner: what it has and has not acknowledged may not have reached it.
    Rewind,
    /// To an owner: work that came when its connection took nothing. It goes to another, and does not count as given.
    NeverLeft {
        /// What it was, encoded.
        positions: Bytes,
        /// How often each of them may have been given before.
        dup: u32,
    },
    /// To an owner: it has handled exactly these.
    Worked {
        /// Where.
        partition: u16,
        /// Their offsets.
        offsets: Vec<u64>,
    },
    /// To an owner: its allowance there grows.
    Room {
        /// By so many events.
        grant: u32,
        /// What the owner keeps when events are done; the rest goes back.
        keep: u32,
    },
    /// From an owner: its allowance there has shrunk.
    Spare {
        /// By so many events.
        spare: u32,
        /// There is work that it has no room for.
        short: bool,
    },
    /// To an owner: its connection takes nothing more at the moment, or does again.
    Rests(bool),
    /// From an owner: it is no member any more.
    Ended(Box<Failure>),
}

impl Matter {
    /// Whether it is for the owner of a partition, not for the member's home core.
    pub(crate) fn is_for_owner(&self) -> bool {
        match self {
            Self::Join(_)
            | Self::Leave { .. }
            | Self::Rewind
            | Self::NeverLeft { .. }
            | Self::Worked { .. }
            | Self::Room { .. }
            | Self::Rests(_) => true,
            Self::Joined(_)
            | Self::NotJoined(_)
            | Self::Work { .. }
            | Self::Spare { .. }
            | Self::Ended(_) => false,
        }
    }
}

/// See [`Matter::Join`].
#[derive(Debug, Clone)]
pub struct Join {
    /// The queue's cursor: pattern, group and name.
    pub queue: Arc<CursorName>,
    /// Where the queue begins if it has no cursor yet.
    pub start: Start,
    /// How many events the member takes at a time, from all owners together.
    pub in_flight: u32,
    /// How many of them are allowed to this owner to begin with.
    pub allowance: u32,
}

/// Why somebody is not, or no longer, a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What kind.
    pub code: Code,
    /// For a person: what happened, and how to go on.
    pub message: Cow<'static, str>,
    /// `error.details`, encoded.
    pub details: Option<Vec<u8>>,
    /// When it is worth another try, ms.
    pub retry_after_ms: Option<u32>,
}
