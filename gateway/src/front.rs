//! The FLUXAR side of one core, sans-I/O: bytes of connections, letters of other cores and the time go in by
//! `handle_*`; what is to be done comes out of [`Front::poll_effect`]. The worker moves both between here and the
//! engine; the simulation does the same with a virtual clock.
//!
//! The way of a message: [`Front::handle_input`] reads envelopes → [`crate::exchanges`] reads the verb and asks
//! the shard → [`crate::delivery`] puts runs and envelopes into outboxes → [`Front::handle_turn_end`] seals them.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fluxar_engine::disk::{DiskDone, DiskOp};
use fluxar_engine::driver::Token;
use fluxar_engine::listener::Address;
use fluxar_engine::reactor::{Close, Conn, Piece};
use fluxar_engine::timer::Wheel;
use fluxar_protocol::envelope::{Decoded, Envelope};
use fluxar_protocol::error::{Code, Reject};
use fluxar_protocol::frame::FrameTooLarge;
use fluxar_protocol::hello::Handshake;
use fluxar_protocol::reader::{EnvelopeReader, Progress};
use fluxar_protocol::{Batch, Id, Kind};
use fluxar_shard::log::{RecoveredLog, Settings};
use fluxar_shard::{PeerId, Seed, Shard};

use crate::agents::Agents;
use crate::counters::Counters;
use crate::flow::Growth;
use crate::ids::{Entropy, Ids};
use crate::limits::Limits;
use crate::log::{from_engine, to_engine};
use crate::mail::Mail;
use crate::outbox::Framing;
use crate::resume::{Resumables, Returns, Sessions};
use crate::services::Admin;
use crate::session::{Session, pause};
use crate::upstreams::Services;
use crate::upstreams::announcer::Announcer;
use crate::upstreams::pool::Pool;

/// What the worker is to do, in order.
#[derive(Debug)]
pub enum Effect {
    /// Queue bytes on a connection.
    Send {
        /// The connection.
        conn: Conn,
        /// A frame with its prefix, or a WebSocket message.
        bytes: Bytes,
    },
    /// Queue two byte strings as one frame, or one WebSocket message.
    SendParts {
        /// The connection.
        conn: Conn,
        /// A part that is this connection's own, and one that others share.
        parts: [Bytes; 2],
    },
    /// Stop reading.
    Pause(Conn),
    /// Read on.
    Resume(Conn),
    /// Close.
    Close {
        /// The connection.
        conn: Conn,
        /// How.
        how: Close,
    },
    /// A greeted WebSocket may send larger messages.
    MessageLimit {
        /// The connection.
        conn: Conn,
        /// The limit.
        bytes: usize,
    },
    /// Dial, and say so by [`Front::handle_dialled`] or [`Front::handle_dial_failed`].
    Dial {
        /// The link of the pool that it is for.
        link: u32,
        /// Where to.
        address: Address,
    },
    /// Hand a connection over to another core, with its letter.
    HandOver {
        /// The connection; nothing is known of it here any more.
        conn: Conn,
        /// To whom.
        core: usize,
        /// The letter.
        mail: Mail,
    },
    /// Post a letter.
    Post {
        /// To whom.
        core: usize,
        /// The letter.
        mail: Mail,
        /// The connection whose input caused it, to be paused if the mailbox is full.
        cause: Option<Conn>,
    },
}

/// From the time of a core, ms, to the ms since 1970: the system's clock, or the simulation's.
pub type WallClock = Box<dyn FnMut(u64) -> u64>;

/// WebSocket close codes (RFC 6455 §7.4.1) as the gateway uses them [P-8.4].
pub mod ws_code {
    /// The session ended in good order.
    pub const NORMAL: u16 = 1000;
    /// The gateway goes away.
    pub const GOING_AWAY: u16 = 1001;
    /// The peer broke the protocol.
    pub const POLICY: u16 = 1008;
}

/// One core's sessions and its shard.
pub struct Front {
    pub(crate) core: u16,
    pub(crate) cores: u16,
    pub(crate) limits: Limits,
    pub(crate) framings: Vec<Framing>,
    pub(crate) shard: Shard,
    pub(crate) sessions: Sessions,
    pub(crate) resumables: Resumables,
    pub(crate) returns: Returns,
    /// The session whose input is being handled counts what comes.
    pub(crate) counts: bool,
    pub(crate) open_sessions: u32,
    pub(crate) effects: VecDeque<Effect>,
    pub(crate) dirty: Vec<u32>,
    pub(crate) overrun: Vec<Conn>,
    pub(crate) timers: Wheel<Conn>,
    pub(crate) expired: Vec<Conn>,
    pub(crate) now_ms: u64,
    pub(crate) now_us: u64,
    pub(crate) ids: Ids,
    pub(crate) counters: Counters,
    pub(crate) scratch: Vec<u8>,
    /// The stream that the input in hand is about.
    pub(crate) chunks: crate::chunks::ChunkRun,
    /// What the configuration says about services.
    pub(crate) services: Arc<Services>,
    pub(crate) agents: Agents,
    /// Questions about services that are open.
    pub(crate) admin: Admin,
    /// Connections that this core dials and keeps up.
    pub(crate) pool: Pool,
    pub(crate) announcer: Arc<Announcer>,
    pub(crate) welcome_limits: Vec<u8>,
    pub(crate) stopping: bool,
    /// When those are told who wait for acknowledgements still.
    pub(crate) goodbye_by_ms: Option<u64>,
    /// Whether a rule has events at qos 0 logged, too.
    pub(crate) logs_unasked: bool,
    /// The log's directory.
    pub(crate) log_dir: Option<Arc<Path>>,
    pub(crate) wall_clock: WallClock,
    /// From when on events that the log did not take, and that nobody waits for, are told again.
    pub(crate) unlogged_note_ms: u64,
    /// When an event of a work queue that nobody could handle was told last.
    pub(crate) given_up_said_ms: u64,
    /// The connection whose input is being handled: what it causes elsewhere is charged to it.
    pub(crate) cause: Option<Conn>,
}

impl Front {
    /// For core `core` of `cores`. `framings` says what each listener speaks, by its id; `epoch` names this
    /// start of the gateway, the same on all cores; `entropy` fills buffers with randomness (the simulation's is
    /// seeded).
    #[must_use]
    pub fn new(
        core: u16,
        cores: u16,
        limits: Limits,
        framings: Vec<Framing>,
        epoch: u64,
        mut entropy: Entropy,
    ) -> Self {
        let mut number = || {
            let mut bytes = [0; 8];
            entropy(&mut bytes);
            u64::from_le_bytes(bytes)
        };
        let seed = Seed {
            hash: number(),
            ids: number(),
            epoch,
        };
        let shard = Shard::new(core, cores, shard_limits(&limits), seed);
        let welcome_limits = crate::greeting::encode_limits(&limits);
        Self {
            core,
            cores,
            limits,
            framings,
            shard,
            sessions: Sessions::default(),
            resumables: Resumables::new(),
            returns: Returns::new(),
            counts: false,
            open_sessions: 0,
            effects: VecDeque::new(),
            dirty: Vec::new(),
            overrun: Vec::new(),
            timers: Wheel::new(0),
            expired: Vec::new(),
            now_ms: 0,
            now_us: 0,
            ids: Ids::new(entropy),
            counters: Counters::default(),
            scratch: Vec::new(),
            chunks: crate::chunks::ChunkRun::default(),
            services: Arc::default(),
            agents: Agents::default(),
            admin: Admin::new(cores),
            pool: Pool::new(core, cores),
            announcer: Arc::new(Announcer::new(usize::from(cores))),
            welcome_limits,
            stopping: false,
            goodbye_by_ms: None,
            logs_unasked: false,
            log_dir: None,
            wall_clock: Box::new(|now_ms| now_ms),
            unlogged_note_ms: 0,
            given_up_said_ms: 0,
            cause: None,
        }
    }

    /// Has what it says about upstreams said together with the other cores.
    pub fn set_announcer(&mut self, announcer: Arc<Announcer>) {
        self.announcer = announcer;
    }

    /// Keeps a log in this directory: what was in it comes by [`Front::handle_recovered`]. Before anything else.
    pub fn set_log(&mut self, settings: Arc<Settings>, directory: Arc<Path>) {
        self.logs_unasked = settings.topics.iter().any(|rule| rule.always == Some(true));
        self.log_dir = Some(directory);
        self.shard.set_log(Some(settings));
    }

    /// Has the log go by this clock, which is given the time of this core, ms, and gives the ms since 1970.
    pub fn set_wall_clock(&mut self, clock: WallClock) {
        self.wall_clock = clock;
    }

    /// What happened on this core so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What this core's shard holds.
    #[must_use]
    pub fn shard_counts(&self) -> fluxar_shard::Counts {
        self.shard.counts()
    }

    /// Who serves what, as this core sees it.
    pub fn service_rows(&self) -> impl Iterator<Item = fluxar_shard::ServiceRow<'_>> {
        self.shard.services()
    }

    /// Connections that this core holds.
    #[must_use]
    pub fn sessions(&self) -> u32 {
        self.open_sessions
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The next thing for the disk. Polled at the end of a turn, so that what it appended is one write.
    pub fn poll_disk(&mut self) -> Option<DiskOp> {
        let directory = self.log_dir.as_ref()?;
        Some(to_engine(self.shard.poll_disk()?, directory))
    }

    /// What came of it.
    pub fn handle_disk(&mut self, done: DiskDone) {
        if let Some(done) = from_engine(done) {
            self.shard.handle_disk(done);
            self.after_shard();
        }
    }

    /// What recovery found for this core.
    pub fn handle_recovered(&mut self, log: RecoveredLog) {
        self.shard.handle_recovered(log);
        self.after_shard();
    }

    /// Whether it keeps a log.
    #[must_use]
    pub fn keeps_log(&self) -> bool {
        self.log_dir.is_some()
    }

    /// Tells the other cores what was acknowledged so far of their logs.
    pub fn flush_acknowledged(&mut self) {
        self.shard.flush_acknowledged();
        self.after_shard();
    }

    /// Writes, syncs and seals what the log has taken, and takes no more.
    pub fn stop_log(&mut self) {
        self.shard.stop_log();
        self.after_shard();
    }

    /// Whether the log has nothing more to do.
    #[must_use]
    pub fn is_log_stopped(&self) -> bool {
        self.log_dir.is_none() || self.shard.is_log_stopped()
    }

    /// Whether the directory may be marked as one that was left in good order.
    #[must_use]
    pub fn is_log_sealed(&self) -> bool {
        self.log_dir.is_none() || self.shard.is_log_sealed()
    }

    /// When [`Front::handle_time`] has something to do, ms.
    #[must_use]
    pub fn poll_timeout_ms(&self) -> Option<u64> {
        let deadlines = [
            self.timers.next_deadline(),
            self.shard.poll_timeout_ms(),
            self.pool.due_ms(),
            self.admin.next_ms(),
            self.goodbye_by_ms,
        ];
        deadlines.into_iter().flatten().min()
    }

    /// The kernel took bytes that were queued.
    pub fn handle_sent(&mut self, conn: Conn, bytes: usize) {
        let Some(slot) = self.slot_of(conn) else { return };
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        if session.left && session.outbox.end_position() == 0 {
            return; // its session was taken from it, and what was queued with that
        }
        session.outbox.sent(bytes);
        let queued = session.outbox.queued_bytes();
        // More waits and some of it went: the peer reads. Its pong may stand behind all that, on either side. Of one that
        // serves, that takes more: the kernel has room for many calls that a stopped process will not read.
        let is_watched = session.due.health_ms != u64::MAX;
        if queued
            > if is_watched {
                self.limits.queue_bytes / 4
            } else {
                0
            }
        {
            session.received_ms = self.now_ms;
        }
        if session.due.stall_ms != u64::MAX {
            session.due.stall_ms = self.now_ms + u64::from(self.limits.stall_ms);
        }
        if queued <= self.limits.queue_bytes / 2 {
            session.due.stall_ms = u64::MAX;
            self.unpause(slot, pause::QUEUE);
            if let Some(session) = &mut self.sessions[slot]
                && std::mem::take(&mut session.standing.crowded)
            {
                self.tell_standing(slot);
            }
        }
        if queued <= self.limits.queue_bytes / 4
            && let Some(session) = &mut self.sessions[slot]
            && std::mem::take(&mut session.busy)
        {
            self.shard.set_busy(session.peer, false);
            // What it gets from the log is asked for now.
            self.after_shard();
        }
    }

    /// Bytes of a connection: some of its stream, or a whole WebSocket message.
    pub fn handle_input(&mut self, conn: Conn, piece: Piece<'_>) {
        let Some(slot) = self.slot_of(conn) else { return };
        self.lives(slot);
        self.cause = Some(conn);
        match piece {
            Piece::Message(body) => {
                self.charge_bytes(slot, body.len());
                self.handle_body(slot, body);
            }
            Piece::Stream(mut bytes) => {
                self.charge_bytes(slot, bytes.len());
                // Out of the session while its envelopes are handled: they borrow from it.
                let Some(session) = &mut self.sessions[slot] else {
                    return;
                };
                let mut reader = std::mem::take(&mut session.reader);
                let whole = self.read(slot, &mut reader, &mut bytes);
                let partial = reader.is_partial();
                if let Some(session) = &mut self.sessions[slot] {
                    session.reader = reader;
                    self.watch_partial(slot, partial, whole);
                }
            }
        }
    }

    /// The bytes that arrived together were `pieces` pieces; `partial` says whether a WebSocket message was left
    /// incomplete. Even without a piece they are a sign of life.
    pub fn handle_input_end(&mut self, conn: Conn, pieces: u32, partial: bool) {
        // Runs end with the input that they came in: what follows may be hours away.
        self.end_chunk_input();
        self.shard.flush_run();
        self.after_shard();
        self.cause = None;
        let Some(slot) = self.slot_of(conn) else { return };
        self.lives(slot);
        let Some(session) = &self.sessions[slot] else {
            return;
        };
        // A stream's frames are cut, and watched, here; a WebSocket's messages below.
        if session.outbox.framing() == Framing::Message {
            self.watch_partial(slot, partial, pieces > 0);
        }
        self.tell_received(slot);
        if self.resumables.hello.is_some() {
            self.answer_resuming(conn, partial);
        }
    }

    /// The end of a turn: every frame that was begun is handed over.
    pub fn handle_turn_end(&mut self) {
        while let Some(conn) = self.overrun.pop() {
            self.close_overrun(conn);
        }
        while let Some(slot) = self.dirty.pop() {
            if let Some(session) = &mut self.sessions[slot as usize] {
                session.dirty = false;
                seal_into(&mut self.effects, session);
            }
        }
        self.bound_kept();
    }

    /// Handles the envelopes in `bytes`; returns whether a frame became whole.
    fn read(&mut self, slot: usize, reader: &mut EnvelopeReader, bytes: &mut &[u8]) -> bool {
        let mut whole = false;
        loop {
            let Some(session) = &self.sessions[slot] else {
                return whole;
            };
            if session.handshake == Handshake::Closing {
                return whole;
            }
            // Who was dialled knows from the hello what this side takes, and may use it at once.
            let limit_bytes = if session.handshake == Handshake::Open || session.is_dialled() {
                self.limits.max_frame_bytes as usize
            } else {
                fluxar_protocol::limits::FRAME_BYTES_BEFORE_HELLO
            };
            let max_frame_bytes = self.limits.max_frame_bytes as usize;
            self.counts = session.resumable.is_some();
            let mut envelopes = 0;
            let progress = reader.read(bytes, limit_bytes, max_frame_bytes, |decoded| {
                envelopes += 1;
                self.handle_decoded(slot, decoded)
            });
            self.end_chunk_run();
            self.counters.received += envelopes;
            self.charge_messages(slot, envelopes);
            match progress {
                Ok(Progress::Frame) => whole = true,
                Ok(Progress::Starved | Progress::Stopped) => return whole,
                Err(FrameTooLarge {
                    announced_bytes,
                    limit_bytes,
                }) => {
                    let message = format!(
                        "a frame of {announced_bytes} bytes was announced, {limit_bytes} are taken here; split what you send into smaller frames"
                    );
                    self.counters.rejected += 1;
                    self.say_goodbye(slot, Some((Code::ResourceExhausted, &message)), ws_code::POLICY);
                    return whole;
                }
            }
        }
    }

    /// One frame body: its envelopes in order, until one closes the connection.
    fn handle_body(&mut self, slot: usize, body: &[u8]) {
        // Nothing counts behind a goodbye.
        let Some(session) = self.sessions[slot]
            .as_ref()
            .filter(|session| session.handshake != Handshake::Closing)
        else {
            return;
        };
        self.counts = session.resumable.is_some();
        let mut envelopes = 0;
        // Whether it broke off is known where it did.
        let _ = Batch::within(body, self.limits.max_frame_bytes as usize).visit(|decoded| {
            envelopes += 1;
            self.handle_decoded(slot, decoded)
        });
        self.end_chunk_run();
        self.counters.received += envelopes;
        self.charge_messages(slot, envelopes);
    }

    /// One envelope, or what is wrong with it. Breaks off when nothing more is taken from the connection.
    #[inline]
    fn handle_decoded(&mut self, slot: usize, decoded: Result<&Decoded<'_>, &Reject>) -> ControlFlow<()> {
        if self.counts {
            self.count(slot, decoded);
        }
        if let Ok(decoded) = decoded
            && self.runs_on(slot, decoded)
        {
            return ControlFlow::Continue(());
        }
        self.end_chunk_run();
        let Some(session) = &mut self.sessions[slot] else {
            return ControlFlow::Break(());
        };
        match decoded {
            Ok(decoded) if session.handshake == Handshake::Greeted && session.is_dialled() => {
                self.handle_opening(slot, &decoded.envelope);
            }
            Ok(decoded) => {
                if let Err(fault) = session.handshake.admit(&decoded.envelope) {
                    self.counters.rejected += 1;
                    let message = fault.to_string();
                    self.say_goodbye(slot, Some((fault.code(), &message)), ws_code::POLICY);
                    return ControlFlow::Break(());
                }
                if session.handshake == Handshake::Closing && session.is_dialled() {
                    self.hear_goodbye(slot, &decoded.envelope);
                }
                self.handle_envelope(slot, decoded);
            }
            Err(reject) => self.handle_reject(slot, reject),
        }
        match &self.sessions[slot] {
            Some(session) if session.handshake != Handshake::Closing => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }

    /// Appends an envelope of the gateway's own to a connection's open frame.
    pub(crate) fn push(&mut self, slot: usize, envelope: &Envelope<'_>) {
        self.say(slot, envelope, Growth::Reply);
    }

    /// The same, for another reason.
    pub(crate) fn say(&mut self, slot: usize, envelope: &Envelope<'_>, growth: Growth) {
        // What the gateway says itself is never too large.
        let _ = self.put(slot, growth, |outbox| Ok(outbox.push(envelope)));
    }

    /// Hands a connection's open frame over now, since something else follows it.
    pub(crate) fn seal(&mut self, slot: usize) {
        let Some(session) = &mut self.sessions[slot] else {
            return;
        };
        seal_into(&mut self.effects, session);
    }

    pub(crate) fn mark_dirty(&mut self, slot: usize) {
        if let Some(session) = &mut self.sessions[slot]
            && !session.dirty
            && session.outbox.is_open()
        {
            session.dirty = true;
            self.dirty.push(slot as u32);
        }
    }

    pub(crate) fn framings_of(&self, slot: usize) -> Framing {
        self.sessions[slot]
            .as_ref()
            .map_or(Framing::Prefixed, |session| session.outbox.framing())
    }

    pub(crate) fn slot_of(&self, conn: Conn) -> Option<usize> {
        let Token { slot, .. } = conn.0;
        let slot = slot as usize;
        (self.sessions.get(slot)?.as_ref()?.conn == conn).then_some(slot)
    }

    /// The shard's name for a connection of this core, or for one that is new. Its engine's name comes again some time, and
    /// a session that moved to another connection may still have it.
    pub(crate) fn peer_of(&self, conn: Conn) -> PeerId {
        if let Some(session) = self.slot_of(conn).and_then(|slot| self.sessions[slot].as_ref()) {
            return session.peer;
        }
        let mut peer = PeerId {
            core: self.core,
            slot: conn.0.slot,
            generation: conn.0.generation,
        };
        while self.resumables.moved.contains_key(&peer) {
            peer.generation += 1 << Token::GENERATION_BITS;
        }
        peer
    }

    /// The local session that a shard's peer id names: that of its first connection.
    #[inline]
    pub(crate) fn slot_of_peer(&self, peer: PeerId) -> Option<usize> {
        debug_assert_eq!(peer.core, self.core);
        let slot = peer.slot as usize;
        match self.sessions.get(slot) {
            Some(Some(session)) if session.peer == peer => Some(slot),
            _ if self.resumables.moved.is_empty() => None,
            _ => self.resumables.moved.get(&peer).copied(),
        }
    }
}

/// Hands a session's open frame over, if it has one.
#[inline]
pub(crate) fn seal_into(effects: &mut VecDeque<Effect>, session: &mut Session) {
    if let Some(bytes) = session.outbox.seal() {
        let conn = session.conn;
        effects.push_back(Effect::Send { conn, bytes });
    }
}

fn shard_limits(limits: &Limits) -> fluxar_shard::Limits {
    fluxar_shard::Limits {
        subscriptions_per_peer: limits.subscriptions_per_connection,
        calls_per_peer: limits.calls_per_connection,
        calls_queued_per_core: limits.calls_queued,
        call_bytes_held_per_core: limits.call_bytes_held,
        stream_window_bytes: limits.stream_window_bytes,
        unacked_bytes_per_subscription: limits.unacked_bytes,
        unacked_events_per_subscription: limits.unacked_events,
        names_remembered: limits.topics_remembered,
        ..fluxar_shard::Limits::default()
    }
}

/// An answer of the gateway's own to message `id`.
pub(crate) fn answer<'a>(kind: Kind, own: Id, id: Id, error: Option<&'a [u8]>) -> Envelope<'a> {
    Envelope {
        kind,
        id: own,
        reference: Some(id),
        target: None,
        meta: None,
        payload: &[],
        error,
    }
}
