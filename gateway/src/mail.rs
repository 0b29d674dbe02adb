//! What the cores of a gateway say to each other, and the main thread to them.

use fluxar_shard::Letter;

/// A letter in the engine's mail.
#[derive(Debug)]
pub enum Mail {
    /// From shard to shard.
    Shard(Letter),
    /// From the main thread: say goodbye to everybody, flush, and end.
    Stop,
}
