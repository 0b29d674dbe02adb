//! Every malformed vector against a live gateway, on every transport: answered or closed exactly as it says.

use std::path::Path;

use fluxar_protocol::hello::Hello;
use fluxar_protocol::{Code, Id, Kind};
use fluxar_tests::message::encoded;
use fluxar_tests::{Client, Received};
use serde_json::Value;

use crate::{closed, expect_told, measure, none, stop, transports};

/// The id that the vectors give the envelope that is wrong.
const WRONG: Id = Id([1, 0x98, 0, 0, 0, 0, 0x70, 0, 0xa0, 0, 0, 0, 0, 0, 0, 1]);
/// The id of the ping in front of it.
const BEFORE: Id = Id([1, 0x98, 0, 0, 0, 0, 0x70, 0, 0xa0, 0, 0, 0, 0, 0, 0, 2]);

/// One malformed vector.
struct Vector {
    name: String,
    bytes: Vec<u8>,
    code: Code,
    answered: bool,
    closes: bool,
    before: usize,
    after: usize,
}

/// The malformed vectors of one kind.
fn malformed(kind: &str) -> Vec<Vector> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/vectors");
    let mut vectors = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the vectors") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a file");
        let Value::Array(all) = serde_json::from_str(&text).expect("JSON") else {
            panic!("{} is no array", path.display())
        };
        for vector in all {
            let error = &vector["error"];
            // Good envelopes have an `error` of their own: inside `envelopes`.
            if vector["kind"] != kind || !error.is_object() {
                continue;
            }
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            vectors.push(Vector {
                name: format!("{file}: {}", vector["name"].as_str().expect("a name")),
                bytes: hex(vector["hex"].as_str().expect("hex")),
                code: Code::from_number(error["code"].as_u64().expect("a code")),
                answered: error["answered"].as_bool().expect("a flag"),
                closes: error["closes"].as_bool().expect("a flag"),
                before: vector["before"].as_u64().unwrap_or(0) as usize,
                after: vector["after"].as_u64().unwrap_or(0) as usize,
            });
        }
    }
    vectors
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex"))
        .collect()
}

/// The type that stands in front of the wrong envelope's id, in either form; `None` where it is none of the seven.
fn kind_of(bytes: &[u8]) -> Option<Kind> {
    let id = bytes.windows(16).position(|window| window == WRONG.0)?;
    let before = &bytes[..id];
    let compact = before.strip_suffix(&[0x50]).and_then(|rest| rest.last());
    let named = before
        .strip_suffix(&[0x62, b'i', b'd', 0x50])
        .and_then(|rest| rest.last());
    Kind::from_number(u64::from(*named.or(compact)?))
}

/// Whether this shows that an envelope in front of the wrong one, or behind it, was handled.
fn is_handled(one: &Received) -> bool {
    let pong = one.kind == Kind::Ping && one.reference == Some(BEFORE);
    let event = one.kind == Kind::Event && one.reference.is_none() && one.target.as_deref() == Some("t.x");
    pong || event
}

#[test]
fn each_malformed_body_is_answered_or_closes_as_its_vector_says() {
    let _process = measure::shared();
    let gateway = fluxar_tests::Running::start(|_| {});
    let vectors = malformed("frame-body");
    assert!(vectors.len() > 150, "only {} vectors were found", vectors.len());
    for address in &transports(&gateway) {
        for vector in &vectors {
            let name = format!("{address}, {}", vector.name);
            let mut client = Client::greeted(address);
            // The topic of the events that stand in front of the wrong envelope, and behind it.
            client.subscribe("t.x", none());
            client.send(&vector.bytes);
            if vector.closes {
                let (mut rest, end) = client.rest();
                let last = rest
                    .pop()
                    .unwrap_or_else(|| panic!("{name}: closed without a word"));
                assert_eq!(
                    (last.kind, last.reference, last.code()),
                    (Kind::Cancel, None, Some(vector.code)),
                    "{name}: {last:?}"
                );
                assert_eq!(end, closed(address, 1008), "{name}");
                // What stood in front was handled; nothing else was said.
                assert!(rest.len() <= vector.before, "{name}: {rest:?}");
                assert!(rest.iter().all(is_handled), "{name}: {rest:?}");
                let pinged = vector.bytes.starts_with(&[0x87, 0x07, 0x50]) && vector.before > 0;
                assert_eq!(!rest.is_empty(), pinged, "{name}: {rest:?}");
                continue;
            }
            // It goes on, whatever came. The second round trip brings the events: the first pong may overtake them.
            let mut came = Vec::new();
            for _ in 0..2 {
                let ping = client.id();
                client.send(&encoded(Kind::Ping, ping, None, None, None, &[]));
                loop {
                    let next = client
                        .next()
                        .unwrap_or_else(|end| panic!("{name}: closed ({end:?}) after {came:?}"));
                    if next.reference == Some(ping) {
                        break;
                    }
                    came.push(next);
                }
            }
            let handled = came.iter().filter(|one| is_handled(one)).count();
            assert_eq!(handled, vector.before + vector.after, "{name}: {came:?}");
            let answers: Vec<_> = came.iter().filter(|one| one.code().is_some()).collect();
            if vector.answered {
                let [answer] = answers[..] else {
                    panic!("{name}: one answer was expected: {came:?}")
                };
                let kind = kind_of(&vector.bytes).unwrap_or(Kind::Cancel);
                assert_eq!(
                    (answer.kind, answer.reference, answer.code()),
                    (kind, Some(WRONG), Some(vector.code)),
                    "{name}: {answer:?}"
                );
            } else {
                assert!(answers.is_empty(), "{name}: no answer was expected: {came:?}");
            }
        }
        println!("{address}: {} vectors", vectors.len());
    }
    let counters = stop(gateway);
    assert!(counters.rejected >= 3 * vectors.len() as u64 / 2, "{counters:?}");
}

#[test]
fn each_malformed_body_ahead_of_the_hello_closes() {
    let _process = measure::shared();
    let gateway = fluxar_tests::Running::start(|_| {});
    for address in &transports(&gateway) {
        for vector in &malformed("frame-body") {
            let mut client = Client::connect(address);
            client.send(&vector.bytes);
            let (rest, end) = client.rest();
            let name = format!("{address}, {}: {rest:?}", vector.name);
            let last = rest
                .last()
                .unwrap_or_else(|| panic!("{name}: closed without a word"));
            assert_eq!((last.kind, last.reference), (Kind::Cancel, None), "{name}");
            // A fault that shows only when a message is understood comes behind the fault of saying it too early.
            let codes = [Some(vector.code), Some(Code::FailedPrecondition)];
            assert!(codes.contains(&last.code()), "{name}");
            if vector.closes && vector.before == 0 {
                assert_eq!(last.code(), Some(vector.code), "{name}");
            }
            assert_eq!(end, closed(address, 1008), "{name}");
        }
    }
    stop(gateway);
}

#[test]
fn each_malformed_hello_is_refused_and_closes() {
    let _process = measure::shared();
    let gateway = fluxar_tests::Running::start(|_| {});
    for address in &transports(&gateway) {
        for vector in &malformed("hello-payload") {
            let mut client = Client::connect(address);
            client.send(&encoded(Kind::Hello, WRONG, None, None, None, &vector.bytes));
            let before = expect_told(&mut client, address, vector.code);
            let [answer] = &before[..] else {
                panic!("{}: one answer was expected: {before:?}", vector.name)
            };
            assert_eq!(
                (answer.kind, answer.reference, answer.code()),
                (Kind::Hello, Some(WRONG), Some(vector.code)),
                "{address}, {}: {answer:?}",
                vector.name
            );
        }
        // And the good one right after is welcome.
        let mut client = Client::connect(address);
        client.greet(fluxar_protocol::Form::Named, &Hello::default());
    }
    stop(gateway);
}
