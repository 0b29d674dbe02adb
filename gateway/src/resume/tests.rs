//! What one core keeps, of connections that are played: bytes go into the front, and effects come out.

use std::collections::BTreeMap;

use fluxar_engine::driver::Token;
use fluxar_engine::listener::{ListenerId, Peer};
use fluxar_engine::reactor::{Cause, Conn, Piece};
use fluxar_protocol::frame::{Deframer, prefix};
use fluxar_protocol::hello::{Caps, Hello, Resume, Welcome};
use fluxar_protocol::meta::{Meta, MetaWriter};
use fluxar_protocol::{Batch, Code, Envelope, ErrorBody, Form, Id, Kind};

use crate::front::{Effect, Front};
use crate::limits::{Limits, REFUSAL_NOTE_MS};
use crate::mail::Mail;
use crate::outbox::Framing;
use crate::services::Told;
use crate::session::pause;

/// A core and what its connections were sent.
struct Core {
    front: Front,
    sent: BTreeMap<u32, Vec<u8>>,
    closed: Vec<Conn>,
    handed_over: Vec<(Conn, usize, Mail)>,
    connections: u32,
    ids: u64,
}

/// Type, ref, meta.
type Heard = (Kind, Option<Id>, Option<Vec<u8>>);

/// What a peer remembers of its session.
#[derive(Debug)]
struct Known {
    conn: Conn,
    session: Id,
    token: Vec<u8>,
}

impl Core {
    fn new(limits: Limits) -> Self {
        Self::one_of(0, 1, limits)
    }

    fn one_of(core: u16, cores: u16, limits: Limits) -> Self {
        let mut state = 7_u64;
        let entropy = move |bytes: &mut [u8]| {
            for byte in bytes {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (state >> 33) as u8;
            }
        };
        Self {
            front: Front::new(core, cores, limits, vec![Framing::Prefixed], 1, Box::new(entropy)),
            sent: BTreeMap::new(),
            closed: Vec::new(),
            handed_over: Vec::new(),
            connections: 0,
            ids: 0,
        }
    }

    fn id(&mut self) -> Id {
        self.ids += 1;
        let mut id = [1; 16];
        id[8..].copy_from_slice(&self.ids.to_be_bytes());
        Id(id)
    }

    /// A name for a new connection.
    fn name(&mut self) -> Conn {
        self.connections += 1;
        Conn(Token {
            slot: self.connections - 1,
            generation: 0,
        })
    }

    fn connect(&mut self) -> Conn {
        let conn = self.name();
        self.front
            .handle_opened(conn, ListenerId(0), &Peer::Unix { pid: 1, uid: 1 });
        conn
    }

    /// One input of one frame, and the turn behind it. The kernel takes whatever is sent.
    fn say(&mut self, conn: Conn, body: &[u8]) {
        let mut bytes = prefix(body.len()).to_vec();
        bytes.extend_from_slice(body);
        self.front.handle_input(conn, Piece::Stream(&bytes));
        self.front.handle_input_end(conn, 1, false);
        self.turn();
    }

    fn turn(&mut self) {
        self.front.handle_turn_end();
        while let Some(effect) = self.front.poll_effect() {
            match effect {
                Effect::Send { conn, bytes } => self.take(conn, &bytes),
                Effect::SendParts { conn, parts } => self.take(conn, &parts.concat()),
                Effect::Close { conn, .. } => self.closed.push(conn),
                Effect::HandOver { conn, core, mail } => self.handed_over.push((conn, core, mail)),
                Effect::Pause(_) | Effect::Resume(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn take(&mut self, conn: Conn, bytes: &[u8]) {
        self.sent.entry(conn.0.slot).or_default().extend_from_slice(bytes);
        self.front.handle_sent(conn, bytes.len());
    }

    /// What a connection was sent since it was last asked.
    fn heard(&mut self, conn: Conn) -> Vec<Heard> {
        let sent = self.sent.remove(&conn.0.slot).unwrap_or_default();
        let mut input = &sent[..];
        let mut deframer = Deframer::new();
        let mut all = Vec::new();
        while let Some(body) = deframer.next(&mut input, 1 << 20).expect("frames") {
            for decoded in Batch::new(body) {
                let envelope = &decoded.expect("an envelope").envelope;
                let meta = envelope.meta.map(|meta| meta.as_bytes().to_vec());
                all.push((envelope.kind, envelope.reference, meta));
            }
        }
        all
    }

    /// A hello, on a connection that is there.
    fn hello(&mut self, conn: Conn, resume: Option<Resume<'_>>) {
        let hello = Hello {
            caps: Caps {
                resume: true,
                ..Caps::default()
            },
            resume,
            ..Hello::default()
        };
        let mut payload = Vec::new();
        hello.encode(&mut payload);
        let id = self.id();
        self.say(conn, &envelope(Kind::Hello, id, None, None, None, &payload));
    }

    /// Says hello on a new connection; the session, and whether it was resumed, with its `recv`.
    fn greet(&mut self, resume: Option<(&Known, u64)>) -> (Known, Option<u64>) {
        let conn = self.connect();
        let resume = resume.map(|(known, recv)| Resume {
            session: known.session,
            token: &known.token,
            recv,
        });
        self.hello(conn, resume);
        let sent = self.sent.get(&conn.0.slot).expect("an answer");
        let decoded = fluxar_protocol::envelope::decode(&sent[4..]).expect("an answer");
        let welcome = Welcome::decode(decoded.envelope.payload).expect("a welcome");
        let known = Known {
            conn,
            session: welcome.session,
            token: welcome.token.expect("a token").to_vec(),
        };
        let recv = welcome.resumed.then_some(welcome.recv);
        // The answer is looked at; what is behind it is heard later.
        let answer_bytes = 4 + decoded.bytes.len();
        self.sent.entry(conn.0.slot).or_default().drain(..answer_bytes);
        (known, recv)
    }

    /// A session comes back over a new connection: what is known of it then, or after how long it is to come again, ms.
    fn come_back(&mut self, known: &Known) -> Result<Known, u32> {
        let conn = self.connect();
        let resume = Resume {
            session: known.session,
            token: &known.token,
            recv: 0,
        };
        self.hello(conn, Some(resume));
        self.answer_to(conn)
    }

    /// What a connection was told whose hello had the token of a session.
    fn answer_to(&mut self, conn: Conn) -> Result<Known, u32> {
        let sent = self.sent.remove(&conn.0.slot).expect("an answer");
        let answer = fluxar_protocol::envelope::decode(&sent[4..])
            .expect("an answer")
            .envelope;
        assert_eq!(answer.kind, Kind::Hello);
        let Some(error) = answer.error else {
            let welcome = Welcome::decode(answer.payload).expect("a welcome");
            assert!(welcome.resumed);
            return Ok(Known {
                conn,
                session: welcome.session,
                token: welcome.token.expect("a token").to_vec(),
            });
        };
        let error = ErrorBody::decode(error).expect("an error");
        assert_eq!(error.code, Code::Unavailable);
        assert_eq!(self.closed.last(), Some(&conn));
        self.front.handle_closed(conn, &Cause::Ours);
        Err(error.retry_after_ms.expect("when to come again"))
    }

    /// Sessions come back, until it is one too many. Those that did are over then.
    fn use_up_returns(&mut self) {
        loop {
            let (known, _) = self.greet(None);
            let Ok(next) = self.come_back(&known) else {
                break;
            };
            self.front.handle_closed(known.conn, &Cause::Ours);
            let id = self.id();
            self.say(next.conn, &envelope(Kind::Cancel, id, None, None, None, &[]));
            self.front.handle_closed(next.conn, &Cause::Ours);
            assert!(self.connections < 20_000, "none is put off");
        }
    }

    /// Time passes.
    fn pass(&mut self, ms: u64) {
        let now_ms = self.front.now_ms + ms;
        self.front.handle_time(now_ms * 1_000);
        self.turn();
    }

    fn serve(&mut self) -> Conn {
        let (server, _) = self.greet(None);
        let id = self.id();
        let meta = MetaWriter::new().flag("serve", true).finish();
        let offer = envelope(Kind::Subscribe, id, None, Some("m"), meta.as_deref(), &[]);
        self.say(server.conn, &offer);
        self.heard(server.conn);
        server.conn
    }

    fn call(&mut self, from: Conn) -> Id {
        let id = self.id();
        self.say(from, &envelope(Kind::Call, id, None, Some("m"), None, &[]));
        id
    }

    /// Answers all calls that came to a server with so many bytes.
    fn answer_all(&mut self, server: Conn, bytes: u16) {
        let sent = self.sent.remove(&server.0.slot).unwrap_or_default();
        let mut input = &sent[..];
        let mut deframer = Deframer::new();
        let mut calls = Vec::new();
        while let Some(body) = deframer.next(&mut input, 1 << 20).expect("frames") {
            for decoded in Batch::new(body) {
                let envelope = &decoded.expect("an envelope").envelope;
                if envelope.kind == Kind::Call && envelope.reference.is_none() {
                    calls.push(envelope.id);
                }
            }
        }
        let mut payload = vec![0x59];
        payload.extend(bytes.to_be_bytes());
        payload.resize(3 + usize::from(bytes), 0xab);
        for call in calls {
            let id = self.id();
            self.say(
                server,
                &envelope(Kind::Call, id, Some(call), None, None, &payload),
            );
        }
    }
}

fn envelope(
    kind: Kind,
    id: Id,
    reference: Option<Id>,
    target: Option<&str>,
    meta: Option<&[u8]>,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    Envelope {
        kind,
        id,
        reference,
        target,
        meta: meta.map(Meta::from_checked),
        payload,
        error: None,
    }
    .encode(Form::Compact, &mut bytes);
    bytes
}

#[test]
fn what_a_peer_says_that_it_has_is_not_kept() {
    let mut core = Core::new(Limits::default());
    let server = core.serve();
    let (known, _) = core.greet(None);
    for _ in 0..10 {
        core.call(known.conn);
    }
    let before = core.front.resumables.kept_bytes.get();
    core.answer_all(server, 1_000);
    assert!(core.front.resumables.kept_bytes.get() >= before + 10_000);
    let id = core.id();
    let meta = MetaWriter::new().uint("recv", 10).finish();
    core.say(
        known.conn,
        &envelope(Kind::Ping, id, None, None, meta.as_deref(), &[]),
    );
    assert!(core.front.resumables.kept_bytes.get() <= before);
    let (_, _, meta) = core.heard(known.conn).pop().expect("a pong");
    let meta = meta.expect("with a count");
    assert_eq!(
        Meta::from_checked(&meta).uint("recv"),
        Ok(Some(10)),
        "its ten calls"
    );
    // One that says more than there was is not believed.
    let meta = MetaWriter::new().uint("recv", 11).finish();
    core.say(
        known.conn,
        &envelope(Kind::Ping, id, None, None, meta.as_deref(), &[]),
    );
    let (kind, reference, _) = core.heard(known.conn).pop().expect("a goodbye");
    assert_eq!((kind, reference), (Kind::Cancel, None));
    assert_eq!(core.closed, [known.conn]);
}

#[test]
fn who_goes_to_another_core_is_held_to_its_rate_there() {
    let limits = Limits {
        messages_per_s: 10,
        ..Limits::default()
    };
    let mut first = Core::one_of(1, 2, limits.clone());
    let mut home = Core::one_of(0, 2, limits);
    let conn = first.connect();
    // It takes no session, and no token.
    let resume = Resume {
        session: Id([0; 16]),
        token: &[0; 16],
        recv: 0,
    };
    first.hello(conn, Some(resume));
    let Some((_, 0, Mail::Resume(resuming))) = first.handed_over.pop() else {
        panic!("it is handed over");
    };
    let conn = home.name();
    home.front.handle_resuming(conn, *resuming);
    let slot = conn.0.slot as usize;
    for nth in 1..=10 {
        let paused = home.front.sessions[slot].as_ref().expect("a session").paused;
        assert_eq!(paused, 0, "before ping {nth}");
        let id = home.id();
        home.say(conn, &envelope(Kind::Ping, id, None, None, None, &[]));
    }
    let paused = home.front.sessions[slot].as_ref().expect("a session").paused;
    assert_eq!(paused, pause::RATE, "ten, and the hello");
}

#[test]
fn counted_bytes_are_told_before_there_are_many() {
    let mut core = Core::new(Limits::default());
    core.serve();
    let (known, _) = core.greet(None);
    core.heard(known.conn);
    let mut payload = vec![0x59, 0x27, 0x10];
    payload.resize(10_003, 0xab);
    for nth in 1..=20 {
        let id = core.id();
        core.say(
            known.conn,
            &envelope(Kind::Call, id, None, Some("m"), None, &payload),
        );
        let pings = core.heard(known.conn);
        let is_due = nth % 7 == 0;
        assert_eq!(pings.len(), usize::from(is_due), "{nth}: {pings:?}");
        if is_due {
            let meta = pings[0].2.as_deref().expect("a count");
            assert_eq!(Meta::from_checked(meta).uint("recv"), Ok(Some(nth)));
        }
    }
}

#[test]
fn a_core_keeps_no_more_than_its_bound_and_who_keeps_little_keeps_it() {
    const BOUND: usize = 256 * 1024;
    let mut core = Core::new(Limits {
        resume_bytes_per_core: BOUND,
        ..Limits::default()
    });
    let server = core.serve();
    let (modest, _) = core.greet(None);
    let call = core.call(modest.conn);
    core.answer_all(server, 1_000);
    let (greedy, _) = core.greet(None);
    for _ in 0..100 {
        core.call(greedy.conn);
        core.answer_all(server, 10_000);
        assert!(core.front.resumables.kept_bytes.get() <= BOUND);
    }
    assert!(core.front.counters().kept_forgotten > 0);
    assert_eq!(core.greet(Some((&greedy, 0))).1, None, "its oldest are forgotten");
    let (modest, recv) = core.greet(Some((&modest, 0)));
    assert_eq!(recv, Some(1), "its call");
    let again = core.heard(modest.conn);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].1, Some(call));
}

#[test]
fn nothing_is_left_of_sessions_that_are_over() {
    let mut core = Core::new(Limits {
        // The server says nothing for a minute.
        heartbeat_ms: 3_600_000,
        ..Limits::default()
    });
    let server = core.serve();
    for round in 0..20 {
        let (first, _) = core.greet(None);
        core.call(first.conn);
        core.front.handle_closed(first.conn, &Cause::Peer);
        core.turn();
        assert_eq!(core.front.shard_counts().away, 1);
        core.answer_all(server, 3_000);
        let (second, recv) = core.greet(Some((&first, 0)));
        assert_eq!(recv, Some(1));
        let again = core.heard(second.conn);
        assert_eq!(again.len(), 1, "round {round}: {again:?}");
        match round % 4 {
            0 => {
                let id = core.id();
                core.say(second.conn, &envelope(Kind::Cancel, id, None, None, None, &[]));
                core.front.handle_closed(second.conn, &Cause::Ours);
            }
            1 => {
                core.front.handle_ending(second.conn, false);
                core.front.handle_closed(second.conn, &Cause::Peer);
                let away_ms = u64::from(Limits::default().resume_ms);
                let now_ms = core.front.now_ms + away_ms;
                core.front.handle_time((now_ms - 1) * 1_000);
                core.turn();
                assert_eq!(core.front.shard_counts().away, 1);
                core.front.handle_time(now_ms * 1_000);
            }
            2 => core
                .front
                .handle_closed(second.conn, &Cause::Transport("a breach".into())),
            _ => {
                // Two more that take over from each other, while the gateway believes in the first.
                let (third, _) = core.greet(Some((&second, 1)));
                let (fourth, _) = core.greet(Some((&third, 1)));
                assert!(core.closed.contains(&second.conn) && core.closed.contains(&third.conn));
                for conn in [second.conn, third.conn] {
                    core.say(
                        conn,
                        &envelope(Kind::Call, Id([5; 16]), None, Some("m"), None, &[]),
                    );
                    core.front.handle_closed(conn, &Cause::Ours);
                }
                let id = core.id();
                core.say(fourth.conn, &envelope(Kind::Cancel, id, None, None, None, &[]));
                core.front.handle_closed(fourth.conn, &Cause::Ours);
            }
        }
        core.turn();
        let counts = core.front.shard_counts();
        assert_eq!((counts.away, counts.askers), (0, 0), "round {round}");
        assert!(core.front.resumables.moved.is_empty());
        assert_eq!(core.front.sessions.away(), 0);
        assert_eq!(core.front.sessions(), 1, "the server's");
        assert_eq!(core.front.resumables.len(), 1);
    }
    core.front.handle_closed(server, &Cause::Peer);
    core.front.handle_stop();
    core.turn();
    assert_eq!(core.front.resumables.len(), 0);
    assert_eq!(core.front.resumables.kept_bytes.get(), 0);
}

#[test]
fn one_that_is_away_is_not_told_goodbye_but_over() {
    let mut core = Core::new(Limits::default());
    let (known, _) = core.greet(None);
    core.front.handle_closed(known.conn, &Cause::Peer);
    core.turn();
    let slot = core.front.sessions.away_slots().start;
    for _ in 0..2 * core.front.limits.refusals_per_s {
        core.front.charge_refusal(slot);
    }
    core.turn();
    assert_eq!(core.front.sessions.away(), 1, "refusals are no reason");
    core.front.say_goodbye(slot, None, crate::front::ws_code::POLICY);
    core.turn();
    assert_eq!((core.front.sessions.away(), core.front.resumables.len()), (0, 0));
    assert_eq!(core.front.shard_counts().away, 0);
}

#[test]
fn one_that_was_not_told_all_is_not_resumed() {
    let mut core = Core::new(Limits::default());
    // As when an answer finds twice the bound queued; it is closed at the end of the turn.
    let (lost, _) = core.greet(None);
    core.front.pause(lost.conn.0.slot as usize, pause::OVERRUN);
    core.front.handle_ending(lost.conn, false);
    assert_eq!((core.front.sessions.away(), core.front.resumables.len()), (0, 0));
    let (taken, _) = core.greet(None);
    core.front.pause(taken.conn.0.slot as usize, pause::OVERRUN);
    assert_eq!(core.greet(Some((&taken, 0))).1, None);
    assert_eq!(core.front.resumables.len(), 1, "the new one");
}

#[test]
fn what_the_kernel_takes_for_a_session_that_was_taken_away_counts_for_nothing() {
    let mut core = Core::new(Limits::default());
    let (known, _) = core.greet(None);
    core.front.give_up(known.conn.0.slot as usize, &"it is silent");
    core.front.handle_sent(known.conn, 100);
    core.turn();
    assert_eq!(core.closed, [known.conn]);
    let (known, recv) = core.greet(Some((&known, 0)));
    assert_eq!(recv, Some(0));
    core.call(known.conn);
    assert!(!core.heard(known.conn).is_empty(), "that nobody serves it");
}

#[test]
fn who_drains_goes_on_with_that() {
    let mut core = Core::new(Limits::default());
    let (mut server, _) = core.greet(None);
    let id = core.id();
    let meta = MetaWriter::new().flag("serve", true).finish();
    let offer = envelope(Kind::Subscribe, id, None, Some("m"), meta.as_deref(), &[]);
    core.say(server.conn, &offer);
    // As lists call it, by its first connection.
    let called = format!("0/{}.{}", server.conn.0.slot, server.conn.0.generation);
    let standings = |core: &Core| -> Vec<bool> {
        let rows = core.front.shard.services();
        rows.map(|row| row.standing.draining).collect()
    };
    let mark = |core: &mut Core, on| match core.front.mark_draining(&called, on) {
        Told::Marked { count, .. } => assert_eq!(count, 1),
        other => panic!("{other:?}"),
    };
    mark(&mut core, true);
    assert_eq!(standings(&core), [true]);
    for (is_lost, marked_away) in [
        (true, None),
        (false, None),
        (true, Some(false)),
        (true, Some(true)),
    ] {
        if is_lost {
            core.front.handle_closed(server.conn, &Cause::Peer);
            core.turn();
            assert_eq!(standings(&core), []);
        }
        if let Some(on) = marked_away {
            mark(&mut core, on);
        }
        let (next, recv) = core.greet(Some((&server, 1)));
        assert_eq!(recv, Some(1), "its offer");
        assert_eq!(
            standings(&core),
            [marked_away.unwrap_or(true)],
            "is_lost: {is_lost}"
        );
        server = next;
    }
}

#[test]
fn what_a_transport_owes_a_peer_that_closes_it_is_not_cut_off() {
    let mut core = Core::new(Limits::default());
    let (mut known, _) = core.greet(None);
    for is_deaf in [false, true] {
        let (lost, slot) = (known.conn, known.conn.0.slot as usize);
        if is_deaf {
            core.front.pause(slot, pause::OVERRUN);
        }
        core.front.handle_ending(lost, false);
        core.turn();
        assert_eq!(core.closed, [], "the engine ends it");
        assert_eq!(core.front.sessions.away(), usize::from(!is_deaf));
        if !is_deaf {
            // What was queued may be taken still, and says nothing of the session.
            core.front.handle_sent(lost, 100);
        }
        let (next, recv) = core.greet(Some((&known, 0)));
        assert_eq!(recv.is_some(), !is_deaf);
        core.front.handle_closed(lost, &Cause::Peer);
        assert_eq!(core.front.sessions(), 1);
        known = next;
    }
}

#[test]
fn after_a_breach_a_session_is_over_and_its_connection_may_still_be_told_why() {
    let mut core = Core::new(Limits::default());
    let (known, _) = core.greet(None);
    core.front.handle_ending(known.conn, true);
    core.turn();
    assert_eq!((core.front.sessions.away(), core.front.resumables.len()), (0, 0));
    assert_eq!(core.closed, [], "the engine's answer is on its way");
    core.front
        .handle_closed(known.conn, &Cause::Transport("a breach".into()));
    assert_eq!(core.front.sessions(), 0);
}

#[test]
fn past_the_bound_the_largest_give_up_and_who_keeps_more_than_its_share_keeps_it() {
    let mut core = Core::new(Limits {
        resume_bytes_per_core: 256 * 1024,
        ..Limits::default()
    });
    let server = core.serve();
    for _ in 0..8 {
        core.greet(None);
    }
    let (known, _) = core.greet(None);
    for _ in 0..4 {
        core.call(known.conn);
        core.answer_all(server, 10_000);
    }
    let (greedy, _) = core.greet(None);
    for _ in 0..100 {
        core.call(greedy.conn);
        core.answer_all(server, 10_000);
    }
    assert!(core.front.counters().kept_forgotten > 0);
    let (known, recv) = core.greet(Some((&known, 0)));
    assert_eq!(recv, Some(4), "its calls");
    assert_eq!(core.heard(known.conn).len(), 4);
}

#[test]
fn of_too_many_that_are_away_the_one_away_longest_is_over() {
    let mut core = Core::new(Limits {
        connections: 3,
        ..Limits::default()
    });
    let mut lost = Vec::new();
    for _ in 0..5 {
        let (known, _) = core.greet(None);
        core.front.handle_closed(known.conn, &Cause::Peer);
        core.turn();
        lost.push(known);
    }
    assert_eq!(core.front.sessions.away(), 3);
    // One that returned and was lost again is not the oldest any more.
    let (third, recv) = core.greet(Some((&lost[2], 0)));
    assert_eq!(recv, Some(0));
    core.front.handle_closed(third.conn, &Cause::Peer);
    let (sixth, _) = core.greet(None);
    core.front.handle_closed(sixth.conn, &Cause::Peer);
    core.turn();
    for (known, is_kept) in [
        (&lost[0], false),
        (&lost[1], false),
        (&lost[3], false),
        (&lost[4], true),
        (&third, true),
        (&sixth, true),
    ] {
        let (next, recv) = core.greet(Some((known, 0)));
        assert_eq!(recv.is_some(), is_kept, "{:?}", known.conn);
        let id = core.id();
        core.say(next.conn, &envelope(Kind::Cancel, id, None, None, None, &[]));
        core.front.handle_closed(next.conn, &Cause::Ours);
    }
}

#[test]
fn who_has_nothing_open_is_the_first_to_go() {
    let mut core = Core::new(Limits {
        connections: 3,
        ..Limits::default()
    });
    core.serve();
    let (busy, _) = core.greet(None);
    core.call(busy.conn);
    core.front.handle_closed(busy.conn, &Cause::Peer);
    core.turn();
    for _ in 0..10 {
        let (idle, _) = core.greet(None);
        core.front.handle_closed(idle.conn, &Cause::Peer);
        core.turn();
        assert!(core.front.sessions.away() <= 3);
    }
    assert_eq!(core.greet(Some((&busy, 0))).1, Some(1), "its call");
}

#[test]
fn what_was_refused_in_its_last_second_is_told_when_it_is_back() {
    for is_lost in [true, false] {
        let mut core = Core::new(Limits::default());
        let (known, _) = core.greet(None);
        for _ in 0..3 {
            let id = core.id();
            let publish = envelope(Kind::Event, id, None, Some("$no"), None, &[]);
            core.say(known.conn, &publish);
        }
        let refusals = |heard: &[Heard]| heard.iter().filter(|(kind, ..)| *kind == Kind::Event).count();
        assert_eq!(
            refusals(&core.heard(known.conn)),
            1,
            "at once, and the others a second later"
        );
        if is_lost {
            core.front.handle_closed(known.conn, &Cause::Peer);
            core.turn();
        }
        let (known, recv) = core.greet(Some((&known, 1)));
        assert_eq!(recv, Some(0));
        let now_ms = core.front.now_ms + REFUSAL_NOTE_MS;
        core.front.handle_time(now_ms * 1_000);
        core.turn();
        assert_eq!(refusals(&core.heard(known.conn)), 1);
    }
}

#[test]
fn too_many_that_come_back_at_once_are_told_when_to_and_lose_nothing_by_it() {
    let mut core = Core::new(Limits::default());
    let (known, _) = core.greet(None);
    core.front.handle_closed(known.conn, &Cause::Peer);
    core.turn();
    core.use_up_returns();
    let put_off = core.front.counters().returns_put_off;
    let after_ms = core.come_back(&known).expect_err("one too many");
    assert!(after_ms > 0);
    assert_eq!(core.front.counters().returns_put_off, put_off + 1);
    core.pass(1_000);
    assert_eq!(core.greet(Some((&known, 0))).1, Some(0));
}

#[test]
fn who_is_put_off_by_the_core_that_its_session_is_on_loses_nothing_either() {
    let mut first = Core::one_of(1, 2, Limits::default());
    let mut home = Core::one_of(0, 2, Limits::default());
    let (known, _) = home.greet(None);
    home.front.handle_closed(known.conn, &Cause::Peer);
    home.turn();
    home.use_up_returns();
    for is_put_off in [true, false] {
        let conn = first.connect();
        let resume = Resume {
            session: known.session,
            token: &known.token,
            recv: 0,
        };
        first.hello(conn, Some(resume));
        let Some((_, 0, Mail::Resume(resuming))) = first.handed_over.pop() else {
            panic!("it is handed over");
        };
        let conn = home.name();
        home.front.handle_resuming(conn, *resuming);
        home.turn();
        assert_eq!(home.answer_to(conn).is_err(), is_put_off);
        home.pass(1_000);
    }
}

#[test]
fn one_session_that_comes_over_and_over_is_put_off_and_keeps_nobody_else_away() {
    for is_lost in [true, false] {
        let mut core = Core::new(Limits::default());
        let (other, _) = core.greet(None);
        let (mut known, _) = core.greet(None);
        let mut after_ms = None;
        for _ in 0..6_000 {
            if is_lost {
                core.front.handle_closed(known.conn, &Cause::Peer);
                core.turn();
            }
            match core.come_back(&known) {
                Ok(next) => {
                    if !is_lost {
                        core.front.handle_closed(known.conn, &Cause::Ours);
                    }
                    known = next;
                }
                Err(ms) => after_ms = Some(ms),
            }
        }
        let after_ms = after_ms.expect("it is put off");
        assert!((1..=1_000).contains(&after_ms), "{after_ms} ms");
        assert!(core.come_back(&other).is_ok());
        // Its session is as it was, and when it waits it comes through.
        core.pass(u64::from(after_ms));
        assert!(core.come_back(&known).is_ok());
    }
}

#[test]
fn hellos_with_invented_sessions_keep_nobody_away() {
    let mut core = Core::new(Limits::default());
    let (known, _) = core.greet(None);
    core.front.handle_closed(known.conn, &Cause::Peer);
    core.turn();
    let hellos = 6_000;
    for nth in 0..hellos {
        let conn = core.connect();
        let resume = Resume {
            session: if nth % 2 == 0 { Id([0; 16]) } else { known.session },
            token: &[0; 16],
            recv: 0,
        };
        core.hello(conn, Some(resume));
        core.front.handle_closed(conn, &Cause::Ours);
    }
    let counters = core.front.counters();
    assert_eq!((counters.not_resumed, counters.returns_put_off), (hellos, 0));
    assert!(core.come_back(&known).is_ok());
}

#[test]
fn who_is_put_off_is_to_come_while_its_session_is_kept_and_counts_once_until_then() {
    let resume_ms = 2_000;
    let mut core = Core::new(Limits {
        resume_ms,
        retry_spread_ms: 1_000_000,
        ..Limits::default()
    });
    let lost: Vec<Known> = (0..8).map(|_| core.greet(None).0).collect();
    for known in &lost {
        core.front.handle_closed(known.conn, &Cause::Peer);
    }
    core.turn();
    // Half of its time is over, and of what is left half is asked for at most.
    core.pass(u64::from(resume_ms / 2));
    core.use_up_returns();
    let mut told_ms = Vec::new();
    for known in &lost {
        let after_ms = core.come_back(known).expect_err("one too many");
        assert!((1..=resume_ms / 4).contains(&after_ms), "{after_ms} ms");
        told_ms.push(after_ms);
    }
    // Those that do not wait are told the same again.
    for (known, after_ms) in lost.iter().zip(&told_ms) {
        assert_eq!(core.come_back(known).expect_err("one too many"), *after_ms);
    }
    core.pass(u64::from(resume_ms / 4));
    for known in &lost {
        assert!(core.come_back(known).is_ok());
    }
}

#[test]
fn sessions_that_come_and_go_leave_nothing_in_the_order_of_those_away() {
    let mut core = Core::new(Limits::default());
    let (mut known, _) = core.greet(None);
    for _ in 0..1_000 {
        core.front.handle_closed(known.conn, &Cause::Peer);
        core.turn();
        known = core.greet(Some((&known, 0))).0;
        core.heard(known.conn);
        // None comes back too often.
        core.pass(20);
    }
    assert!(core.front.sessions.in_order() <= 200);
}
