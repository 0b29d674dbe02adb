//! A hello that resumes: its session moves to the connection that it came on, or there is a new one.

use fluxar_engine::reactor::Conn;
use fluxar_protocol::error::Code;
use fluxar_protocol::hello::{Caps, Hello};
use fluxar_protocol::session::{Received, TOKEN_BYTES, Tokens};
use fluxar_protocol::{Form, Id};

use super::{Keeping, PutOff, Remains, Resumable, Resuming, home_of};
use crate::flow::Growth;
use crate::front::{Effect, Front, ws_code};
use crate::greeting::Greeting;
use crate::limits::REFUSAL_NOTE_MS;
use crate::mail::Mail;
use crate::rate::Bucket;
use crate::session::{Session, pause};

/// What becomes of a hello that may resume its session.
enum Claim {
    /// It takes over the session at this place, and is told this token.
    Granted(usize, [u8; TOKEN_BYTES]),
    /// Too many come at once, or it too often: it is to come again later.
    PutOff(PutOff),
}

/// What the answer to a hello says of its session.
pub(crate) struct Opened {
    pub(crate) session: Id,
    pub(crate) token: Option<[u8; TOKEN_BYTES]>,
    pub(crate) resumed: bool,
    pub(crate) recv: u64,
}

impl Opened {
    pub(crate) fn caps(&self) -> Caps {
        Caps {
            resume: self.token.is_some(),
            ..Caps::default()
        }
    }
}

impl Front {
    /// A connection was greeted that opens a new session. What it is, and what it takes to resume it.
    pub(crate) fn new_session(&mut self, slot: usize, caps: Caps) -> Opened {
        let secret = self.ids.secret();
        let mut opened = Opened {
            session: secret,
            token: None,
            resumed: false,
            recv: 0,
        };
        let Some(session) = &mut self.sessions[slot] else {
            return opened;
        };
        if caps.resume && self.limits.resume_ms > 0 {
            let token = self.ids.secret().0;
            let (id, place) = self.resumables.enter(self.core, secret, session.peer);
            session.resumable = Some(Box::new(Resumable {
                id,
                place,
                tokens: Tokens::new(token),
                awaits_first: false,
                comes_ms: 0,
                returns: Bucket::full(self.now_ms),
                received: Received::default(),
            }));
            let kept_bytes = self.resumables.kept_bytes.clone();
            let keeping = Keeping::new(self.limits.resume_bytes, kept_bytes);
            session.outbox.keep(Box::new(keeping));
            (opened.session, opened.token) = (id, Some(token));
            // What came with the hello counts, too.
            self.counts = true;
        }
        opened
    }

    /// A hello that resumes came: it is answered when all of its input was looked at, since nothing may stand behind it.
    pub(crate) fn put_off(&mut self, slot: usize, hello: &[u8]) {
        let Some(session) = &self.sessions[slot] else {
            return;
        };
        let resuming = Resuming {
            hello: hello.to_vec(),
            framing: session.outbox.framing(),
            origin: session.origin,
            rate: None,
        };
        self.resumables.hello = Some((session.conn, resuming));
    }

    /// The input is over that brought a hello that resumes.
    pub(crate) fn answer_resuming(&mut self, conn: Conn, is_partial: bool) {
        let Some((_, mut resuming)) = self.resumables.hello.take_if(|(from, _)| *from == conn) else {
            return;
        };
        let Some(slot) = self.slot_of(conn) else { return };
        let Some(session) = &self.sessions[slot] else {
            return;
        };
        if session.left {
            return; // for what stood behind it
        }
        if is_partial || session.reader.is_partial() {
            let message = "nothing may follow a resuming hello until it is answered";
            return self.say_goodbye(slot, Some((Code::FailedPrecondition, message)), ws_code::POLICY);
        }
        let wanted = Greeting::read(&resuming.hello)
            .and_then(|greeting| greeting.hello.resume.map(|resume| home_of(resume.session)));
        match wanted {
            Some(home) if home != self.core && home < self.cores => {
                // Nothing of it is left here.
                if let Some(session) = self.sessions[slot].take() {
                    resuming.rate = session.rate;
                    if let Some((timer, _)) = session.timer {
                        self.timers.cancel(timer);
                    }
                }
                self.open_sessions -= 1;
                self.counters.closed += 1;
                self.effects.push_back(Effect::HandOver {
                    conn,
                    core: usize::from(home),
                    mail: Mail::Resume(Box::new(resuming)),
                });
            }
            _ => self.resume_or_open(slot, &resuming.hello),
        }
    }

    /// Another core handed over a connection whose hello wants to resume a session of this one.
    pub fn handle_resuming(&mut self, conn: Conn, resuming: Resuming) {
        let mut session = Session::new(conn, self.peer_of(conn), resuming.framing, self.now_ms);
        session.origin = resuming.origin;
        session.rate = resuming.rate;
        session.due.complete_ms = self.now_ms + u64::from(self.limits.handshake_ms);
        let slot = self.enter(session);
        if self.is_welcome(slot) {
            self.resume_or_open(slot, &resuming.hello);
            if self.sessions[slot].as_ref().is_some_and(Session::is_open) {
                // What it owed there it owes here: the engine reads from it again.
                self.charge_bytes(slot, 0);
                self.charge_messages(slot, 0);
            }
        }
    }

    fn resume_or_open(&mut self, slot: usize, hello: &[u8]) {
        let Some(greeting) = Greeting::read(hello) else {
            return; // it was read when it came
        };
        let next = self.ids.secret().0;
        match self.claim(&greeting.hello, next) {
            Some(Claim::Granted(old_slot, token)) => self.take_over(slot, old_slot, &greeting, token),
            Some(Claim::PutOff(put_off)) => self.refuse_return(slot, &greeting, &put_off),
            None => {
                self.counters.not_resumed += 1;
                self.welcome_new(slot, &greeting);
            }
        }
    }

    /// Whether this hello may take its session over; `None`: it gets a new one. A session whose token was right and that
    /// cannot go on is over.
    fn claim(&mut self, hello: &Hello<'_>, next: [u8; TOKEN_BYTES]) -> Option<Claim> {
        let resume = hello.resume?;
        let found = self.resumables.find(resume.session);
        let slot = found.and_then(|peer| self.slot_of_peer(peer));
        let session = slot.and_then(|slot| self.sessions[slot].as_ref());
        let (Some(slot), Some(session)) = (slot, session) else {
            // As long as with one that is there.
            let _ = Tokens::new(next).holds(resume.token);
            return None;
        };
        if !session.resumable.as_ref()?.tokens.holds(resume.token) {
            return None;
        }
        // Only who has the token counts among those that come back: anybody can invent a session.
        if let Some(put_off) = self.put_off_return(slot) {
            return Some(Claim::PutOff(put_off));
        }
        let session = self.sessions[slot].as_mut()?;
        let token = session.resumable.as_mut()?.tokens.take_over(resume.token, next)?;
        let takes_frames = hello.max_frame >= session.outbox.body_bytes_max();
        let _ = session.outbox.seal();
        // What was said to one that is deaf is not.
        let is_kept = !session.is_deaf()
            && session
                .outbox
                .keeping()
                .is_some_and(|keeping| keeping.can_resume(resume.recv).is_ok());
        if hello.caps.resume && takes_frames && is_kept {
            return Some(Claim::Granted(slot, token));
        }
        tracing::debug!(peer = ?session.peer, takes_frames, is_kept, "its session cannot go on");
        self.end_session(slot);
        None
    }

    fn take_over(&mut self, slot: usize, old_slot: usize, greeting: &Greeting<'_>, token: [u8; TOKEN_BYTES]) {
        let hello = &greeting.hello;
        if self.sessions[slot].is_none() {
            return;
        }
        // From here on nothing of the old connection counts.
        let Some(mut old) = self.take_from(old_slot, Remains::Open) else {
            return;
        };
        let was_away = old.is_away();
        let (Some(mut resumable), Some(keeping)) = (old.resumable.take(), old.outbox.take_keeping()) else {
            // `claim` has seen both. If it ever does not, nothing else would end what the shard has of its peer.
            self.resumables.moved.remove(&old.peer);
            self.shard.peer_lost(old.peer);
            return self.after_shard();
        };
        resumable.awaits_first = true;
        let opened = Opened {
            session: resumable.id,
            token: Some(token),
            resumed: true,
            recv: resumable.received.tell(),
        };
        let peer = old.peer;
        let form: Form = old.outbox.form();
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        session.peer = peer;
        session.unacked = old.unacked;
        session.standing.draining = old.standing.draining;
        session.refusals_untold = old.refusals_untold;
        session.refused_last = old.refused_last;
        session.resumable = Some(resumable);
        self.resumables.moved.insert(peer, slot);
        self.counters.resumed += 1;
        self.welcome(slot, greeting, form, &opened);
        self.seal(slot);
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        let (conn, effects) = (session.conn, &mut self.effects);
        let recv = hello.resume.map_or(0, |resume| resume.recv);
        session.outbox.send_again(keeping, recv, |parts| {
            let [first, second] = parts;
            effects.push_back(if first.is_empty() {
                Effect::Send { conn, bytes: second }
            } else {
                Effect::SendParts {
                    conn,
                    parts: [first, second],
                }
            });
        });
        tracing::debug!(?peer, ?conn, was_away, "its session goes on");
        if was_away {
            self.shard.peer_returned(peer, hello.credit, old.standing);
        } else {
            // What was queued for the old connection is lost: the logs have theirs still.
            self.shard.set_credit(peer, hello.credit);
            self.shard.rewind_logged(peer);
            self.shard.set_busy(peer, false);
        }
        self.tell_standing(slot);
        self.after_shard();
        self.go_on(slot);
    }

    /// What a session that was resumed does next.
    fn go_on(&mut self, slot: usize) {
        self.tell_drops(slot);
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        if session.refusals_untold > 0 {
            session.due.refusals_ms = self.now_ms + REFUSAL_NOTE_MS;
        }
        let is_behind = session.unacked.bytes() > self.limits.publish_unacked_bytes;
        if self.shard.is_serving(session.peer) {
            self.watch_health(slot);
        }
        if is_behind {
            self.pause(slot, pause::LOG);
        }
        self.watch_queue(slot, Growth::Stream);
        self.arm(slot);
        self.after_shard();
    }
}
