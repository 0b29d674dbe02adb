//! `fluxar log`, on directories that the writer of the log made.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use fluxar_protocol::{
    Envelope, Form, Id,
    envelope::Kind,
    meta::{Meta, MetaWriter},
};
use fluxar_shard::log::{
    Events, Settings,
    class::Class,
    disk::SegmentId,
    files::MemoryFiles,
    footer::{Extents, Footer},
    format::{Base, BatchHead, BatchWriter, SegmentHead, salt_of},
    recovery::{Recovered, Recovery},
};
use serde_json::Value;

use crate::process::{fluxar, stderr, stdout};

const NOW_MS: u64 = 1_795_340_586_123;

fn log(dir: &Path, args: &[&str]) -> Output {
    let (action, options) = args.split_first().expect("an action");
    let mut command: Command = fluxar("tcp://127.0.0.1:1", &["log", action]);
    command.arg(dir).args(options).stdin(Stdio::null());
    command.output().expect("it runs")
}

fn event(topic: &str, number: u64) -> Vec<u8> {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    let key = MetaWriter::new().text("key", "k7").finish().expect("a map");
    let mut out = Vec::new();
    let envelope = Envelope {
        kind: Kind::Event,
        id: Id(id),
        reference: None,
        target: Some(topic),
        meta: Some(Meta::from_checked(&key)),
        payload: &[0x81, 0x18, number as u8],
        error: None,
    };
    envelope.encode(Form::Compact, &mut out);
    out
}

fn events(topic: &str, first: u64, count: u64) -> Events {
    let mut bytes = Vec::new();
    let ends = (first..first + count).map(|number| {
        bytes.extend_from_slice(&event(topic, number + 23));
        bytes.len() as u32
    });
    Events {
        ends: ends.collect(),
        bytes: bytes.into(),
    }
}

/// Two segments of two partitions, the first sealed, the second with room for more; and where their batches are.
struct Made {
    folder: tempfile::TempDir,
    batches: Vec<(SegmentId, u64, BatchHead)>,
}

impl Made {
    fn new() -> Self {
        let mut files = MemoryFiles::default();
        let settings = Settings {
            partitions: 8,
            ..Settings::default()
        };
        let mut recovery = Recovery::open(&mut files, 1, &settings, [3; 16], NOW_MS).expect("a new log");
        let share = recovery.step(|_| {}).expect("an empty one").expect("of one core");
        drop(recovery);
        let mut batches = Vec::new();
        for number in [1, 2] {
            let id = SegmentId { core: 0, number };
            let first = 1 + 10 * (number - 1);
            let (bytes, made) = segment(&share, id, first, number == 1);
            batches.extend(made.into_iter().map(|(at, head)| (id, at, head)));
            files.0.insert(id.name(), bytes);
        }
        let folder = tempfile::tempdir().expect("a folder");
        for (name, bytes) in &files.0 {
            std::fs::write(folder.path().join(name), bytes).expect("a file");
        }
        Self { folder, batches }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Flips a bit behind the head of a batch.
    fn flip(&self, batch: usize) {
        let (id, at, head) = self.batches[batch];
        let path = self.path().join(id.name());
        let mut bytes = std::fs::read(&path).expect("a segment");
        bytes[at as usize + (head.bytes() - u64::from(head.body_bytes)) as usize + 20] ^= 4;
        std::fs::write(&path, bytes).expect("written");
    }
}

/// A segment with two batches of partition 2 and one of partition 5.
fn segment(
    share: &Recovered,
    id: SegmentId,
    first: u64,
    is_sealed: bool,
) -> (Vec<u8>, Vec<(u64, BatchHead)>) {
    let head = SegmentHead {
        id,
        cores: 1,
        partitions: share.partition_count,
        epoch: share.epoch,
        created_ms: NOW_MS,
        salt: salt_of(share.secret, id),
    };
    let bases = [2, 5].map(|partition| Base {
        partition,
        last: first - 1,
        next: first,
    });
    let mut bytes = Vec::new();
    let mut batches = Vec::new();
    let mut extents = Extents::default();
    let mut writer = BatchWriter::new(&head, 0, 0, NOW_MS);
    writer.bases(&bases);
    bytes.extend(writer.finish().concat());
    for (partition, topic, from, count) in [
        (2, "orders.created", first, 4),
        (5, "users.new", first, 10),
        (2, "orders.paid", first + 4, 6),
    ] {
        let at = bytes.len() as u64;
        let mut writer = BatchWriter::new(&head, at, at, NOW_MS);
        let events = events(topic, from, count);
        let batch = writer.events(partition, Class::default(), from, NOW_MS + from, [&events]);
        extents.push(&batch, at);
        batches.push((at, batch));
        bytes.extend(writer.finish().concat());
    }
    if is_sealed {
        let at = bytes.len() as u64;
        let mut writer = BatchWriter::new(&head, at, at, NOW_MS);
        writer.footer(&Footer {
            bases: bases.to_vec(),
            extents: extents.into_vec(),
            rows: Some(Vec::new()),
            cursors_at: Some(Vec::new()),
            ..Footer::default()
        });
        bytes.extend(writer.finish().concat());
    } else {
        bytes.resize(64 * 1024, 0);
    }
    (bytes, batches)
}

fn json_of(output: &Output) -> Value {
    serde_json::from_str(stdout(output)).expect("one JSON document")
}

fn positions(output: &Output) -> Vec<String> {
    let lines = stdout(output).lines().map(serde_json::from_str::<Value>);
    lines
        .map(|line| {
            line.expect("a line of JSON")["position"]
                .as_str()
                .expect("a text")
                .to_owned()
        })
        .collect()
}

#[test]
fn ls_lists_segments_and_partitions() {
    let made = Made::new();
    let output = log(made.path(), &["ls"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = stdout(&output);
    for said in [
        "2 segments, 40 events",
        "0000-0000000001.log",
        "sealed",
        "open",
        "2026-11-22T09:43:06.124Z",
    ] {
        assert!(text.contains(said), "{said} is missing:\n{text}");
    }
    let report = json_of(&log(made.path(), &["ls", "--json"]));
    assert_eq!(
        (&report["partition_count"], &report["starts"]),
        (&8.into(), &1.into())
    );
    let partitions = report["partitions"].as_array().expect("a list");
    let said: Vec<_> = partitions
        .iter()
        .map(|of| {
            (
                of["partition"].as_u64(),
                of["first"].as_u64(),
                of["last"].as_u64(),
            )
        })
        .collect();
    assert_eq!(said, [(Some(2), Some(1), Some(20)), (Some(5), Some(1), Some(20))]);
    assert_eq!(report["segments"][0]["batches"], 3);
    assert_eq!(report["segments"][1]["is_sealed"], false);
}

#[test]
fn cat_prints_what_is_asked_for() {
    let made = Made::new();
    let all = log(made.path(), &["cat"]);
    assert_eq!(all.status.code(), Some(0), "{}", stderr(&all));
    assert_eq!(positions(&all).len(), 40);
    let first = stdout(&all).lines().next().expect("a line");
    assert_eq!(
        first,
        r#"{"topic":"orders.created","position":"2@1","time":"2026-11-22T09:43:06.124Z","key":"k7","payload":[24]}"#
    );
    let one = log(
        made.path(),
        &["cat", "--partition", "2", "--from", "9", "--limit", "4"],
    );
    assert_eq!(positions(&one), ["2@9", "2@10", "2@11", "2@12"]);
    let topic = log(made.path(), &["cat", "--topic", "orders.paid", "--diag"]);
    assert_eq!(stdout(&topic).lines().count(), 12);
    assert!(stdout(&topic).starts_with("2@5 2026-11-22T09:43:06.128Z orders.paid [28]"));
    let none = log(made.path(), &["cat", "--topic", "nobody.>"]);
    assert_eq!((stdout(&none), none.status.code()), ("", Some(0)));
}

#[test]
fn verify_finds_what_was_altered_and_nothing_else() {
    let made = Made::new();
    let good = log(made.path(), &["verify"]);
    assert_eq!(good.status.code(), Some(0), "{}{}", stdout(&good), stderr(&good));
    assert!(stdout(&good).contains("every byte is what was written"));

    // In a sealed segment, behind a good footer; and in one that is being written, before what is synced.
    for (batch, partition, lost) in [(0, 2, [1, 4]), (3, 2, [11, 14])] {
        let made = Made::new();
        made.flip(batch);
        let bad = log(made.path(), &["verify"]);
        assert_eq!(bad.status.code(), Some(1), "{}", stdout(&bad));
        let (text, [first, last]) = (stdout(&bad), lost);
        let said = format!("damaged, held events {first} to {last} of partition {partition}");
        assert!(text.contains(&said), "{text}");
        let said = format!("partition {partition}: 4 events lost: offset {first} to {last}");
        assert!(text.contains(&said), "{text}");
        let report = json_of(&log(made.path(), &["verify", "--json"]));
        assert_eq!(report["partitions"][0]["damaged"][0], serde_json::json!(lost));
        assert_eq!(report["partitions"][1]["damaged"], serde_json::json!([]));
        // Everything else is printed, and what cannot be is said.
        let cat = log(made.path(), &["cat", "--partition", "2"]);
        let held = positions(&cat);
        assert_eq!(held.len(), 16);
        assert!(!held.contains(&format!("2@{first}")));
        assert!(stderr(&cat).contains("damaged"), "{}", stderr(&cat));
    }
}

#[test]
fn a_damaged_meta_is_read_from_its_copy_and_said() {
    let made = Made::new();
    std::fs::write(made.path().join("meta"), "format = 1").expect("damaged");
    let bad = log(made.path(), &["verify"]);
    assert_eq!(bad.status.code(), Some(1), "{}", stdout(&bad));
    assert!(
        stdout(&bad).contains("meta: damaged (its last line"),
        "{}",
        stdout(&bad)
    );
    assert_eq!(positions(&log(made.path(), &["cat"])).len(), 40);
}

#[test]
fn what_is_being_written_is_no_damage() {
    let made = Made::new();
    made.flip(5);
    let output = log(made.path(), &["verify"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stdout(&output).contains("being written"), "{}", stdout(&output));
    assert_eq!(positions(&log(made.path(), &["cat"])).len(), 34);
    // It looks and changes nothing.
    let before = Made::new();
    let files = |dir: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        names.sort();
        names
            .iter()
            .map(|path| std::fs::read(path).expect("a file"))
            .collect::<Vec<_>>()
    };
    let was = files(before.path());
    for action in ["ls", "cat", "verify"] {
        log(before.path(), &[action]);
    }
    assert_eq!(files(before.path()), was);
}

#[test]
fn a_wrong_directory_is_said_to_be_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = log(folder.path(), &["ls"]);
    assert_eq!(output.status.code(), Some(5));
    assert!(
        stderr(&output).contains("no data directory"),
        "{}",
        stderr(&output)
    );
    let missing = log(&folder.path().join("nowhere"), &["verify"]);
    assert_eq!(missing.status.code(), Some(5));
    assert!(stderr(&missing).contains("nowhere"), "{}", stderr(&missing));
    let made = Made::new();
    let file = log(&made.path().join("meta"), &["cat"]);
    assert!(stderr(&file).contains("this is a file"), "{}", stderr(&file));
    let partition = log(made.path(), &["cat", "--partition", "8"]);
    assert!(
        stderr(&partition).contains("no partition 8"),
        "{}",
        stderr(&partition)
    );
    let pattern = log(made.path(), &["cat", "--topic", "a..b"]);
    assert!(stderr(&pattern).contains("no pattern"), "{}", stderr(&pattern));
    for name in ["meta", "meta.copy"] {
        std::fs::write(made.path().join(name), b"something else").expect("written");
    }
    let damaged = log(made.path(), &["ls"]);
    assert!(
        stderr(&damaged).contains("`meta`") && stderr(&damaged).contains("damaged"),
        "{}",
        stderr(&damaged)
    );
}
