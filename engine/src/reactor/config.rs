//! What a reactor is built with, and what it counts.

use std::sync::Arc;

use crate::limits;
use crate::ws::WsConfig;

/// How the bytes of a listener's connections are read.
#[derive(Debug, Clone)]
pub enum Transport {
    /// A stream of bytes as it comes.
    Stream,
    /// WebSocket, server side.
    WebSocket(Arc<WsConfig>),
}

/// Settings of one reactor.
#[derive(Debug, Clone)]
pub struct ReactorConfig {
    /// How long the mailboxes and the driver are watched before the core parks, in µs. 0 saves power and costs a wake through the
    /// kernel (32 to 47 µs) for each letter to an idle core. Not used by a core that is alone. Default 0.
    pub spin_us: u32,
    /// Most bytes that one send carries. Default 256 KiB.
    pub send_bytes_max: usize,
    /// Connections that this core takes; further ones are closed as they come, and counted. Default 1,048,576.
    pub connections_max: usize,
    /// Most bytes that are held for one paused connection: what had arrived before the kernel heard of the pause. A
    /// connection that comes beyond is closed, so it has to exceed what one turn brings, about 100 receive buffers.
    /// Default 4 MiB.
    pub held_bytes_max: usize,
    /// A dialled connection that takes longer to be established is given up, in ms. Default 10,000.
    pub connect_ms: u64,
    /// A WebSocket handshake that takes longer is closed, accepted or dialled, in ms. Default 5,000.
    pub handshake_ms: u64,
    /// How long a closing connection may take to send what is queued, in ms. Default 5,000.
    pub flush_ms: u64,
    /// How long the peer's last bytes are read and discarded after the half-close, and how long a connection that
    /// the peer ended may take to send what is queued, in ms. Default 1,000.
    pub linger_ms: u64,
}

impl Default for ReactorConfig {
    fn default() -> Self {
        ReactorConfig {
            spin_us: limits::SPIN_US,
            send_bytes_max: limits::SEND_BYTES_MAX,
            connections_max: limits::CONNECTIONS_MAX,
            held_bytes_max: limits::HELD_BYTES_MAX,
            connect_ms: limits::CONNECT_MS,
            handshake_ms: limits::HANDSHAKE_MS,
            flush_ms: limits::FLUSH_MS,
            linger_ms: limits::LINGER_MS,
        }
    }
}

/// What a reactor did since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections that this core took over, handshakes included.
    pub adopted: u64,
    /// Connections that went to another core.
    pub handed_over: u64,
    /// Connections that came from another core after they were open.
    pub taken_over: u64,
    /// Connections that were dialled, whatever became of them.
    pub dialled: u64,
    /// Dialled connections that were not opened.
    pub dials_failed: u64,
    /// Connections that were closed as they came, because the core had `connections_max`.
    pub refused: u64,
    /// Accepts that failed.
    pub accepts_failed: u64,
    /// Handshakes that were refused, broken off or too slow.
    pub handshakes_failed: u64,
    /// Receives that ended because the receive buffers had run out.
    pub receives_starved: u64,
    /// Completions of operations whose connection was gone.
    pub stale: u64,
    /// Bytes received, as they came from the sockets.
    pub received_bytes: u64,
    /// Bytes sent, as they went to the sockets.
    pub sent_bytes: u64,
    /// Sends that completed.
    pub sends: u64,
}
