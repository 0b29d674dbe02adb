//! Sessions over connections that are cut at random moments, in the middle of handshakes too: by an end, by a reset, or
//! without the gateway hearing of it. Every call is answered once, every stream arrives without a gap or a repeat, every
//! subscription is accepted once and ended once, and in the end nothing of anybody is left.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use fluxar_engine::listener::ListenerId;
use fluxar_engine::sim::{ClientState, Faults, Random, SimDriver, Step, World};
use fluxar_gateway::limits::Limits;
use fluxar_gateway::worker::Worker;
use fluxar_protocol::envelope::Envelope;
use fluxar_protocol::hello::{Caps, Hello, Welcome};
use fluxar_protocol::meta::{Meta, MetaWriter};
use fluxar_protocol::session::is_counted;
use fluxar_protocol::{Batch, Form, Id, Kind};

use crate::machine::Machine;
use crate::session::Session;
use crate::under_seeds;
use crate::wire::Wire;

const MS: u64 = 1_000_000;
const CHUNKS: u64 = 120;
/// Lives until a planted fault is caught, at most.
const LIVES_MOST: u64 = 100;

/// A fault that a gateway could have in what it counts and keeps of a session. It is planted between the gateway and its client,
/// where a session goes on over another connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// What was sent and never came is not sent again: the first of it is left out.
    KeptLost,
    /// What came is sent again.
    KeptTwice,
    /// It claims to have got one more than it has, so that the client does not say that again.
    CountAhead,
    /// It claims to have got one less than it has, and takes it again.
    CountBehind,
}

impl Fault {
    const ALL: [Self; 4] = [
        Self::KeptLost,
        Self::KeptTwice,
        Self::CountAhead,
        Self::CountBehind,
    ];
}

/// What came of one life, or of many.
#[derive(Debug, Default)]
struct Totals {
    cuts: u64,
    resumed: u64,
    put_away: u64,
    answered: u64,
    chunks: u64,
    ended: u64,
}

impl Totals {
    fn add(&mut self, other: &Self) {
        self.cuts += other.cuts;
        self.resumed += other.resumed;
        self.put_away += other.put_away;
        self.answered += other.answered;
        self.chunks += other.chunks;
        self.ended += other.ended;
    }
}

/// One side of a session: what it said and heard, over all its connections.
struct End {
    wire: Option<Wire>,
    /// Connections that it left without a word, and that nobody reads.
    left: Vec<Wire>,
    hello: Id,
    is_open: bool,
    form: Form,
    can_resume: bool,
    session: Session,
    name: u8,
    ids: u64,
    fault: Option<Fault>,
    /// The session goes on over a new connection, and nothing counted has come over it yet.
    is_back: bool,
    /// The last that came before and was counted.
    heard_last: Vec<u8>,
}

impl End {
    fn new(name: u8, form: Form, can_resume: bool, fault: Option<Fault>) -> Self {
        Self {
            wire: None,
            left: Vec::new(),
            hello: Id([0; 16]),
            is_open: false,
            form,
            can_resume,
            session: Session::new(),
            name,
            ids: 0,
            fault,
            is_back: false,
            heard_last: Vec::new(),
        }
    }

    fn id(&mut self) -> Id {
        self.ids += 1;
        let mut id = [self.name; 16];
        id[8..].copy_from_slice(&self.ids.to_be_bytes());
        Id(id)
    }

    /// Connects, and says hello: to resume, if there is something to go on with.
    fn connect(&mut self, world: &mut World, listeners: [ListenerId; 2], random: &mut Random) {
        let websocket = random.chance(0.3);
        let socket = world.connect(listeners[usize::from(websocket)]);
        let mut wire = Wire::new(socket, websocket);
        self.hello = self.id();
        self.is_open = false;
        let hello = Hello {
            caps: Caps {
                resume: self.can_resume,
                ..Caps::default()
            },
            resume: self.session.resume(),
            ..Hello::default()
        };
        let mut payload = Vec::new();
        hello.encode(&mut payload);
        let mut body = Vec::new();
        Envelope {
            kind: Kind::Hello,
            id: self.hello,
            reference: None,
            target: None,
            meta: None,
            payload: &payload,
            error: None,
        }
        .encode(self.form, &mut body);
        wire.send(&body, random);
        self.wire = Some(wire);
    }

    fn greeted(&mut self, envelope: &Envelope<'_>, random: &mut Random) {
        assert_eq!(
            (envelope.kind, envelope.reference, envelope.error),
            (Kind::Hello, Some(self.hello), None)
        );
        let mut welcome = Welcome::decode(envelope.payload).expect("a welcome");
        assert_eq!(
            welcome.resumed,
            self.session.can_resume(),
            "a session that is kept goes on"
        );
        self.is_open = true;
        self.is_back = welcome.resumed;
        match self.fault.filter(|_| welcome.resumed) {
            Some(Fault::CountAhead) => welcome.recv += 1,
            Some(Fault::CountBehind) => welcome.recv = welcome.recv.saturating_sub(1),
            _ => {}
        }
        let wire = self.wire.as_mut().expect("it came over one");
        let again = self.session.greeted(&welcome);
        again.iter().for_each(|body| wire.send(body, random));
    }

    fn say(
        &mut self,
        kind: Kind,
        reference: Option<Id>,
        target: Option<&str>,
        meta: MetaWriter,
        payload: &[u8],
        random: &mut Random,
    ) -> Id {
        let id = self.id();
        let meta = meta.finish();
        let envelope = Envelope {
            kind,
            id,
            reference,
            target,
            meta: meta.as_deref().map(Meta::from_checked),
            payload,
            error: None,
        };
        let mut body = Vec::new();
        envelope.encode(self.form, &mut body);
        if self.can_resume {
            self.session.says(&body);
        }
        if self.is_open
            && let Some(wire) = &mut self.wire
        {
            wire.send(&body, random);
        }
        id
    }

    /// Loses its connection.
    fn cut(&mut self, random: &mut Random) {
        let Some(mut wire) = self.wire.take() else { return };
        self.is_open = false;
        match random.index(3) {
            0 => wire.die(false),
            1 => wire.die(true),
            _ => {
                wire.stop_reading();
                self.left.push(wire);
            }
        }
    }

    /// What came, one by one; the welcome aside, and pings answered.
    fn listen(&mut self, random: &mut Random) -> Vec<Vec<u8>> {
        let Some(wire) = &mut self.wire else {
            return Vec::new();
        };
        let mut all = Vec::new();
        for body in wire.turn() {
            for decoded in Batch::new(&body) {
                let decoded = decoded.expect("a gateway sends what can be read");
                let envelope = &decoded.envelope;
                if !self.is_open {
                    if envelope.kind == Kind::Cancel {
                        continue; // one that was late is told goodbye
                    }
                    self.greeted(envelope, random);
                    continue;
                }
                self.session.hears(&decoded);
                if is_counted(envelope) {
                    let is_first = std::mem::take(&mut self.is_back);
                    let before = std::mem::replace(&mut self.heard_last, decoded.bytes.to_vec());
                    match self.fault.filter(|_| is_first) {
                        Some(Fault::KeptLost) => continue,
                        Some(Fault::KeptTwice) if !before.is_empty() => all.push(before),
                        _ => {}
                    }
                }
                if envelope.kind != Kind::Ping {
                    all.push(decoded.bytes.to_vec());
                } else if envelope.reference.is_none() {
                    self.pong(envelope.id, random);
                }
            }
        }
        if self
            .wire
            .as_ref()
            .is_some_and(|wire| wire.state() != ClientState::Open)
        {
            self.wire = None;
            self.is_open = false;
        }
        all
    }

    fn pong(&mut self, ping: Id, random: &mut Random) {
        let meta = if self.can_resume {
            MetaWriter::new().uint("recv", self.session.tell())
        } else {
            MetaWriter::new()
        };
        self.say(Kind::Ping, Some(ping), None, meta, &[], random);
    }

    fn push(&mut self) {
        if let Some(wire) = &mut self.wire {
            wire.push();
        }
    }
}

/// Calls, opens, subscribes, and is cut.
struct Caller {
    end: End,
    calls: BTreeMap<Id, u64>,
    /// By id, the chunk that comes next.
    streams: BTreeMap<Id, u64>,
    /// Whether it was accepted, and whether its end was asked for.
    subscriptions: BTreeMap<Id, (bool, bool)>,
    asked: u64,
    back_at_ns: u64,
}

impl Caller {
    fn act(&mut self, random: &mut Random) {
        match random.index(12) {
            0..=4 => {
                self.asked += 1;
                let payload = number(self.asked);
                let id = self.end.say(
                    Kind::Call,
                    None,
                    Some("echo"),
                    MetaWriter::new(),
                    &payload,
                    random,
                );
                self.calls.insert(id, self.asked);
            }
            5 if self.streams.len() < 3 => {
                let meta = MetaWriter::new().flag("end", true).uint("credit", 100_000);
                let id = self
                    .end
                    .say(Kind::Stream, None, Some("count"), meta, &number(0), random);
                self.streams.insert(id, 0);
            }
            6 => {
                let topic = MetaWriter::new();
                let id = self
                    .end
                    .say(Kind::Subscribe, None, Some("t.*"), topic, &[], random);
                self.subscriptions.insert(id, (false, false));
            }
            7 => {
                let accepted = self
                    .subscriptions
                    .iter_mut()
                    .find(|(_, (accepted, ending))| *accepted && !*ending);
                if let Some((&id, (_, ending))) = accepted {
                    *ending = true;
                    self.end
                        .say(Kind::Cancel, Some(id), None, MetaWriter::new(), &[], random);
                }
            }
            _ => {}
        }
    }

    fn hear(&mut self, envelope: &Envelope<'_>, totals: &mut Totals) {
        let Some(reference) = envelope.reference else {
            let is_goodbye = envelope.kind == Kind::Cancel && envelope.error.is_none();
            assert!(is_goodbye && !self.end.can_resume, "{envelope:?}");
            return;
        };
        assert_eq!(envelope.error, None, "{envelope:?}");
        match envelope.kind {
            Kind::Call => {
                let asked = self.calls.remove(&reference).expect("answered once");
                assert_eq!(envelope.payload, number(asked));
                totals.answered += 1;
            }
            Kind::Stream => {
                let meta = envelope.meta;
                let next = self.streams.get_mut(&reference).expect("it is open");
                if meta.is_some_and(|meta| meta.flag("end").expect("a flag")) {
                    assert_eq!(*next, CHUNKS);
                    self.streams.remove(&reference);
                    return;
                }
                assert_eq!(envelope.payload, number(*next), "a gap, or a repeat");
                *next += 1;
                totals.chunks += 1;
            }
            Kind::Subscribe => {
                let (accepted, ending) = self.subscriptions.get_mut(&reference).expect("it is there");
                if envelope.meta.is_none() {
                    assert!(!std::mem::replace(accepted, true), "accepted twice");
                } else {
                    assert!(*ending);
                    self.subscriptions.remove(&reference);
                    totals.ended += 1;
                }
            }
            kind => panic!("{kind:?}"),
        }
    }

    fn is_quiet(&self) -> bool {
        let is_settled = |&(accepted, ending): &(bool, bool)| accepted && !ending;
        self.calls.is_empty() && self.streams.is_empty() && self.subscriptions.values().all(is_settled)
    }
}

/// Answers calls, and writes to streams bit by bit.
struct Server {
    end: End,
    streams: Vec<(Id, u64)>,
    offers: u64,
}

impl Server {
    fn hear(&mut self, envelope: &Envelope<'_>, random: &mut Random) {
        match (envelope.kind, envelope.reference) {
            (Kind::Call, None) => {
                let payload = envelope.payload.to_vec();
                let call = Some(envelope.id);
                self.end
                    .say(Kind::Call, call, None, MetaWriter::new(), &payload, random);
            }
            (Kind::Stream, None) => self.streams.push((envelope.id, 0)),
            (Kind::Subscribe, Some(_)) => {
                assert_eq!(envelope.error, None);
                self.offers += 1;
            }
            (Kind::Stream, Some(_)) => {} // grants: the first was enough
            (kind, reference) => panic!("{kind:?} {reference:?}"),
        }
    }

    fn write(&mut self, random: &mut Random) {
        let mut streams = std::mem::take(&mut self.streams);
        streams.retain_mut(|(id, next)| {
            for _ in 0..random.index(12) {
                if *next == CHUNKS {
                    let end = MetaWriter::new().flag("end", true);
                    self.end.say(Kind::Stream, Some(*id), None, end, &[], random);
                    return false;
                }
                let payload = number(*next);
                let chunk = Some(*id);
                self.end
                    .say(Kind::Stream, chunk, None, MetaWriter::new(), &payload, random);
                *next += 1;
            }
            true
        });
        self.streams = streams;
    }
}

fn number(value: u64) -> Vec<u8> {
    minicbor::to_vec(value).expect("a Vec takes all")
}

struct Life {
    world: World,
    workers: Vec<Option<Worker<SimDriver>>>,
    listeners: [ListenerId; 2],
    random: Random,
    server: Server,
    callers: Vec<Caller>,
    totals: Totals,
}

impl Life {
    fn new(seed: u64, fault: Option<Fault>) -> Self {
        let cores = 1 + (seed % 3) as usize;
        let limits = Limits {
            heartbeat_ms: 2_000,
            ..Limits::default()
        };
        let letters = if seed.is_multiple_of(2) { 4 } else { 64 };
        let Machine {
            world,
            workers,
            listeners,
            ..
        } = Machine::new(seed, cores, Faults::wild(), letters, &limits);
        let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 3);
        let callers = (0..3)
            .map(|name| {
                let form = if random.chance(0.3) {
                    Form::Named
                } else {
                    Form::Compact
                };
                Caller {
                    end: End::new(10 + name, form, true, fault),
                    calls: BTreeMap::new(),
                    streams: BTreeMap::new(),
                    subscriptions: BTreeMap::new(),
                    asked: 0,
                    back_at_ns: 0,
                }
            })
            .collect();
        Self {
            world,
            workers,
            listeners,
            random,
            server: Server {
                end: End::new(1, Form::Compact, false, None),
                streams: Vec::new(),
                offers: 0,
            },
            callers,
            totals: Totals::default(),
        }
    }

    fn live(mut self) -> Totals {
        self.server
            .end
            .connect(&mut self.world, self.listeners, &mut self.random);
        self.pass(200, false, |_| false);
        for method in ["echo", "count"] {
            let serve = MetaWriter::new().flag("serve", true);
            let server = &mut self.server.end;
            server.say(Kind::Subscribe, None, Some(method), serve, &[], &mut self.random);
        }
        self.pass(10_000, false, |life| life.server.offers == 2);
        self.pass(200, false, |_| false);
        self.pass(3_000, true, |_| false);
        self.pass(60_000, false, |life| life.callers.iter().all(Caller::is_quiet));
        for caller in &self.callers {
            assert!(
                caller.is_quiet(),
                "{:?} {:?} {:?}",
                caller.calls,
                caller.streams,
                caller.subscriptions
            );
        }
        for caller in &mut self.callers {
            let end = &mut caller.end;
            end.say(Kind::Cancel, None, None, MetaWriter::new(), &[], &mut self.random);
            end.session = Session::new();
            end.can_resume = false;
            caller.back_at_ns = u64::MAX;
        }
        self.pass(10_000, false, |_| false);
        self.server.end.wire = None;
        for caller in &mut self.callers {
            caller.end.wire = None;
            caller.end.left.clear();
        }
        // Sessions of hellos whose answer was cut off are nobody's: they are over in their time.
        self.pass(70_000, false, |_| false);
        for worker in self.workers.iter().flatten() {
            let front = worker.front();
            let counts = front.shard_counts();
            assert_eq!(
                (
                    counts.away,
                    counts.subscriptions,
                    counts.open_calls,
                    counts.open_streams
                ),
                (0, 0, 0, 0),
                "{counts:?}"
            );
            self.totals.resumed += front.counters().resumed;
            self.totals.put_away += front.counters().put_away;
        }
        assert_eq!(self.world.sockets_open(), 0, "sockets are left");
        self.totals
    }

    /// Lets so much time pass, or until this is so. While it is lively the callers act and are cut.
    fn pass(&mut self, for_ms: u64, lively: bool, is_done: impl Fn(&Self) -> bool) {
        let until_ns = self.world.now_ns() + for_ms * MS;
        let mut next_alarm_ns = 0;
        while self.world.now_ns() < until_ns && !is_done(self) {
            let now_ns = self.world.now_ns();
            if next_alarm_ns <= now_ns {
                next_alarm_ns = now_ns + 1 + self.random.below(if lively { 4 } else { 20 } * MS);
                self.world.alarm_at(next_alarm_ns.min(until_ns));
            }
            match self.world.step() {
                Step::Core(core) => {
                    if let Some(worker) = &mut self.workers[core] {
                        worker.turn().expect("a simulated driver does not fail");
                    }
                }
                Step::Clients => self.clients(lively),
                Step::Quiet => self.world.alarm_at(until_ns),
            }
        }
    }

    fn clients(&mut self, lively: bool) {
        let now_ns = self.world.now_ns();
        let Self {
            world,
            listeners,
            random,
            server,
            callers,
            totals,
            ..
        } = self;
        for bytes in server.end.listen(random) {
            let decoded = fluxar_protocol::envelope::decode(&bytes).expect("read before");
            server.hear(&decoded.envelope, random);
        }
        server.write(random);
        server.end.push();
        for caller in callers {
            for bytes in caller.end.listen(random) {
                let decoded = fluxar_protocol::envelope::decode(&bytes).expect("read before");
                caller.hear(&decoded.envelope, totals);
            }
            if lively {
                caller.act(random);
                if caller.end.wire.is_some() && random.chance(0.02) {
                    caller.end.cut(random);
                    totals.cuts += 1;
                    // At once, or when the gateway has long noticed.
                    let pause_ms = if random.chance(0.5) { 0 } else { random.below(300) };
                    caller.back_at_ns = now_ns + pause_ms * MS;
                }
            }
            if caller.end.wire.is_none() && now_ns >= caller.back_at_ns && (lively || caller.end.can_resume) {
                caller.end.connect(world, *listeners, random);
            }
            caller.end.push();
        }
    }
}

#[test]
fn sessions_go_on_over_connections_that_are_cut_at_any_moment() {
    let total = under_seeds(
        "resumed sessions",
        120,
        |seed| Life::new(seed, None).live(),
        Totals::add,
    );
    if let Some(total) = total {
        assert!(
            total.cuts > 1_000 && total.put_away > 0 && total.answered > 0 && total.ended > 0,
            "{total:?}"
        );
        assert!(total.resumed > total.cuts / 2, "{total:?}");
    }
}

#[test]
fn each_planted_fault_in_what_is_counted_is_caught() {
    for fault in Fault::ALL {
        let is_caught = |seed: &u64| {
            let life = AssertUnwindSafe(|| Life::new(*seed, Some(fault)).live());
            catch_unwind(life).is_err()
        };
        let caught = (0..LIVES_MOST).find(is_caught);
        println!("{fault:?}: caught by seed {caught:?}");
        assert!(caught.is_some(), "nobody noticed {fault:?}");
    }
}
