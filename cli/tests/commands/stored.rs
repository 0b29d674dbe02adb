//! `fluxar sub` on stored events, through a gateway with a log.

use std::{
    io::{BufRead, BufReader},
    process::{Output, Stdio},
};

use fluxar::Client;
use fluxar_gateway::{
    config::{Config, Cores, LogDir},
    gateway::Gateway,
};
use tempfile::TempDir;

use crate::process::{fluxar, run, stderr, stdout};

/// A gateway with a log, in this process.
struct Stored {
    gateway: Gateway,
    url: String,
    _folder: TempDir,
}

impl Stored {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config {
            cores: Cores::All,
            listen: vec!["tcp://127.0.0.1:0".into()],
            ..Config::default()
        };
        config.log.dir = LogDir::At(folder.path().join("log"));
        config.engine.spin_us = 0;
        let gateway = Gateway::start(&config).unwrap_or_else(|error| panic!("{error}"));
        let url = gateway.addresses()[0].to_string();
        Self {
            gateway,
            url,
            _folder: folder,
        }
    }

    /// Stores rows of a table: numbers, each with as many more bytes.
    async fn rows(&self, topic: &str, count: usize, bytes: usize) {
        let client = Client::connect(&self.url).build().await.unwrap();
        let mut receipts = Vec::new();
        for row in 0..count {
            let event = client.event(topic, &(row, "x".repeat(bytes)));
            let event = event.key(format!("k{row}")).retain();
            receipts.push(event.enqueue().await.unwrap());
        }
        for receipt in receipts {
            receipt.await.unwrap();
        }
    }

    fn stop(self) {
        for core in self.gateway.stop() {
            core.expect("a core ended well");
        }
    }
}

/// Where a subscription says that it can be gone on with.
fn cursor(output: &Output) -> &str {
    let said = stderr(output);
    let line = said.lines().find(|line| line.contains("to go on with"));
    let line = line.unwrap_or_else(|| panic!("no cursor: {said}"));
    line.rsplit(' ').next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_larger_than_a_window_is_printed_whole() {
    let stored = Stored::start();
    for (topic, rows, bytes) in [("t.many", 10_000, 1), ("t.large", 12, 60_000)] {
        stored.rows(topic, rows, bytes).await;
        let count = rows.to_string();
        let args = ["sub", topic, "--retain", "--count", &count, "--timeout", "60s"];
        let output = run(&stored.url, &args).await;
        assert_eq!(output.status.code(), Some(0), "{topic}: {}", stderr(&output));
        assert_eq!(stdout(&output).lines().count(), rows, "{topic}");
    }
    stored.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_says_where_to_go_on() {
    let stored = Stored::start();
    stored.rows("t.rows", 3, 1).await;
    let all = [
        "-v",
        "sub",
        "t.rows",
        "--retain",
        "--count",
        "3",
        "--timeout",
        "60s",
    ];
    let first = run(&stored.url, &all).await;
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    let end = cursor(&first);
    assert!(end.ends_with("@3"), "{end}");
    // Nothing is new there, and that place is said again.
    let behind = [
        "-v",
        "sub",
        "t.rows",
        "--retain",
        "--from",
        end,
        "--count",
        "1",
        "--timeout",
        "5s",
    ];
    let second = run(&stored.url, &behind).await;
    assert_eq!(second.status.code(), Some(4), "{}", stderr(&second));
    assert_eq!(cursor(&second), end);
    // Of a table that has not come whole there is no place in it.
    let two = [
        "-v",
        "sub",
        "t.rows",
        "--retain",
        "--count",
        "2",
        "--timeout",
        "60s",
    ];
    let part = run(&stored.url, &two).await;
    assert!(!cursor(&part).contains('@'), "{}", stderr(&part));
    stored.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_printed_before_the_pipe_closed_is_acknowledged() {
    let stored = Stored::start();
    stored.rows("d.a", 2_000, 100).await;
    let mut printed = Vec::new();
    for _ in 0..2 {
        let mut command = fluxar(&stored.url, &["sub", "d.a", "--durable", "dd", "--from", "all"]);
        if !printed.is_empty() {
            command = fluxar(&stored.url, &["sub", "d.a", "--durable", "dd"]);
        }
        let lines = tokio::task::spawn_blocking(move || {
            let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
            let printed = BufReader::new(child.stdout.take().unwrap()).lines();
            let lines: Vec<String> = printed.take(3).map(Result::unwrap).collect(); // which closes the pipe
            assert_eq!(child.wait().unwrap().code(), Some(0), "the pipe is closed");
            lines
        });
        let lines = lines.await.unwrap();
        assert_eq!(lines.len(), 3);
        for line in lines {
            assert!(!printed.contains(&line), "printed again: {line}");
            printed.push(line);
        }
    }
    stored.stop();
}
