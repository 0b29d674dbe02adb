//! A simulated connection: two pipes between a client, which may be a core that dialled, and a core.

use std::collections::VecDeque;

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    /// Segments under way, in the order in which they arrive.
    flying: VecDeque<(u64, Vec<u8>)>,
    /// Arrived, not read.
    arrived: VecDeque<u8>,
    /// Bytes in both.
    held_bytes: usize,
    /// When the end of the stream arrives, behind all bytes.
    end_at_ns: Option<u64>,
    /// Nothing arrives before what was sent before it.
    last_at_ns: u64,
}

impl Pipe {
    pub(super) fn room(&self, capacity: usize) -> usize {
        capacity.saturating_sub(self.held_bytes)
    }

    pub(super) fn push(&mut self, at_ns: u64, bytes: Vec<u8>) {
        self.last_at_ns = self.last_at_ns.max(at_ns);
        self.held_bytes += bytes.len();
        self.flying.push_back((self.last_at_ns, bytes));
    }

    pub(super) fn end(&mut self, at_ns: u64) {
        self.last_at_ns = self.last_at_ns.max(at_ns);
        self.end_at_ns.get_or_insert(self.last_at_ns);
    }

    pub(super) fn is_ended_by_writer(&self) -> bool {
        self.end_at_ns.is_some()
    }

    /// Takes in what has arrived by now; whether anything did.
    pub(super) fn arrive(&mut self, now_ns: u64) -> bool {
        let before = self.arrived.len();
        while self.flying.front().is_some_and(|(at_ns, _)| *at_ns <= now_ns)
            && let Some((_, bytes)) = self.flying.pop_front()
        {
            self.arrived.extend(bytes);
        }
        self.arrived.len() > before || self.end_at_ns == Some(now_ns)
    }

    /// When what was pushed last arrives, if that lies ahead.
    fn expected_ns(&self, now_ns: u64) -> Option<u64> {
        (self.last_at_ns > now_ns).then_some(self.last_at_ns)
    }

    pub(super) fn readable_bytes(&self) -> usize {
        self.arrived.len()
    }

    pub(super) fn read(&mut self, bytes: usize) -> Vec<u8> {
        self.held_bytes -= bytes;
        self.arrived.drain(..bytes).collect()
    }

    /// Whether the reader has come to the end of the stream.
    pub(super) fn is_at_end(&self, now_ns: u64) -> bool {
        self.held_bytes == 0 && self.end_at_ns.is_some_and(|at_ns| at_ns <= now_ns)
    }

    /// Whether anything was written that was not read.
    pub(super) fn has_bytes(&self) -> bool {
        self.held_bytes > 0
    }

    /// Loses what is under way.
    pub(super) fn lose_flying(&mut self) {
        for (_, bytes) in self.flying.drain(..) {
            self.held_bytes -= bytes.len();
        }
    }
}

/// Which end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The one that a core accepted.
    Core,
    /// The one that connected: test code's, or a core's that dialled.
    Client,
}

/// A connection.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) to_core: Pipe,
    pub(super) to_client: Pipe,
    /// Neither end can send any more; what had arrived can still be read.
    pub(super) reset: bool,
    /// The core let its socket go.
    pub(super) core_closed: bool,
    /// The client did.
    pub(super) client_closed: bool,
    /// The client does not read.
    pub(super) client_deaf: bool,
    /// The client had more to write than there was room for.
    pub(super) client_blocked: bool,
    /// The client is a core.
    pub(super) dialled: bool,
}

impl Link {
    /// What this end reads.
    pub(super) fn incoming(&self, end: End) -> &Pipe {
        match end {
            End::Core => &self.to_core,
            End::Client => &self.to_client,
        }
    }

    pub(super) fn incoming_mut(&mut self, end: End) -> &mut Pipe {
        match end {
            End::Core => &mut self.to_core,
            End::Client => &mut self.to_client,
        }
    }

    /// What this end writes.
    pub(super) fn outgoing(&self, end: End) -> &Pipe {
        match end {
            End::Core => &self.to_client,
            End::Client => &self.to_core,
        }
    }

    pub(super) fn outgoing_mut(&mut self, end: End) -> &mut Pipe {
        match end {
            End::Core => &mut self.to_client,
            End::Client => &mut self.to_core,
        }
    }

    /// Whether nobody is at the other end any more.
    pub(super) fn is_left_by_peer(&self, end: End) -> bool {
        match end {
            End::Core => self.client_closed,
            End::Client => self.core_closed,
        }
    }

    /// This end's socket is let go.
    pub(super) fn leave(&mut self, end: End) {
        match end {
            End::Core => self.core_closed = true,
            End::Client => self.client_closed = true,
        }
    }

    pub(super) fn reset(&mut self) {
        self.reset = true;
        self.to_core.lose_flying();
        self.to_client.lose_flying();
    }

    /// When what was sent last arrives, either way.
    pub(super) fn expected_ns(&self, now_ns: u64) -> impl Iterator<Item = u64> + use<> {
        self.to_core
            .expected_ns(now_ns)
            .into_iter()
            .chain(self.to_client.expected_ns(now_ns))
    }

    /// Nobody can learn anything from it any more.
    pub(super) fn is_over(&self) -> bool {
        self.core_closed && self.client_closed
    }
}
