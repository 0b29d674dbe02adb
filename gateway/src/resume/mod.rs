//! Sessions that outlive their connections [P-7.6, P-7.7].
//!
//! A session whose hello named `caps.resume` is kept when its connection is lost without a goodbye, and goes on over another
//! one, on whatever core that arrives:
//!
//! ```text
//!   connection lost ─ away.rs ─▶ away: what is said to it is kept, nothing is sent
//!                                   │ resume_ms: it is over
//!   hello with `resume` ─ taking_over.rs ─▶ its home core (another one: Effect::HandOver, Mail::Resume)
//!                                   ─▶ token ─ spread.rs: too many at once, or it too often ─▶ refused, the session is as it was
//!                                   ─▶ recv ─▶ the old connection is fenced, the session moves to the new one,
//!                                      welcome, what the peer does not have, then what comes
//!                                   └▶ not to be resumed: a new session
//!   every envelope in ── counting.rs ─▶ Received ─▶ `recv` of pings      every frame out ── keeping.rs ─▶ Kept
//! ```
//!
//! The shard knows a session by the name of its first connection for as long as it lives. So what is said to it finds it by
//! that name: at the place of that connection, or where it moved to. A session that did not ask for any of this costs one
//! pointer that is null.

mod away;
mod counting;
mod keeping;
mod sessions;
mod spread;
mod taking_over;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;

use fluxar_engine::reactor::Conn;
use fluxar_protocol::Id;
use fluxar_protocol::session::{Received, Tokens};
use fluxar_shard::PeerId;
use foldhash::fast::FixedState;

use crate::outbox::Framing;
use crate::rate::Bucket;
use crate::session::{Origin, Rate, Session};

pub(crate) use away::Remains;
pub use keeping::Keeping;
use keeping::KeptBytes;
pub(crate) use sessions::{Sessions, is_away};
pub(crate) use spread::{PutOff, Returns};
pub(crate) use taking_over::Opened;

/// What a session has that can be resumed, beside what its outbox keeps.
#[derive(Debug)]
pub struct Resumable {
    id: Id,
    /// Its place among the core's sessions that can be resumed.
    place: u32,
    tokens: Tokens,
    /// Nothing came on the connection that resumed it yet.
    awaits_first: bool,
    /// When its peer was told to come again because too many came at once, ms; 0: it never was.
    comes_ms: u64,
    /// How often it was resumed of late.
    returns: Bucket,
    /// Its peer's counted envelopes.
    received: Received,
}

/// A hello that resumes, until it is answered: behind the input that it came in, perhaps on another core.
pub struct Resuming {
    /// Its envelope.
    pub(crate) hello: Vec<u8>,
    pub(crate) framing: Framing,
    pub(crate) origin: Origin,
    /// What its connection may still send: the core that it goes to counts on.
    pub(crate) rate: Option<Box<Rate>>,
}

impl fmt::Debug for Resuming {
    /// Without the token in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resuming")
            .field("hello_bytes", &self.hello.len())
            .field("framing", &self.framing)
            .finish_non_exhaustive()
    }
}

/// The sessions of a core that can be resumed.
#[derive(Debug, Default)]
pub(crate) struct Resumables {
    /// By the place in their ids.
    held: Vec<Option<(Id, PeerId)>>,
    free: Vec<u32>,
    /// Where those are that are not at the place of their first connection.
    pub(crate) moved: HashMap<PeerId, usize, FixedState>,
    pub(crate) kept_bytes: KeptBytes,
    /// The hello that came with the input in hand.
    pub(crate) hello: Option<(Conn, Resuming)>,
}

impl Resumables {
    pub(crate) fn new() -> Self {
        Self {
            kept_bytes: Rc::new(Cell::new(0)),
            ..Self::default()
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.held.len() - self.free.len()
    }

    /// Enters a new session; `secret` makes its id one that nobody can guess.
    fn enter(&mut self, core: u16, secret: Id, peer: PeerId) -> (Id, u32) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.held.push(None);
            self.held.len() as u32 - 1
        });
        let mut id = secret;
        id.0[..2].copy_from_slice(&core.to_be_bytes());
        id.0[2..6].copy_from_slice(&place.to_be_bytes());
        self.held[place as usize] = Some((id, peer));
        (id, place)
    }

    /// Who has this id.
    fn find(&self, id: Id) -> Option<PeerId> {
        let Id([_, _, place @ .., _, _, _, _, _, _, _, _, _, _]) = id;
        let held = self.held.get(u32::from_be_bytes(place) as usize)?;
        held.filter(|(held, _)| *held == id).map(|(_, peer)| peer)
    }

    /// A session is over: it cannot be resumed any more, and nothing is kept of it.
    pub(crate) fn let_go(&mut self, session: &mut Session) {
        let Some(resumable) = session.resumable.take() else {
            return;
        };
        if self.held[resumable.place as usize].take().is_some() {
            self.free.push(resumable.place);
        }
        self.moved.remove(&session.peer);
        drop(session.outbox.take_keeping());
    }
}

/// The core that a session's id names.
fn home_of(Id([high, low, ..]): Id) -> u16 {
    u16::from_be_bytes([high, low])
}
