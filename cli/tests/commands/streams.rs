//! `fluxar stream`, and `fluxar serve --stream`.

use std::{
    io::{BufRead, BufReader, Write},
    process::Stdio,
    time::Duration,
};

use ciborium::Value;
use fluxar::{Code, Error, ItemSink, Peer, Request, Server};
use tokio::sync::mpsc;

use crate::process::{Running, fluxar, peer_that_serves, run, run_with_stdin, server, stderr, stdout, until};

/// Serves streams: `count` to the request, `double` of what is sent, `break` after one item, `endless`; tells of what
/// was dropped.
async fn streams() -> (Server, mpsc::UnboundedReceiver<&'static str>) {
    let server = server().await;
    let (told, dropped) = mpsc::unbounded_channel();
    server
        .handle_stream("count", |request: Request, out: ItemSink<Value>| async move {
            for n in 0..request.payload::<u64>()? {
                out.send(&n.into()).await?;
            }
            out.send(&Value::Bytes(vec![1])).await
        })
        .unwrap();
    server
        .handle_stream("double", |request: Request, out: ItemSink<u64>| async move {
            let mut items = request.items::<u64>();
            while let Some(item) = items.next().await {
                out.send(&(item? * 2)).await?;
            }
            Ok(())
        })
        .unwrap();
    server
        .handle_stream("break", |_, out: ItemSink<u64>| async move {
            out.send(&1).await?;
            Err(Error::new(Code::DataLoss, "the rest is gone"))
        })
        .unwrap();
    server
        .handle_stream("endless", move |_, out: ItemSink<u64>| {
            let told = Told(told.clone(), "endless");
            async move {
                let _told = told;
                for n in 0.. {
                    out.send(&n).await?;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok(())
            }
        })
        .unwrap();
    (server, dropped)
}

/// Tells when it is dropped.
struct Told(mpsc::UnboundedSender<&'static str>, &'static str);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send(self.1);
    }
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what)
        .await
        .expect("it happens in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_prints_items_one_a_line() {
    let (server, _) = streams().await;
    let output = run(server.url(), &["stream", "count", "3"]).await;
    assert_eq!(
        (stdout(&output), stderr(&output), output.status.code()),
        ("0\n1\n2\n{\"$bytes\":\"AQ\"}\n", "", Some(0))
    );
    let diag = run(
        server.url(),
        &["stream", "count", "0", "--diag", "--prio", "6", "--key", "k"],
    )
    .await;
    assert_eq!(stdout(&diag), "h'01'\n", "{}", stderr(&diag));
    let verbose = run(server.url(), &["-v", "stream", "count", "1"]).await;
    assert!(stderr(&verbose).contains("2 items in"), "{}", stderr(&verbose));
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_sends_lines_and_then_the_end() {
    let (server, _) = streams().await;
    let output = run_with_stdin(server.url(), &["stream", "double", "--input", "-"], "1\n\n2\n3\n").await;
    assert_eq!(
        (stdout(&output), stderr(&output), output.status.code()),
        ("2\n4\n6\n", "", Some(0))
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "10").unwrap();
    let path = file.path().to_str().unwrap();
    assert_eq!(
        stdout(&run(server.url(), &["stream", "double", "--input", path]).await),
        "20\n"
    );
    assert_eq!(
        run(server.url(), &["stream", "double", "--input", "/not/there"])
            .await
            .status
            .code(),
        Some(5)
    );

    // An answer comes before the end: the line went out at once.
    let mut command = fluxar(server.url(), &["stream", "double", "--input", "-"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let talk = tokio::task::spawn_blocking(move || {
        for n in 1..4 {
            writeln!(stdin, "{n}").unwrap();
            assert_eq!(lines.next().unwrap().unwrap(), (2 * n).to_string());
        }
        drop(stdin);
        assert!(lines.next().is_none());
        assert!(child.wait().unwrap().success());
    });
    within(talk).await.unwrap();

    let bad = run_with_stdin(server.url(), &["stream", "double", "--input", "-"], "1\n{\n").await;
    assert_eq!(bad.status.code(), Some(5));
    assert!(
        stderr(&bad).contains("line 2 of stdin is not JSON"),
        "{}",
        stderr(&bad)
    );
    // The other side ends it while there is more to send.
    let broken = run_with_stdin(server.url(), &["stream", "break", "--input", "-"], "1\n2\n").await;
    assert_eq!(
        (stdout(&broken), broken.status.code()),
        ("1\n", Some(1)),
        "{}",
        stderr(&broken)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_says_how_it_failed() {
    let (server, mut dropped) = streams().await;
    let broken = run(server.url(), &["stream", "break"]).await;
    assert_eq!((stdout(&broken), broken.status.code()), ("1\n", Some(1)));
    assert!(
        stderr(&broken).contains("data_loss: the rest is gone"),
        "{}",
        stderr(&broken)
    );
    let nobody = run(server.url(), &["stream", "nobody.there"]).await;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(stderr(&nobody).contains("fluxar serve"), "{}", stderr(&nobody));
    let late = run(server.url(), &["--timeout", "200ms", "stream", "endless"]).await;
    assert_eq!(late.status.code(), Some(4), "{}", stderr(&late));
    assert!(stderr(&late).contains("deadline_exceeded"), "{}", stderr(&late));
    assert_eq!(within(dropped.recv()).await, Some("endless"));
    let prio = run(server.url(), &["stream", "count", "1", "--prio", "8"]).await;
    assert_eq!(prio.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_cancels_at_its_count_at_an_interrupt_and_when_nobody_reads() {
    let (server, mut dropped) = streams().await;
    let counted = run(server.url(), &["stream", "endless", "--count", "3"]).await;
    assert_eq!(
        (stdout(&counted), stderr(&counted), counted.status.code()),
        ("0\n1\n2\n", "", Some(0))
    );
    assert_eq!(within(dropped.recv()).await, Some("endless"));

    let mut stream = Running::start(server.url(), &["stream", "endless"]);
    let mut lines = BufReader::new(stream.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "0");
    let rest = tokio::task::spawn_blocking(move || lines.count()); // until it has ended
    stream.interrupt();
    let output = within(stream.end()).await;
    let items = 1 + rest.await.unwrap();
    let told = format!("fluxar: {items} item{} in ", if items == 1 { "" } else { "s" });
    assert!(
        stderr(&output).starts_with(&told) && stderr(&output).ends_with(", cancelled\n"),
        "{items}: {}",
        stderr(&output)
    );
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(within(dropped.recv()).await, Some("endless"));

    let mut stream = Running::start(server.url(), &["stream", "endless"]);
    drop(stream.0.stdout.take());
    let output = within(stream.end()).await;
    assert_eq!((stderr(&output), output.status.code()), ("", Some(0)));
    assert_eq!(within(dropped.recv()).await, Some("endless"));
}

/// The items that a peer streams for these, and how it ended.
async fn collect(peer: &Peer, request: &str, sent: &[u64]) -> (Vec<Value>, Option<Error>) {
    let (sink, mut items) = peer.duplex::<u64, Value>("m", request).await.unwrap();
    for item in sent {
        sink.send(item).await.unwrap();
    }
    drop(sink.finish().await);
    let mut all = Vec::new();
    while let Some(item) = within(items.next()).await {
        match item {
            Ok(item) => all.push(item),
            Err(error) => return (all, Some(error)),
        }
    }
    (all, None)
}

/// The one peer that has come, once it serves streams.
async fn peer_that_streams(server: &Server) -> Peer {
    until(async || match server.peers().first() {
        Some(peer) => {
            let (_, error) = collect(peer, "x", &[]).await;
            error.is_none_or(|error| error.code() != Code::Unavailable)
        }
        None => false,
    })
    .await;
    server.peers().remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_streams_what_came_what_was_given_and_what_a_command_says() {
    let server = server().await;
    let text = |text: &str| Value::Text(text.to_owned());
    let failed = "`sh` ended with exit status: 3: went wrong";
    let cases: [(&[&str], Vec<Value>, Option<&str>); 5] = [
        (&["--echo"], vec![7.into(), 8.into()], None),
        (
            &["--reply", "[1, [2]]", "--interval", "1ms"],
            vec![1.into(), Value::Array(vec![2.into()])],
            None,
        ),
        (&["--", "cat"], vec![text("x"), 7.into(), 8.into()], None),
        (
            &["--", "sh", "-c", "echo \"\\\"$FLUXAR_METHOD\\\"\"; echo"],
            vec![text("m")],
            None,
        ),
        (
            &["--", "sh", "-c", "echo 1; echo went wrong >&2; exit 3"],
            vec![1.into()],
            Some(failed),
        ),
    ];
    for (how, expected, error) in cases {
        let args = [&["serve", "m", "--stream"], how].concat();
        let serve = Running::start(server.url(), &args);
        let peer = peer_that_streams(&server).await;
        let (items, failed) = collect(&peer, "x", &[7, 8]).await;
        assert_eq!(items, expected, "{args:?}");
        assert_eq!(failed.as_ref().map(Error::message), error, "{args:?}");
        serve.interrupt();
        let output = within(serve.end()).await;
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(stderr(&output).ends_with(" streams\n"), "{}", stderr(&output));
        until(async || server.peers().is_empty()).await;
    }
    let value = run(server.url(), &["serve", "m", "--stream", "--reply", "1"]).await;
    assert_eq!(value.status.code(), Some(5));
    assert!(stderr(&value).contains("needs an array"), "{}", stderr(&value));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_streams_is_killed_when_nobody_wants_more() {
    let server = server().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let script = format!(
        "echo $$ > {}; while :; do echo 1; sleep 0.01; done",
        file.display()
    );
    let serve = Running::start(
        server.url(),
        &["serve", "m", "--stream", "--", "sh", "-c", &script],
    );
    until(async || !server.peers().is_empty()).await;
    let peer = server.peers().remove(0);
    let mut items = loop {
        let mut items = peer.stream::<u64>("m", &()).await.unwrap();
        match within(items.next()).await {
            Some(Ok(1)) => break items,
            Some(Err(error)) if error.code() == Code::Unavailable => {} // the offer has not come yet
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(within(items.next()).await.unwrap().unwrap(), 1);
    let pid = std::fs::read_to_string(&file).unwrap();
    let stat = std::path::Path::new("/proc").join(pid.trim()).join("stat");
    // A dead one may still wait for its parent to ask about it.
    let is_running = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
    assert!(is_running());
    drop(items);
    until(async || !is_running()).await;
    serve.interrupt();
    within(serve.end()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_finishes_what_is_open_before_it_leaves() {
    let server = server().await;
    let folder = tempfile::tempdir().unwrap();
    let [begun, go] = ["begun", "go"].map(|name| folder.path().join(name));
    let script = format!(
        "read x; [ \"$x\" = null ] && exit; touch {}; while [ ! -e {} ]; do sleep 0.01; done; echo '\"done\"'",
        begun.display(),
        go.display()
    );
    let args = [
        "serve",
        "m",
        "--weight",
        "2",
        "--max-in-flight",
        "4",
        "--zone",
        "z",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let mut serve = Running::start(server.url(), &args);
    let mut said = BufReader::new(serve.0.stderr.take().unwrap()).lines();
    let peer = peer_that_serves(&server, "m").await;
    let call = tokio::spawn(async move { peer.call::<_, String>("m", &1).await });
    until(async || begun.exists()).await;
    // Like Ctrl-C: the command does not get it.
    serve.interrupt_group();
    // It waits for the call, and says so.
    let said = tokio::task::spawn_blocking(move || {
        let told = said.find(|line| line.as_ref().unwrap().contains("leaving: no new calls"));
        assert!(told.is_some());
        said
    });
    let said = within(said).await.unwrap();
    std::fs::write(&go, "").unwrap();
    assert_eq!(within(call).await.unwrap().unwrap(), "done");
    let output = within(serve.end()).await;
    assert_eq!(output.status.code(), Some(0));
    let rest: Vec<_> = said.map(Result::unwrap).collect();
    assert!(
        rest.len() == 1 && rest[0].starts_with("fluxar: ") && rest[0].ends_with(" calls"),
        "{rest:?}"
    );
}

/// Whether any process of this group is there and no corpse.
fn is_group_alive(group: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let stats = processes.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
    stats
        .filter_map(|stat| {
            // PID (NAME) STATE PARENT GROUP …
            let mut words = stat.rsplit_once(") ")?.1.split(' ').map(str::to_owned);
            Some((words.next()?, words.nth(1)?))
        })
        .any(|(state, of)| of == group && state != "Z")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_killed_with_all_that_it_has_started() {
    let server = server().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pid");
    let script = format!(
        "read x; [ \"$x\" = null ] && exit; echo $$ > {0}.new; mv {0}.new {0}; sleep 1000 | cat",
        file.display()
    );
    let mut serve = Running::start(server.url(), &["serve", "m", "--", "sh", "-c", &script]);
    let peer = peer_that_serves(&server, "m").await;
    let begin = async || {
        drop(std::fs::remove_file(&file));
        let peer = peer.clone();
        let call = tokio::spawn(async move { peer.call::<_, Value>("m", &1).await });
        until(async || file.exists()).await;
        let group = std::fs::read_to_string(&file).unwrap().trim().to_owned();
        assert!(is_group_alive(&group));
        (call, group)
    };
    // The caller gives up.
    let (call, group) = begin().await;
    call.abort();
    until(async || !is_group_alive(&group)).await;

    // Whoever ends `serve` does not wait.
    let (call, group) = begin().await;
    let mut said = BufReader::new(serve.0.stderr.take().unwrap()).lines();
    serve.interrupt();
    let told = tokio::task::spawn_blocking(move || {
        let told = said.any(|line| line.unwrap().contains("leaving: no new calls"));
        (told, said)
    });
    assert!(within(told).await.unwrap().0);
    serve.interrupt();
    within(serve.end()).await;
    until(async || !is_group_alive(&group)).await;
    assert!(within(call).await.unwrap().is_err());
}
