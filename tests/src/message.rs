//! Envelopes as tests hold them: owned, with the few meta keys that a gateway says things by.

use fluxar_protocol::envelope::{Decoded, Envelope};
use fluxar_protocol::meta::{Meta, Run};
use fluxar_protocol::{Code, ErrorBody, Form, Id, Kind, Position};

/// An envelope that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Its type.
    pub kind: Kind,
    /// Its id.
    pub id: Id,
    /// Its ref.
    pub reference: Option<Id>,
    /// Its target.
    pub target: Option<String>,
    /// Its encoded meta.
    pub meta: Option<Vec<u8>>,
    /// Its encoded payload.
    pub payload: Vec<u8>,
    /// Its error's code and message.
    pub error: Option<(Code, String)>,
    /// Exactly its bytes.
    pub bytes: Vec<u8>,
    /// The form it came in.
    pub form: Form,
}

impl Received {
    /// Keeps what was decoded.
    ///
    /// # Panics
    /// If its error is none.
    #[must_use]
    pub fn from_decoded(decoded: &Decoded<'_>) -> Self {
        let envelope = &decoded.envelope;
        Self {
            kind: envelope.kind,
            id: envelope.id,
            reference: envelope.reference,
            target: envelope.target.map(str::to_string),
            meta: envelope.meta.map(|meta| meta.as_bytes().to_vec()),
            payload: envelope.payload.to_vec(),
            error: envelope.error.map(|error| {
                let body = ErrorBody::decode(error).expect("a gateway's errors are readable");
                (body.code, body.message.to_string())
            }),
            bytes: decoded.bytes.to_vec(),
            form: decoded.form,
        }
    }

    /// An unsigned meta key.
    ///
    /// # Panics
    /// If it is there and is none.
    #[must_use]
    pub fn uint(&self, key: &'static str) -> Option<u64> {
        Meta::from_checked(self.meta.as_deref()?)
            .uint(key)
            .expect("an unsigned value")
    }

    /// `meta.end`.
    ///
    /// # Panics
    /// If it is there and is no boolean.
    #[must_use]
    pub fn ends(&self) -> bool {
        self.meta
            .as_deref()
            .is_some_and(|meta| Meta::from_checked(meta).flag("end").expect("a boolean"))
    }

    /// `meta.run` as a count.
    ///
    /// # Panics
    /// If it is there and is none.
    #[must_use]
    pub fn run(&self) -> Option<u64> {
        Meta::from_checked(self.meta.as_deref()?)
            .run_count()
            .expect("a count")
    }

    /// The offsets of `meta.run` of logged events, and their partition.
    ///
    /// # Panics
    /// If it is there and is something else.
    #[must_use]
    pub fn positions(&self) -> Option<(u16, Vec<u64>)> {
        match Meta::from_checked(self.meta.as_deref()?).run().expect("a run") {
            Some(Run::Logged(positions)) => Some((positions.partition(), positions.offsets().collect())),
            _ => None,
        }
    }

    /// `meta.at`.
    ///
    /// # Panics
    /// If it is there and is no position.
    #[must_use]
    pub fn at(&self) -> Option<Position> {
        Meta::from_checked(self.meta.as_deref()?)
            .at()
            .expect("a position")
    }

    /// The error's code.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        self.error.as_ref().map(|(code, _)| *code)
    }

    /// The payload as an unsigned number.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn number(&self) -> u64 {
        minicbor::decode(&self.payload).expect("an unsigned number")
    }
}

/// An envelope's bytes.
#[must_use]
pub fn encoded(
    kind: Kind,
    id: Id,
    reference: Option<Id>,
    target: Option<&str>,
    meta: Option<&[u8]>,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let meta = meta.map(Meta::from_checked);
    Envelope {
        kind,
        id,
        reference,
        target,
        meta,
        payload,
        error: None,
    }
    .encode(Form::Compact, &mut bytes);
    bytes
}

/// A number as a payload.
#[must_use]
pub fn number(value: u64) -> Vec<u8> {
    minicbor::to_vec(value).expect("a Vec takes all")
}
