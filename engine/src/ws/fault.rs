//! What a peer did wrong, and the bytes that tell it so: an HTTP response before the WebSocket is open, a close
//! frame after.

use std::borrow::Cow;
use std::fmt;

use super::close;

/// A peer that broke the protocol or was refused. Send [`reply`](WsFault::reply), then end the connection:
/// whatever still arrives is ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WsFault {
    kind: WsFaultKind,
    reason: Cow<'static, str>,
    /// False once a close frame was sent: nothing may follow it, not even a second one.
    answer: bool,
}

/// At which stage a [`WsFault`] happened, with the number that names it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WsFaultKind {
    /// The HTTP request was refused, or the server's answer to ours does not open a WebSocket.
    Handshake {
        /// HTTP status of the response: of ours 4xx or 5xx; of a server's whatever it says, 0 if it says none.
        status: u16,
    },
    /// The open WebSocket fails.
    Frame {
        /// Close code (RFC 6455, 7.4.1).
        code: u16,
    },
}

impl WsFault {
    pub(super) fn handshake(status: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind: WsFaultKind::Handshake { status },
            reason: reason.into(),
            answer: true,
        }
    }

    pub(super) fn frame(code: u16, reason: &'static str) -> Self {
        Self {
            kind: WsFaultKind::Frame { code },
            reason: reason.into(),
            answer: true,
        }
    }

    pub(super) fn without_reply(mut self) -> Self {
        self.answer = false;
        self
    }

    /// The stage and its number.
    pub fn kind(&self) -> WsFaultKind {
        self.kind
    }

    /// What was wrong and what to do about it, for the peer and for a log. It may quote what the peer sent.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The bytes to send before the connection is ended. Empty if a close frame has already been sent.
    pub fn reply(&self) -> Vec<u8> {
        match self.kind {
            _ if !self.answer => Vec::new(),
            WsFaultKind::Frame { code } => close::close_frame(code, &self.reason),
            WsFaultKind::Handshake { status } => response(status, &self.reason),
        }
    }
}

/// An HTTP response with a text for people, after which the connection ends.
fn response(status: u16, text: &str) -> Vec<u8> {
    let (phrase, headers) = match status {
        403 => ("Forbidden", "Connection: close\r\n"),
        405 => ("Method Not Allowed", "Allow: GET\r\nConnection: close\r\n"),
        // RFC 9110, 15.5.22: a 426 names what to upgrade to; RFC 6455, 4.4: and the version.
        426 => (
            "Upgrade Required",
            "Upgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\n",
        ),
        431 => ("Request Header Fields Too Large", "Connection: close\r\n"),
        505 => ("HTTP Version Not Supported", "Connection: close\r\n"),
        _ => ("Bad Request", "Connection: close\r\n"),
    };
    let length = text.len() + 1;
    format!(
        "HTTP/1.1 {status} {phrase}\r\n{headers}Content-Type: text/plain; charset=utf-8\r\n\
         X-Content-Type-Options: nosniff\r\nContent-Length: {length}\r\n\r\n{text}\n"
    )
    .into_bytes()
}

impl fmt::Display for WsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            WsFaultKind::Handshake { status } => {
                write!(f, "WebSocket handshake refused ({status}): {}", self.reason)
            }
            WsFaultKind::Frame { code } => write!(f, "WebSocket failed ({code}): {}", self.reason),
        }
    }
}

impl std::error::Error for WsFault {}
