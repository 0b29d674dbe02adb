//! What may come before the answer to one's own hello [P-7.1, P-7.4].

use super::Welcome;
use crate::envelope::{Envelope, Id, Kind};
use crate::error::{ErrorBody, Fault};

/// The opener's side of a handshake: says what an envelope that arrives before the welcome is. From the welcome on both
/// sides are alike, and [`super::Handshake`], moved to its `Open`, goes on.
///
/// ```text
///   AwaitAnswer ──hello, ref = ours, payload──▶ the session is open
///        │  └─────hello, ref = ours, error────▶ refused: a cancel follows, or the end
///        ├────────cancel, ref null────────────▶ closed, perhaps with a reason
///        └────────anything else───────────────▶ a fault: close
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    hello: Id,
}

/// What came of a hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply<'a> {
    /// It was accepted; the session is open.
    Welcome(Welcome<'a>),
    /// It was refused.
    Refused(ErrorBody<'a>),
    /// The other side said goodbye instead, perhaps with a reason.
    Closed(Option<ErrorBody<'a>>),
}

impl Opening {
    /// A hello with this id was sent.
    #[must_use]
    pub fn new(hello: Id) -> Self {
        Self { hello }
    }

    /// Reads an envelope that arrives before the session is open.
    ///
    /// # Errors
    /// The connection is to be closed with that reason: [`Fault::State`] for what may not come now, [`Fault::Hello`]
    /// for a welcome that cannot be read or speaks a version that was not offered, [`Fault::Error`].
    pub fn admit<'a>(self, envelope: &Envelope<'a>) -> Result<Reply<'a>, Fault> {
        match (envelope.kind, envelope.reference) {
            (Kind::Hello, Some(reference)) if reference == self.hello => match envelope.error {
                Some(error) => Ok(Reply::Refused(ErrorBody::decode(error)?)),
                None => {
                    let welcome = Welcome::decode(envelope.payload)?;
                    if welcome.v == 0 {
                        Ok(Reply::Welcome(welcome))
                    } else {
                        Err(Fault::Hello("v"))
                    }
                }
            },
            (Kind::Hello, Some(_)) => Err(Fault::State("the answer to a hello that was not sent")),
            (Kind::Cancel, None) => Ok(Reply::Closed(envelope.error.map(ErrorBody::decode).transpose()?)),
            _ => Err(Fault::State(
                "nothing but the answer may follow a hello until it is answered",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::error::Code;
    use crate::hello::Caps;

    const HELLO: Id = Id([7; 16]);

    fn welcome(v: u64) -> Vec<u8> {
        let mut payload = Vec::new();
        Welcome {
            v,
            session: Id([9; 16]),
            token: None,
            caps: Caps::default(),
            max_frame: 1 << 20,
            heartbeat_ms: 15_000,
            credit: 1_000,
            resumed: false,
            recv: 0,
            limits: None,
            agent: "service/1",
        }
        .encode(&mut payload);
        payload
    }

    fn error() -> Vec<u8> {
        let mut error = Vec::new();
        ErrorBody {
            code: Code::Unavailable,
            message: "stopping",
            details: None,
            retry_after_ms: Some(300),
        }
        .encode(&mut error);
        error
    }

    fn envelope<'a>(kind: Kind, reference: Option<Id>, payload: &'a [u8]) -> Envelope<'a> {
        Envelope {
            kind,
            id: Id([1; 16]),
            reference,
            target: None,
            meta: None,
            payload,
            error: None,
        }
    }

    #[test]
    fn a_hello_is_answered_by_a_welcome_a_refusal_or_a_goodbye() {
        let opening = Opening::new(HELLO);
        let payload = welcome(0);
        match opening.admit(&envelope(Kind::Hello, Some(HELLO), &payload)) {
            Ok(Reply::Welcome(welcome)) => {
                assert_eq!((welcome.credit, welcome.agent), (1_000, "service/1"));
            }
            other => panic!("{other:?}"),
        }
        let bytes = error();
        let body = ErrorBody::decode(&bytes).expect("an error");
        let mut refusal = envelope(Kind::Hello, Some(HELLO), b"\xf6");
        refusal.error = Some(&bytes);
        assert_eq!(opening.admit(&refusal), Ok(Reply::Refused(body.clone())));
        let mut goodbye = envelope(Kind::Cancel, None, b"\xf6");
        assert_eq!(opening.admit(&goodbye), Ok(Reply::Closed(None)));
        goodbye.error = Some(&bytes);
        assert_eq!(opening.admit(&goodbye), Ok(Reply::Closed(Some(body))));
    }

    #[test]
    fn everything_else_before_the_answer_is_a_fault() {
        let opening = Opening::new(HELLO);
        let payload = welcome(0);
        for kind in [
            Kind::Hello,
            Kind::Call,
            Kind::Stream,
            Kind::Subscribe,
            Kind::Event,
            Kind::Cancel,
            Kind::Ping,
        ] {
            for reference in [None, Some(HELLO), Some(Id([8; 16]))] {
                let is_answer = kind == Kind::Hello && reference == Some(HELLO);
                let is_goodbye = kind == Kind::Cancel && reference.is_none();
                if !is_answer && !is_goodbye {
                    let admitted = opening.admit(&envelope(kind, reference, &payload));
                    assert!(
                        matches!(admitted, Err(Fault::State(_))),
                        "{kind:?} {reference:?}: {admitted:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_welcome_has_to_be_readable_and_of_the_version_that_was_offered() {
        let opening = Opening::new(HELLO);
        for (payload, part) in [
            (welcome(1), "v"),
            (b"\xf6".to_vec(), "payload"),
            (b"\xa1\x61v\x00".to_vec(), "session"),
        ] {
            let admitted = opening.admit(&envelope(Kind::Hello, Some(HELLO), &payload));
            assert_eq!(admitted, Err(Fault::Hello(part)));
        }
        let mut refusal = envelope(Kind::Hello, Some(HELLO), b"\xf6");
        refusal.error = Some(b"\xa0");
        assert!(opening.admit(&refusal).is_err());
    }
}
