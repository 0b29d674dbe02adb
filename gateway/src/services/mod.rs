//! What the gateway itself answers: calls to `$services.list` and `$services.drain`.
//!
//! ```text
//!   call ─▶ administer ─▶ this core's part, at once
//!                    └──▶ Letter::Ask to every other core ─▶ Letter::Told back ─▶ all there, or 1 s over ─▶ the answer
//! ```
//!
//! Each core sees every service that dialled in, and its own calls to it; it alone sees those that it dialled. So a list
//! is made of what all cores tell. A mark (`drain`) is set by the core that holds the connection, which tells the
//! others as it tells them everything about a peer's standing.

mod access;
mod questions;
mod rows;
mod wish;

use fluxar_protocol::Kind;
use fluxar_protocol::envelope::Envelope;
use fluxar_protocol::error::Code;
use fluxar_shard::PeerId;

pub use access::AdminFrom;
pub(crate) use questions::Admin;
use questions::Question;
pub use questions::{Letter, Told, Wish};
pub use rows::Row;

use crate::front::{Effect, Front};
use crate::mail::Mail;

/// Every method of the gateway's own.
const METHODS: [&str; 2] = ["$services.list", "$services.drain"];

impl Front {
    /// A call, or the open of a stream, to a name that begins with `$`.
    pub(crate) fn administer(&mut self, slot: usize, envelope: &Envelope<'_>) {
        let (Some(method), Some(session)) = (envelope.target, &self.sessions[slot]) else {
            return;
        };
        let from = self.services.admin_from;
        let refusal = if !from.admits(session.origin) {
            let message = format!(
                "{method} is answered on this machine only: over a Unix socket or TCP from loopback, not over WebSocket, as far as admin.from says so ({:?})",
                from.names()
            );
            Err((Code::PermissionDenied, message))
        } else if !METHODS.contains(&method) {
            let message = format!("the gateway has no {method}; it has {}", METHODS.join(" and "));
            Err((Code::Unimplemented, message))
        } else if envelope.kind == Kind::Stream {
            Err((Code::Unimplemented, format!("{method} is no stream; call it")))
        } else if method == METHODS[0] {
            Ok(Wish::List)
        } else {
            Wish::read_drain(envelope.payload).map_err(|wrong| (Code::InvalidArgument, wrong))
        };
        let asked = refusal.and_then(|wish| self.ask_cores(slot, envelope, wish));
        if let Err((code, message)) = asked {
            self.refuse(slot, envelope.kind, envelope.id, code, &message);
            self.charge_refusal(slot);
        }
    }

    /// Does this core's part and asks the others for theirs.
    fn ask_cores(&mut self, slot: usize, envelope: &Envelope<'_>, wish: Wish) -> Result<(), (Code, String)> {
        let Some(session) = &self.sessions[slot] else {
            return Ok(());
        };
        let asker = session.peer;
        let queued = session.outbox.queued_bytes();
        if queued > self.limits.queue_bytes {
            // A list is far longer than the call: nobody gets more of them than they read.
            let message = format!("you have {queued} bytes to read before this answer; read, and ask again");
            return Err((Code::ResourceExhausted, message));
        }
        if self.admin.is_open(asker, envelope.id) {
            let message = "a question of this id is open on this connection; make ids of 16 random bytes";
            return Err((Code::AlreadyExists, message.to_owned()));
        }
        let question = self
            .admin
            .open(asker, envelope.id, wish.clone(), self.now_ms)
            .map_err(|message| (Code::ResourceExhausted, message))?;
        let own = self.core;
        for core in (0..self.admin.cores()).filter(|core| *core != own) {
            self.post_admin(
                core,
                Letter::Ask {
                    question,
                    wish: wish.clone(),
                },
            );
        }
        let told = self.told(&wish);
        self.take_told(own, question, told);
        Ok(())
    }

    /// A letter of another core about services.
    pub fn handle_admin(&mut self, from: u16, letter: Letter) {
        match letter {
            Letter::Ask { question, wish } => {
                let told = self.told(&wish);
                self.post_admin(from, Letter::Told { question, told });
            }
            Letter::Told { question, told } => self.take_told(from, question, told),
        }
    }

    /// Answers the questions whose time is over with what came.
    pub(crate) fn expire_admin(&mut self) {
        while let Some(question) = self.admin.take_expired(self.now_ms) {
            self.conclude(question);
        }
    }

    fn take_told(&mut self, from: u16, question: u32, told: Told) {
        if let Some(question) = self.admin.told(from, question, told) {
            self.conclude(question);
        }
    }

    /// Answers who asked, if that connection is still there.
    fn conclude(&mut self, question: Question) {
        question.log();
        let Some(slot) = self.slot_of_peer(question.asker) else {
            return;
        };
        let Some(session) = &self.sessions[slot] else {
            return;
        };
        let bytes_max = session.outbox.envelope_bytes_max().min(self.limits.queue_bytes);
        let reference = question.reference;
        match question.answer(bytes_max) {
            Ok(payload) => {
                let own = self.ids.next();
                let mut answer = crate::front::answer(Kind::Call, own, reference, None);
                answer.payload = &payload;
                self.push(slot, &answer);
            }
            Err((code, message)) => self.refuse(slot, Kind::Call, reference, code, &message),
        }
    }

    /// This core's part of an answer.
    fn told(&mut self, wish: &Wish) -> Told {
        match wish {
            Wish::List => {
                let (mut rows, left_out) = rows::gather(self.shard.services());
                let down = self.pool.links_down();
                rows.extend(down.map(|(at, link)| Row::down(self.core, at, link)));
                Told::Rows { rows, left_out }
            }
            Wish::Drain { peer, on } => self.mark_draining(peer, *on),
        }
    }

    /// Marks the serving peers of this core that are called so, by id or by name, also while they are away, and the links to
    /// endpoints that are, connected or not; tells how many there are, and which.
    pub(crate) fn mark_draining(&mut self, called: &str, on: bool) -> Told {
        let links = self.drain_endpoint(called, on);
        let of_links = self.peers_of_links(called);
        let here = self
            .shard
            .services()
            .filter(|row| row.peer.core == self.core)
            .filter(|row| (!row.is_local && row.name == called) || wish::is_id(called, row.peer))
            .map(|row| row.peer);
        let away = self
            .shard
            .services_away()
            .filter(|(peer, name)| *name == called || wish::is_id(called, *peer))
            .map(|(peer, _)| peer);
        let mut peers: Vec<PeerId> = here.chain(away).collect();
        peers.sort_unstable();
        peers.dedup();
        for &peer in &peers {
            let Some(slot) = self.slot_of_peer(peer) else {
                continue;
            };
            if let Some(session) = &mut self.sessions[slot] {
                session.standing.draining = if session.is_dialled() {
                    // What the configuration drains stays drained.
                    self.pool.drain_link(session.link, on)
                } else {
                    on
                };
            }
            self.tell_standing(slot);
        }
        let count = peers.len() as u32 + links;
        peers.extend(of_links);
        Told::Marked { count, peers }
    }

    /// Who is at the other end of the links that are called so: by their upstream, their endpoint, or their own name, as
    /// [`Front::drain_endpoint`] finds them.
    fn peers_of_links(&self, called: &str) -> Vec<PeerId> {
        let is_called = |peer: &PeerId| {
            let session = self
                .slot_of_peer(*peer)
                .and_then(|slot| self.sessions[slot].as_ref());
            session
                .filter(|session| session.is_dialled())
                .and_then(|session| self.pool.get(session.link))
                .is_some_and(|link| {
                    *link.key.upstream == *called || *link.key.endpoint == *called || *link.name() == *called
                })
        };
        let dialled = self.shard.services().filter(|row| row.is_local);
        let mut peers: Vec<PeerId> = dialled.map(|row| row.peer).collect();
        peers.sort_unstable();
        peers.dedup();
        peers.retain(is_called);
        peers
    }

    fn post_admin(&mut self, core: u16, letter: Letter) {
        self.effects.push_back(Effect::Post {
            core: usize::from(core),
            mail: Mail::Admin(letter),
            cause: self.cause,
        });
    }
}
