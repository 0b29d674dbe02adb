//! Sessions that this gateway opens: dialled, greeted, offered to the shard as serving peers, and dialled again when
//! they are lost. What the pool wishes is done here; the worker dials for [`Effect::Dial`].
//!
//! ```text
//!   pool: Dial ─▶ Effect::Dial ─▶ handle_dialled ─▶ handle_connected: hello ─▶ welcome: Shard::attach
//!                                        │                   │                    │
//!                                        └───────────────────┴────────────────────┴─▶ let_go ─▶ pool: a pause
//! ```

use std::fmt::Display;
use std::io;
use std::sync::Arc;

use fluxar_engine::listener::Address;
use fluxar_engine::reactor::{Cause, Close, Conn};
use fluxar_protocol::envelope::Envelope;
use fluxar_protocol::error::{Code, ErrorBody};
use fluxar_protocol::hello::{Handshake, Hello, Opening, Reply};
use fluxar_protocol::{Form, Kind};
use fluxar_shard::Offering;

use super::pool::{LINKS_MAX, Wish};
use super::{Resolved, Services};
use crate::front::{Effect, Front, ws_code};
use crate::greeting::AGENT;
use crate::outbox::Framing;
use crate::resume::Remains;
use crate::session::{ACCEPTED, Due, Session};

impl Front {
    /// What the configuration says about services, at start and whenever it is reloaded.
    pub fn handle_services(&mut self, services: Arc<Services>) {
        self.shard.set_routes(Arc::clone(&services.routes));
        self.after_shard();
        let begins = self.services.health.ping_ms == 0 && services.health.ping_ms > 0;
        self.announcer.keep(&services);
        self.services = services;
        if begins {
            for slot in 0..self.sessions.len() {
                if let Some(session) = &self.sessions[slot]
                    && self.shard.is_serving(session.peer)
                {
                    self.watch_health(slot);
                }
            }
        }
        self.reconcile();
    }

    /// What a host name stands for by now.
    pub fn handle_resolved(&mut self, resolved: Arc<Resolved>) {
        if self.pool.resolve(resolved) {
            self.reconcile();
        }
    }

    fn reconcile(&mut self) {
        let services = Arc::clone(&self.services);
        let mut wishes = Vec::new();
        let before = self.pool.without_room();
        let without_room = self.pool.reconcile(&services, self.now_ms, &mut wishes);
        if without_room > before {
            tracing::warn!(
                core = self.core,
                "{without_room} connections to upstreams are not dialled: a core dials {LINKS_MAX} at most"
            );
        }
        self.fulfil(wishes);
    }

    /// Dials what is due, and looks at what leaves.
    pub(crate) fn expire_pool(&mut self) {
        if self.pool.has_room(self.now_ms) {
            self.reconcile();
        }
        let mut wishes = Vec::new();
        self.pool.expire(self.now_ms, &mut wishes);
        self.fulfil(wishes);
    }

    fn fulfil(&mut self, wishes: Vec<Wish>) {
        for wish in wishes {
            match wish {
                Wish::Dial(link) => {
                    if let Some(found) = self.pool.get(link) {
                        self.effects.push_back(Effect::Dial {
                            link,
                            address: found.key.address.clone(),
                        });
                    }
                }
                Wish::Attach(link, conn) => self.attach(link, conn),
                Wish::Stand(link, conn) => self.stand(link, conn),
                Wish::Detach(conn) => {
                    self.shard.detach(self.peer_of(conn));
                    self.after_shard();
                }
                Wish::Finish { conn, overdue } => {
                    if let Some(slot) = self.slot_of(conn)
                        && (overdue || self.shard.has_open(self.peer_of(conn)) == 0)
                    {
                        self.say_goodbye(slot, None, ws_code::NORMAL);
                    }
                }
                Wish::Abort(conn) => {
                    if let Some(slot) = self.slot_of(conn) {
                        self.give_up(slot, &"no longer in the configuration");
                    }
                }
                Wish::Forget { link, upstream, name } => {
                    self.announcer.gone(self.core, &upstream, &name, link);
                }
            }
        }
    }

    /// The worker dialled a link.
    pub fn handle_dialled(&mut self, link: u32, conn: Conn) {
        let found = self.pool.get(link).filter(|found| found.is_asked_for());
        let Some(found) = found.filter(|_| !self.stopping) else {
            // A reload in the same turn took the link away.
            return self.effects.push_back(Effect::Close {
                conn,
                how: Close::Now,
            });
        };
        let framing = match found.key.address {
            Address::WebSocket { .. } => Framing::Message,
            Address::Tcp { .. } | Address::Unix { .. } => Framing::Prefixed,
        };
        let mut session = Session::new(conn, self.peer_of(conn), framing, self.now_ms);
        session.link = link;
        // Nothing may come before the answer to a hello that was not even sent.
        session.handshake = Handshake::Greeted;
        session.due.complete_ms = self.now_ms + u64::from(found.terms.connect_ms);
        self.counters.dialled += 1;
        self.enter(session);
        self.pool.dialled(link, conn);
    }

    /// It could not: nothing was asked of the network.
    pub fn handle_dial_failed(&mut self, link: u32, error: &io::Error) {
        self.tell_down(link, error);
        let lot = self.lot();
        self.pool.lost(link, None, None, lot, self.now_ms);
    }

    /// A dialled connection is open: says hello.
    pub fn handle_connected(&mut self, conn: Conn) {
        let Some(slot) = self.slot_of(conn) else { return };
        let id = self.ids.next();
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        if session.left {
            return;
        }
        let link = session.link;
        let mut payload = Vec::with_capacity(64);
        Hello {
            max_frame: self.limits.max_frame_bytes,
            heartbeat_ms: self.limits.heartbeat_ms,
            // A gateway holds no chunk: what streams may send is granted as their readers grant it.
            credit: 0,
            agent: AGENT,
            ..Hello::default()
        }
        .encode(&mut payload);
        self.pool.greeted(link, id);
        self.push(
            slot,
            &Envelope {
                kind: Kind::Hello,
                id,
                reference: None,
                target: None,
                meta: None,
                payload: &payload,
                error: None,
            },
        );
    }

    /// An envelope of a peer that was dialled and has not accepted the hello yet.
    pub(crate) fn handle_opening(&mut self, slot: usize, envelope: &Envelope<'_>) {
        let Some(link) = self.sessions[slot].as_ref().map(|session| session.link) else {
            return;
        };
        let opening = self
            .pool
            .get(link)
            .and_then(|found| found.hello)
            .map(Opening::new);
        let reply = match opening.map(|opening| opening.admit(envelope)) {
            Some(Ok(reply)) => reply,
            Some(Err(fault)) => {
                self.counters.rejected += 1;
                let message = fault.to_string();
                self.let_go(slot, &message, None);
                return self.say_goodbye(slot, Some((fault.code(), &message)), ws_code::POLICY);
            }
            None => return,
        };
        match reply {
            Reply::Welcome(welcome) => {
                let agent = self.agents.name(welcome.agent);
                let heartbeat_ms = self.now_ms + u64::from(self.limits.heartbeat_ms);
                let Some(session) = &mut self.sessions[slot] else {
                    return;
                };
                session.handshake.opened();
                session.outbox.greeted(welcome.max_frame, Form::Compact);
                session.credit_bytes = welcome.credit;
                session.agent = agent;
                session.due.complete_ms = u64::MAX;
                session.due.heartbeat_ms = heartbeat_ms;
                let conn = session.conn;
                self.arm(slot);
                self.pool.opened(link, conn, self.now_ms);
                self.attach(link, conn);
                if let Some(found) = self.pool.get(link) {
                    self.announcer
                        .up(self.core, &found.key.upstream, &found.name(), link);
                }
            }
            Reply::Refused(error) => self.hear_no(slot, Some(error), "refused the hello"),
            Reply::Closed(error) => self.hear_no(slot, error, "closed before it answered the hello"),
        }
    }

    fn hear_no(&mut self, slot: usize, error: Option<ErrorBody<'_>>, what: &str) {
        let (reason, retry_after_ms) = worded(error, what);
        self.let_go(slot, &reason, retry_after_ms);
        self.say_goodbye(slot, None, ws_code::NORMAL);
    }

    /// A peer that was dialled says goodbye.
    pub(crate) fn hear_goodbye(&mut self, slot: usize, envelope: &Envelope<'_>) {
        let error = envelope.error.and_then(|error| ErrorBody::decode(error).ok());
        let (reason, retry_after_ms) = worded(error, "said goodbye");
        self.let_go(slot, &reason, retry_after_ms);
    }

    /// It took too long to connect or to answer the hello.
    pub(crate) fn dial_overdue(&mut self, slot: usize) {
        let link = self.sessions[slot].as_ref().map(|session| session.link);
        let Some(found) = link.and_then(|link| self.pool.get(link)) else {
            return self.give_up(slot, &"too slow");
        };
        let connect_ms = found.terms.connect_ms;
        if found.hello.is_some() {
            let message = format!("no answer to the hello within {connect_ms} ms");
            self.let_go(slot, &message, None);
            self.say_goodbye(slot, Some((Code::DeadlineExceeded, &message)), ws_code::POLICY);
        } else {
            self.give_up(slot, &format!("no connection within {connect_ms} ms"));
        }
    }

    /// Offers a dialled peer to the shard, on the terms of its link.
    fn attach(&mut self, link: u32, conn: Conn) {
        let Some(slot) = self.slot_of(conn) else { return };
        let (Some(session), Some(found)) = (&mut self.sessions[slot], self.pool.get(link)) else {
            return;
        };
        let offering = Offering {
            fleet: Some(Arc::clone(&found.key.upstream)),
            weight: found.terms.weight,
            in_flight_max: found.terms.in_flight_max,
            zone: found.terms.zone.clone(),
            credit_bytes: session.credit_bytes,
            name: found.name(),
        };
        session.standing.draining = found.is_draining();
        self.shard.attach(session.peer, &found.terms.methods, offering);
        self.after_shard();
        self.watch_health(slot);
    }

    fn stand(&mut self, link: u32, conn: Conn) {
        let Some(slot) = self.slot_of(conn) else { return };
        if let (Some(session), Some(found)) = (&mut self.sessions[slot], self.pool.get(link)) {
            session.standing.draining = found.is_draining();
            self.tell_standing(slot);
        }
    }

    /// Has the links to an endpoint, by its URL or by its upstream's name, get nothing new (or again something):
    /// those of this core, and those that are dialled later. Returns how many there are.
    pub fn drain_endpoint(&mut self, name_or_url: &str, on: bool) -> u32 {
        let mut wishes = Vec::new();
        let matched = self.pool.drain(name_or_url, on, &mut wishes);
        self.fulfil(wishes);
        matched
    }

    /// A dialled session is over: its link begins anew. Nothing for others, and only the first time.
    pub(crate) fn let_go(&mut self, slot: usize, why: &dyn Display, retry_after_ms: Option<u32>) {
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        if session.link == ACCEPTED {
            return;
        }
        let (link, conn) = (session.link, session.conn);
        session.link = ACCEPTED;
        self.link_lost(link, conn, why, retry_after_ms);
    }

    /// As [`Front::let_go`], of a session that is not in the table any more.
    pub(crate) fn link_lost(
        &mut self,
        link: u32,
        conn: Conn,
        why: &dyn Display,
        retry_after_ms: Option<u32>,
    ) {
        if self.pool.is(link, conn) {
            self.tell_down(link, why);
            let lot = self.lot();
            self.pool.lost(link, Some(conn), retry_after_ms, lot, self.now_ms);
        }
    }

    fn tell_down(&mut self, link: u32, why: &dyn Display) {
        if self.stopping {
            return;
        }
        if let Some(found) = self.pool.get(link) {
            let (upstream, name) = (&found.key.upstream, found.name());
            if found.is_leaving() {
                self.announcer.gone(self.core, upstream, &name, link);
            } else {
                self.announcer.down(self.core, upstream, &name, link, why);
            }
        }
    }

    /// Spreads the pauses, so that the cores of many gateways do not dial together.
    fn lot(&mut self) -> u64 {
        let id = self.ids.secret();
        u64::from_le_bytes([id.0[0], id.0[1], id.0[2], id.0[3], id.0[4], id.0[5], id.0[6], 0])
    }

    /// Closes without another word: after a silence [P-7.5], or before there was one.
    pub(crate) fn give_up(&mut self, slot: usize, why: &dyn Display) {
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        if session.left {
            return;
        }
        if session.resumable.is_some() {
            if !self.put_away(slot, Remains::Open) {
                self.end_session(slot);
            }
            return;
        }
        let (conn, peer) = (session.conn, session.peer);
        session.due = Due::NEVER;
        session.left = true;
        session.handshake = Handshake::Closing;
        self.effects.push_back(Effect::Close {
            conn,
            how: Close::Now,
        });
        self.let_go(slot, why, None);
        self.shard.peer_lost(peer);
        self.after_shard();
    }
}

fn worded(error: Option<ErrorBody<'_>>, what: &str) -> (String, Option<u32>) {
    match error {
        Some(error) => {
            // Another's words, into a log: no line of its own, no end of it.
            let message: String = error
                .message
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .take(200)
                .collect();
            (
                format!("it {what}: {} ({message})", error.code.name()),
                error.retry_after_ms,
            )
        }
        None => (format!("it {what}"), None),
    }
}

/// The cause of an end, for people.
pub(crate) fn cause_in_words(cause: &Cause) -> String {
    match cause {
        Cause::Peer => "it closed the connection".to_owned(),
        Cause::Ours => "closed".to_owned(),
        Cause::Failed(error) => error.to_string(),
        Cause::Transport(fault) => fault.clone(),
    }
}
