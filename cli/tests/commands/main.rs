//! The command as a script sees it: what it prints, what it says on stderr, how it exits; against a real server.

mod logs;
mod process;
mod services;
mod stored;
mod streams;

use std::{
    io::{BufRead, BufReader, Read, Write},
    time::Duration,
};

use ciborium::cbor;
use fluxar::{Code, Error, Message, Server};
use process::{Running, fluxar, peer_that_serves, read, run, run_with_stdin, server, stderr, stdout, until};

#[tokio::test(flavor = "multi_thread")]
async fn call_prints_the_answer() {
    let server = server().await;
    for (argument, answer) in [
        (
            r#"{"z": 1, "a": [1.0, "ü", null]}"#,
            "{\"z\":1,\"a\":[1.0,\"ü\",null]}\n",
        ),
        (r#"{"$bytes": "AQID"}"#, "{\"$bytes\":\"AQID\"}\n"),
        ("-1", "-1\n"),
    ] {
        let output = run(server.url(), &["call", "echo", argument]).await;
        assert_eq!(
            (stdout(&output), output.status.code()),
            (answer, Some(0)),
            "{}",
            stderr(&output)
        );
    }
    assert_eq!(stdout(&run(server.url(), &["call", "echo"]).await), "null\n");
    let diag = run(
        server.url(),
        &["--named", "call", "echo", r#"{"$bytes": "AQID"}"#, "--diag"],
    )
    .await;
    assert_eq!(stdout(&diag), "h'01 02 03'\n");
    assert_eq!(
        stdout(&run_with_stdin(server.url(), &["call", "echo", "-"], "[1,\n2]").await),
        "[1,2]\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_have_their_exit_codes_and_say_what_to_try() {
    let server = server().await;
    let url = server.url().to_owned();

    let answered = run(&url, &["call", "fail"]).await;
    let expected = format!("fluxar: {url}: not_found: there is no user 7\n        details: [\"id\",7]\n");
    assert_eq!((stderr(&answered), answered.status.code()), (&*expected, Some(1)));
    assert_eq!(stdout(&answered), "");

    let nobody = run(&url, &["call", "nobody.there"]).await;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(stderr(&nobody).contains("fluxar serve"), "{}", stderr(&nobody));

    let usage = run(&url, &["call"]).await;
    assert_eq!(usage.status.code(), Some(2));
    let name = run(&url, &["call", "not..a.name"]).await;
    assert_eq!(name.status.code(), Some(2), "{}", stderr(&name));

    let hang = run(&url, &["--timeout", "100ms", "call", "hang"]).await;
    assert_eq!(hang.status.code(), Some(4));
    assert!(stderr(&hang).contains("deadline_exceeded"), "{}", stderr(&hang));

    let json = run(&url, &["call", "echo", "{id: 7}"]).await;
    assert_eq!(json.status.code(), Some(5));
    assert!(stderr(&json).contains("the argument is not JSON") && stderr(&json).contains("quote it"));

    // A port that is bound and not listened at: that of a server which has closed may be another test's by now.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket
        .bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a port");
    let url = format!("tcp://{}", socket.local_addr().expect("its address"));
    let refused = run(&url, &["call", "echo"]).await;
    assert_eq!(refused.status.code(), Some(3));
    let expected = format!(
        "fluxar: {url}: unavailable: connection refused: nobody listens there\n        \
         is a gateway running? start one with `fluxar-gateway`, or give its address with --url\n"
    );
    assert_eq!(stderr(&refused), expected);
}

#[tokio::test]
async fn who_speaks_http_is_told_which_port_is_which() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
            // Until the other side has had enough of it.
            let _ = socket.read(&mut [0; 4096]).await;
            let _ = socket.read(&mut [0; 4096]).await;
        }
    });
    for scheme in ["tcp", "ws"] {
        let refused = run(&format!("{scheme}://{address}"), &["ping"]).await;
        assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
        assert!(
            stderr(&refused).contains("9001 is WebSocket"),
            "{}",
            stderr(&refused)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn help_tells_the_exit_codes() {
    let help = run("tcp://127.0.0.1:1", &["--help"]).await;
    for part in [
        "Exit codes:",
        "$bytes",
        "pub",
        "sub",
        "call",
        "stream",
        "serve",
        "services",
        "ping",
        "FLUXAR_URL",
    ] {
        assert!(stdout(&help).contains(part), "{part} in {}", stdout(&help));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pub_publishes_values_files_and_lines() {
    let server = server().await;
    let (sender, mut events) = tokio::sync::mpsc::unbounded_channel();
    server
        .on_event(">", move |msg: Message| {
            let sender = sender.clone();
            async move {
                sender
                    .send((msg.topic().to_owned(), read(msg.payload_bytes())?))
                    .unwrap();
                Ok(())
            }
        })
        .unwrap();
    let mut next = async || {
        let (topic, value) = tokio::time::timeout(Duration::from_secs(30), events.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(topic, "a.b");
        value
    };
    let text = |text: &str| ciborium::Value::Text(text.to_owned());

    let output = run(
        server.url(),
        &["pub", "a.b", "[1]", "--count", "2", "--interval", "1ms"],
    )
    .await;
    assert_eq!(
        (output.status.code(), stdout(&output)),
        (Some(0), ""),
        "{}",
        stderr(&output)
    );
    for _ in 0..2 {
        assert_eq!(next().await, ciborium::Value::Array(vec![1.into()]));
    }
    run(server.url(), &["pub", "a.b", "not json", "--raw-text"]).await;
    assert_eq!(next().await, text("not json"));
    run(server.url(), &["pub", "a.b"]).await;
    assert_eq!(next().await, ciborium::Value::Null);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("event.json");
    std::fs::write(&path, "\n \"from a file\"\n").unwrap();
    run(server.url(), &["pub", "a.b", "--file", path.to_str().unwrap()]).await;
    assert_eq!(next().await, text("from a file"));
    let missing = run(server.url(), &["pub", "a.b", "--file", "/not/there"]).await;
    assert_eq!(missing.status.code(), Some(5));
    assert!(stderr(&missing).contains("/not/there"));

    let lines = run_with_stdin(server.url(), &["pub", "a.b", "-"], "\"one\"\n\n\"two\"\n").await;
    assert_eq!(lines.status.code(), Some(0), "{}", stderr(&lines));
    assert_eq!((next().await, next().await), (text("one"), text("two")));
    let bad = run_with_stdin(server.url(), &["pub", "a.b", "-"], "\"three\"\n{\n").await;
    assert_eq!(bad.status.code(), Some(5));
    assert!(
        stderr(&bad).contains("line 2 of stdin is not JSON"),
        "{}",
        stderr(&bad)
    );
    assert_eq!(next().await, text("three"));
    let long = format!("{}{{\n", "\"good\"\n".repeat(20_000));
    let bad = run_with_stdin(server.url(), &["pub", "a.b", "-"], &long).await;
    assert_eq!(bad.status.code(), Some(5));
    let said = "20000 events before it were published\nfluxar: line 20001 of stdin is not JSON";
    assert!(stderr(&bad).contains(said), "{}", stderr(&bad));
    for _ in 0..20_000 {
        assert_eq!(next().await, text("good"));
    }

    let refused = run(server.url(), &["pub", "a.*", "1"]).await;
    assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn sub_prints_events_and_ends_at_its_count() {
    let server = server().await;
    let order = ciborium::Value::Map(vec![
        ("id".into(), 7.into()),
        ("raw".into(), ciborium::Value::Bytes(vec![1])),
    ]);
    let json = "{\"topic\":\"orders.made\",\"payload\":0}\n\
        {\"topic\":\"orders.made\",\"payload\":{\"id\":7,\"raw\":{\"$bytes\":\"AQ\"}}}\n";
    let diag = "orders.made 0\norders.made {\"id\": 7, \"raw\": h'01'}\n";
    for (style, expected) in [("--json", json), ("--diag", diag)] {
        let sub = Running::start(server.url(), &["sub", "orders.*", "--count", "2", style]);
        until(async || server.publish("orders.made", &0).unwrap() == 1).await;
        server.publish("orders.made", &order).unwrap();
        let output = sub.end().await;
        assert_eq!(
            (stdout(&output), output.status.code()),
            (expected, Some(0)),
            "{}",
            stderr(&output)
        );
        until(async || server.peers().is_empty()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sub_ends_at_an_interrupt_with_a_summary() {
    let server = server().await;
    let mut sub = Running::start(server.url(), &["sub", "a"]);
    until(async || server.publish("a", &1).unwrap() == 1).await;
    let mut lines = BufReader::new(sub.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), r#"{"topic":"a","payload":1}"#);
    sub.interrupt();
    let output = sub.end().await;
    assert_eq!(
        (output.status.code(), stderr(&output)),
        (Some(0), "fluxar: 1 events, 0 dropped\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sub_ends_silently_when_nobody_reads_it() {
    let server = server().await;
    let mut sub = Running::start(server.url(), &["sub", "a"]);
    drop(sub.0.stdout.take());
    until(async || {
        drop(server.publish("a", &1));
        sub.0.try_wait().unwrap().is_some()
    })
    .await;
    let output = sub.end().await;
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn sub_does_not_wait_longer_than_it_is_told() {
    let server = server().await;
    let output = run(server.url(), &["--timeout", "200ms", "sub", "a", "--count", "3"]).await;
    let told = format!("fluxar: {}: 0 of 3 events came in time\n", server.url());
    assert_eq!((output.status.code(), stderr(&output)), (Some(4), told.as_str()));
    let group = run(server.url(), &["sub", "a", "--group", "g"]).await;
    assert_eq!(group.status.code(), Some(1));
    assert!(stderr(&group).contains("needs a gateway"), "{}", stderr(&group));
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_echoes_replies_and_runs_commands() {
    let server = server().await;
    let cases: [(&[&str], &str, Result<ciborium::Value, &str>); 5] = [
        (&["serve", "m", "--echo"], "x", Ok("x".into())),
        (
            &["serve", "m", "--reply", "[1]"],
            "x",
            Ok(ciborium::Value::Array(vec![1.into()])),
        ),
        (&["serve", "m", "--", "cat"], "x", Ok("x".into())),
        (
            &[
                "serve",
                "m",
                "--",
                "sh",
                "-c",
                "read x; echo \"[\\\"$FLUXAR_METHOD\\\",$x]\"",
            ],
            "x",
            Ok(ciborium::Value::Array(vec!["m".into(), "x".into()])),
        ),
        (
            &["serve", "m", "--", "sh", "-c", "echo went wrong >&2; exit 3"],
            "x",
            Err("`sh` ended with exit status: 3: went wrong"),
        ),
    ];
    for (args, argument, expected) in cases {
        let serve = Running::start(server.url(), args);
        let peer = peer_that_serves(&server, "m").await;
        let answer = peer.call::<_, ciborium::Value>("m", argument).await;
        match expected {
            Ok(value) => assert_eq!(answer.unwrap(), value, "{args:?}"),
            Err(message) => {
                let error = answer.unwrap_err();
                assert_eq!((error.code(), error.message()), (Code::Internal, message));
            }
        }
        serve.interrupt();
        let output = serve.end().await;
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(
            stderr(&output).starts_with("fluxar: serving m at ") && stderr(&output).ends_with(" calls\n")
        );
        until(async || server.peers().is_empty()).await;
    }
    assert_eq!(
        run(server.url(), &["serve", "m"]).await.status.code(),
        Some(2),
        "one way to answer is needed"
    );
    assert_eq!(
        run(server.url(), &["serve", "m", "--echo", "--", "cat"])
            .await
            .status
            .code(),
        Some(2),
        "and only one"
    );
}

/// A gateway that accepts one offer, and then ends it with `error`.
fn end_an_offer(listener: &std::net::TcpListener, error: ciborium::Value) {
    use ciborium::Value;
    let (mut socket, _) = listener.accept().unwrap();
    // The id of the next message that arrives.
    let receive = |socket: &mut std::net::TcpStream| {
        let mut length = [0; 4];
        socket.read_exact(&mut length).unwrap();
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        socket.read_exact(&mut body).unwrap();
        let envelope: Value = ciborium::from_reader(&body[..]).unwrap();
        envelope.as_array().unwrap()[1].clone()
    };
    let send = |socket: &mut std::net::TcpStream, envelope: Value| {
        let mut body = Vec::new();
        ciborium::into_writer(&envelope, &mut body).unwrap();
        socket.write_all(&(body.len() as u32).to_be_bytes()).unwrap();
        socket.write_all(&body).unwrap();
    };
    let (id, null) = (Value::Bytes(vec![1; 16]), Value::Null);
    let hello = receive(&mut socket);
    let welcome = cbor!({"v" => 0, "session" => Value::Bytes(vec![2; 16])}).unwrap();
    let answer = [
        1.into(),
        id.clone(),
        hello,
        null.clone(),
        null.clone(),
        welcome,
        null.clone(),
    ];
    send(&mut socket, Value::Array(answer.to_vec()));
    let offer = receive(&mut socket);
    let accepted = cbor!({"epoch" => 0, "at" => []}).unwrap();
    let answer = [
        4.into(),
        id.clone(),
        offer.clone(),
        null.clone(),
        null.clone(),
        accepted,
        null.clone(),
    ];
    send(&mut socket, Value::Array(answer.to_vec()));
    let meta = cbor!({"end" => true}).unwrap();
    send(
        &mut socket,
        Value::Array(vec![4.into(), id, offer, null.clone(), meta, null, error]),
    );
    // Until the command has gone.
    drop(socket.read_to_end(&mut Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_ends_with_its_offer_and_says_why() {
    for (error, told) in [
        (
            cbor!({"code" => 7, "message" => "not yours"}).unwrap(),
            "permission_denied: not yours",
        ),
        (ciborium::Value::Null, "it gave no reason"),
    ] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("tcp://{}", listener.local_addr().unwrap());
        let gateway = std::thread::spawn(move || end_an_offer(&listener, error));
        let ended = tokio::time::timeout(Duration::from_secs(30), run(&url, &["serve", "m", "--echo"]));
        let output = ended.await.expect("the command ends");
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(
            stderr(&output).contains("the offer of m has ended") && stderr(&output).contains(told),
            "{}",
            stderr(&output)
        );
        gateway.join().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ping_prints_percentiles() {
    let server = server().await;
    let output = run(server.url(), &["ping", "--count", "3", "--interval", "1ms"]).await;
    let words: Vec<_> = stdout(&output).split_whitespace().collect();
    assert_eq!(
        words[..5],
        ["3", "round", "trips", "to", server.url()],
        "{}",
        stderr(&output)
    );
    for name in ["min", "p50", "p90", "p99", "max"] {
        assert!(words.contains(&name), "{}", stdout(&output));
    }
    let output = run(
        server.url(),
        &["ping", "--count", "3", "--interval", "1ms", "--json"],
    )
    .await;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["count"], 3);
    assert!(report["min_us"].as_f64() > Some(0.0) && report["min_us"].as_f64() <= report["max_us"].as_f64());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_sent_and_not_shown() {
    let builder = Server::bind("127.0.0.1:0").authenticate(|auth| match auth.and_then(fluxar::Auth::token) {
        Some("right") => Ok(()),
        _ => Err(Error::new(Code::Unauthenticated, "a token is needed")),
    });
    let server = builder.build().await.unwrap();
    let running = server.clone();
    tokio::spawn(async move { running.run().await.unwrap() });
    let without = run(server.url(), &["ping", "--count", "1"]).await;
    assert_eq!(without.status.code(), Some(3));
    assert!(stderr(&without).contains("--token"), "{}", stderr(&without));
    let with = run(server.url(), &["ping", "--count", "1", "--token", "right"]).await;
    assert_eq!(with.status.code(), Some(0), "{}", stderr(&with));
    let mut help = fluxar(server.url(), &["--help"]);
    help.env("FLUXAR_TOKEN", "hidden");
    assert!(!stdout(&help.output().unwrap()).contains("hidden"));
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_events_need_their_options_and_a_gateway() {
    let server = server().await;
    for (args, said) in [
        (&["pub", "a", "1", "--retain"][..], "add --qos 1"),
        (&["pub", "a", "1", "--key", "k"], "add --qos 1"),
        (&["pub", "a", "1", "--qos", "3"], "--qos"),
        (&["sub", "a", "--qos", "2"], "add --durable NAME"),
        (&["sub", "a", "--qos", "0", "--from", "all"], "not for --qos 0"),
        (&["sub", "a", "--from", "yesterday"], "2026-11-22T09:30:00Z"),
        (&["sub", "a", "--in-flight", "4"], "--group"),
        (&["sub", "a", "--retain", "--group", "g"], "--group"),
        (&["sub", "a", "--skip-damaged"], "--retain"),
    ] {
        let output = run(server.url(), args).await;
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(said), "{args:?}: {}", stderr(&output));
    }
    for args in [
        &["pub", "a", "1", "--qos", "1", "--key", "k"][..],
        &["sub", "a", "--durable", "me"],
        &["sub", "a", "--from", "15m"],
    ] {
        let output = run(server.url(), args).await;
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(
            stderr(&output).contains("needs a gateway") || stderr(&output).contains("need a gateway"),
            "{args:?}: {}",
            stderr(&output)
        );
    }
}
