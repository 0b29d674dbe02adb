//! Random bytes at every door: ahead of the hello, inside a session, beneath WebSocket; and frames that are cut off.

use std::io::Write;

use fluxar_engine::listener::Address;
use fluxar_protocol::frame::prefix;
use fluxar_protocol::{Id, Kind};
use fluxar_tests::message::encoded;
use fluxar_tests::{Client, Running};

use crate::neighbours::Neighbours;
use crate::random::Random;
use crate::raw::{Raw, ws_frame};
use crate::{measure, stop, transports};

#[test]
fn random_bytes_harm_nobody() {
    let _process = measure::shared();
    let gateway = Running::start(|_| {});
    let mut random = Random::seeded("random_bytes_harm_nobody");
    let neighbours = Neighbours::start(&gateway);
    for address in &transports(&gateway) {
        let ws = matches!(address, Address::WebSocket { .. });
        for round in 0..150 {
            let count = 1 + random.below(3_000);
            let bytes = random.bytes(count);
            match round % 5 {
                // At the door: as HTTP on a WebSocket, as a length elsewhere.
                0 => {
                    let mut raw = Raw::connect(address);
                    let _ = raw.write_all(&bytes);
                    let _ = raw.half_close();
                    raw.read_to_the_end();
                }
                // As a body ahead of the hello.
                1 => {
                    let mut client = Client::connect(address);
                    client.send(&bytes);
                    let _ = client.rest();
                }
                // As bodies inside a session; the first byte says that they are envelopes.
                2 => {
                    let mut client = Client::greeted(address);
                    for piece in bytes.chunks(200) {
                        let mut body = vec![0x87];
                        body.extend_from_slice(piece);
                        if client.try_send(&body).is_err() {
                            break;
                        }
                    }
                    let _ = client.try_send(&encoded(Kind::Cancel, Id([1; 16]), None, None, None, &[]));
                    let _ = client.rest();
                }
                // Beneath the framing inside a session.
                3 => {
                    let mut client = Client::greeted(address);
                    let _ = client.try_send_raw(&bytes);
                    drop(client);
                }
                // Beneath the framing, but such that a small frame comes out of it.
                _ => {
                    let mut client = Client::greeted(address);
                    let mut stream = Vec::new();
                    for piece in bytes.chunks(50) {
                        if ws {
                            let opcode = piece[0] & 0x0f;
                            stream.extend(ws_frame(opcode, piece[0] & 0x40 == 0, piece.len(), piece));
                        } else {
                            stream.extend(prefix(piece.len()));
                            stream.extend_from_slice(piece);
                        }
                    }
                    let _ = client.try_send_raw(&stream);
                    let _ = client.try_send(&encoded(Kind::Cancel, Id([1; 16]), None, None, None, &[]));
                    drop(client);
                }
            }
        }
        println!("{address}: 150 rounds");
    }
    println!("{} events beside it", neighbours.finish());
    stop(gateway);
}

#[test]
fn frames_that_are_cut_off_by_the_end_of_the_connection_are_nothing() {
    let _process = measure::shared();
    let gateway = Running::start(|_| {});
    let neighbours = Neighbours::start(&gateway);
    // A whole event would be heard by the neighbours as something that they do not expect.
    let event = encoded(
        Kind::Event,
        Id([2; 16]),
        None,
        Some("neighbours.talk"),
        None,
        &[0x18, 0xff],
    );
    for address in &transports(&gateway) {
        let mut stream = match address {
            Address::WebSocket { .. } => ws_frame(2, true, event.len(), &event),
            _ => prefix(event.len()).to_vec(),
        };
        if !matches!(address, Address::WebSocket { .. }) {
            stream.extend_from_slice(&event);
        }
        for cut in 0..stream.len() {
            let mut client = Client::greeted(address);
            client.try_send_raw(&stream[..cut]).expect("the gateway reads");
            drop(client);
        }
    }
    println!("{} events beside it", neighbours.finish());
    stop(gateway);
}
