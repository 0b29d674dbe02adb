//! The hello: how a session is opened and what both sides say about themselves [P-7].
//!
//! Here is what the two payloads say; `payload` reads and writes them, `handshake` says when they may
//! come to who answers, and `opening` to who opened.

mod handshake;
mod opening;
mod payload;

use crate::envelope::Id;
use crate::limits;

pub use handshake::Handshake;
pub use opening::{Opening, Reply};

/// Capabilities. A session has those that both sides name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caps {
    /// `zstd` is among `compress`.
    pub zstd: bool,
    /// `gzip` is among `compress`.
    pub gzip: bool,
    /// QUIC: further streams, one an exchange.
    pub multi: bool,
    /// QUIC: events as datagrams.
    pub datagram: bool,
    /// The session can be resumed.
    pub resume: bool,
}

/// Credentials, by scheme; only the gateway that checks them looks inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Auth<'a> {
    /// E.g. `bearer`.
    pub scheme: &'a str,
    /// `token`, if there is one.
    pub token: Option<&'a str>,
    /// The whole encoded map, for what else the scheme needs. Empty when encoding: it is made of the two above.
    pub raw: &'a [u8],
}

/// A wish to take an earlier session up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resume<'a> {
    /// The session.
    pub session: Id,
    /// Its secret.
    pub token: &'a [u8],
    /// Counted envelopes received from the other side.
    pub recv: u64,
}

/// The payload of an opening hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Whether version 0 is among `v`.
    pub v0: bool,
    /// What this side can do.
    pub caps: Caps,
    /// Largest frame body that this side takes, bytes.
    pub max_frame: u32,
    /// After so long without receiving, this side's peer is asked for a sign of life, ms.
    pub heartbeat_ms: u32,
    /// Stream credit that this side grants at the start, bytes.
    pub credit: u32,
    /// Name and version of the software.
    pub agent: &'a str,
    /// Credentials.
    pub auth: Option<Auth<'a>>,
    /// The session to resume.
    pub resume: Option<Resume<'a>>,
}

impl Default for Hello<'_> {
    fn default() -> Self {
        Self {
            v0: true,
            caps: Caps::default(),
            max_frame: limits::FRAME_BYTES_DEFAULT as u32,
            heartbeat_ms: limits::HEARTBEAT_MS_DEFAULT,
            credit: limits::CREDIT_BYTES_DEFAULT,
            agent: "",
            auth: None,
            resume: None,
        }
    }
}

/// The payload of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome<'a> {
    /// The version that both speak: 0.
    pub v: u64,
    /// The session's id.
    pub session: Id,
    /// Its secret, if it can be resumed.
    pub token: Option<&'a [u8]>,
    /// The capabilities that both have.
    pub caps: Caps,
    /// Largest frame body that the answerer takes, bytes.
    pub max_frame: u32,
    /// The answerer's heartbeat, ms.
    pub heartbeat_ms: u32,
    /// Stream credit that the answerer grants at the start, bytes.
    pub credit: u32,
    /// Whether an earlier session goes on.
    pub resumed: bool,
    /// Counted envelopes that the answerer received in it.
    pub recv: u64,
    /// The answerer's limits, an encoded map, if it tells them.
    pub limits: Option<&'a [u8]>,
    /// Name and version of the software.
    pub agent: &'a str,
}
