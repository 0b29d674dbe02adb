//! What the tests of all protocols do: hand a session bytes in pieces, and write down what it made of them.

use std::sync::Arc;

use proptest::prelude::*;

use super::{Incoming, Names, Outgoing, Session};
use crate::stamp::{PAYLOAD_BYTES_MIN, Stamp};

/// [`Incoming`], owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    Ready,
    Subscribed,
    Event(Vec<u8>),
    Acknowledged(u32),
    Served,
    Answer(Vec<u8>),
    Refused(String),
    Dropped(u64),
    Pong,
    StreamOpened(u32, Vec<u8>, bool),
    Chunk(u32, Vec<u8>, bool),
    Granted(u32),
    StreamEnded(u32),
    StreamFailed(u32, String),
    StreamCancelled(u32),
}

impl From<Incoming<'_>> for Heard {
    fn from(incoming: Incoming<'_>) -> Self {
        match incoming {
            Incoming::Ready => Self::Ready,
            Incoming::Subscribed => Self::Subscribed,
            Incoming::Event { payload } => Self::Event(payload.to_vec()),
            Incoming::Acknowledged { count } => Self::Acknowledged(count),
            Incoming::Served => Self::Served,
            Incoming::Answer { payload } => Self::Answer(payload.to_vec()),
            Incoming::Refused { message } => Self::Refused(message),
            Incoming::Dropped { events } => Self::Dropped(events),
            Incoming::Pong => Self::Pong,
            Incoming::StreamOpened {
                stream,
                payload,
                has_ended,
            } => Self::StreamOpened(stream, payload.to_vec(), has_ended),
            Incoming::Chunk {
                stream,
                payload,
                is_last,
            } => Self::Chunk(stream, payload.to_vec(), is_last),
            Incoming::StreamGranted { stream } => Self::Granted(stream),
            Incoming::StreamEnded { stream } => Self::StreamEnded(stream),
            Incoming::StreamFailed { stream, message } => Self::StreamFailed(stream, message),
            Incoming::StreamCancelled { stream } => Self::StreamCancelled(stream),
        }
    }
}

/// What a session made of some bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) heard: Vec<Heard>,
    pub(super) said: Vec<u8>,
    pub(super) fault: Option<String>,
}

impl Outcome {
    fn comparable(&self) -> (&[Heard], &[u8], bool) {
        (&self.heard, &self.said, self.fault.is_some())
    }
}

/// Two topics and a method.
pub(super) fn names() -> Arc<Names> {
    Arc::new(Names {
        topics: vec!["load.0".into(), "load.1".into()],
        methods: vec!["work.echo".into()],
    })
}

/// A payload with this stamp, so many bytes long: what stands behind the stamp is a byte string.
pub(super) fn payload(sequence: u64, bytes: usize) -> Vec<u8> {
    let mut payload = vec![0xa1, 0x61, b's', 0x54];
    payload.resize(PAYLOAD_BYTES_MIN, 0);
    if let Some(rest @ 1..) = bytes.checked_sub(PAYLOAD_BYTES_MIN + 4) {
        payload[0] = 0xa2;
        payload.extend_from_slice(&[0x61, b'd', 0x59]);
        let filler = rest - 1;
        payload.extend_from_slice(&(filler as u16).to_be_bytes());
        payload.resize(payload.len() + filler, 0x2a);
    }
    let stamp = Stamp {
        publisher: 7,
        sequence,
        intended_ns: sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15),
    };
    stamp.write(&mut payload);
    payload
}

/// Hands over the pieces one after another, up to the first fault.
pub(super) fn hand_over<'p>(
    session: &mut impl Session,
    pieces: impl IntoIterator<Item = &'p [u8]>,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut out = Outgoing::default();
    for piece in pieces {
        let heard = &mut outcome.heard;
        let result = session.receive(piece, &mut out, &mut |incoming| heard.push(incoming.into()));
        if let Err(fault) = result {
            outcome.fault = Some(fault.0);
            break;
        }
    }
    session.seal(&mut out);
    outcome.said = out.bytes;
    outcome
}

/// However a stream is cut, the session hears and says the same, and objects or does not. (The words of an objection may
/// show more or less of what stood there.) `make` opens a session.
pub(super) fn cuts_do_not_matter<S: Session>(make: impl Fn() -> S, stream: &[u8], cuts: &[usize]) {
    let whole = hand_over(&mut make(), [stream]);
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    ends.extend([0, stream.len()]);
    ends.sort_unstable();
    let pieces = ends.windows(2).map(|pair| &stream[pair[0]..pair[1]]);
    let outcome = hand_over(&mut make(), pieces);
    assert_eq!(outcome.comparable(), whole.comparable(), "cut at {ends:?}");
    let outcome = hand_over(&mut make(), stream.chunks(1));
    assert_eq!(outcome.comparable(), whole.comparable(), "byte by byte");
}

/// Where a stream is cut.
pub(super) fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(any::<usize>(), 0..12)
}

/// A stream that a server might send, damaged at a few places, and noise.
pub(super) fn damaged(stream: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let damage = prop::collection::vec((any::<usize>(), any::<u8>()), 1..6);
    let noise = prop::collection::vec(any::<u8>(), 0..200);
    (damage, noise, any::<bool>()).prop_map(move |(damage, noise, is_noise)| {
        if is_noise {
            return noise;
        }
        let mut stream = stream.clone();
        for (at, byte) in damage {
            let at = at % stream.len();
            stream[at] = byte;
        }
        stream
    })
}
