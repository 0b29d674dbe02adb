//! The whole engine on the real kernel: bytes and messages come back as they went, over every transport, on two
//! cores, with many and with hardly any receive buffers, beside peers that misbehave.

mod kernel_server;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use fluxar_engine::listener::Address;
use fluxar_engine::reactor::ReactorConfig;
use fluxar_engine::uring::UringConfig;
use kernel_server::{Random, STALLED, Server};
use tungstenite::{Message, WebSocket};

const TCP: &str = "tcp://127.0.0.1:0";
const WS: &str = "ws://127.0.0.1:0/";

fn start(cores: usize, urls: &[&str]) -> Server {
    Server::start(cores, urls, &UringConfig::default(), &ReactorConfig::default())
}

/// A seed for this run, printed so that a failure can be had again.
fn seed() -> u64 {
    let fresh = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |age| age.as_nanos() as u64);
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(fresh | 1);
    println!("SEED={seed}");
    seed
}

/// Writes random bytes in random pieces with random pauses, reads them back meanwhile, compares.
fn echo_bytes<S: Read + Write + Send>(
    mut reading: S,
    mut writing: S,
    seed: u64,
    len: usize,
    end: impl FnOnce(&S) + Send,
) {
    let expected = Random(seed).bytes(len);
    thread::scope(|scope| {
        let to_send = &expected;
        scope.spawn(move || {
            let mut random = Random(seed.rotate_left(17) | 1);
            let mut sent = 0;
            while sent < to_send.len() {
                let most = [1, 100, 5_000, 200_000][random.below(4)];
                let piece = (random.below(most) + 1).min(to_send.len() - sent);
                writing.write_all(&to_send[sent..sent + piece]).expect("write");
                sent += piece;
                if random.below(20) == 0 {
                    thread::sleep(Duration::from_micros(200));
                }
            }
            end(&writing);
        });
        let mut echoed = Vec::new();
        reading.read_to_end(&mut echoed).expect("read");
        assert!(
            echoed == expected,
            "{} bytes came back for {}",
            echoed.len(),
            expected.len()
        );
    });
}

fn echo_tcp(stream: &TcpStream, seed: u64, len: usize) {
    let clone = || stream.try_clone().expect("clone");
    echo_bytes(clone(), clone(), seed, len, |stream| {
        stream.shutdown(Shutdown::Write).expect("shutdown")
    });
}

fn websocket(server: &Server, index: usize) -> WebSocket<TcpStream> {
    let url = server.addresses[index].to_string();
    tungstenite::client(url, server.connect(index))
        .expect("handshake")
        .0
}

fn echo_messages(mut client: WebSocket<TcpStream>, seed: u64, messages: usize) {
    let mut random = Random(seed);
    for _ in 0..messages {
        // A few at once, so that they share receives and sends.
        let batch: Vec<Vec<u8>> = (0..random.below(5) + 1)
            .map(|_| {
                let most = [2, 200, 70_000, 300_000][random.below(4)];
                let len = random.below(most);
                random.bytes(len)
            })
            .collect();
        for message in &batch {
            client.write(Message::binary(message.clone())).expect("write");
        }
        client.flush().expect("flush");
        for message in batch {
            match client.read().expect("read") {
                Message::Binary(echo) => {
                    assert!(echo == message, "{} bytes for {}", echo.len(), message.len())
                }
                other => panic!("{other:?}"),
            }
        }
    }
    client.close(None).expect("close");
    while client.read().is_ok() {}
}

/// After all clients are gone nothing may be left: no slot, no buffer, no list.
fn assert_clean(server: Server, uring: &UringConfig) {
    server.await_connections(0);
    for ended in server.stop() {
        assert_eq!(
            (
                ended.connections,
                ended.open,
                ended.gathers_lent,
                ended.free_buffers
            ),
            (0, 0, 0, usize::from(uring.buffers)),
            "{ended:?}"
        );
    }
}

#[test]
fn bytes_and_messages_come_back_over_every_transport() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("s");
    let unix = format!("unix://{}", path.display());
    let server = start(2, &[TCP, WS, &unix, "tcp://[::1]:0"]);
    let seed = seed();
    thread::scope(|scope| {
        for n in 0..6 {
            let (server, path) = (&server, &path);
            let seed = seed.wrapping_add(n * 1_000_003) | 1;
            scope.spawn(move || echo_tcp(&server.connect(0), seed, 1_500_000));
            scope.spawn(move || echo_tcp(&server.connect(3), seed, 100_000));
            scope.spawn(move || echo_messages(websocket(server, 1), seed, 10));
            scope.spawn(move || {
                let stream = UnixStream::connect(path).expect("connect");
                stream.set_read_timeout(Some(STALLED)).expect("timeout");
                let clone = || stream.try_clone().expect("clone");
                echo_bytes(clone(), clone(), seed, 800_000, |stream| {
                    stream.shutdown(Shutdown::Write).expect("shutdown")
                });
            });
        }
    });
    assert_clean(server, &UringConfig::default());
    assert!(!path.exists(), "the socket file went with its listener");
}

/// Connections that change cores every few chunks, with sends in flight and bytes arriving: none is lost, repeated or
/// reordered. With few buffers, receives that found none change cores, too.
#[test]
fn connections_that_change_cores_echo_everything() {
    let few = UringConfig {
        buffers: 4,
        buffer_bytes: 1024,
        ..UringConfig::default()
    };
    for (uring, tcp_bytes) in [(UringConfig::default(), 1_500_000), (few, 200_000)] {
        let server = Server::start_wandering(2, &[TCP, WS], &uring);
        let seed = seed();
        thread::scope(|scope| {
            for n in 0..4 {
                let server = &server;
                let seed = seed.wrapping_add(n * 1_000_003) | 1;
                scope.spawn(move || echo_tcp(&server.connect(0), seed, tcp_bytes));
                scope.spawn(move || echo_messages(websocket(server, 1), seed, 6));
            }
        });
        server.await_connections(0);
        let mut handed_over = 0;
        for ended in server.stop() {
            assert_eq!(
                (ended.connections, ended.open, ended.gathers_lent),
                (0, 0, 0),
                "{ended:?}"
            );
            assert_eq!(ended.free_buffers, usize::from(uring.buffers));
            handed_over += ended.handed_over;
        }
        assert!(handed_over >= 10, "{handed_over}");
    }
}

/// Two buffers of 256 bytes for eight connections on one core: everything is slower and nothing is lost.
#[test]
fn hardly_any_buffers_are_enough() {
    let uring = UringConfig {
        buffers: 2,
        buffer_bytes: 256,
        ..UringConfig::default()
    };
    let server = Server::start(1, &[TCP, WS], &uring, &ReactorConfig::default());
    let seed = seed();
    thread::scope(|scope| {
        for n in 0..4 {
            let server = &server;
            let seed = seed.wrapping_add(n * 1_000_003) | 1;
            scope.spawn(move || echo_tcp(&server.connect(0), seed, 200_000));
            scope.spawn(move || echo_messages(websocket(server, 1), seed, 2));
        }
    });
    assert_clean(server, &uring);
}

/// A turn brings it far more than one receive buffer, and it is paused in the middle of that.
#[test]
fn a_bulk_sender_is_paused_and_not_closed() {
    let server = start(1, &[TCP]);
    echo_tcp(&server.connect(0), seed(), 30_000_000);
    assert_clean(server, &UringConfig::default());
}

/// Some peers reset in the middle of their echo, some never read; the others do not notice.
#[test]
fn peers_that_reset_or_never_read_disturb_nobody() {
    let server = start(2, &[TCP]);
    let seed = seed();
    let deaf: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = server.connect(0);
            stream.set_nonblocking(true).expect("non-blocking");
            // Until the server has stopped reading and the socket takes no more.
            while stream.write(&[7; 65_536]).is_ok() {}
            stream
        })
        .collect();
    thread::scope(|scope| {
        for n in 0..4 {
            let server = &server;
            let seed = seed.wrapping_add(n * 1_000_003) | 1;
            scope.spawn(move || echo_tcp(&server.connect(0), seed, 1_000_000));
            scope.spawn(move || {
                for _ in 0..20 {
                    let mut stream = server.connect(0);
                    stream.write_all(&[9; 300_000]).expect("write");
                    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("linger");
                    drop(stream);
                }
            });
        }
    });
    server.await_connections(deaf.len());
    drop(deaf);
    assert_clean(server, &UringConfig::default());
}

#[test]
fn connections_spread_evenly_over_the_cores() {
    let server = start(2, &[TCP]);
    let connections: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = server.connect(0);
            // Echoed once, so it has arrived where it belongs.
            stream.write_all(b"x").expect("write");
            stream.read_exact(&mut [0]).expect("read");
            stream
        })
        .collect();
    assert_eq!(
        [server.board.connections(0), server.board.connections(1)],
        [50, 50]
    );
    drop(connections);
    assert_clean(server, &UringConfig::default());
}

#[test]
fn a_real_port_is_told_for_port_zero() {
    let server = start(1, &[TCP, WS]);
    for address in &server.addresses {
        let (Address::Tcp { port, .. } | Address::WebSocket { port, .. }) = address else {
            panic!("{address}")
        };
        assert_ne!(*port, 0);
    }
    server.stop();
}
