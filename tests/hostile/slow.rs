//! Peers that take their time: before the hello, inside a frame, and by saying nothing at all.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use fluxar_engine::listener::Address;
use fluxar_gateway::config::Config;
use fluxar_protocol::frame::prefix;
use fluxar_protocol::hello::Hello;
use fluxar_protocol::{Code, Id, Kind};
use fluxar_tests::message::{encoded, number};
use fluxar_tests::{Client, End, Received, Running};

use crate::neighbours::until_served;
use crate::raw::{Raw, UPGRADE, ws_frame};
use crate::{closed, expect_told, lean, measure, none, stop, transports};

/// Between two bytes of a slow peer.
const PACE: Duration = Duration::from_millis(20);

fn short(config: &mut Config) {
    // Long enough for those who are in time.
    config.limits.handshake_ms = 1_500;
    config.limits.frame_ms = 400;
}

fn hello() -> Vec<u8> {
    let mut payload = Vec::new();
    Hello::default().encode(&mut payload);
    encoded(Kind::Hello, Id([1; 16]), None, None, None, &payload)
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut frame = prefix(body.len()).to_vec();
    frame.extend(body);
    frame
}

/// Writes byte by byte, but never the last one, until something comes or the connection ends; then reads to the end.
fn drip(client: &mut Client, bytes: &[u8]) -> (Vec<Received>, End) {
    let mut before = Vec::new();
    for byte in &bytes[..bytes.len() - 1] {
        if client.try_send_raw(&[*byte]).is_err() {
            break;
        }
        match client.poll(PACE) {
            Ok(None) => {}
            Ok(Some(received)) => {
                before.push(received);
                break;
            }
            Err(end) => return (before, end),
        }
    }
    let (rest, end) = client.rest();
    before.extend(rest);
    (before, end)
}

#[track_caller]
fn assert_told_too_late(address: &Address, (before, end): (Vec<Received>, End)) {
    let last = before.last().expect("a closing cancel");
    assert_eq!(
        (last.kind, last.reference, last.code()),
        (Kind::Cancel, None, Some(Code::DeadlineExceeded)),
        "{address}: {last:?}"
    );
    assert_eq!(end, closed(address, 1008), "{address}");
}

#[test]
fn a_hello_byte_by_byte_is_too_late() {
    let _process = measure::shared();
    let gateway = Running::start(short);
    for address in &transports(&gateway) {
        let mut client = Client::connect(address);
        let bytes = match address {
            Address::WebSocket { .. } => {
                let body = hello();
                ws_frame(2, true, body.len(), &body)
            }
            _ => framed(&hello()),
        };
        assert_told_too_late(address, drip(&mut client, &bytes));
    }
    assert_eq!(stop(gateway).timed_out, 3);
}

#[test]
fn one_that_opens_and_says_nothing_is_told_why_it_is_closed() {
    let _process = measure::shared();
    let gateway = Running::start(short);
    for address in &transports(&gateway) {
        let mut client = Client::connect(address);
        assert_told_too_late(address, client.rest());
    }
    assert_eq!(stop(gateway).timed_out, 3);
}

#[test]
fn a_websocket_that_is_not_upgraded_in_time_is_closed() {
    let _process = measure::shared();
    let gateway = Running::start(short);
    // One that says nothing, one that asks byte by byte, one that stops before the end of its request.
    let mut silent = Raw::connect(gateway.ws());
    let mut stuck = Raw::connect(gateway.ws());
    let request = UPGRADE.as_bytes();
    stuck
        .write_all(&request[..request.len() - 1])
        .expect("the gateway reads");
    let mut slow = Raw::connect(gateway.ws());
    slow.wait_at_most(PACE);
    for byte in &request[..request.len() - 1] {
        let mut answer = [0; 256];
        if slow.write_all(&[*byte]).is_err() || !matches!(slow.read(&mut answer), Err(error) if waits(&error))
        {
            break;
        }
    }
    slow.wait_at_most(fluxar_tests::client::PATIENCE);
    for raw in [&mut silent, &mut stuck, &mut slow] {
        raw.read_to_the_end();
    }
    stop(gateway);
}

fn waits(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
    )
}

#[test]
fn a_frame_that_is_begun_and_not_completed_closes() {
    let _process = measure::shared();
    let gateway = Running::start(short);
    for address in &transports(&gateway) {
        let body = encoded(Kind::Event, Id([2; 16]), None, Some("a.b"), None, &[0xf6; 1]);
        let bytes = match address {
            Address::WebSocket { .. } => ws_frame(2, true, body.len(), &body),
            _ => framed(&body),
        };
        // It stops in the middle.
        let mut client = Client::greeted(address);
        client
            .try_send_raw(&bytes[..bytes.len() / 2])
            .expect("the gateway reads");
        assert_told_too_late(address, client.rest());
        // It goes on, a byte at a time.
        let mut client = Client::greeted(address);
        assert_told_too_late(address, drip(&mut client, &bytes));
        // A WebSocket message in fragments is one frame.
        if matches!(address, Address::WebSocket { .. }) {
            let mut client = Client::greeted(address);
            client
                .try_send_raw(&ws_frame(2, false, 1, &body[..1]))
                .expect("the gateway reads");
            assert_told_too_late(address, client.rest());
        }
    }
    assert_eq!(stop(gateway).timed_out, 7);
}

#[test]
fn frames_in_halves_are_not_too_late_as_long_as_each_is_completed() {
    let _process = measure::shared();
    let gateway = Running::start(|config| config.limits.frame_ms = 2_000);
    for address in &transports(&gateway) {
        let mut client = Client::greeted(address);
        // In all they take far longer than one frame may. The end of one arrives with the beginning of the next.
        let mut stream = Vec::new();
        for at in 0..40u8 {
            let ping = encoded(Kind::Ping, Id([at; 16]), None, None, None, &[]);
            stream.extend(match address {
                Address::WebSocket { .. } => ws_frame(2, true, ping.len(), &ping),
                _ => framed(&ping),
            });
        }
        let frame = stream.len() / 40;
        let mut pongs = 0;
        client
            .try_send_raw(&stream[..frame / 2])
            .expect("the gateway reads");
        for at in 0..39 {
            let from = frame / 2 + at * frame;
            assert_eq!(client.poll(PACE * 5), Ok(None), "{address}");
            client
                .try_send_raw(&stream[from..from + frame])
                .expect("the gateway reads");
            pongs += usize::from(client.expect().reference == Some(Id([at as u8; 16])));
        }
        assert_eq!(pongs, 39);
    }
    stop(gateway);
}

#[test]
fn one_that_is_silent_is_pinged_and_then_lost_and_its_calls_fail() {
    let _process = measure::shared();
    let gateway = Running::start(|config| config.limits.heartbeat_ms = 1_000);
    for address in &transports(&gateway) {
        let mut server = Client::greeted(address);
        server.serve("silent.work");
        server.subscribe("silent.topic", none());
        // This one answers its pings while it waits.
        let mut asker = gateway.client();
        let id = loop {
            let id = asker.call("silent.work", &[]);
            if asker.reaches(id, &mut server).is_some() {
                break id;
            }
        };
        // The asker waits on a thread of its own, where it answers its pings.
        let waiting = std::thread::spawn(move || {
            let answer = asker.answer_to(id);
            (asker, answer)
        });
        // `poll` answers no pings. One comes, then the end, without another word.
        let mut came = Vec::new();
        let end = loop {
            match server.poll(Duration::from_secs(20)) {
                Ok(Some(received)) => came.push(received),
                Ok(None) => panic!("{address}: it is never lost; {came:?}"),
                Err(end) => break end,
            }
        };
        let pings = came
            .iter()
            .filter(|one| one.kind == Kind::Ping && one.reference.is_none());
        assert_eq!(pings.count(), 1, "{address}: {came:?}");
        assert!(
            came.iter().all(|one| one.kind != Kind::Cancel),
            "{address}: {came:?}"
        );
        assert_ne!(end, End::Closed(Some(1000)), "{address}");
        let (mut asker, answer) = waiting.join().expect("the asker lives");
        assert_eq!(answer.code(), Some(Code::Unavailable), "{address}");
        // Its offer went with it.
        let id = asker.call("silent.work", &[]);
        assert_eq!(asker.answer_to(id).code(), Some(Code::Unavailable), "{address}");
    }
    assert_eq!(stop(gateway).lost, 3);
}

#[test]
fn any_bytes_are_a_sign_of_life() {
    let _process = measure::shared();
    const HEARTBEAT: Duration = Duration::from_millis(1_000);
    let gateway = Running::start(|config| config.limits.heartbeat_ms = HEARTBEAT.as_millis() as u32);
    for address in &transports(&gateway) {
        let mut client = Client::greeted(address);
        let mut spoken = Instant::now();
        // A large frame, in pieces over several heartbeats: no envelope comes out of it meanwhile.
        let payload = vec![0x41; 4_000];
        let mut item = vec![0x59, 0x0f, 0xa0];
        item.extend(payload);
        let ping = encoded(Kind::Ping, Id([9; 16]), None, None, None, &item);
        let bytes = match address {
            Address::WebSocket { .. } => ws_frame(2, true, ping.len(), &ping),
            _ => framed(&ping),
        };
        for piece in bytes.chunks(bytes.len() / 20 + 1) {
            let before = std::mem::replace(&mut spoken, Instant::now());
            client.try_send_raw(piece).expect("it lives");
            match client.poll(Duration::from_millis(150)) {
                Ok(None) => {}
                // Unless this machine stood still for so long.
                Ok(Some(ping)) if ping.reference.is_none() => assert!(
                    before.elapsed() >= HEARTBEAT,
                    "{address}: pinged while it speaks: {ping:?}"
                ),
                Ok(Some(received)) => assert_eq!(received.reference, Some(Id([9; 16]))),
                Err(end) => panic!("{address}: lost while it speaks: {end:?}"),
            }
        }
        client.settle();
    }
    assert_eq!(stop(gateway).lost, 0);
}

#[test]
fn a_flood_of_websocket_pings_that_reads_no_pong_is_closed() {
    let _process = measure::alone();
    let gateway = Running::start(lean);
    let mut server = gateway.client();
    server.serve("math.*");
    let mut asker = Client::greeted(gateway.ws());
    let serving = std::thread::spawn(move || {
        while let Ok(call) = server.next() {
            if call.kind == Kind::Call {
                server.answer(&call, &number(1));
            }
        }
    });
    until_served(&mut asker, "math.one");
    let resident = measure::resident_kib();
    let mut flooder = Raw::upgraded(gateway.ws());
    let hello = hello();
    flooder
        .write_all(&ws_frame(2, true, hello.len(), &hello))
        .expect("the gateway reads");
    let ping = ws_frame(9, true, 125, &[b'p'; 125]).repeat(64);
    let mut sent = 0;
    while flooder.write_all(&ping).is_ok() {
        sent += ping.len();
        assert!(sent < 256 << 20, "{sent} bytes of pings were taken");
    }
    until_served(&mut asker, "math.one");
    let grown = measure::resident_kib().saturating_sub(resident);
    println!(
        "ping flood: closed after {} KiB of pings; {grown} KiB grown",
        sent / 1024
    );
    assert!(grown < 16 * 1024, "{grown} KiB");
    drop(asker);
    stop(gateway);
    serving.join().expect("the server was told goodbye");
}

#[test]
fn a_hello_in_time_is_not_held_by_the_handshakes_deadline_any_more() {
    let _process = measure::shared();
    let gateway = Running::start(short);
    for address in &transports(&gateway) {
        let mut client = Client::greeted(address);
        assert_eq!(client.poll(Duration::from_millis(2_000)), Ok(None), "{address}");
        client.settle();
        let cancel = client.id();
        client.send(&encoded(Kind::Cancel, cancel, None, None, None, &[]));
        // Its own goodbye is answered by one that says no error.
        let (rest, end) = client.rest();
        assert!(
            rest.iter()
                .all(|one| (one.kind, one.reference, one.code()) == (Kind::Cancel, None, None)),
            "{rest:?}"
        );
        assert_eq!(end, closed(address, 1000), "{address}");
    }
    let mut late = Client::connect(gateway.tcp());
    expect_told(&mut late, gateway.tcp(), Code::DeadlineExceeded);
    stop(gateway);
}
