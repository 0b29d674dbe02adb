//! What a connection speaks: one trait, and FLUXAR, NATS, Redis and MQTT behind it.
//!
//! Sans-I/O: a session is asked for something and appends bytes to its [`Outgoing`]; bytes that arrive are handed to
//! [`Session::receive`], which says what they mean. The worker moves the bytes, and knows none of the protocols.
//!
//! A session has to be cheap, since one generator thread plays hundreds of subscribers: it recognises what it expects
//! (its own publishes, back from the server) by comparing it with what it knows, and takes the long way for the rest.

use std::fmt;
use std::sync::Arc;

pub mod fluxar;
pub mod mqtt;
pub mod nats;
mod prepared;
pub mod redis;
pub mod relay;
mod straddle;
#[cfg(test)]
mod testing;
mod text;

/// What a protocol can do; a scenario that needs more is refused before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ability {
    /// Publish and subscribe, at most once.
    PubSub,
    /// Publishes that the server acknowledges once it has stored them, or has at least taken them on (qos 1).
    AcknowledgedPublish,
    /// Subscriptions that begin with the first event that was stored.
    Replay,
    /// Request and answer through the server.
    Calls,
    /// Streams with credit through the server.
    Streams,
    /// Services that listen and are connected to by the server.
    Listening,
}

/// Names that sessions refer to by index, prepared once.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Topics (subjects, channels).
    pub topics: Vec<String>,
    /// Methods, for calls.
    pub methods: Vec<String>,
}

/// A protocol with its settings: makes sessions.
pub trait Protocol: Send + Sync + 'static {
    /// One connection of it.
    type Session: Session;

    /// Whether it can do that.
    fn is_able(&self, ability: Ability) -> bool;
    /// Whether somebody has to subscribe, and leave, before anything is stored: because a server stores only for those who have
    /// subscribed, or because being accepted shows that it can.
    fn needs_keeper(&self) -> bool {
        false
    }
    /// For the `number`th connection of the run (numbers are unique over all threads, and serve as client ids).
    fn session(&self, number: u64, names: &Arc<Names>) -> Self::Session;
}

/// Bytes on their way out. On a byte stream one vector that is sent when the turn ends; on a message transport
/// (WebSocket) the session ends each message with [`Outgoing::end_message`].
#[derive(Debug, Default)]
pub struct Outgoing {
    /// What is being written.
    pub bytes: Vec<u8>,
    /// Where messages end in `bytes`; empty on byte streams.
    pub ends: Vec<usize>,
}

impl Outgoing {
    /// Ends a message of a message transport.
    pub fn end_message(&mut self) {
        self.ends.push(self.bytes.len());
    }
}

/// What arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// The server took the hello: the session may be used.
    Ready,
    /// One subscription, or one serve, is in force.
    Subscribed,
    /// A published message. One for each subscription that it was delivered to.
    Event {
        /// As it was published.
        payload: &'a [u8],
    },
    /// So many publishes were acknowledged; the oldest that were not, or were not refused.
    Acknowledged {
        /// How many.
        count: u32,
    },
    /// A call came to this serving session, and was answered with its own payload.
    Served,
    /// The answer to a call of this session: its payload as the serving side sent it back.
    Answer {
        /// It carries the stamp of the call.
        payload: &'a [u8],
    },
    /// A call, publish or subscription was refused.
    Refused {
        /// What the server said.
        message: String,
    },
    /// The server told that it dropped so many events for this subscriber.
    Dropped {
        /// How many.
        events: u64,
    },
    /// The answer to [`Session::ping`].
    Pong,
    /// The peer opened a stream. Its number names it until it is over.
    StreamOpened {
        /// Its number.
        stream: u32,
        /// The request.
        payload: &'a [u8],
        /// The peer sends no chunks.
        has_ended: bool,
    },
    /// A chunk of a stream.
    Chunk {
        /// Its number.
        stream: u32,
        /// As it was sent.
        payload: &'a [u8],
        /// The peer's direction ended with it.
        is_last: bool,
    },
    /// More may be sent on a stream.
    StreamGranted {
        /// Its number.
        stream: u32,
    },
    /// The peer's direction of a stream has ended.
    StreamEnded {
        /// Its number.
        stream: u32,
    },
    /// Both directions of a stream have ended, by an error of the peer or because it broke the rules.
    StreamFailed {
        /// Its number.
        stream: u32,
        /// What the peer said, or did.
        message: String,
    },
    /// The peer cancelled a stream. Our direction has ended with that.
    StreamCancelled {
        /// Its number.
        stream: u32,
    },
}

/// What the open of a stream says beside its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// No chunks will be sent.
    pub ends: bool,
    /// Bytes that the other side may send before it is granted more.
    pub credit_bytes: u32,
}

/// Why a session cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault(pub String);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

/// One connection.
pub trait Session {
    /// The transport is open: the first bytes, if the client speaks first. [`Incoming::Ready`] follows.
    fn open(&mut self, out: &mut Outgoing);
    /// Asks for a topic. [`Incoming::Subscribed`] follows.
    fn subscribe(&mut self, topic: usize, out: &mut Outgoing);
    /// Ends that subscription.
    fn unsubscribe(&mut self, topic: usize, out: &mut Outgoing);
    /// Offers to serve a method by sending payloads back. [`Incoming::Subscribed`] follows.
    fn serve(&mut self, method: usize, out: &mut Outgoing);
    /// Publishes.
    fn publish(&mut self, topic: usize, payload: &[u8], out: &mut Outgoing);
    /// Calls.
    fn call(&mut self, method: usize, payload: &[u8], out: &mut Outgoing);
    /// Says that it is there; [`Incoming::Pong`] follows.
    fn ping(&mut self, out: &mut Outgoing);
    /// Ends the session in good order.
    fn close(&mut self, out: &mut Outgoing);
    /// The transport was opened by the server, which is to speak first: called instead of [`Session::open`].
    /// [`Incoming::Ready`] follows once its hello is answered.
    fn listen(&mut self) {}
    /// Opens a stream of a method under a number of the caller's, which names no open one. Here and below, sessions that
    /// are not able to do [`Ability::Streams`] do nothing.
    fn open_stream(
        &mut self,
        _stream: u32,
        _method: usize,
        _opening: Opening,
        _payload: &[u8],
        _out: &mut Outgoing,
    ) {
    }
    /// How many bytes of chunks may be sent on a stream now.
    fn stream_credit(&self, _stream: u32) -> u64 {
        0
    }
    /// Sends a chunk, which credit allows and no end precedes; the caller has seen to both.
    fn send_chunk(&mut self, _stream: u32, _payload: &[u8], _is_last: bool, _out: &mut Outgoing) {}
    /// Ends this side's direction of a stream.
    fn end_stream(&mut self, _stream: u32, _out: &mut Outgoing) {}
    /// Lets the other side send so many bytes more.
    fn grant(&mut self, _stream: u32, _bytes: u32, _out: &mut Outgoing) {}
    /// Gives a stream up.
    fn cancel_stream(&mut self, _stream: u32, _out: &mut Outgoing) {}
    /// Whether [`Session::seal`] would write something although nothing was: what came is acknowledged once a turn.
    fn has_unsaid(&self) -> bool {
        false
    }
    /// The worker is about to take what was written: frames that are still open are sealed.
    fn seal(&mut self, out: &mut Outgoing);
    /// What the session has to say although nothing arrived: that a peer which answers nothing (the relay) is taken to
    /// have accepted, that a publish found the session's own queue full. Asked after each turn in which something was
    /// asked of the session; [`Session::receive`] says it as well. Most have nothing to say.
    fn poll(&mut self, _on: &mut impl FnMut(Incoming<'_>)) {}
    /// Bytes (or, on a message transport, one message) arrived. Answers that the protocol demands are appended to `out`.
    ///
    /// # Errors
    /// The server broke the protocol, or ended the session: why.
    fn receive(
        &mut self,
        bytes: &[u8],
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), Fault>;
}
