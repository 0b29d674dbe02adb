//! What leaves a shard towards its own connections.

use std::rc::Rc;

use bytes::Bytes;
use fluxar_protocol::Id;

use crate::peer::PeerId;
use crate::runs::Run;

/// A run, ready for the queues of its receivers.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The events that `plain` gets as they are; also there when only groups get them.
    pub run: Run,
    /// Connections of this core that get the run, each once.
    pub plain: Rc<[PeerId]>,
    /// Group members of this core, each with a piece of the run.
    pub grouped: Vec<Grouped>,
}

/// A piece of a run for one member of a group.
#[derive(Debug, Clone)]
pub struct Grouped {
    /// The member.
    pub peer: PeerId,
    /// Its subscription.
    pub sub: Id,
    /// Prefix, the `subscribe` that says how many events follow, and the events.
    pub framed: Bytes,
    /// How many.
    pub events: u32,
}
