//! How connections begin, break, come back and end.

mod raw;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use fluxar::{Client, Code, Error, Message, Origin, Origins, Request, Server, State};
use fluxar_protocol::{Envelope, ErrorBody, Form, Id, Kind, meta::Meta, meta::MetaWriter};
use futures_util::{SinkExt, StreamExt};
use raw::{PATIENCE, Raw, envelope, until};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message as WsMessage};

async fn start(builder: fluxar::ServerBuilder) -> Server {
    let server = builder.build().await.unwrap();
    let running = server.clone();
    tokio::spawn(async move { running.run().await.unwrap() });
    server
}

fn quick(url: impl Into<String>) -> fluxar::ClientBuilder {
    Client::connect(url)
        .reconnect_first(Duration::from_millis(5))
        .reconnect_max(Duration::from_millis(20))
}

async fn comes_to(client: &Client, state: impl FnMut(&State) -> bool) {
    let mut states = client.watch_state();
    tokio::time::timeout(PATIENCE, states.wait_for(state))
        .await
        .expect("the state is reached")
        .unwrap();
}

#[tokio::test]
async fn a_client_returns_with_its_subscriptions_and_offers() {
    // An address at which nobody else listens: the port stays free while the server is away.
    let server = start(Server::bind("127.0.0.21:0")).await;
    let url = server.url().to_owned();
    let client = quick(&url).build().await.unwrap();
    let events = Arc::new(Mutex::new(Vec::new()));
    let events_there = events.clone();
    client
        .subscribe("a.*", move |msg: Message| {
            let events = events_there.clone();
            async move {
                events.lock().unwrap().push(msg.payload::<u32>()?);
                Ok(())
            }
        })
        .await
        .unwrap();
    let mut taken = client.subscription("a.b").open().await.unwrap();
    client
        .serve("name", |_: Request| async { Ok("a client") })
        .await
        .unwrap();
    server.publish("a.b", &1).unwrap();
    assert_eq!(taken.next().await.unwrap().payload::<u32>().unwrap(), 1);

    for round in 2..4u32 {
        server.close().await;
        comes_to(&client, |state| matches!(state, State::Reconnecting { .. })).await;
        let error = client.publish("a.b", &0).await.unwrap_err();
        assert_eq!(
            (error.code(), error.origin()),
            (Code::Unavailable, Origin::Connection),
            "{error}"
        );
        assert!(
            error
                .to_string()
                .starts_with(&format!("{url}: unavailable: not connected: ")),
            "{error}"
        );

        let server = start(Server::bind(&url)).await;
        comes_to(&client, |state| *state == State::Connected).await;
        until(|| server.publish("a.b", &round).unwrap() == 1).await;
        assert_eq!(taken.next().await.unwrap().payload::<u32>().unwrap(), round);
        until(|| events.lock().unwrap().last() == Some(&round)).await;
        assert_eq!(
            server.peers()[0].call::<_, String>("name", &()).await.unwrap(),
            "a client"
        );
        server.close().await;
    }
}

#[tokio::test]
async fn a_patient_client_waits_for_its_server_and_an_impatient_one_gives_up() {
    // At which nobody else listens.
    let listener = TcpListener::bind("127.0.0.22:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = quick(&url).build().await.unwrap_err();
    assert_eq!(
        (error.code(), error.origin(), error.address()),
        (Code::Unavailable, Origin::Connect, Some(&*url))
    );
    assert!(error.message().contains("connection refused"), "{error}");

    let patient = tokio::spawn(quick(&url).keep_dialing(true).build());
    let server = start(Server::bind(&url)).await;
    let client = tokio::time::timeout(PATIENCE, patient)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    client.ping().await.unwrap();

    let impatient = quick(&url)
        .reconnect_give_up(Duration::from_millis(50))
        .build()
        .await
        .unwrap();
    let mut subscription = impatient.subscription("a").open().await.unwrap();
    let never = quick(&url).reconnect(false).build().await.unwrap();
    server.close().await;
    comes_to(&never, |state| *state == State::Closed).await;
    comes_to(&impatient, |state| *state == State::Closed).await;
    assert!(
        impatient.lost_because().unwrap().message().contains("refused"),
        "{:?}",
        impatient.lost_because()
    );
    assert!(subscription.next().await.is_none());
    assert_eq!(subscription.end().unwrap().code(), Code::Unavailable);
}

#[tokio::test]
async fn addresses_that_cannot_be_used_are_refused_with_a_reason() {
    for (address, reason) in [
        ("http://x", "its scheme is unknown"),
        ("wss://x", "not supported yet"),
        ("tcp://a b", "it must be host:port"),
        ("unix:///nobody/listens/here", "no such socket"),
    ] {
        let error = Client::connect(address).build().await.unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    let error = Server::bind("unix:///nobody/has/this/folder")
        .build()
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("unix:///nobody/has/this/folder"),
        "{error}"
    );
}

#[tokio::test]
async fn malformed_envelopes_cost_themselves_or_the_connection_as_the_protocol_says() {
    let server = start(Server::bind("127.0.0.1:0")).await;
    server
        .handle("echo", |req: Request| async move { req.payload::<u8>() })
        .unwrap();
    let mut healthy = Raw::greeted(server.url()).await;

    // Its end is known and its ref is null: answered, and what stands behind it is served.
    let call = Envelope {
        target: Some("echo"),
        ..envelope(Kind::Call, None, &[7])
    };
    let mut body = Vec::new();
    Envelope {
        target: Some("not..a.name"),
        ..call
    }
    .encode(Form::Compact, &mut body);
    call.encode(Form::Compact, &mut body);
    healthy.send_body(&body).await;
    let mut answers = healthy.receive().await.unwrap();
    if answers.len() == 1 {
        answers.extend(healthy.receive().await.unwrap());
    }
    assert_eq!(answers[0].error.as_ref().unwrap().0, Code::InvalidArgument);
    assert_eq!(
        (answers[0].kind, answers[0].reference),
        (Kind::Call, Some(call.id))
    );
    assert_eq!(
        (answers[1].payload.as_slice(), &answers[1].error),
        (&[7][..], &None)
    );

    // Nobody serves that stream, an empty frame is nothing, refs to nothing are ignored.
    healthy
        .send(&Envelope {
            target: Some("x"),
            ..envelope(Kind::Stream, None, &[])
        })
        .await;
    healthy.send_body(&[]).await;
    for kind in [
        Kind::Call,
        Kind::Stream,
        Kind::Subscribe,
        Kind::Event,
        Kind::Cancel,
        Kind::Ping,
    ] {
        healthy
            .send(&envelope(kind, Some(fluxar_protocol::Id([3; 16])), &[]))
            .await;
    }
    let answer = healthy.receive().await.unwrap().remove(0);
    assert_eq!(
        (answer.kind, answer.error.unwrap().0),
        (Kind::Stream, Code::Unavailable)
    );

    // Its end is unknown: a last cancel says why, and the connection ends. Others do not notice.
    for (garbage, code) in [
        (&b"\xff\xff\xff"[..], Code::InvalidArgument),
        (&body[..20], Code::InvalidArgument),
        (b"\x28\xb5\x2f\xfd", Code::FailedPrecondition),
    ] {
        let mut peer = Raw::greeted(server.url()).await;
        peer.send_body(garbage).await;
        let said = peer.receive_all().await;
        let last = said.last().unwrap();
        assert_eq!((last.kind, last.reference), (Kind::Cancel, None));
        assert!(
            [code, Code::InvalidArgument].contains(&last.error.as_ref().unwrap().0),
            "{last:?}"
        );
    }
    let mut second_hello = Raw::greeted(server.url()).await;
    second_hello
        .send(&envelope(Kind::Hello, None, &[0xa1, 0x61, b'v', 0x81, 0]))
        .await;
    assert_eq!(
        second_hello.receive_all().await.last().unwrap().kind,
        Kind::Cancel
    );
    healthy.send(&call).await;
    assert_eq!(healthy.receive().await.unwrap()[0].payload, [7]);
}

#[tokio::test]
async fn nothing_but_a_good_hello_opens_a_session() {
    let server = start(Server::bind("127.0.0.1:0").connect_timeout(Duration::from_millis(1500))).await;
    let cases: [(Envelope<'_>, Kind, Code); 3] = [
        (
            envelope(Kind::Ping, None, &[]),
            Kind::Cancel,
            Code::FailedPrecondition,
        ),
        (
            envelope(Kind::Hello, None, &[0xa0]),
            Kind::Hello,
            Code::InvalidArgument,
        ),
        (
            envelope(Kind::Hello, None, &[0xa1, 0x61, b'v', 0x81, 1]),
            Kind::Hello,
            Code::Unimplemented,
        ),
    ];
    for (first, kind, code) in cases {
        let mut peer = Raw::connect(server.url()).await;
        peer.send(&first).await;
        let said = peer.receive_all().await;
        assert_eq!(
            (said[0].kind, said[0].error.as_ref().unwrap().0, said.len()),
            (kind, code, 1),
            "{first:?}"
        );
    }
    let mut silent = Raw::connect(server.url()).await;
    let said = silent.receive_all().await;
    assert_eq!(
        (said[0].kind, said[0].error.as_ref().unwrap().0),
        (Kind::Cancel, Code::DeadlineExceeded)
    );
    let mut long = Raw::connect(server.url()).await;
    long.0.write_all(&20_000u32.to_be_bytes()).await.unwrap();
    let said = long.receive_all().await;
    assert_eq!(
        (said[0].kind, said[0].error.as_ref().unwrap().0),
        (Kind::Cancel, Code::ResourceExhausted)
    );
}

#[tokio::test]
async fn connections_over_the_bound_are_told_so_and_handshakes_count() {
    let server = start(Server::bind("127.0.0.1:0").connections_max(1)).await;
    let silent = Raw::connect(server.url()).await; // says no hello
    let error = Client::connect(server.url()).build().await.unwrap_err();
    assert_eq!(
        (error.code(), error.origin()),
        (Code::ResourceExhausted, Origin::Connect),
        "{error}"
    );
    assert!(error.message().contains("takes 1 connections"), "{error}");
    drop(silent);
    let client = quick(server.url());
    let client = loop {
        match client.clone().build().await {
            Ok(client) => break client,
            Err(error) => assert_eq!(error.code(), Code::ResourceExhausted),
        }
    };
    client.ping().await.unwrap();

    let server = start(Server::bind("ws://127.0.0.1:0").connections_max(0)).await;
    let answer = upgrade(&server, "").await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("takes 0 connections"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_frame_over_the_limit_closes_with_the_reason() {
    let server = start(Server::bind("127.0.0.1:0").max_frame_bytes(64 * 1024)).await;
    let mut peer = Raw::greeted(server.url()).await;
    peer.0.write_all(&65_537u32.to_be_bytes()).await.unwrap();
    let said = peer.receive_all().await;
    let (code, message) = said.last().unwrap().error.clone().unwrap();
    assert_eq!(code, Code::ResourceExhausted);
    assert!(
        message.contains("65537") && message.contains("65536"),
        "{message}"
    );
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_pinged_and_then_lost() {
    let server = start(Server::bind("127.0.0.1:0").heartbeat_ms(1_000)).await;
    let mut peer = Raw::greeted(server.url()).await;
    until(|| server.peers().len() == 1).await;
    // It answers for a while: then it stays.
    for _ in 0..2 {
        let ping = peer.receive().await.unwrap().remove(0);
        assert_eq!((ping.kind, ping.reference), (Kind::Ping, None));
        peer.send(&envelope(Kind::Ping, Some(ping.id), &[])).await;
    }
    assert_eq!(server.peers().len(), 1);
    let said = peer.receive_all().await;
    assert_eq!(said[0].kind, Kind::Ping);
    assert_eq!(said.len(), 1, "it is lost without another word");
    until(|| server.peers().is_empty()).await;
}

#[tokio::test]
async fn a_client_whose_gateway_falls_silent_fails_its_calls_and_dials_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    let building = tokio::spawn(quick(&url).heartbeat_ms(500).build());
    let mut silent = Raw(listener.accept().await.unwrap().0);
    silent.welcome().await;
    let client = building.await.unwrap().unwrap();
    let error = client.call::<_, ()>("a", &()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert!(
        error.message().contains("nothing was received for 1000 ms"),
        "{error}"
    );
    let mut again = Raw(listener.accept().await.unwrap().0);
    again.welcome().await;
    comes_to(&client, |state| *state == State::Connected).await;
}

#[tokio::test]
async fn pings_are_answered_by_both_sides() {
    let server = start(Server::bind("127.0.0.1:0")).await;
    let client = Client::connect(server.url()).build().await.unwrap();
    client.ping().await.unwrap();
    until(|| server.peers().len() == 1).await;
    server.peers()[0].ping().await.unwrap();
    assert!(
        client.agent().unwrap().starts_with("fluxar-rust/"),
        "{:?}",
        client.agent()
    );
}

#[tokio::test]
async fn a_goodbye_with_a_pause_is_heeded() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://{}", listener.local_addr().unwrap());
    let building = tokio::spawn(quick(&url).build());
    let mut gateway = Raw(listener.accept().await.unwrap().0);
    gateway.welcome().await;
    let client = building.await.unwrap().unwrap();
    let mut error = Vec::new();
    ErrorBody {
        code: Code::Unavailable,
        message: "draining",
        details: None,
        retry_after_ms: Some(60_000),
    }
    .encode(&mut error);
    gateway
        .send(&Envelope {
            error: Some(&error),
            ..envelope(Kind::Cancel, None, &[])
        })
        .await;
    assert!(gateway.receive().await.is_none(), "it closes its side");
    comes_to(&client, |state| matches!(state, State::Reconnecting { .. })).await;
    assert!(client.lost_because().unwrap().message().contains("draining"));
    let dialled = tokio::time::timeout(Duration::from_millis(100), listener.accept()).await;
    assert!(dialled.is_err(), "it keeps away for the minute it was told");
    client.close().await; // and closing does not wait for it
}

#[tokio::test]
async fn a_refused_hello_says_when_to_come_back() {
    let server = start(Server::bind("127.0.0.1:0").authenticate(|_| {
        Err(Error::new(Code::Unavailable, "warming up").retry_after(Duration::from_millis(1234)))
    }))
    .await;
    let error = Client::connect(server.url()).build().await.unwrap_err();
    assert!(error.message().contains("warming up"), "{error}");
    assert_eq!(error.retry_after_hint(), Some(Duration::from_millis(1234)));
}

#[tokio::test]
async fn closing_sends_what_is_queued_and_a_goodbye() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let building = tokio::spawn(quick(format!("tcp://{}", listener.local_addr().unwrap())).build());
    let mut gateway = Raw(listener.accept().await.unwrap().0);
    gateway.welcome().await;
    let client = building.await.unwrap().unwrap();
    for number in 0..1000u32 {
        client.publish("a", &number).await.unwrap();
    }
    let (said, ()) = tokio::join!(
        async {
            let said = gateway.receive_all().await;
            drop(gateway);
            said
        },
        client.close()
    );
    assert_eq!(said.len(), 1001);
    assert_eq!(
        (said[1000].kind, said[1000].reference, &said[1000].error),
        (Kind::Cancel, None, &None)
    );
    assert_eq!(client.state(), State::Closed);
    assert_eq!(
        client.publish("a", &1).await.unwrap_err().code(),
        Code::Unavailable
    );
}

/// Asks a server to open a WebSocket, with these headers as well, and returns the head and body of its answer.
async fn upgrade(server: &Server, headers: &str) -> String {
    let address = server.url().strip_prefix("ws://").unwrap();
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let read = async {
        // One that is accepted is not closed.
        while !answer.starts_with(b"HTTP/1.1 101") || !answer.ends_with(b"\r\n\r\n") {
            if socket.read_buf(&mut answer).await.unwrap() == 0 {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_websocket_that_offers_other_subprotocols_only_is_refused() {
    let server = start(Server::bind("ws://127.0.0.1:0")).await;
    let named = "sec-websocket-protocol: fluxar.v0";
    let none = upgrade(&server, "").await;
    assert!(
        none.starts_with("HTTP/1.1 101") && !none.contains("fluxar"),
        "{none}"
    );
    let ours = upgrade(&server, "Sec-WebSocket-Protocol: soap, fluxar.v0\r\n").await;
    assert!(ours.starts_with("HTTP/1.1 101") && ours.contains(named), "{ours}");
    let other = upgrade(&server, "Sec-WebSocket-Protocol: soap\r\n").await;
    assert!(
        other.starts_with("HTTP/1.1 400") && other.contains("offer fluxar.v0"),
        "{other}"
    );
}

#[tokio::test]
async fn pages_of_other_sites_are_refused_unless_they_are_let_in() {
    let server = start(Server::bind("ws://127.0.0.1:0")).await;
    for ours in ["file://", "http://localhost:8080"] {
        let answer = upgrade(&server, &format!("Origin: {ours}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    }
    for other in ["https://example.org", "null"] {
        let answer = upgrade(&server, &format!("Origin: {other}\r\n")).await;
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains(other) && answer.contains("`origins`"),
            "{answer}"
        );
    }
    let origins = Origins::List(vec!["https://example.org".into()]);
    let server = start(Server::bind("ws://127.0.0.1:0").origins(origins)).await;
    let answer = upgrade(&server, "Origin: https://example.org\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
}

/// A WebSocket that has said hello; it offers no subprotocol.
async fn greeted_websocket(server: &Server) -> WebSocketStream<TcpStream> {
    let address = server.url().strip_prefix("ws://").unwrap();
    let socket = TcpStream::connect(address).await.unwrap();
    let (mut ws, _) = tokio_tungstenite::client_async(server.url(), socket)
        .await
        .unwrap();
    let mut hello = Vec::new();
    envelope(Kind::Hello, None, &[0xa1, 0x61, b'v', 0x81, 0x00]).encode(Form::Compact, &mut hello);
    ws.send(WsMessage::Binary(hello.into())).await.unwrap();
    let welcome = ws.next().await.unwrap().unwrap();
    assert!(welcome.is_binary(), "{welcome:?}");
    ws
}

/// What is said until the close frame, and its code.
async fn said_until_close(ws: &mut WebSocketStream<TcpStream>) -> (usize, u16) {
    let mut said = 0;
    loop {
        let message = tokio::time::timeout(PATIENCE, ws.next()).await.expect("an end");
        match message.expect("a close frame").unwrap() {
            WsMessage::Binary(_) => said += 1,
            WsMessage::Close(Some(close)) => return (said, close.code.into()),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_close_frame_says_whose_rules_were_broken() {
    let server = start(Server::bind("ws://127.0.0.1:0").max_frame_bytes(64 * 1024)).await;
    let cases = [
        (WsMessage::Binary(vec![0xff].into()), (1, 1008)), // with a cancel in front of it
        (WsMessage::Text("hello".into()), (0, 1003)),
        (WsMessage::Binary(vec![0; 65_537].into()), (0, 1009)),
    ];
    for (message, expected) in cases {
        let mut ws = greeted_websocket(&server).await;
        ws.send(message).await.unwrap();
        assert_eq!(said_until_close(&mut ws).await, expected);
    }
    let mut unmasked = greeted_websocket(&server).await;
    unmasked.get_mut().write_all(&[0x82, 0x01, 0x87]).await.unwrap();
    assert_eq!(said_until_close(&mut unmasked).await, (0, 1002));
    let mut friend = greeted_websocket(&server).await;
    until(|| !server.peers().is_empty()).await;
    let (end, ()) = tokio::join!(said_until_close(&mut friend), server.close());
    assert_eq!(end, (1, 1000));
}

#[tokio::test]
async fn a_frame_that_does_not_become_complete_closes() {
    let quick = Duration::from_millis(200);
    let server = start(Server::bind("127.0.0.1:0").frame_timeout(quick)).await;
    let mut peer = Raw::greeted(server.url()).await;
    peer.0.write_all(&[0, 0]).await.unwrap();
    let said = peer.receive_all().await;
    let (code, message) = said.last().unwrap().error.clone().unwrap();
    assert_eq!(code, Code::DeadlineExceeded);
    assert!(message.contains("not complete within 200 ms"), "{message}");

    let server = start(Server::bind("ws://127.0.0.1:0").frame_timeout(quick)).await;
    let mut ws = greeted_websocket(&server).await;
    ws.get_mut()
        .write_all(&[0x82, 0x85, 1, 2, 3, 4, 5])
        .await
        .unwrap();
    assert_eq!(said_until_close(&mut ws).await, (1, 1008));
    // One that has nothing to say for longer than that stays.
    let server = start(Server::bind("127.0.0.1:0").frame_timeout(Duration::from_millis(20))).await;
    let client = Client::connect(server.url())
        .frame_timeout(Duration::from_millis(20))
        .build()
        .await
        .unwrap();
    client.ping().await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.ping().await.unwrap();
    assert_eq!(client.lost_because().map(|why| why.to_string()), None);
}

fn with<'a>(kind: Kind, id: u8, target: &'a str, meta: Option<Meta<'a>>) -> Envelope<'a> {
    Envelope {
        id: Id([id; 16]),
        target: Some(target),
        meta,
        ..envelope(kind, None, &[0xf6])
    }
}

#[tokio::test]
async fn an_id_that_is_in_use_and_wishes_for_a_log_are_refused() {
    let server = start(Server::bind("127.0.0.1:0")).await;
    server
        .handle("hang", |_: Request| std::future::pending::<fluxar::Result<()>>())
        .unwrap();
    let mut peer = Raw::greeted(server.url()).await;
    let serve = MetaWriter::new().flag("serve", true).finish().unwrap();
    let serve = Some(Meta::from_checked(&serve));
    peer.send(&with(Kind::Call, 1, "hang", None)).await;
    for (id, meta) in [(2, None), (3, serve)] {
        peer.send(&with(Kind::Subscribe, id, "a", meta)).await;
        assert_eq!(peer.receive().await.unwrap()[0].error, None);
    }
    for id in 1..=3 {
        for (kind, target, meta) in [
            (Kind::Call, "hang", None),
            (Kind::Subscribe, "b", None),
            (Kind::Subscribe, "b", serve),
        ] {
            peer.send(&with(kind, id, target, meta)).await;
            let refused = peer.receive().await.unwrap().remove(0);
            assert_eq!((refused.kind, refused.reference), (kind, Some(Id([id; 16]))));
            assert_eq!(refused.error.unwrap().0, Code::AlreadyExists);
        }
    }
    until(|| server.publish("a", &1).unwrap() == 1).await; // the open one is left alone
    assert_eq!(peer.receive().await.unwrap()[0].kind, Kind::Event);
    assert_eq!(server.publish("b", &1).unwrap(), 0);
    for (key, value) in [
        ("durable", &b"\x61x"[..]),
        ("from", b"\x63all"),
        ("retain", b"\xf5"),
        ("skip_damaged", b"\xf5"),
    ] {
        let meta = MetaWriter::new().raw(key, value).finish().unwrap();
        let meta = Some(Meta::from_checked(&meta));
        peer.send(&with(Kind::Subscribe, 9, "c", meta)).await;
        let refused = peer.receive().await.unwrap().remove(0);
        let (code, message) = refused.error.unwrap();
        assert_eq!(code, Code::Unimplemented, "{key}: {message}");
        assert!(message.contains(key), "{message}");
    }
    let qos = MetaWriter::new().uint("qos", 1).finish().unwrap();
    peer.send(&with(Kind::Event, 9, "c", Some(Meta::from_checked(&qos))))
        .await;
    let refused = peer.receive().await.unwrap().remove(0);
    assert_eq!(
        (refused.kind, refused.error.unwrap().0),
        (Kind::Event, Code::Unimplemented)
    );
    // An offer that is taken back is confirmed, and its id is free again.
    peer.send(&envelope(Kind::Cancel, Some(Id([3; 16])), &[])).await;
    let end = peer.receive().await.unwrap().remove(0);
    assert_eq!((end.kind, end.reference), (Kind::Subscribe, Some(Id([3; 16]))));
    peer.send(&with(Kind::Subscribe, 3, "a", serve)).await;
    assert_eq!(peer.receive().await.unwrap()[0].error, None);
}

#[tokio::test]
async fn a_server_takes_over_the_socket_of_one_that_is_gone_but_not_of_one_that_lives() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("unix://{}", folder.path().join("socket").display());
    drop(std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap()); // leaves its file
    let server = start(Server::bind(&url)).await;
    assert!(Server::bind(&url).build().await.is_err());
    Client::connect(&url).build().await.unwrap().ping().await.unwrap();
    server.close().await;
    assert!(server.run().await.is_err(), "it cannot be run again");
}
