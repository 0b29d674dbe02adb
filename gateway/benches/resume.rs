//! What it costs the gateway that a session returns: to the core on which it lives, and to the other one, from which its
//! connection is handed over. With nothing open; with a thousand answers that were kept, none of which it has; with a thousand
//! subscriptions, and beside that what a new session costs that subscribes as often, which is the least that a session would
//! cost that moved to where its connection came.
//!
//! A whole gateway of two cores in this process, on real sockets; what counts is the CPU time of all threads but this one, from
//! the loss of the connection to the last envelope that comes again. `cargo bench -p fluxar-gateway --bench resume` ends with 1
//! if a thousand answers cost more than the goal.
#![forbid(unsafe_code)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;
use std::{fs, process};

use fluxar_gateway::config::{Config, Cores, LogDir};
use fluxar_gateway::gateway::Gateway;
use fluxar_protocol::frame::{Deframer, prefix};
use fluxar_protocol::hello::{Caps, Hello, Resume, Welcome};
use fluxar_protocol::{Batch, Envelope, Form, Id, Kind, limits};

/// Answers that are kept, or subscriptions.
const HELD: u64 = 1_000;
/// Returns of each kind to each core.
const ROUNDS: usize = 100;
/// What a return with so many answers may cost, ms of CPU.
const GOAL_MS: f64 = 5.0;
/// At least so many connections more has the core to which no connection is to come: a gateway puts each on the core with the fewest.
const BALLAST: usize = 8;
/// A core that has nothing to do has gone to sleep after that, and its CPU time is told whole.
const SETTLED: Duration = Duration::from_millis(1);

/// What a session has when its connection is lost.
#[derive(Clone, Copy)]
enum Holding {
    Nothing,
    Answers,
    Subscriptions,
}

fn main() -> ExitCode {
    let mut config = Config {
        cores: Cores::Count(2),
        listen: vec!["tcp://127.0.0.1:0".into()],
        ..Config::default()
    };
    config.log.dir = LogDir::Nowhere;
    config.engine.spin_us = 0;
    let gateway = Gateway::start(&config).unwrap_or_else(|error| panic!("{error}"));
    let address = gateway.addresses()[0].to_string();
    let address = address
        .strip_prefix("tcp://")
        .expect("the address of a TCP listener");
    let nothing = returns(address, Holding::Nothing);
    let answers = returns(address, Holding::Answers);
    let subscriptions = returns(address, Holding::Subscriptions);
    let (asked, left) = subscribed_anew(address);
    for end in gateway.stop() {
        end.unwrap_or_else(|error| panic!("{error}"));
    }

    println!("CPU of the gateway, µs: median of {ROUNDS} (99th percentile)");
    println!("{:<52}{:>16}{:>16}", "", "same core", "handed over");
    for (what, [same, other]) in [
        ("a session with nothing open returns", &nothing),
        ("with 1,000 kept answers, none of which it has", &answers),
        ("with 1,000 subscriptions", &subscriptions),
    ] {
        println!("{what:<52}{:>16}{:>16}", told(same), told(other));
    }
    println!(
        "{:<52}{:>16}",
        "a new session subscribes 1,000 times",
        told(&asked)
    );
    println!("{:<52}{:>16}", "and ends", told(&left));
    let ms = answers
        .each_ref()
        .map(|spent_ns| median_ns(spent_ns) as f64 / 1e6);
    let worst_ms = ms[0].max(ms[1]);
    let is_met = worst_ms <= GOAL_MS;
    println!(
        "{}: {worst_ms:.2} ms with 1,000 kept answers, the goal is {GOAL_MS}",
        if is_met { "ok" } else { "FAIL" }
    );
    ExitCode::from(u8::from(!is_met))
}

/// CPU time of returns to the core where the session lives, and to the other, ns, ascending.
fn returns(address: &str, holding: Holding) -> [Vec<u64>; 2] {
    // With no ballast, connections come to both in turn.
    let mut lives: [Vec<Lost>; 2] = [Vec::new(), Vec::new()];
    while lives.iter().any(|lives| lives.len() < ROUNDS) {
        let session = Lost::prepare(address, holding);
        let live = &mut lives[session.home];
        if live.len() < ROUNDS {
            live.push(session);
        } else {
            session.peer.end();
        }
    }
    let ballast = (0..4 * BALLAST).map(|_| Peer::greeted(address));
    let (here, there): (Vec<_>, Vec<_>) = ballast.partition(|(_, home)| *home == 0);
    assert!(there.len() >= BALLAST, "the other core has its share");
    here.into_iter().for_each(|(peer, _)| peer.end());

    let [same, other] = lives;
    let mut spent_ns = [Vec::new(), Vec::new()];
    for (same, other) in same.into_iter().zip(other) {
        for lost in [same, other] {
            spent_ns[lost.home].push(lost.return_to_core_0(address));
        }
    }
    there.into_iter().for_each(|(peer, _)| peer.end());
    spent_ns.iter_mut().for_each(|spent_ns| spent_ns.sort_unstable());
    spent_ns
}

/// CPU time of a new session that subscribes, and of its end, ns, ascending.
fn subscribed_anew(address: &str) -> (Vec<u64>, Vec<u64>) {
    let once = |_| {
        let before_ns = settled_cpu_ns();
        let (mut peer, _) = Peer::greeted(address);
        peer.ask_for(Holding::Subscriptions);
        let asked_ns = settled_cpu_ns();
        peer.end();
        (asked_ns - before_ns, settled_cpu_ns() - asked_ns)
    };
    let (mut asked, mut left): (Vec<u64>, Vec<u64>) = (0..ROUNDS).map(once).unzip();
    asked.sort_unstable();
    left.sort_unstable();
    (asked, left)
}

/// A session whose connection is about to be lost.
struct Lost {
    peer: Peer,
    session: Id,
    token: Vec<u8>,
    /// The core on which it lives.
    home: usize,
    /// What the client says that it has of what is counted, and what it has not: that comes again.
    received: u64,
    again: u64,
}

impl Lost {
    fn prepare(address: &str, holding: Holding) -> Lost {
        let mut peer = Peer::connect(address);
        let (session, token, _) = peer.greet(None);
        peer.ask_for(holding);
        let (received, again) = match holding {
            Holding::Nothing => (0, 0),
            Holding::Answers => (0, HELD),
            Holding::Subscriptions => (HELD, 0),
        };
        Lost {
            peer,
            home: home_of(session),
            session,
            token,
            received,
            again,
        }
    }

    /// Loses its connection, and returns by one that comes to core 0: CPU time, ns.
    fn return_to_core_0(self, address: &str) -> u64 {
        // Who connects now comes there, and so does the next one: the ballast is heavier than that.
        let probe = loop {
            let (probe, home) = Peer::greeted(address);
            if home == 0 {
                break probe;
            }
            probe.end();
        };
        let before_ns = settled_cpu_ns();
        drop(self.peer);
        let mut again = Peer::connect(address);
        let resume = Resume {
            session: self.session,
            token: &self.token,
            recv: self.received,
        };
        let (_, _, resumed) = again.greet(Some(resume));
        assert!(resumed, "the session goes on");
        again.take(self.again);
        let spent_ns = settled_cpu_ns() - before_ns;
        again.end();
        probe.end();
        spent_ns
    }
}

/// The core on which a session lives that can be resumed: its id begins with that.
fn home_of(Id([high, low, ..]): Id) -> usize {
    usize::from(u16::from_be_bytes([high, low]))
}

fn median_ns(ascending_ns: &[u64]) -> u64 {
    ascending_ns[ascending_ns.len() / 2]
}

fn told(ascending_ns: &[u64]) -> String {
    let p99_ns = ascending_ns[(ascending_ns.len() - 1) * 99 / 100];
    format!("{} ({})", median_ns(ascending_ns) / 1_000, p99_ns / 1_000)
}

/// A connection and what arrived on it.
struct Peer {
    stream: TcpStream,
    deframer: Deframer,
    /// Envelopes behind the last one that was taken.
    rest: u64,
}

impl Peer {
    fn connect(address: &str) -> Peer {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("an option");
        Peer {
            stream,
            deframer: Deframer::new(),
            rest: 0,
        }
    }

    /// A new session, and the core on which it lives.
    fn greeted(address: &str) -> (Peer, usize) {
        let mut peer = Peer::connect(address);
        let (session, _, _) = peer.greet(None);
        (peer, home_of(session))
    }

    /// Says goodbye, and waits until the gateway has closed the connection.
    fn end(mut self) {
        let goodbye = framed(&encoded(Kind::Cancel, Id([7; 16]), None, &[]));
        self.stream.write_all(&goodbye).expect("the gateway reads");
        let mut rest = [0; 4096];
        while self.stream.read(&mut rest).is_ok_and(|bytes| bytes > 0) {}
    }

    /// Asks for what it is to hold, and waits for the answers.
    fn ask_for(&mut self, holding: Holding) {
        static NTH: AtomicU64 = AtomicU64::new(0);
        let nth = NTH.fetch_add(1, Ordering::Relaxed);
        let asked = (0..HELD).flat_map(|number| {
            let id = Id(u128::from(number).to_be_bytes());
            framed(&match holding {
                Holding::Subscriptions => encoded(
                    Kind::Subscribe,
                    id,
                    Some(&format!("of.{nth}.topic.{number}")),
                    &[],
                ),
                Holding::Nothing | Holding::Answers => {
                    encoded(Kind::Call, id, Some("nobody.serves.this"), &[])
                }
            })
        });
        if !matches!(holding, Holding::Nothing) {
            let asked: Vec<u8> = asked.collect();
            self.stream.write_all(&asked).expect("the gateway reads");
            self.take(HELD);
        }
    }

    /// Says hello: the session, its token, and whether it goes on.
    fn greet(&mut self, resume: Option<Resume<'_>>) -> (Id, Vec<u8>, bool) {
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
        let hello = framed(&encoded(Kind::Hello, Id([7; 16]), None, &payload));
        self.stream.write_all(&hello).expect("the gateway reads");
        let mut greeted = None;
        while greeted.is_none() {
            self.read(|envelope| {
                if envelope.kind != Kind::Hello {
                    return true;
                }
                let welcome = Welcome::decode(envelope.payload).expect("a welcome");
                let token = welcome.token.expect("a session that can be resumed").to_vec();
                greeted = Some((welcome.session, token, welcome.resumed));
                false
            });
        }
        greeted.expect("it was waited for")
    }

    /// Waits for so many envelopes.
    fn take(&mut self, count: u64) {
        while self.rest < count {
            self.read(|_| true);
        }
        self.rest -= count;
    }

    /// Reads once; counts what `is_counted` says.
    fn read(&mut self, mut is_counted: impl FnMut(&Envelope<'_>) -> bool) {
        let mut piece = [0; 64 * 1024];
        let bytes = self.stream.read(&mut piece).expect("the gateway writes");
        assert!(bytes > 0, "the gateway closed the connection");
        let mut input = &piece[..bytes];
        while let Some(body) = self
            .deframer
            .next(&mut input, limits::FRAME_BYTES_DEFAULT)
            .expect("frames")
        {
            for decoded in Batch::new(body) {
                let envelope = decoded.expect("an envelope").envelope;
                self.rest += u64::from(is_counted(&envelope));
            }
        }
    }
}

fn encoded(kind: Kind, id: Id, target: Option<&str>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Envelope {
        kind,
        id,
        reference: None,
        target,
        meta: None,
        payload,
        error: None,
    }
    .encode(Form::Compact, &mut bytes);
    bytes
}

fn framed(body: &[u8]) -> Vec<u8> {
    [&prefix(body.len())[..], body].concat()
}

/// CPU time of this process' threads but for this one, which is the first, once they have nothing to do, ns.
fn settled_cpu_ns() -> u64 {
    sleep(SETTLED);
    let own = process::id().to_string();
    let threads = fs::read_dir("/proc/self/task").expect("Linux");
    let others = threads
        .map(|thread| thread.expect("a thread"))
        .filter(|thread| thread.file_name().to_string_lossy() != own);
    others
        .filter_map(|thread| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        })
        .sum()
}
