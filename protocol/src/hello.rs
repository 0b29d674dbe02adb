//! The hello: how a session is opened and what both sides say about themselves [P-7].

use alloc::vec::Vec;

use crate::envelope::{Envelope, Form, Id};
use crate::error::Fault;
use crate::limits;

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
    /// The whole encoded map.
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

impl<'a> Hello<'a> {
    /// Reads the payload; what is absent has its default, unknown keys are ignored, ranges are clamped or refused
    /// as [P-7] says.
    ///
    /// # Errors
    /// [`Fault::Hello`] names the part.
    pub fn decode(payload: &'a [u8]) -> Result<Self, Fault> {
        let _ = payload;
        todo!()
    }
    /// Appends the encoded payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let _ = out;
        todo!()
    }
}

impl<'a> Welcome<'a> {
    /// Reads the payload.
    ///
    /// # Errors
    /// [`Fault::Hello`] names the part.
    pub fn decode(payload: &'a [u8]) -> Result<Self, Fault> {
        let _ = payload;
        todo!()
    }
    /// Appends the encoded payload.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let _ = out;
        todo!()
    }
}

/// The answerer's side of a handshake: says what an envelope that arrives may be.
///
/// ```text
///   AwaitHello --hello, ref null--> Greeted --answer(ok)--> Open --cancel, ref null--> Closing
///        |                            |                      |
///        +--anything else: close      +--answer(refused)     +--second hello: close
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Handshake {
    /// Nothing but a hello is accepted.
    #[default]
    AwaitHello,
    /// A resuming hello arrived; nothing may follow until it is answered.
    Greeted,
    /// Everything but a hello is accepted.
    Open,
    /// A session-closing cancel went or came; nothing more is accepted.
    Closing,
}

impl Handshake {
    /// Checks an arriving envelope against the state and moves on: `Open` is reached by the caller's
    /// [`Handshake::opened`].
    ///
    /// # Errors
    /// [`Fault::State`]: the connection is to be closed with that reason.
    pub fn admit(&mut self, envelope: &Envelope<'_>) -> Result<(), Fault> {
        let _ = envelope;
        todo!()
    }

    /// The hello was accepted.
    pub fn opened(&mut self) {
        *self = Self::Open;
    }

    /// The form in which this side speaks: the one that the hello came in.
    #[must_use]
    pub fn answer_form(hello_form: Form) -> Form {
        hello_form
    }
}
