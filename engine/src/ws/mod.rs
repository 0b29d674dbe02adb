//! WebSocket (RFC 6455), the server's side and the client's, as a layer of bytes: what a socket received goes in, whole messages and
//! the bytes to answer come out. It owns no socket, no clock and no task.
//!
//! ```text
//!   receive buffer ──▶ WebSocket::next ──▶ Opened, Message…, Closed      (or a WsFault, and it is over)
//!                            │
//!                            └──▶ reply: handshake response, pongs, close echo ──▶ the connection's sends
//!
//!   Request ──head checked──▶ Header ⇄ Payload ──close frame, or any fault──▶ Closed
//! ```
//!
//! A message that lies whole in the input is unmasked where it lies and lent from there: no copy, no allocation.
//! Only what straddles inputs or comes in fragments is gathered in a buffer of the connection's own, which grows with
//! the bytes that arrived, never with the length that a header claims, and is freed with the message. So an idle
//! open connection is one `WebSocket` of [48 bytes](WebSocket) and nothing on the heap.
//!
//! The client's side, [`WsClient`], is the same from the first frame on, but for the mask: it takes frames without one,
//! and what it answers is masked by [`WsClient::masked`], as messages are when they are sent.
//!
//! No extension is spoken (no `permessage-deflate`): bytes for many connections are made once, and compressing them
//! for each anew would undo that.

mod client;
mod close;
mod fault;
mod frame;
mod handshake;
mod mask;
mod origin;
mod receive;

use std::mem;

pub use client::{Unsendable, WsClient, WsDial};
pub use close::{
    CLOSE_GOING_AWAY, CLOSE_INTERNAL, CLOSE_INVALID, CLOSE_NO_STATUS, CLOSE_NORMAL, CLOSE_POLICY,
    CLOSE_PROTOCOL, CLOSE_TOO_BIG, CLOSE_TRY_AGAIN, CLOSE_UNSUPPORTED, close_frame,
};
pub use fault::{WsFault, WsFaultKind};
pub(crate) use frame::masked_frame_header;
pub use frame::{frame_header, ping_frame, text_frame_header};
pub use mask::Masks;
pub(crate) use mask::{mask, rotated};
pub use origin::Origins;

use frame::Opcode;
use receive::Step;

/// The settings of a listener, shared by its connections.
#[derive(Clone, Debug)]
pub struct WsConfig {
    /// The subprotocol that is spoken. A client that offers subprotocols must offer this one among them; one that
    /// offers none is taken.
    pub subprotocol: Option<String>,
    /// Which web pages may connect.
    pub origins: Origins,
    /// The longest message taken, over all its fragments; at most 4 GiB - 1. See also
    /// [`WebSocket::set_max_message_bytes`].
    pub max_message_bytes: usize,
    /// Whether text messages are taken too. If not, one fails the connection with code 1003.
    pub text: bool,
    /// A sentence that says what this is, for people who open the address with a browser or `curl`.
    pub greeting: String,
}

impl Default for WsConfig {
    fn default() -> Self {
        Self {
            subprotocol: None,
            origins: Origins::Loopback,
            max_message_bytes: 1024 * 1024,
            text: false,
            greeting: "This is a WebSocket endpoint.".into(),
        }
    }
}

/// What [`WebSocket::next`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum WsEvent<'a> {
    /// The client's request was good, and the response that says so is in `reply`; or the server's response was good.
    /// Messages may be sent behind it.
    Opened {
        /// The request's target as it came, query included: `/`, `/chat?room=1`. Empty on the client's side.
        path: &'a str,
    },
    /// A binary message, whole and unmasked.
    Message(&'a [u8]),
    /// A text message, whole and unmasked. Only with [`WsConfig::text`].
    MessageText(&'a str),
    /// The peer's close frame. Its echo is in `reply`, unless ours was sent before: send what there is, then end the
    /// connection. Nothing comes after this.
    Closed {
        /// The peer's close code, [`CLOSE_NO_STATUS`] if it gave none.
        code: u16,
        /// The peer's reason, at most 123 bytes.
        reason: &'a str,
    },
}

/// One connection's state.
#[derive(Debug)]
pub struct WebSocket {
    /// What arrived in pieces. First, `message_bytes` of a message under way, unmasked; behind them the beginning of a
    /// frame header, or the unmasked beginning of a control frame's payload. Before the connection is open: the
    /// beginning of the request head.
    held: Vec<u8>,
    message_bytes: u32,
    /// What is still to come of this frame's payload.
    payload_left_bytes: u32,
    /// 0: as the listener's configuration says.
    max_message_bytes: u32,
    /// The mask, turned so that its first octet belongs to the next octet of payload.
    mask: [u8; 4],
    role: Role,
    phase: Phase,
    /// The frame whose payload is being read. Meaningless in other phases.
    frame: Opcode,
    frame_is_last: bool,
    message: Kind,
    /// How many bytes at the end of a text message under way are the beginning of a character (0 to 3).
    utf8_open_bytes: u8,
    /// Length of the payload of the pong that was written last.
    pong_payload_bytes: u8,
    flags: Flags,
}

const _: () = assert!(mem::size_of::<WebSocket>() <= 48);

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Server,
    Client,
}

/// What is taken of the peer's messages.
#[derive(Clone, Copy, Debug)]
struct Rules {
    max_message_bytes: u32,
    text: bool,
}

impl Rules {
    #[inline]
    fn new(max_message_bytes: usize, text: bool) -> Rules {
        Rules {
            max_message_bytes: u32::try_from(max_message_bytes).unwrap_or(u32::MAX),
            text,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The HTTP head, request or response, has not come whole.
    Request,
    Header,
    Payload,
    Closed,
}

/// The kind of the message under way, which may be between two of its fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    None,
    Binary,
    Text,
}

#[derive(Clone, Copy, Debug, Default)]
struct Flags(u8);

impl Flags {
    /// What `held` holds was lent out with the last event and is free now.
    const LENT: u8 = 1;
    /// Our close frame was sent: no further frame may be.
    const CLOSE_SENT: u8 = 2;

    fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    fn set(&mut self, flag: u8) {
        self.0 |= flag;
    }

    fn take(&mut self, flag: u8) -> bool {
        let had = self.has(flag);
        self.0 &= !flag;
        had
    }
}

impl Default for WebSocket {
    fn default() -> Self {
        Self::new()
    }
}

impl WebSocket {
    /// A new connection, which waits for the client's HTTP request.
    pub fn new() -> Self {
        Self::of(Role::Server)
    }

    fn of(role: Role) -> Self {
        Self {
            role,
            held: Vec::new(),
            message_bytes: 0,
            payload_left_bytes: 0,
            max_message_bytes: 0,
            mask: [0; 4],
            phase: Phase::Request,
            frame: Opcode::Continuation,
            frame_is_last: false,
            message: Kind::None,
            utf8_open_bytes: 0,
            pong_payload_bytes: 0,
            flags: Flags::default(),
        }
    }

    /// The next event in `input`, which is advanced past what it took and may be written to up to there. `None`: all
    /// of it is taken, and more is needed. **Call it until it says `None`**: memory lent with an event is freed by the
    /// call after it.
    ///
    /// What has to be sent to the peer is appended to `reply`. Until `reply` is handed on and emptied, it must hold
    /// this connection's replies only. At most 4 KiB, one control frame and the response to the handshake stand in
    /// it, however much the peer sends.
    ///
    /// After an error, and after [`WsEvent::Closed`], all input is discarded.
    pub fn next<'e, 'i: 'e>(
        &'e mut self,
        input: &mut &'i mut [u8],
        config: &WsConfig,
        reply: &mut Vec<u8>,
    ) -> Result<Option<WsEvent<'e>>, WsFault> {
        if self.phase == Phase::Request {
            let step = self.read_request(input, config, reply);
            return self.tell(step);
        }
        self.next_message(input, Rules::new(config.max_message_bytes, config.text), reply)
    }

    /// [`WebSocket::next`] behind the handshake.
    #[inline]
    fn next_message<'e, 'i: 'e>(
        &'e mut self,
        input: &mut &'i mut [u8],
        rules: Rules,
        reply: &mut Vec<u8>,
    ) -> Result<Option<WsEvent<'e>>, WsFault> {
        if self.flags.take(Flags::LENT) {
            self.held = Vec::new();
        }
        if let Some(message) = self.common_message(input, rules) {
            return Ok(Some(WsEvent::Message(message)));
        }
        let step = self.advance(input, rules, reply);
        self.tell(step)
    }

    fn tell<'e, 'i: 'e>(
        &'e mut self,
        step: Result<Option<Step<'i>>, WsFault>,
    ) -> Result<Option<WsEvent<'e>>, WsFault> {
        match step {
            Ok(Some(step)) => Ok(Some(self.event(step))),
            Ok(None) => {
                // A header that straddled inputs may leave an empty buffer behind.
                if self.held.is_empty() {
                    self.held = Vec::new();
                }
                Ok(None)
            }
            Err(fault) => Err(self.fail(fault)),
        }
    }

    /// Bounds messages to `bytes` instead of [`WsConfig::max_message_bytes`], from the next frame on. 0 goes back to
    /// the configuration.
    pub fn set_max_message_bytes(&mut self, bytes: u32) {
        self.max_message_bytes = bytes;
    }

    /// Begins to close the connection: appends a close frame, unless one was sent. Messages that the peer sent before
    /// it answers still come; then [`WsEvent::Closed`].
    pub fn close(&mut self, code: u16, reason: &str, reply: &mut Vec<u8>) {
        if matches!(self.phase, Phase::Header | Phase::Payload) && !self.flags.has(Flags::CLOSE_SENT) {
            self.flags.set(Flags::CLOSE_SENT);
            close::append_close_frame(code, reason, reply);
        }
    }

    /// Whether messages may be sent: the handshake is done, and no close frame was sent or received.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Header | Phase::Payload) && !self.flags.has(Flags::CLOSE_SENT)
    }

    /// Whether a message, or the head of a frame, has begun to arrive and is not complete. To be asked once
    /// [`next`](Self::next) has found no more.
    pub fn is_partial(&self) -> bool {
        match self.phase {
            Phase::Header => self.message != Kind::None || !self.held.is_empty(),
            Phase::Payload => true,
            Phase::Request | Phase::Closed => false,
        }
    }

    /// Bytes on the heap that this connection holds: 0 while nothing is under way.
    pub fn held_bytes(&self) -> usize {
        self.held.capacity()
    }
}
