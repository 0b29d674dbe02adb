//! One connection of a generator thread, and what its session said in one receive.

use fluxar_engine::reactor::Conn;

use crate::protocol::{Incoming, Outgoing};
use crate::worker::shared::LiveLatency;
use crate::workload::Part;
use crate::workload::streaming::Streaming;

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Not dialled yet.
    Waiting,
    /// Dialled.
    Dialling,
    /// Open; the server has not accepted the hello.
    Greeting,
    /// Its subscription, or what it serves, is not accepted yet.
    Asking,
    /// It can do its part.
    Prepared,
    /// It was closed here.
    Leaving,
    /// There is no such connection any more.
    Gone,
}

/// See the module.
pub(super) struct Peer<S> {
    pub(super) conn: Option<Conn>,
    pub(super) session: S,
    pub(super) out: Outgoing,
    /// Handed to the reactor and not with the kernel yet.
    pub(super) queued_bytes: usize,
    pub(super) state: State,
    pub(super) part: Part,
    /// Its number in the run.
    pub(super) number: u64,
    /// Among the thread's subscribers, publishers or callers, by its part.
    pub(super) index: u32,
    /// When a visitor was due, or a silent one pinged, ns.
    pub(super) since_ns: u64,
    /// Events that came to a silent one or a visitor.
    pub(super) events: u32,
    /// The server connected to it: it is a service that listens.
    pub(super) was_accepted: bool,
    /// It stands on the list of those with something to send.
    pub(super) is_dirty: bool,
    /// What the server said when it refused something or broke off.
    pub(super) words: Option<String>,
}

impl<S> Peer<S> {
    pub(super) fn new(session: S, part: Part, number: u64, index: u32) -> Peer<S> {
        Peer {
            conn: None,
            session,
            out: Outgoing::default(),
            queued_bytes: 0,
            state: State::Waiting,
            part,
            number,
            index,
            since_ns: 0,
            events: 0,
            was_accepted: false,
            is_dirty: false,
            words: None,
        }
    }
}

/// What a session said besides events and answers.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) ready: bool,
    pub(super) subscribed: bool,
    pub(super) acknowledged: u64,
    pub(super) served: u64,
    pub(super) pongs: u32,
    pub(super) dropped: u64,
    pub(super) refused: u32,
    /// What the first refusal said.
    pub(super) words: Option<String>,
}

impl Notes {
    /// The same where there are streams: what is said of them is theirs.
    #[inline]
    pub(super) fn take_of_stream(
        &mut self,
        incoming: Incoming<'_>,
        seat: u32,
        now_ns: u64,
        streaming: &mut Streaming,
        live: &LiveLatency,
    ) {
        match incoming {
            Incoming::Chunk {
                stream,
                payload,
                is_last,
            } => streaming.chunk(seat, stream, payload, is_last, live),
            Incoming::StreamGranted { stream } => streaming.granted(seat, stream),
            Incoming::StreamOpened {
                stream,
                payload,
                has_ended,
            } => streaming.opened(seat, stream, payload, has_ended, now_ns),
            Incoming::StreamEnded { stream } => streaming.ended(seat, stream),
            Incoming::StreamCancelled { stream } => streaming.failed(seat, stream),
            Incoming::StreamFailed { stream, message } => {
                streaming.failed(seat, stream);
                self.words.get_or_insert(message);
            }
            other => self.take(other),
        }
    }

    #[cold]
    pub(super) fn take(&mut self, incoming: Incoming<'_>) {
        match incoming {
            Incoming::Ready => self.ready = true,
            Incoming::Subscribed => self.subscribed = true,
            Incoming::Acknowledged { count } => self.acknowledged += u64::from(count),
            Incoming::Served => self.served += 1,
            Incoming::Pong => self.pongs += 1,
            Incoming::Dropped { events } => self.dropped = self.dropped.saturating_add(events),
            Incoming::Refused { message } => {
                self.refused += 1;
                self.words.get_or_insert(message);
            }
            // These have their own places; to a session that did not ask for them they mean nothing.
            Incoming::Event { .. }
            | Incoming::Answer { .. }
            | Incoming::StreamOpened { .. }
            | Incoming::Chunk { .. }
            | Incoming::StreamGranted { .. }
            | Incoming::StreamEnded { .. }
            | Incoming::StreamFailed { .. }
            | Incoming::StreamCancelled { .. } => {}
        }
    }
}
