//! What the logged part of a shard has for its connections.

use std::borrow::Cow;

use bytes::Bytes;
use fluxar_protocol::{Code, Id};

use crate::log::Events;
use crate::peer::PeerId;

/// Something to be sent to a connection of this core. All about one subscription comes in order.
#[derive(Debug)]
pub enum LoggedNews {
    /// Events of this connection are in the log, as surely as their topic's level says: one acknowledgement each, the first
    /// with this offset, each next one with one more.
    Stored {
        /// Who published them.
        to: PeerId,
        /// Where they are.
        partition: u16,
        /// The offset of the first.
        first: u64,
        /// They, for their ids.
        events: Events,
    },
    /// An event that had been stored before (qos 2): acknowledged with the position of the first time.
    StoredBefore {
        /// Who published it.
        to: PeerId,
        /// Its id.
        id: Id,
        /// Where it is.
        partition: u16,
        /// Its offset.
        offset: u64,
    },
    /// Events of this connection were not taken.
    Refused {
        /// Who published them.
        to: PeerId,
        /// They, for their ids.
        events: Events,
        /// Why.
        code: Code,
        /// For a person.
        message: Cow<'static, str>,
        /// When it is worth another try, ms.
        retry_after_ms: Option<u32>,
    },
    /// A subscription has begun.
    Accepted {
        /// Whose it is.
        to: PeerId,
        /// Its id.
        sub: Id,
        /// This incarnation of the logs.
        epoch: u64,
        /// The last position before it begins, in each partition that it covers, ascending.
        at: Vec<(u16, u64)>,
    },
    /// A subscription has not begun, and will not.
    RefusedSub {
        /// Whose it was to be.
        to: PeerId,
        /// Its id.
        sub: Id,
        /// Why.
        code: Code,
        /// For a person.
        message: Cow<'static, str>,
        /// When it is worth another try, ms.
        retry_after_ms: Option<u32>,
        /// `error.details`, encoded.
        details: Option<Vec<u8>>,
    },
    /// Events for a subscription: a header with these positions, and right behind it the events.
    Run {
        /// Whose it is.
        to: PeerId,
        /// Its id.
        sub: Id,
        /// `meta.run`, encoded: `[partition, first, delta, …]`. Shared by all that get the same.
        positions: Bytes,
        /// How many events.
        count: u32,
        /// How often each of them may have been handed out before, to this subscriber or another member of its group; 0: never.
        dup: u32,
        /// The events back to back, shared by all that get them.
        events: Bytes,
    },
    /// Nothing for this subscription lies up to this position: its holder may begin behind it when it comes back.
    Moved {
        /// Whose it is.
        to: PeerId,
        /// Its id.
        sub: Id,
        /// Where.
        partition: u16,
        /// The position.
        offset: u64,
    },
    /// A subscription is over.
    Ended {
        /// Whose it was.
        to: PeerId,
        /// Its id.
        sub: Id,
        /// Why.
        code: Code,
        /// For a person: what happened, and how to go on.
        message: Cow<'static, str>,
        /// `error.details`, encoded.
        details: Option<Vec<u8>>,
    },
}
