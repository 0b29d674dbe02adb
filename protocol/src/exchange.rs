//! What a message *is*: its type together with whether its ref is set [P-3.7], and the checks of its own fields.

use crate::envelope::{Envelope, Id};
use crate::error::Fault;

/// The verb of a message. Borrowed parts are in the envelope that it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Opens or resumes a session.
    Hello,
    /// Accepts or refuses it.
    Welcome(Id),
    /// A request; target is the method.
    Call,
    /// The response to one.
    Answer(Id),
    /// Opens a stream; target is the method.
    StreamOpen,
    /// A chunk, grant or end of one.
    StreamPart(Id),
    /// Subscribes to topics; target is the pattern.
    Subscribe,
    /// Offers to serve the methods that match target.
    Serve,
    /// About a subscription: accepted, refused, run header, cursor, end, drops.
    SubscriptionNote(Id),
    /// Publishes to the topic in target.
    Publish,
    /// Acknowledges a publish or, by a subscriber, events.
    Ack(Id),
    /// Closes the session in good order.
    Close,
    /// Ends the exchange that ref began.
    Cancel(Id),
    /// Heartbeat.
    Ping,
    /// Its answer.
    Pong(Id),
}

/// Reads the verb and checks what the type demands of target and meta (a call has a method, a publish a topic, a
/// subscribe a pattern, …).
///
/// # Errors
/// [`Fault::Target`], [`Fault::Topic`], [`Fault::MetaValue`]: refused, the connection lives.
pub fn verb(envelope: &Envelope<'_>) -> Result<Verb, Fault> {
    let _ = envelope;
    todo!()
}
