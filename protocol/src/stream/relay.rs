//! A stream in a gateway: two hops, each with its own credit, and nothing held between them [P-3.9, P-3.11].
//!
//! The gateway announces no credit in its hello, so neither side may send before the other side's window is known,
//! and a chunk that arrives can always go on at once. What a side grants is handed to the other, but never more of it
//! at a time than the window, so that what may be under way to a reader that has stopped is bounded.

use super::{Breach, Heard, Part, State, Stream};
use crate::error::Code;

/// One of the two sides of a relayed stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who opened it.
    Opener,
    /// Who serves it.
    Server,
}

/// What a gateway itself says to one side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    /// `meta.credit`.
    Grant {
        /// So many bytes.
        bytes: u64,
    },
    /// `meta.end`, no chunk.
    End,
    /// `cancel`.
    Cancel,
    /// An error.
    Fail(Failure),
}

/// An error of the gateway's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// What kind.
    pub code: Code,
    /// For a person.
    pub message: &'static str,
}

/// What a message from one side leads to. `pass` comes before `on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Passage {
    /// The message itself goes to the other side, its ref replaced.
    pub pass: bool,
    /// This goes to the other side.
    pub on: Option<Note>,
    /// This goes back to where the message came from.
    pub back: Option<Note>,
}

/// A stream between two hops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relay {
    /// The hop to the opener; this side was dialled, so to speak: the open arrived.
    opener: Stream,
    /// The hop to the server; this side sent the open.
    server: Stream,
    window_bytes: u32,
    /// Grants that the opener and the server were handed since they last sent a chunk.
    grants: [u8; 2],
}

/// Grants that a side is handed one by one without sending anything. A reader has no reason for more; behind these, small
/// ones are kept together, so that a side that does not send is not flooded with them.
const GRANTS_BETWEEN_CHUNKS: u8 = 32;

impl Relay {
    /// An open arrived that is to go on: whether it carries `meta.end`, and how many bytes its opener may be sent at
    /// the start (the open's `meta.credit`, or what its hello announced). At most `window_bytes` are ever granted to a
    /// side and not used yet: so many may still arrive for a reader that has just stopped.
    #[must_use]
    pub fn new(ends: bool, opener_credit_bytes: u64, window_bytes: u32) -> Self {
        let granted_bytes = opener_credit_bytes.min(u64::from(window_bytes));
        Self {
            opener: Stream::opened_there(ends, 0, opener_credit_bytes),
            server: Stream::opened_here(ends, granted_bytes, 0),
            window_bytes,
            grants: [0; 2],
        }
    }

    /// What the forwarded open says in `meta.credit`.
    #[must_use]
    pub fn open_credit_bytes(&self) -> u64 {
        self.server.granted_bytes()
    }

    /// The open goes to a server whose hello announced so much credit: the opener is told by this note.
    pub fn server_found(&mut self, credit_bytes: u64) -> Option<Note> {
        // The server's first grant.
        self.server.handle(Part::Grant { bytes: credit_bytes }).ok()?;
        self.grant(Side::Opener)
    }

    /// A part arrived from one side. `may_grant`: whether the side that it goes to takes what is sent to it, so that
    /// more of it may be asked for.
    #[inline]
    pub fn part(&mut self, from: Side, part: Part, may_grant: bool) -> Passage {
        let (here, there) = self.hops(from);
        let mut passage = Passage::default();
        let heard = match here.handle(part) {
            Ok(heard) => heard,
            Err(breach) => {
                passage.back = Some(Note::Fail(Failure::of(breach)));
                passage.on = there
                    .send_fail()
                    .then_some(Note::Fail(Failure::OTHER_SIDE_BROKE_IT));
                return passage;
            }
        };
        match heard {
            Heard::Chunk { is_last } => {
                let Part::Chunk { bytes, .. } = part else {
                    return passage;
                };
                self.grants[from as usize] = 0;
                let (here, there) = self.hops(from);
                // Never more was granted here than there is credit for there.
                passage.pass = there.send_chunk(bytes, is_last).is_ok();
                debug_assert!(passage.pass);
                // Below half a window whatever there is goes, however little: otherwise a sender whose next chunk is
                // larger than what it has left would wait for a reader that waits for it.
                if may_grant && !is_last && here.granted_bytes() < u64::from(self.window_bytes / 2) {
                    passage.back = self.grant(from);
                }
            }
            Heard::Ended => {
                if there.send_end() {
                    // The last chunk of a stream that was cancelled does not go on, but its end does.
                    match part {
                        Part::End => passage.pass = true,
                        _ => passage.on = Some(Note::End),
                    }
                }
            }
            Heard::Granted => {
                if may_grant && self.is_worth_granting(from.other()) {
                    passage.on = self.grant(from.other());
                }
            }
            Heard::Failed => passage.pass = there.send_fail(),
            Heard::Cancelled | Heard::Ignored => {}
        }
        passage
    }

    /// Bytes of chunks that may come from a side and be passed on with nothing else to say: of each of them, unless it is
    /// the last of its direction, [`Relay::part`] would say only `pass`. They are accounted for by [`Relay::passed`].
    #[must_use]
    pub fn free_bytes(&self, from: Side) -> u64 {
        let (here, there) = (self.hop(from), self.hop(from.other()));
        let is_open = here.state() == State::Active && there.state() == State::Active;
        if !is_open || here.has_received_end() || there.has_sent_end() {
            return 0;
        }
        let granted_bytes = here.granted_bytes();
        if there.credit_bytes() <= granted_bytes {
            return granted_bytes; // there is nothing more to grant
        }
        granted_bytes.saturating_sub(u64::from(self.window_bytes / 2))
    }

    /// Chunks of so many bytes, at most [`Relay::free_bytes`], were passed on from a side.
    pub fn passed(&mut self, from: Side, bytes: u64) {
        self.grants[from as usize] = 0;
        let (here, there) = self.hops(from);
        let heard = here.handle(Part::Chunk { bytes, end: false });
        let sent = there.send_chunk(bytes, false);
        debug_assert!(heard.is_ok() && sent.is_ok());
    }

    /// One side cancels.
    pub fn cancel(&mut self, from: Side) -> Option<Note> {
        let (here, there) = self.hops(from);
        if here.handle_cancel() == Heard::Ignored {
            return None;
        }
        there.send_cancel().then_some(Note::Cancel)
    }

    /// The connection to one side is lost: what the other is told. The stream is over.
    pub fn lost(&mut self, side: Side) -> Option<Note> {
        let (here, there) = self.hops(side);
        here.close();
        let note = match side {
            Side::Opener => Note::Cancel,
            Side::Server => Note::Fail(Failure::SERVER_LOST),
        };
        there.send_fail().then_some(note)
    }

    /// It is ended here: what the opener and the server are told.
    pub fn fail(&mut self, failure: Failure) -> (Option<Note>, Option<Note>) {
        let note = Some(Note::Fail(failure));
        (
            note.filter(|_| self.opener.send_fail()),
            note.filter(|_| self.server.send_fail()),
        )
    }

    /// More for a side to send, if the other side's credit and the window leave room for it. For the gateway to call
    /// when a side that did not take what was sent to it (`may_grant`) takes it again: for the other side.
    pub fn grant(&mut self, to: Side) -> Option<Note> {
        let bytes = self.grantable_bytes(to);
        let (here, _) = self.hops(to);
        if !here.send_grant(bytes) {
            return None;
        }
        let grants = &mut self.grants[to as usize];
        *grants = grants.saturating_add(1);
        Some(Note::Grant { bytes })
    }

    fn grantable_bytes(&self, to: Side) -> u64 {
        let (here, there) = (self.hop(to), self.hop(to.other()));
        let most_bytes = there.credit_bytes().min(u64::from(self.window_bytes));
        most_bytes.saturating_sub(here.granted_bytes())
    }

    /// Whether a side that was handed many grants and has sent nothing since gets another one: if it adds an eighth to what
    /// it has, or is an eighth of the window, so that only some dozens more can come of it. What is kept back goes along
    /// with a later one, at the latest behind its next chunk.
    fn is_worth_granting(&self, to: Side) -> bool {
        let bytes = self.grantable_bytes(to);
        self.grants[to as usize] < GRANTS_BETWEEN_CHUNKS
            || bytes >= u64::from(self.window_bytes / 8)
            || bytes > self.hop(to).granted_bytes() / 8
    }

    /// Where it is, both hops taken together.
    #[must_use]
    pub fn state(&self) -> State {
        match (self.opener.state(), self.server.state()) {
            (State::Closed, State::Closed) => State::Closed,
            (State::Cancelling, _) | (_, State::Cancelling) => State::Cancelling,
            _ => State::Active,
        }
    }

    /// The hop to a side.
    #[must_use]
    pub fn hop(&self, side: Side) -> &Stream {
        match side {
            Side::Opener => &self.opener,
            Side::Server => &self.server,
        }
    }

    /// The hop to a side, and the one to the other.
    fn hops(&mut self, side: Side) -> (&mut Stream, &mut Stream) {
        match side {
            Side::Opener => (&mut self.opener, &mut self.server),
            Side::Server => (&mut self.server, &mut self.opener),
        }
    }
}

impl Side {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Opener => Self::Server,
            Self::Server => Self::Opener,
        }
    }
}

impl Failure {
    /// The serving peer's connection is gone.
    pub const SERVER_LOST: Self = Self {
        code: Code::Unavailable,
        message: "the peer that served this stream was lost",
    };
    /// A side that was to end a cancelled stream did not.
    pub const CANCEL_OVERDUE: Self = Self {
        code: Code::Cancelled,
        message: "the stream was cancelled, and not ended by the other side within 5 s",
    };
    /// Its `timeout_ms` has passed.
    pub const DEADLINE: Self = Self {
        code: Code::DeadlineExceeded,
        message: "the stream did not end within its timeout_ms",
    };
    const OTHER_SIDE_BROKE_IT: Self = Self {
        code: Code::Aborted,
        message: "the other side of this stream broke its rules, which ended it",
    };

    /// What a side that broke the rules is told.
    #[must_use]
    pub const fn of(breach: Breach) -> Self {
        Self {
            code: Code::FailedPrecondition,
            message: match breach {
                Breach::BeyondCredit { .. } => {
                    "a chunk is larger than the credit that was left; wait for grants, or send smaller chunks"
                }
                Breach::BehindEnd => "a chunk or an end came behind the end of its direction",
            },
        }
    }
}
