//! What the cores of a gateway say to each other, and the main thread to them.

use std::sync::Arc;

use fluxar_shard::Letter;
use fluxar_shard::log::RecoveredLog;

use crate::resume::Resuming;
use crate::services;
use crate::upstreams::{Resolved, Services};

/// A letter in the engine's mail.
#[derive(Debug)]
pub enum Mail {
    /// From shard to shard.
    Shard(Letter),
    /// From the main thread: what the configuration says about services, at start and whenever it is reloaded.
    Services(Arc<Services>),
    /// From the resolver's thread: the addresses that a name has now.
    Resolved(Arc<Resolved>),
    /// From the recovery thread: what the log's directory holds of this core's partitions.
    Recovered(Box<RecoveredLog>),
    /// From core to core: who serves, for `$services.…`.
    Admin(services::Letter),
    /// With a connection, from core to core: its hello wants to resume a session of the one that gets it.
    Resume(Box<Resuming>),
    /// From core to core, when all stop: my connections have ended, and all that they had for your log was said before.
    Drained,
    /// From the main thread: say goodbye to everybody, flush, and end.
    Stop,
}
