//! Listening sockets: opened once by the main thread, shared by every core's ring.

use std::net::SocketAddr;

/// Index of a listener, the same on every core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ListenerId(pub u16);

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// TCP.
    Ip(SocketAddr),
    /// A Unix socket; the kernel's word for who it is (`SO_PEERCRED`).
    Unix {
        /// Process.
        pid: i32,
        /// User.
        uid: u32,
    },
}
