//! The log of the binary: where it is, who has it, and what is left when the process is killed.

use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use fluxar_protocol::envelope::Envelope;
use fluxar_protocol::meta::{Meta, MetaWriter};
use fluxar_protocol::{Code, ErrorBody, Form, Id, Kind, Position};

use crate::process::{Greeted, PATIENCE, Process, command, complaint, run};

fn logging(folder: &Path) -> Process {
    let folder = folder.to_str().expect("UTF-8");
    Process::start(&["--log-dir", folder, "--cores", "1"])
}

fn id(number: u64) -> Id {
    let mut id = [5; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    Id(id)
}

fn said(kind: Kind, number: u64, target: &str, meta: MetaWriter, payload: &[u8]) -> Vec<u8> {
    let meta = meta.finish().expect("it fits");
    let mut body = Vec::new();
    Envelope {
        kind,
        id: id(number),
        reference: None,
        target: Some(target),
        meta: Some(Meta::from_checked(&meta)),
        payload,
        error: None,
    }
    .encode(Form::Compact, &mut body);
    body
}

/// Publishes numbers to a topic at qos 1, all at once; what becomes of each.
fn publish_all(
    client: &mut Greeted<TcpStream>,
    topic: &str,
    numbers: std::ops::Range<u64>,
) -> Vec<Result<Position, Code>> {
    for number in numbers.clone() {
        let meta = MetaWriter::new().uint("qos", 1);
        client.send(&said(Kind::Event, number, topic, meta, &[(number % 24) as u8]));
    }
    let mut answers = Vec::new();
    while answers.len() < (numbers.end - numbers.start) as usize {
        client.read(|envelope| {
            if envelope.kind != Kind::Event {
                return;
            }
            answers.push(match (envelope.error, &envelope.meta) {
                (Some(error), _) => Err(ErrorBody::decode(error).expect("readable").code),
                (None, Some(meta)) => Ok(meta.at().expect("a position").expect("a position")),
                (None, None) => panic!("{envelope:?}"),
            });
        });
    }
    answers
}

/// The same once the log has been read, on which one core has all of it.
fn publish(client: &mut Greeted<TcpStream>, numbers: std::ops::Range<u64>) -> Vec<Position> {
    let begun = Instant::now();
    let first = 1 << 48 | numbers.start << 16;
    for number in first.. {
        match publish_all(client, "ready.a", number..number + 1)[0] {
            Ok(_) => break,
            Err(code) => assert_eq!(code, Code::Unavailable),
        }
        assert!(begun.elapsed() < PATIENCE, "the log is never read");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let answers = publish_all(client, "kept.a", numbers);
    answers
        .into_iter()
        .map(|answer| answer.expect("it is taken"))
        .collect()
}

/// The first so many events that are kept, as their offsets and payloads.
fn kept(client: &mut Greeted<TcpStream>, count: usize) -> Vec<(u64, u8)> {
    let begun = Instant::now();
    let mut subscription = 1 << 32;
    let ask = |client: &mut Greeted<TcpStream>, number| {
        let meta = MetaWriter::new().uint("qos", 1).text("from", "all");
        client.send(&said(Kind::Subscribe, number, "kept.a", meta, &[]));
    };
    ask(client, subscription);
    let (mut offsets, mut payloads) = (Vec::new(), Vec::new());
    while payloads.len() < count {
        let mut again = false;
        client.read(|envelope| match (envelope.kind, &envelope.meta) {
            (Kind::Subscribe, Some(meta)) => {
                if let Ok(Some(fluxar_protocol::meta::Run::Logged(positions))) = meta.run() {
                    offsets.extend(positions.offsets());
                }
            }
            (Kind::Subscribe, None) => again = envelope.error.is_some(),
            (Kind::Event, _) => payloads.push(envelope.payload[0]),
            _ => {}
        });
        if again {
            assert!(begun.elapsed() < PATIENCE, "the log is never read");
            std::thread::sleep(std::time::Duration::from_millis(5));
            subscription += 1;
            ask(client, subscription);
        }
    }
    offsets.into_iter().zip(payloads).collect()
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut all = Vec::new();
    for round in 0..3 {
        let mut gateway = logging(folder.path());
        let mut client = gateway.client();
        let positions = publish(&mut client, round * 100..(round + 1) * 100);
        all.extend(
            positions
                .iter()
                .zip(round * 100..)
                .map(|(at, number)| (at.offset, (number % 24) as u8)),
        );
        // More is under way, of which nobody knows what becomes.
        for number in 0..50 {
            let meta = MetaWriter::new().uint("qos", 1);
            client.send(&said(Kind::Event, 1 << 40 | number, "other.a", meta, &[0]));
        }
        gateway.signal("KILL");
        assert_eq!(gateway.exit_code(), None);
    }
    let gateway = logging(folder.path());
    assert_eq!(kept(&mut gateway.client(), all.len()), all);
    assert!(all.windows(2).all(|pair| pair[0].0 < pair[1].0), "{all:?}");
}

#[test]
fn the_banner_says_where_the_log_is_and_a_second_gateway_is_refused_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let gateway = logging(folder.path());
    let line = gateway.banner.iter().find(|line| line.contains(" log "));
    let line = line.expect("a line about the log");
    assert!(
        line.contains(folder.path().to_str().expect("UTF-8")) && line.ends_with("64 partitions, new"),
        "{line}"
    );
    let second = run(&[
        "--listen",
        "tcp://127.0.0.1:0",
        "--log-dir",
        folder.path().to_str().expect("UTF-8"),
    ]);
    assert_eq!(second.status.code(), Some(1));
    let complaint = complaint(&second);
    assert!(
        complaint.contains("in use by another gateway") && complaint.contains("--no-log"),
        "{complaint}"
    );
}

#[test]
fn the_log_is_where_state_is_kept_if_nothing_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let start = |change: &dyn Fn(&mut std::process::Command)| {
        let mut command = command();
        command
            .args(["--listen", "tcp://127.0.0.1:0", "--cores", "1"])
            .env_remove("FLUXAR_LOG_DIR")
            .env_remove("STATE_DIRECTORY")
            .env_remove("HOME")
            .stdin(Stdio::null())
            .env("XDG_STATE_HOME", folder.path());
        change(&mut command);
        let gateway = Process::spawn(command);
        gateway
            .banner
            .iter()
            .find(|line| line.contains(" log "))
            .expect("a line about the log")
            .clone()
    };
    let usual = start(&|_| {});
    assert!(usual.contains("/fluxar: 64 partitions"), "{usual}");
    assert!(folder.path().join("fluxar/meta").is_file());
    let none = start(&|command| {
        command.env_remove("XDG_STATE_HOME");
    });
    assert!(
        none.ends_with("none: events at qos 1 and 2 are refused"),
        "{none}"
    );
    let told = start(&|command| {
        command.arg("--no-log");
    });
    assert_eq!(told, none);
}

#[test]
fn a_log_that_is_there_is_not_gone_without_unasked() {
    let folder = tempfile::tempdir().expect("a folder");
    // Of root too: no directory can be in the place of the lock's file.
    let blocked = folder.path().join("state/fluxar/LOCK");
    std::fs::create_dir_all(&blocked).expect("made");
    let unit = folder.path().join("unit");
    std::fs::write(&unit, "").expect("made");
    for (variable, value) in [
        ("XDG_STATE_HOME", folder.path().join("state")),
        ("STATE_DIRECTORY", unit),
    ] {
        let output = command()
            .args(["--listen", "tcp://127.0.0.1:0", "--cores", "1"])
            .env_remove("FLUXAR_LOG_DIR")
            .env_remove("STATE_DIRECTORY")
            .env(variable, value)
            .output()
            .expect("the binary runs");
        let said = crate::process::complaint(&output);
        assert_eq!(output.status.code(), Some(1), "{variable}: {said}");
        assert!(said.contains("choose another (log.dir"), "{variable}: {said}");
    }
}

#[test]
fn a_gateway_that_is_stopped_seals_its_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut gateway = logging(folder.path());
    let before = publish(&mut gateway.client(), 0..10);
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code(), Some(0));
    let meta = std::fs::read_to_string(folder.path().join("meta")).expect("it is there");
    assert!(meta.contains("clean = true"), "{meta}");
    let gateway = logging(folder.path());
    let after = publish(&mut gateway.client(), 10..11);
    assert_eq!(after[0].offset, before[9].offset + 1, "offsets go on densely");
}

#[test]
fn who_publishes_when_it_stops_is_told_of_all_that_is_kept() {
    const EVENTS: u64 = 2_000;
    let folder = tempfile::tempdir().expect("a folder");
    let mut gateway = logging(folder.path());
    let mut client = gateway.client();
    publish(&mut client, 0..1);
    for number in 1..=EVENTS {
        let meta = MetaWriter::new().uint("qos", 1);
        client.send(&said(Kind::Event, number, "kept.a", meta, &[(number % 24) as u8]));
    }
    let (mut acknowledged, mut gone, mut told) = (1, false, false);
    while !gone {
        client.read(|envelope| match envelope.kind {
            Kind::Event if envelope.error.is_none() => acknowledged += 1,
            Kind::Cancel => gone = true,
            _ => {}
        });
        if acknowledged > 1 && !told {
            gateway.signal("TERM");
            told = true;
        }
    }
    assert_eq!(gateway.exit_code(), Some(0));
    let gateway = logging(folder.path());
    let mut client = gateway.client();
    let mark = publish(&mut client, 5..6)[0];
    let kept = kept(&mut client, acknowledged + 1);
    assert_eq!(
        kept.last(),
        Some(&(mark.offset, 5)),
        "nothing is kept of which its publisher was not told"
    );
}

#[test]
fn a_damaged_meta_file_is_told_and_nothing_is_started() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("meta"), "format = 1\ncrc = 0\n").expect("written");
    let output = run(&[
        "--listen",
        "tcp://127.0.0.1:0",
        "--log-dir",
        folder.path().to_str().expect("UTF-8"),
    ]);
    assert_eq!(output.status.code(), Some(1));
    let complaint = complaint(&output);
    assert!(complaint.contains("`meta`"), "{complaint}");
}
