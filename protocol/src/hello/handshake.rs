//! The order in which a session's first messages may come [P-7.3].

use crate::envelope::{Envelope, Form, Kind};
use crate::error::Fault;

/// The answerer's side of a handshake: says what an envelope that arrives may be.
///
/// ```text
///   AwaitHello --hello, ref null--> Greeted --answer(ok)--> Open --cancel, ref null--> Closing
///        |                            |                      |
///        +--anything else: close      +--answer(refused)     +--second hello: close
/// ```
///
/// A hello that does not resume is answered before the next envelope is looked at, so what its sender pipelined
/// behind it finds the session open. One that resumes may take longer to answer; what comes meanwhile closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Handshake {
    /// Nothing but a hello is accepted.
    #[default]
    AwaitHello,
    /// A hello arrived; nothing is accepted until it is answered.
    Greeted,
    /// Everything but a hello is accepted.
    Open,
    /// A session-closing cancel went or came; nothing more is accepted.
    Closing,
}

impl Handshake {
    /// Checks an arriving envelope against the state and moves on: `Open` is reached by the caller's
    /// [`Handshake::opened`]. What is not admitted leaves the state `Closing`.
    ///
    /// # Errors
    /// [`Fault::State`]: the connection is to be closed with that reason.
    #[inline]
    pub fn admit(&mut self, envelope: &Envelope<'_>) -> Result<(), Fault> {
        match (*self, envelope.kind, envelope.reference) {
            (Self::Open, Kind::Hello, _) => self.refuse("a second hello: a connection carries one session"),
            (Self::Open, Kind::Cancel, None) => {
                *self = Self::Closing;
                Ok(())
            }
            (Self::Open, ..) => Ok(()),
            (Self::AwaitHello, Kind::Hello, None) => {
                *self = Self::Greeted;
                Ok(())
            }
            (Self::AwaitHello, ..) => self.refuse("a session begins with a hello whose ref is null"),
            (Self::Greeted, ..) => self.refuse("nothing may follow a resuming hello until it is answered"),
            (Self::Closing, ..) => self.refuse("the session is closed: nothing may follow its cancel"),
        }
    }

    /// The hello was accepted.
    pub fn opened(&mut self) {
        *self = Self::Open;
    }

    /// This side closed the session, or refused its hello.
    pub fn closing(&mut self) {
        *self = Self::Closing;
    }

    /// The form in which this side speaks: the one that the hello came in.
    #[must_use]
    pub fn answer_form(hello_form: Form) -> Form {
        hello_form
    }

    #[cold]
    fn refuse(&mut self, why: &'static str) -> Result<(), Fault> {
        *self = Self::Closing;
        Err(Fault::State(why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Id;

    fn envelope(kind: Kind, has_ref: bool) -> Envelope<'static> {
        let reference = has_ref.then_some(Id([2; 16]));
        Envelope {
            kind,
            id: Id([1; 16]),
            reference,
            target: None,
            meta: None,
            payload: &[0xf6],
            error: None,
        }
    }

    const KINDS: [Kind; 7] = [
        Kind::Hello,
        Kind::Call,
        Kind::Stream,
        Kind::Subscribe,
        Kind::Event,
        Kind::Cancel,
        Kind::Ping,
    ];

    fn admitted(state: Handshake) -> impl Iterator<Item = (Kind, bool, Handshake)> {
        KINDS
            .into_iter()
            .flat_map(|kind| [(kind, false), (kind, true)])
            .filter_map(move |(kind, has_ref)| {
                let mut after = state;
                match after.admit(&envelope(kind, has_ref)) {
                    Ok(()) => Some((kind, has_ref, after)),
                    Err(fault) => {
                        assert!(matches!(fault, Fault::State(_)));
                        assert_eq!(after, Handshake::Closing);
                        None
                    }
                }
            })
    }

    #[test]
    fn only_a_hello_opens() {
        assert!(admitted(Handshake::AwaitHello).eq([(Kind::Hello, false, Handshake::Greeted)]));
    }

    #[test]
    fn nothing_while_greeted_or_closing() {
        assert_eq!(admitted(Handshake::Greeted).count(), 0);
        assert_eq!(admitted(Handshake::Closing).count(), 0);
    }

    #[test]
    fn everything_but_a_hello_while_open() {
        let mut state = Handshake::Greeted;
        state.opened();
        for (kind, has_ref, after) in admitted(state) {
            assert_ne!(kind, Kind::Hello);
            let closes = kind == Kind::Cancel && !has_ref;
            assert_eq!(
                after,
                if closes {
                    Handshake::Closing
                } else {
                    Handshake::Open
                }
            );
        }
        assert_eq!(admitted(state).count(), 12);
    }
}
