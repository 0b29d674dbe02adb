//! The bare relay: a server that looks at no byte, as the limit of what a gateway of this design could reach.
//!
//! A connection's first two bytes say what it is, `P` (publishes) or `S` (subscribes), and the number of its topic; they
//! go out with the first publish or subscription. Behind them stand FLUXAR's frames, the very bytes that a FLUXAR
//! session would publish, and the relay hands what publishers of a topic send to its subscribers.
//!
//! It answers nothing. [`Incoming::Ready`] and [`Incoming::Subscribed`] are therefore said by [`Session::poll`] as soon as
//! they were asked for, and mean no more than that: a subscription may come into force a moment later than the worker
//! thinks, so the first messages of a warm-up may be missed. A ping is answered in the same way.

use std::collections::VecDeque;
use std::sync::Arc;

use fluxar_protocol::frame::Deframer;
use fluxar_protocol::limits::FRAME_BYTES_DEFAULT;
use fluxar_protocol::{Kind, envelope};

use super::fluxar::{Frames, Framing, Ids, Shapes, Templates};
use super::prepared::Prepared;
use super::{Ability, Fault, Incoming, Names, Outgoing, Protocol, Session};

/// The bare relay.
#[derive(Debug)]
pub struct Relay {
    batch: bool,
    meta: bool,
    templates: Prepared<Templates>,
}

impl Relay {
    /// `batch` and `meta` as in [`super::fluxar::Settings`].
    #[must_use]
    pub fn new(batch: bool, meta: bool) -> Self {
        Self {
            batch,
            meta,
            templates: Prepared::default(),
        }
    }
}

impl Protocol for Relay {
    type Session = RelaySession;

    fn is_able(&self, ability: Ability) -> bool {
        ability == Ability::PubSub
    }

    fn session(&self, number: u64, names: &Arc<Names>) -> RelaySession {
        let mut frames = Frames::new(Framing::Stream, self.batch);
        frames.peer_takes(FRAME_BYTES_DEFAULT);
        RelaySession {
            templates: self
                .templates
                .of(names, |names| Templates::new(names, 0, self.meta)),
            frames,
            ids: Ids::new(0, number),
            deframer: Deframer::new(),
            shapes: Shapes::default(),
            role: None,
            granted: VecDeque::new(),
        }
    }
}

/// What a connection told the relay that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Publisher = b'P' as isize,
    Subscriber = b'S' as isize,
}

/// One connection.
#[derive(Debug)]
pub struct RelaySession {
    templates: Arc<Templates>,
    frames: Frames,
    ids: Ids,
    deframer: Deframer,
    shapes: Shapes,
    /// With the topic, once it was said.
    role: Option<(Role, usize)>,
    /// What was asked for and is said to be so.
    granted: VecDeque<Incoming<'static>>,
}

impl RelaySession {
    /// Says what this connection is. A connection is one thing only; asked to be another it refuses.
    fn is(&mut self, role: Role, topic: usize, out: &mut Outgoing) -> bool {
        match (self.role, u8::try_from(topic)) {
            (Some(said), _) => said == (role, topic),
            (None, Err(_)) => false,
            (None, Ok(number)) => {
                out.bytes.extend_from_slice(&[role as u8, number]);
                self.role = Some((role, topic));
                true
            }
        }
    }

    #[cold]
    fn refuse(&mut self) {
        /// Beyond this nobody listens to refusals; they are told at the next poll and say the same.
        const REFUSALS_MAX: usize = 1_000;
        if self.granted.len() < REFUSALS_MAX {
            self.granted.push_back(Incoming::Refused {
                message: "a connection to the relay publishes or subscribes, to one topic of 256".into(),
            });
        }
    }
}

impl Session for RelaySession {
    fn open(&mut self, _out: &mut Outgoing) {
        self.granted.push_back(Incoming::Ready);
    }

    fn subscribe(&mut self, topic: usize, out: &mut Outgoing) {
        if self.is(Role::Subscriber, topic, out) {
            self.granted.push_back(Incoming::Subscribed);
        } else {
            self.refuse();
        }
    }

    /// The relay has no such thing.
    fn unsubscribe(&mut self, _topic: usize, _out: &mut Outgoing) {}

    /// Not able: nothing is said, and nothing follows.
    fn serve(&mut self, _method: usize, _out: &mut Outgoing) {}

    #[inline]
    fn publish(&mut self, topic: usize, payload: &[u8], out: &mut Outgoing) {
        if !self.is(Role::Publisher, topic, out) {
            return self.refuse();
        }
        self.templates
            .event(topic, self.ids.next(), payload, &mut self.frames, out);
    }

    /// Not able, as with [`Session::serve`].
    fn call(&mut self, _method: usize, _payload: &[u8], _out: &mut Outgoing) {}

    fn ping(&mut self, _out: &mut Outgoing) {
        self.granted.push_back(Incoming::Pong);
    }

    /// The relay needs no goodbye.
    fn close(&mut self, _out: &mut Outgoing) {}

    #[inline]
    fn seal(&mut self, out: &mut Outgoing) {
        self.frames.seal(out);
    }

    fn poll(&mut self, on: &mut impl FnMut(Incoming<'_>)) {
        self.granted.drain(..).for_each(on);
    }

    fn receive(
        &mut self,
        bytes: &[u8],
        _out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<(), Fault> {
        self.poll(on);
        let mut input = bytes;
        loop {
            let body = match self.deframer.next(&mut input, FRAME_BYTES_DEFAULT) {
                Ok(Some(body)) => body,
                Ok(None) => return Ok(()),
                Err(error) => return Err(Fault(format!("the relay broke the framing: {error}"))),
            };
            let mut rest = body;
            while !rest.is_empty() {
                if let Some(known) = self.shapes.recognise(rest) {
                    let payload = known.payload;
                    on(Incoming::Event { payload });
                    rest = &rest[known.bytes..];
                    continue;
                }
                let decoded = envelope::decode(rest).map_err(|reject| {
                    Fault(format!("the relay sent what is no envelope: {}", reject.fault))
                })?;
                if decoded.envelope.kind != Kind::Event || decoded.envelope.reference.is_some() {
                    return Err(Fault("the relay sent an envelope that is no event".into()));
                }
                let payload = decoded.envelope.payload;
                on(Incoming::Event { payload });
                self.shapes.learn(&decoded);
                rest = &rest[decoded.bytes.len()..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::{Heard, cuts, cuts_do_not_matter, damaged, hand_over, names, payload};
    use super::*;

    fn session() -> RelaySession {
        Relay::new(true, true).session(5, &names())
    }

    /// What a publisher sends, without the two bytes in front.
    fn published() -> Vec<u8> {
        let mut publisher = session();
        let mut out = Outgoing::default();
        for turn in 0..5 {
            (0..=turn)
                .for_each(|sequence| publisher.publish(1, &payload(sequence, 64 + turn as usize), &mut out));
            publisher.seal(&mut out);
        }
        assert_eq!(out.bytes[..2], [b'P', 1]);
        out.bytes.split_off(2)
    }

    #[test]
    fn what_publishers_write_is_what_subscribers_read() {
        let mut subscriber = session();
        let mut out = Outgoing::default();
        subscriber.open(&mut out);
        subscriber.subscribe(1, &mut out);
        subscriber.ping(&mut out);
        assert_eq!(out.bytes, [b'S', 1]);
        let outcome = hand_over(&mut subscriber, [&published()[..]]);
        let mut expected = vec![Heard::Ready, Heard::Subscribed, Heard::Pong];
        for turn in 0..5 {
            expected.extend((0..=turn).map(|sequence| Heard::Event(payload(sequence, 64 + turn as usize))));
        }
        assert_eq!((outcome.heard, outcome.fault), (expected, None));
    }

    #[test]
    fn a_connection_is_one_thing() {
        let mut subscriber = session();
        let mut out = Outgoing::default();
        subscriber.subscribe(0, &mut out);
        (0..5_000).for_each(|_| subscriber.publish(0, &payload(0, 64), &mut out));
        assert_eq!(out.bytes, [b'S', 0]);
        let heard = hand_over(&mut subscriber, [&[][..]]).heard;
        assert!(matches!(&heard[..], [Heard::Subscribed, Heard::Refused(_), ..]) && heard.len() <= 1_000);
    }

    proptest! {
        #[test]
        fn cuts_of_a_stream(cuts in cuts()) {
            cuts_do_not_matter(session, &published(), &cuts);
        }

        #[test]
        fn noise_is_a_fault_at_worst(stream in damaged(published()), cuts in cuts()) {
            cuts_do_not_matter(session, &stream, &cuts);
        }
    }
}
