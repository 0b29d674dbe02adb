//! What it costs the gateway that a session returns: a thousand answers are kept for it, and it comes back having received none.
//!
//! A whole gateway of one core in this process, on a real socket; what counts is the CPU time of all threads but this one,
//! from the new connection to the last answer that came again. `cargo bench -p fluxar-bench --bench resume`

use std::io::{Read, Write};
use std::net::TcpStream;
use std::{fs, process};

use fluxar_gateway::config::{Config, Cores, LogDir};
use fluxar_gateway::gateway::Gateway;
use fluxar_protocol::frame::{Deframer, prefix};
use fluxar_protocol::hello::{Caps, Hello, Resume, Welcome};
use fluxar_protocol::{Batch, Envelope, Form, Id, Kind, envelope, limits};

/// Answers that are kept.
const KEPT: u64 = 1_000;
const ROUNDS: usize = 200;
/// What the issue asks for, ms of CPU.
const GOAL_MS: f64 = 5.0;

fn main() {
    let mut config = Config {
        cores: Cores::Count(1),
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
    let mut spent_ns: Vec<u64> = (0..ROUNDS).map(|_| returned(address)).collect();
    spent_ns.sort_unstable();
    let ms = |share: usize| spent_ns[(ROUNDS - 1) * share / 100] as f64 / 1e6;
    println!(
        "resume with {KEPT} kept answers: {:.2} ms of the gateway's CPU (median of {ROUNDS}; p99 {:.2}), the goal is {GOAL_MS}",
        ms(50),
        ms(99)
    );
    for end in gateway.stop() {
        end.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// One session that is lost and returns: CPU time of its return, ns.
fn returned(address: &str) -> u64 {
    let mut first = Peer::connect(address);
    let (session, token, _) = first.greet(None);
    let mut call = encoded(Kind::Call, Some("nobody.serves.this"), &[]);
    let calls: Vec<u8> = (0..u128::from(KEPT))
        .flat_map(|number| {
            envelope::patch_id(&mut call, Id(number.to_be_bytes()));
            framed(&call)
        })
        .collect();
    first.stream.write_all(&calls).expect("the gateway reads");
    first.take(KEPT);
    drop(first);
    let before_ns = others_cpu_ns();
    let mut again = Peer::connect(address);
    let resume = Resume {
        session,
        token: &token,
        recv: 0,
    };
    let (_, _, resumed) = again.greet(Some(resume));
    assert!(resumed, "the session goes on");
    again.take(KEPT);
    let spent_ns = others_cpu_ns() - before_ns;
    let goodbye = framed(&encoded(Kind::Cancel, None, &[]));
    again.stream.write_all(&goodbye).expect("the gateway reads");
    spent_ns
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
        let hello = framed(&encoded(Kind::Hello, None, &payload));
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

fn encoded(kind: Kind, target: Option<&str>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Envelope {
        kind,
        id: Id([7; 16]),
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

/// CPU time of this process' threads but for this one, which is the first, ns.
fn others_cpu_ns() -> u64 {
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
