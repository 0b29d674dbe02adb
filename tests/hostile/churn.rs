//! Ten thousand connections that come and go, by every kind of death, beside neighbours who must not notice. What
//! they took is given back: descriptors at once, memory from wave to wave.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use fluxar_engine::listener::Address;
use fluxar_protocol::hello::Hello;
use fluxar_protocol::{Id, Kind};
use fluxar_tests::client::socket_address;
use fluxar_tests::message::{encoded, number};
use fluxar_tests::{Client, Running};

use crate::measure::{alone, descriptors, resident_kib, wait_until};
use crate::neighbours::{Neighbours, until_served};
use crate::random::Random;
use crate::raw::{Raw, UPGRADE, ws_frame};
use crate::{lean, none, stop, transports};

const WAVES: usize = 10;
const THREADS: usize = 2;
const CONNECTIONS: usize = WAVES * THREADS * 500;

fn hello_frame() -> Vec<u8> {
    let mut payload = Vec::new();
    Hello::default().encode(&mut payload);
    let body = encoded(Kind::Hello, Id([1; 16]), None, None, None, &payload);
    let mut frame = fluxar_protocol::frame::prefix(body.len()).to_vec();
    frame.extend(body);
    frame
}

/// One connection's life and death.
fn live_and_die(address: &Address, random: &mut Random) {
    let is_ws = matches!(address, Address::WebSocket { .. });
    match random.below(12) {
        // Gone before it said anything.
        0 => drop(Raw::connect(address)),
        // In the middle of its handshake.
        1 => {
            let mut raw = Raw::connect(address);
            let bytes = if is_ws {
                UPGRADE.as_bytes().to_vec()
            } else {
                hello_frame()
            };
            let _ = raw.write_all(&bytes[..random.below(bytes.len())]);
        }
        // It half-closes and reads to the end.
        2 => {
            let mut raw = Raw::connect(address);
            let _ = raw.half_close();
            raw.read_to_the_end();
        }
        // A reset: closed with the welcome unread.
        3 => {
            let mut raw = if is_ws {
                Raw::upgraded(address)
            } else {
                Raw::connect(address)
            };
            let mut bytes = hello_frame();
            if is_ws {
                bytes = ws_frame(2, true, bytes.len() - 4, &bytes[4..]);
            }
            let _ = raw.write_all(&bytes);
            let mut first = [0];
            let _ = raw.read_exact(&mut first);
        }
        // In the middle of a frame.
        4 => {
            let mut client = Client::greeted(address);
            let bytes = if is_ws {
                ws_frame(2, true, 500, &[0x87; 100])
            } else {
                vec![0, 0, 2, 0, 0x87, 5]
            };
            let _ = client.try_send_raw(&bytes);
        }
        // In the middle of a large frame.
        5 => {
            let mut client = Client::greeted(address);
            let mut bytes = if is_ws {
                ws_frame(2, true, 500_000, &[])
            } else {
                vec![0, 7, 0xa1, 0x20]
            };
            bytes.resize(60_000, 0x87);
            let _ = client.try_send_raw(&bytes);
        }
        // With subscriptions, offers and an open call.
        6 => {
            let mut client = Client::greeted(address);
            client.subscribe("churn.*", none());
            client.subscribe("churn.>", none().text("group", "all"));
            client.serve("churn.serve");
            client.call("churn.serve", &number(1));
        }
        // With everything under way at once, not waiting for an answer.
        7 => {
            let mut client = Client::greeted(address);
            let mut body = Vec::new();
            for at in 0..20 {
                body.extend(encoded(
                    Kind::Subscribe,
                    Id([at; 16]),
                    None,
                    Some("churn.x.>"),
                    None,
                    &[],
                ));
                body.extend(encoded(
                    Kind::Event,
                    Id([at; 16]),
                    None,
                    Some("churn.x.y"),
                    None,
                    &number(9),
                ));
            }
            let _ = client.try_send(&body);
        }
        // By a fault.
        8 => {
            let mut client = Client::greeted(address);
            let _ = client.try_send(&[0x87, 0xff]);
            let _ = client.rest();
        }
        // By its goodbye.
        9 => {
            let mut client = Client::greeted(address);
            let _ = client.try_send(&encoded(Kind::Cancel, Id([9; 16]), None, None, None, &[]));
            let _ = client.rest();
        }
        // Its goodbye said, and gone.
        10 => {
            let mut client = Client::greeted(address);
            let _ = client.try_send(&encoded(Kind::Cancel, Id([9; 16]), None, None, None, &[]));
        }
        // Well-behaved, and gone.
        _ => {
            let mut client = Client::greeted(address);
            client.subscribe("churn.a", none());
            client.publish("churn.a", &number(3));
            client.settle();
        }
    }
}

#[test]
fn ten_thousand_come_and_go_and_leave_nothing_behind() {
    let _process = alone();
    let gateway = Running::start(lean);
    let mut random = Random::seeded("ten_thousand_come_and_go_and_leave_nothing_behind");
    let neighbours = Neighbours::start(&gateway);
    let addresses = transports(&gateway);
    let before = descriptors();
    let mut resident = Vec::new();
    let begun = Instant::now();
    for wave in 0..WAVES {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (addresses, mut random) = (addresses.clone(), random.split());
                std::thread::spawn(move || {
                    for _ in 0..CONNECTIONS / WAVES / THREADS {
                        // Half of them on TCP.
                        let address = &addresses[[0, 0, 1, 2][random.below(4)]];
                        live_and_die(address, &mut random);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("a wave");
        }
        // All of this wave are closed on both sides.
        wait_until(
            || descriptors() <= before,
            || format!("wave {wave}: {} descriptors, {before} before", descriptors()),
        );
        resident.push(resident_kib());
        println!(
            "wave {wave}: {:?}, {} KiB resident, {} descriptors",
            begun.elapsed(),
            resident[wave],
            descriptors()
        );
    }
    println!("{} events beside it", neighbours.finish());
    let grown = resident[WAVES - 1].saturating_sub(resident[1]);
    assert!(
        grown < 16 * 1024,
        "from wave to wave memory grows: {resident:?} KiB"
    );

    // Nobody serves or hears what they had: their places in the shards are free.
    let mut asker = gateway.client();
    let id = asker.call("churn.serve", &[]);
    assert_eq!(
        asker.answer_to(id).code(),
        Some(fluxar_protocol::Code::Unavailable)
    );
    drop(asker);
    let counters = stop(gateway);
    // A twelfth never says anything that a gateway sees, and of the others some die in their upgrade.
    assert!(counters.opened > CONNECTIONS as u64 * 8 / 10, "{counters:?}");
}

#[test]
fn many_at_once_are_all_served() {
    const AT_ONCE: usize = 1_500;
    let _process = alone();
    let gateway = Running::start(|_| {});
    let tcp = socket_address(gateway.tcp());
    let before = descriptors();
    // All of them connect before any speaks.
    let mut streams: Vec<TcpStream> = (0..AT_ONCE)
        .map(|_| TcpStream::connect(tcp).expect("a connection"))
        .collect();
    let hello = hello_frame();
    for stream in &mut streams {
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("an option");
        stream.write_all(&hello).expect("the gateway reads");
    }
    for stream in &mut streams {
        let mut welcome = [0; 8];
        stream.read_exact(&mut welcome).expect("a welcome");
        assert_eq!(welcome[4..7], [0x87, 0x01, 0x50]);
    }
    let mut server = gateway.client();
    server.serve("still.here");
    let serving = std::thread::spawn(move || {
        while let Ok(call) = server.next() {
            if call.kind == Kind::Call {
                server.answer(&call, &number(1));
            }
        }
    });
    let mut asker = gateway.client();
    until_served(&mut asker, "still.here");
    // All of them go at once.
    drop(streams);
    until_served(&mut asker, "still.here");
    drop(asker);
    wait_until(
        || descriptors() <= before + 2,
        || format!("{} descriptors, {before} before", descriptors()),
    );
    let counters = stop(gateway);
    assert!(counters.opened >= AT_ONCE as u64);
    serving.join().expect("it was told goodbye");
}
