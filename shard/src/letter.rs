//! What cores tell each other. A letter is small, owns what it carries, and may be sent to another thread.
//!
//! Letters that a shard writes come out of [`crate::Shard::poll_letter`]; [`Letter::Forward`] and [`Letter::Answer`]
//! are written by the gateway. All go into [`crate::Shard::handle_letter`] of the core they are for, in the order
//! they were written between any two cores.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use fluxar_protocol::stream::{Failure, Note};
use fluxar_protocol::{Id, Kind};

use crate::exchanges::calls::Outcome;
use crate::exchanges::streams::Spoken;
use crate::logged::{LogLetter, QueueLetter};
use crate::offering::{Offering, Standing};
use crate::peer::PeerId;
use crate::runs::Run;

/// A message between two cores.
#[derive(Debug, Clone)]
pub enum Letter {
    /// The sending core wants plain events of the topics that match, or no longer does.
    Want {
        /// The pattern.
        pattern: Arc<str>,
        /// Wants them.
        wanted: bool,
    },
    /// The sending core now has so many members of a group.
    Members {
        /// The pattern of the group's members.
        pattern: Arc<str>,
        /// Their group's name.
        group: Arc<str>,
        /// How the sender finds it when it gets [`Letter::Share`].
        handle: GroupHandle,
        /// How many; 0 ends it.
        members: u32,
    },
    /// A peer of the sending core serves the methods that match.
    Offer {
        /// Who serves.
        server: PeerId,
        /// The subscription by which it offered.
        sub: Id,
        /// The methods.
        pattern: Arc<str>,
        /// Its terms.
        offering: Arc<Offering>,
        /// Whether it gets new calls: known before the offer brings it any.
        standing: Standing,
    },
    /// How fit a serving peer of the sending core is now. Comes behind its offer.
    Standing {
        /// Who serves.
        server: PeerId,
        /// Whether it gets new calls.
        standing: Standing,
    },
    /// A serving peer of the sending core goes on over another connection, whose hello announced this. Comes behind its
    /// offers.
    Credit {
        /// Who serves.
        server: PeerId,
        /// What it takes at first of a stream that is opened at it from now on.
        credit_bytes: u32,
    },
    /// That offer is over; calls open at the peer go on.
    Withdraw {
        /// Who served.
        server: PeerId,
        /// The subscription by which it had offered.
        sub: Id,
    },
    /// A peer of the sending core that served is lost: its offers are over. Calls open at it fail, after
    /// [`Letter::Flush`].
    ServerLost {
        /// Who.
        server: PeerId,
    },
    /// The sending core, which has something open at a lost peer of the receiving one, sends it nothing more.
    Flush {
        /// The lost peer.
        server: PeerId,
    },
    /// All that the receiving core sent to a lost peer, and that the peer had not seen, was given back: the rest fails.
    Flushed {
        /// The lost peer.
        server: PeerId,
        /// Its session may go on, or does: of what fails it is told that nobody waits for it.
        is_told: bool,
    },
    /// Events for the receiving core's plain subscriptions.
    Run(Run),
    /// Events for the receiving core's members of one group.
    Share {
        /// Which group, by the receiver's handle.
        handle: GroupHandle,
        /// The events, back to back, without a frame's prefix.
        events: Bytes,
        /// Where each event ends in them.
        ends: Box<[u32]>,
    },
    /// A call or an open on its way to one of the receiving core's connections, its id replaced.
    Forward {
        /// To whom.
        to: PeerId,
        /// What.
        bytes: Bytes,
    },
    /// An answer on its way to the core on which its call began.
    Answer {
        /// Who answers.
        from: PeerId,
        /// The answer's ref: the id under which the call was forwarded.
        reference: Id,
        /// What it says about its server.
        outcome: Outcome,
        /// The answer; its ref is patched on arrival.
        bytes: BytesMut,
    },
    /// A part of a stream on its way from its server to the core on which the stream began.
    Part {
        /// The server.
        from: PeerId,
        /// The part's ref: the id under which the open was forwarded.
        reference: Id,
        /// What it says.
        spoken: Spoken,
        /// The part; its ref is patched on arrival.
        bytes: Bytes,
    },
    /// Chunks of a stream, none of them the last, from its server to the core on which the stream began.
    Chunks {
        /// The server.
        from: PeerId,
        /// Their ref: the id under which the open was forwarded.
        reference: Id,
        /// The chunks back to back, as they came.
        bytes: Bytes,
    },
    /// A part of a stream, or several chunks, on the way to its server, one of the receiving core's connections, with
    /// the ref replaced.
    Passed {
        /// To whom.
        to: PeerId,
        /// What.
        bytes: Bytes,
        /// How many.
        envelopes: u32,
    },
    /// A serving peer of the sending core cancels what may be a stream of the receiving core.
    Cancel {
        /// The server.
        from: PeerId,
        /// The id under which the open was forwarded.
        reference: Id,
    },
    /// The gateway's own word to a serving peer, one of the receiving core's connections.
    Note {
        /// To whom.
        to: PeerId,
        /// The id under which it was forwarded.
        reference: Id,
        /// `Call` or `Stream`.
        kind: Kind,
        /// What.
        note: Note,
    },
    /// The open of a stream of the receiving core is with its server, one of the sending core's.
    Admitted {
        /// The server.
        from: PeerId,
        /// The id under which it was forwarded.
        reference: Id,
    },
    /// A call or an open of the receiving core cannot wait at the gate of its server, one of the sending core's.
    Refused {
        /// The server.
        from: PeerId,
        /// The id under which it was forwarded.
        reference: Id,
        /// What its asker is told.
        failure: Failure,
    },
    /// A peer of the sending core has not seen a call or an open of the receiving core, and will not: it serves it no
    /// more, or is lost, or has too much to read.
    Unheard {
        /// The server.
        from: PeerId,
        /// The id under which it was forwarded.
        reference: Id,
        /// The call or the open.
        bytes: Bytes,
        /// It has too much to read.
        is_full: bool,
    },
    /// A stream of the sending core is over: its server, one of the receiving core's, has room again.
    Left {
        /// The server.
        server: PeerId,
        /// The id under which it was forwarded.
        reference: Id,
    },
    /// About logged events.
    Log(LogLetter),
    /// About a member of a work queue.
    Queue(QueueLetter),
}

/// How a core finds one of its groups again; stale ones are recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupHandle {
    pub(crate) at: u32,
    pub(crate) serial: u32,
}

/// What a letter comes to, for the gateway to do.
#[derive(Debug)]
pub enum Arrival {
    /// It was taken in. There may be deliveries, things to send and letters to poll.
    Taken,
    /// Send these bytes to this connection, if it is still there.
    Forward {
        /// To whom.
        to: PeerId,
        /// What.
        bytes: Bytes,
    },
    /// Patch the answer's ref and send it to the asker.
    Answer {
        /// Who asked.
        asker: PeerId,
        /// The asker's id of the call.
        reference: Id,
        /// The answer.
        bytes: BytesMut,
    },
    /// Patch the part's ref and send it to the opener.
    Part {
        /// To whom.
        to: PeerId,
        /// What it knows the stream by.
        reference: Id,
        /// The part.
        bytes: Bytes,
    },
    /// Chunks of a stream of this core: each is to be asked about, as [`crate::Shard::part`] or along a
    /// [`crate::Lane`].
    Chunks {
        /// The server.
        from: PeerId,
        /// Their ref.
        reference: Id,
        /// The chunks back to back.
        bytes: Bytes,
    },
    /// Send this to a serving peer.
    Passed {
        /// To whom.
        to: PeerId,
        /// One part, or several chunks.
        bytes: Bytes,
        /// How many.
        envelopes: u32,
    },
}

const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Letter>();
};
