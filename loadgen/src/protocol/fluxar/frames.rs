//! Envelopes on their way out, put into frames [P-1, P-2.2].

use fluxar_protocol::{frame, limits};

use super::super::Outgoing;

/// How frame bodies are told apart on the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// TCP, Unix sockets: a length in front of each [P-1.1].
    Stream,
    /// WebSocket: one message each [P-1.2].
    Messages,
}

/// Largest body that envelopes are gathered in, in bytes: what every receiver takes, and what the SDK keeps to.
const GATHER_BYTES_MAX: usize = limits::RUN_BYTES_MAX;

/// Opens a frame for the first envelope, and closes it when the next one has no room in it or the turn ends.
#[derive(Debug)]
pub(in super::super) struct Frames {
    framing: Framing,
    /// Whether one frame may hold several envelopes.
    batch: bool,
    /// Largest body that the peer takes just now, bytes.
    body_bytes_max: usize,
    /// Where the open frame begins in the outgoing bytes, its length included.
    start: Option<usize>,
}

impl Frames {
    pub(in super::super) fn new(framing: Framing, batch: bool) -> Self {
        Self {
            framing,
            batch,
            body_bytes_max: limits::FRAME_BYTES_BEFORE_HELLO,
            start: None,
        }
    }

    /// The peer said how large a body it takes.
    pub(in super::super) fn peer_takes(&mut self, body_bytes_max: usize) {
        self.body_bytes_max = body_bytes_max.min(GATHER_BYTES_MAX);
    }

    /// An envelope of so many bytes is about to be appended. One that is larger than a gathered body gets a frame of
    /// its own; whether the peer takes it is the peer's to say.
    #[inline]
    pub(in super::super) fn make_room(&mut self, envelope_bytes: usize, out: &mut Outgoing) {
        if let Some(start) = self.start {
            let body_bytes = out.bytes.len() - start - self.prefix_bytes();
            if self.batch && body_bytes + envelope_bytes <= self.body_bytes_max {
                return;
            }
            self.seal(out);
        }
        self.start = Some(out.bytes.len());
        out.bytes
            .extend_from_slice(&[0; frame::PREFIX_BYTES][..self.prefix_bytes()]);
    }

    /// Closes the open frame, if there is one.
    #[inline]
    pub(in super::super) fn seal(&mut self, out: &mut Outgoing) {
        let Some(start) = self.start.take() else { return };
        match self.framing {
            Framing::Messages => out.end_message(),
            Framing::Stream => {
                let body = start + frame::PREFIX_BYTES;
                let prefix = frame::prefix(out.bytes.len() - body);
                out.bytes[start..body].copy_from_slice(&prefix);
            }
        }
    }

    fn prefix_bytes(&self) -> usize {
        match self.framing {
            Framing::Stream => frame::PREFIX_BYTES,
            Framing::Messages => 0,
        }
    }
}
