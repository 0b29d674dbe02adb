//! The io_uring driver on the real kernel, one operation at a time: what it promises in `driver::Driver`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fluxar_engine::driver::{Completion, Driver, ReceiveEnd, Token};
use fluxar_engine::gather::Gather;
use fluxar_engine::listener::{Address, Listener, ListenerId, Peer};
use fluxar_engine::mail::Wake;
use fluxar_engine::uring::{Lease, Socket, UringConfig, UringDriver, UringHub};

/// Far longer than anything here takes; reaching it is the failure.
const STALLED: Duration = Duration::from_secs(30);

type Done = Completion<Lease, Socket>;

fn driver(config: &UringConfig) -> UringDriver {
    UringDriver::new(&UringHub::new(1).expect("hub"), 0, config).expect("this kernel has io_uring")
}

/// The next completion, waiting for it.
fn next(driver: &mut UringDriver) -> Done {
    let begun = Instant::now();
    loop {
        if let Some(completion) = driver.poll() {
            return completion;
        }
        assert!(begun.elapsed() < STALLED, "no completion came");
        driver.turn(Some(driver.now_ns() + 100_000_000)).expect("turn");
    }
}

fn token(slot: u32) -> Token {
    Token { slot, generation: 7 }
}

fn gather(bytes: impl Into<Bytes>) -> Box<Gather> {
    let mut gather = Box::new(Gather::new());
    gather.push(bytes.into());
    gather
}

/// A connected pair: the driver's end and the test's.
fn pair() -> (Socket, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("pair");
    (Socket::from(OwnedFd::from(ours)), theirs)
}

/// A TCP pair: the driver's end and the test's.
fn tcp_pair() -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let theirs = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    let (ours, _) = listener.accept().expect("accept");
    (Socket::from(OwnedFd::from(ours)), theirs)
}

fn listener(url: &str) -> Arc<Listener> {
    Arc::new(Listener::open(&Address::parse(url).expect("address")).expect("open"))
}

fn tcp_address(listener: &Listener) -> SocketAddr {
    listener
        .address()
        .to_string()
        .strip_prefix("tcp://")
        .expect("tcp")
        .parse()
        .expect("resolved")
}

#[test]
fn an_accepted_connection_has_its_peers_address_and_no_delay() {
    let mut driver = driver(&UringConfig::default());
    let id = ListenerId(3);
    for url in ["tcp://127.0.0.1:0", "tcp://[::1]:0"] {
        let mut driver =
            UringDriver::new(&UringHub::new(1).expect("hub"), 0, &UringConfig::default()).expect("driver");
        let listener = listener(url);
        driver.register(id, &listener);
        driver.accept(id);
        for _ in 0..3 {
            let client = TcpStream::connect(tcp_address(&listener)).expect("connect");
            let Completion::Accepted {
                listener,
                socket,
                peer,
            } = next(&mut driver)
            else {
                panic!("accepted")
            };
            assert_eq!(listener, id);
            assert_eq!(peer, Peer::Ip(client.local_addr().expect("address")));
            assert!(
                rustix::net::sockopt::tcp_nodelay(&socket).expect("option"),
                "inherited from the listener"
            );
            assert!(
                rustix::io::fcntl_getfd(&socket)
                    .expect("flags")
                    .contains(rustix::io::FdFlags::CLOEXEC)
            );
        }
    }
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("s");
    driver.register(id, &listener(&format!("unix://{}", path.display())));
    driver.accept(id);
    let _client = UnixStream::connect(&path).expect("connect");
    let Completion::Accepted { peer, .. } = next(&mut driver) else {
        panic!("accepted")
    };
    let me = Peer::Unix {
        pid: std::process::id() as i32,
        uid: rustix::process::getuid().as_raw(),
    };
    assert_eq!(peer, me);
}

/// A core that spins sees what arrives without a system call.
#[test]
fn what_arrives_is_seen_without_a_turn() {
    let mut driver = driver(&UringConfig::default());
    let (ours, mut theirs) = pair();
    driver.receive(token(1), &ours);
    driver.turn(Some(0)).expect("turn");
    assert!(!driver.is_ready());
    theirs.write_all(b"here").expect("write");
    let begun = Instant::now();
    while !driver.is_ready() {
        assert!(begun.elapsed() < STALLED, "it is not seen");
        std::hint::spin_loop();
    }
    driver.turn(Some(0)).expect("turn");
    assert!(matches!(driver.poll(), Some(Completion::Received { lease, .. }) if lease[..] == *b"here"));
    driver.close(token(1), ours);
}

/// A user that does not poll everything fetches nothing more from the kernel, but what it asks for is done.
#[test]
fn a_turn_over_unpolled_completions_submits_and_gathers_nothing() {
    let mut driver = driver(&UringConfig::default());
    let ((ours, mut theirs), (other, mut others)) = (pair(), pair());
    driver.receive(token(1), &ours);
    driver.receive(token(2), &other);
    driver.turn(Some(0)).expect("turn");
    theirs.write_all(b"first").expect("write");
    let begun = Instant::now();
    while !driver.has_completions() {
        assert!(begun.elapsed() < STALLED, "no completion came");
        driver.turn(Some(driver.now_ns() + 100_000_000)).expect("turn");
    }
    others.write_all(b"second").expect("write");
    driver.send(token(1), &ours, gather("answer"));
    driver.turn(None).expect("does not park");
    let mut answer = [0; 6];
    theirs.read_exact(&mut answer).expect("sent");
    driver.turn(Some(0)).expect("turn");
    let Some(Completion::Received { token: owner, lease }) = driver.poll() else {
        panic!("received")
    };
    assert_eq!((owner, &lease[..]), (token(1), &b"first"[..]));
    assert!(driver.poll().is_none(), "nothing more was gathered");
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.push(match next(&mut driver) {
            Completion::Received { token, lease } => (token.slot, lease.to_vec()),
            Completion::Sent { token, result, .. } => {
                assert_eq!(result.expect("sent"), 6);
                (token.slot, Vec::new())
            }
            other => panic!("{other:?}"),
        });
    }
    seen.sort();
    assert_eq!(seen, [(1, Vec::new()), (2, b"second".to_vec())]);
    driver.close(token(1), ours);
    driver.close(token(2), other);
}

#[test]
fn after_stop_accept_nobody_is_accepted_and_accept_begins_again() {
    let mut driver = driver(&UringConfig::default());
    let listener = listener("tcp://127.0.0.1:0");
    let id = ListenerId(0);
    driver.register(id, &listener);
    driver.accept(id);
    driver.stop_accept(id);
    driver.turn(Some(0)).expect("turn");
    driver.turn(Some(0)).expect("turn");
    let client = TcpStream::connect(tcp_address(&listener)).expect("the kernel's backlog takes it");
    driver.turn(Some(driver.now_ns() + 20_000_000)).expect("turn");
    assert!(driver.poll().is_none());
    driver.accept(id);
    let Completion::Accepted { peer, .. } = next(&mut driver) else {
        panic!("accepted")
    };
    assert_eq!(peer, Peer::Ip(client.local_addr().expect("address")));
}

#[test]
fn what_the_peer_sends_is_received_in_order_until_its_end() {
    let mut driver = driver(&UringConfig::default());
    let (socket, mut peer) = pair();
    driver.receive(token(5), &socket);
    let mut received = Vec::new();
    for n in 0..100u8 {
        peer.write_all(&[n; 1000]).expect("write");
        while received.len() < (usize::from(n) + 1) * 1000 {
            let Completion::Received { token: whose, lease } = next(&mut driver) else {
                panic!("received")
            };
            assert_eq!(whose, token(5));
            assert!(!lease.is_empty());
            received.extend_from_slice(&lease);
        }
    }
    assert!(
        received
            .iter()
            .enumerate()
            .all(|(at, &byte)| byte as usize == at / 1000)
    );
    drop(peer);
    let Completion::ReceiveEnded {
        token: whose,
        end: ReceiveEnd::EndOfStream,
    } = next(&mut driver)
    else {
        panic!("end of stream")
    };
    assert_eq!(whose, token(5));
    driver.close(token(5), socket);
}

#[test]
fn a_stopped_receive_loses_nothing() {
    let mut driver = driver(&UringConfig::default());
    let (socket, mut peer) = pair();
    driver.receive(token(0), &socket);
    driver.turn(Some(0)).expect("turn");
    driver.stop_receive(token(0));
    let Completion::ReceiveEnded {
        end: ReceiveEnd::Stopped,
        ..
    } = next(&mut driver)
    else {
        panic!("stopped")
    };
    peer.write_all(b"meanwhile").expect("write");
    driver.turn(Some(driver.now_ns() + 10_000_000)).expect("turn");
    assert!(driver.poll().is_none());
    driver.receive(token(0), &socket);
    let Completion::Received { lease, .. } = next(&mut driver) else {
        panic!("received")
    };
    assert_eq!(&lease[..], b"meanwhile");
}

#[test]
fn a_lease_may_be_written_to() {
    let mut driver = driver(&UringConfig::default());
    let (socket, mut peer) = pair();
    driver.receive(token(0), &socket);
    peer.write_all(&[0x0f; 64]).expect("write");
    let Completion::Received { mut lease, .. } = next(&mut driver) else {
        panic!("received")
    };
    lease.iter_mut().for_each(|byte| *byte ^= 0xff);
    assert_eq!(lease[..], [0xf0; 64]);
}

/// Two buffers for ten talkative connections: receives end for want of buffers, go on when leases come back, and not
/// a byte is lost or out of order.
#[test]
fn exhausted_buffers_delay_and_lose_nothing() {
    exhaust_buffers(true);
}

/// The same on kernels that give each receive a buffer of its own.
#[test]
fn exhausted_whole_buffers_delay_and_lose_nothing() {
    exhaust_buffers(false);
}

fn exhaust_buffers(incremental: bool) {
    const CONNECTIONS: u32 = 10;
    const BYTES: usize = 20_000;
    let config = UringConfig {
        buffers: 2,
        buffer_bytes: 128,
        incremental,
        ..UringConfig::default()
    };
    let mut driver = driver(&config);
    let (sockets, peers): (Vec<_>, Vec<_>) = (0..CONNECTIONS).map(|_| pair()).unzip();
    let writers = std::thread::spawn(move || {
        for at in 0..BYTES / 100 {
            for mut peer in &peers {
                peer.write_all(&[at as u8; 100]).expect("write");
            }
        }
        peers
    });
    let mut received = vec![Vec::new(); CONNECTIONS as usize];
    let mut starved: Vec<Token> = Vec::new();
    let mut ran_dry = 0;
    for (slot, socket) in (0..).zip(&sockets) {
        driver.receive(token(slot), socket);
    }
    let mut held: Vec<Lease> = Vec::new();
    while received.iter().any(|bytes| bytes.len() < BYTES) {
        match next(&mut driver) {
            Completion::Received { token, lease } => {
                received[token.slot as usize].extend_from_slice(&lease);
                // All are kept until there is no other way.
                held.push(lease);
            }
            Completion::ReceiveEnded {
                token,
                end: ReceiveEnd::NoBuffers,
            } => {
                ran_dry += 1;
                starved.push(token);
            }
            other => panic!("{other:?}"),
        }
        if driver.free_buffers() == 0 {
            held.clear();
        }
        while driver.free_buffers() > 0
            && let Some(token) = starved.pop()
        {
            driver.receive(token, &sockets[token.slot as usize]);
        }
    }
    assert!(ran_dry > 0, "two buffers were too many for this test");
    for bytes in &received {
        assert!(
            bytes
                .iter()
                .enumerate()
                .all(|(at, &byte)| byte == (at / 100) as u8)
        );
    }
    drop(writers.join().expect("writers"));
}

/// Completion queue of 16, hundreds of connections at once: the kernel holds completions back and ends multishot
/// receives; nothing is lost.
#[test]
fn an_overrun_completion_queue_loses_nothing() {
    overrun_completion_queue(true);
}

#[test]
fn an_overrun_completion_queue_loses_nothing_of_whole_buffers() {
    overrun_completion_queue(false);
}

fn overrun_completion_queue(incremental: bool) {
    const CONNECTIONS: u32 = 300;
    let config = UringConfig {
        entries: 8,
        cq_entries: 16,
        incremental,
        ..UringConfig::default()
    };
    let mut driver = driver(&config);
    let (sockets, mut peers): (Vec<_>, Vec<_>) = (0..CONNECTIONS).map(|_| pair()).unzip();
    for (slot, socket) in (0..).zip(&sockets) {
        driver.receive(token(slot), socket);
    }
    // Each sends its own number, so that bytes which went to another one would show.
    let number = |slot: usize| (slot as u16).to_be_bytes();
    let mut received = vec![Vec::new(); CONNECTIONS as usize];
    for round in 1..=20 {
        for (slot, peer) in peers.iter_mut().enumerate() {
            peer.write_all(&number(slot).repeat(5)).expect("write");
        }
        while received.iter().any(|bytes| bytes.len() < round * 10) {
            match next(&mut driver) {
                Completion::Received { token, lease } => {
                    received[token.slot as usize].extend_from_slice(&lease);
                }
                Completion::ReceiveEnded {
                    token,
                    end: ReceiveEnd::NoBuffers,
                } => {
                    driver.receive(token, &sockets[token.slot as usize]);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    for (slot, bytes) in received.iter().enumerate() {
        assert_eq!(*bytes, number(slot).repeat(100), "connection {slot}");
    }
}

#[test]
fn sends_carry_one_slice_or_many_and_give_their_list_back() {
    let mut driver = driver(&UringConfig::default());
    let (socket, mut peer) = pair();
    let mut many = Box::new(Gather::new());
    for n in 0..10u8 {
        many.push(Bytes::from(vec![n; 1000]));
    }
    for list in [gather(&b"one"[..]), many, Box::new(Gather::new())] {
        let expected: Vec<u8> = list.slices().flatten().copied().collect();
        driver.send(token(1), &socket, list);
        let Completion::Sent {
            token: whose,
            result,
            gather,
        } = next(&mut driver)
        else {
            panic!("sent")
        };
        assert_eq!(whose, token(1));
        assert_eq!(result.expect("sent"), expected.len());
        assert_eq!(gather.len(), expected.len(), "given back as it was");
        let mut read = vec![0; expected.len()];
        peer.read_exact(&mut read).expect("read");
        assert_eq!(read, expected);
    }
}

#[test]
fn a_large_send_completes_short_or_waits_and_all_arrives() {
    let mut driver = driver(&UringConfig::default());
    let (socket, mut peer) = tcp_pair();
    let total = 40 << 20;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).expect("read");
        bytes
    });
    let piece = Bytes::from((0..1 << 20).map(|at| (at % 251) as u8).collect::<Vec<u8>>());
    let mut list = Box::new(Gather::new());
    let mut queued = 0;
    while queued < total || !list.is_empty() {
        if list.is_empty() {
            list.clear();
            for _ in 0..4 {
                list.push(piece.clone());
            }
            queued += list.len();
        }
        driver.send(token(0), &socket, list);
        let Completion::Sent { result, gather, .. } = next(&mut driver) else {
            panic!("sent")
        };
        list = gather;
        list.advance(result.expect("sent"));
    }
    driver.shutdown_write(&socket);
    let bytes = reader.join().expect("reader");
    assert_eq!(bytes.len(), total);
    assert!(bytes.chunks(1 << 20).all(|chunk| chunk == piece));
}

#[test]
fn a_peer_that_resets_fails_the_send_and_the_receive() {
    let mut driver = driver(&UringConfig::default());
    let (socket, peer) = tcp_pair();
    driver.receive(token(0), &socket);
    // More than the socket's buffers take, to a peer that does not read: it stays in flight.
    let mut sends = 0;
    let list = || gather(vec![1; 4 << 20]);
    driver.send(token(0), &socket, list());
    loop {
        driver.turn(Some(driver.now_ns() + 50_000_000)).expect("turn");
        match driver.poll() {
            Some(Completion::Sent { result, .. }) => {
                result.expect("the peer is there");
                sends += 1;
                assert!(sends < 100, "the buffers never fill");
                driver.send(token(0), &socket, list());
            }
            Some(other) => panic!("{other:?}"),
            None => break,
        }
    }
    rustix::net::sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).expect("linger");
    drop(peer);
    let (mut sent, mut received) = (None, None);
    while sent.is_none() || received.is_none() {
        match next(&mut driver) {
            Completion::Sent { result, gather, .. } => {
                assert_eq!(gather.len(), 4 << 20, "given back");
                sent = Some(result);
            }
            Completion::ReceiveEnded { end, .. } => received = Some(end),
            other => panic!("{other:?}"),
        }
    }
    let sent = sent.expect("set").expect_err("reset").raw_os_error();
    assert!(
        [Some(libc::ECONNRESET), Some(libc::EPIPE)].contains(&sent),
        "{sent:?}"
    );
    assert!(
        matches!(received, Some(ReceiveEnd::Failed(_) | ReceiveEnd::EndOfStream)),
        "{received:?}"
    );
}

#[test]
fn half_closing_tells_the_peer_and_still_receives() {
    let mut driver = driver(&UringConfig::default());
    let (socket, mut peer) = pair();
    driver.receive(token(0), &socket);
    driver.send(token(0), &socket, gather(&b"last words"[..]));
    assert!(matches!(next(&mut driver), Completion::Sent { .. }));
    driver.shutdown_write(&socket);
    let mut words = String::new();
    peer.read_to_string(&mut words).expect("read to the end");
    assert_eq!(words, "last words");
    peer.write_all(b"answer").expect("the other direction is open");
    let Completion::Received { lease, .. } = next(&mut driver) else {
        panic!("received")
    };
    assert_eq!(&lease[..], b"answer");
}

/// Operations, the close, and a new socket that gets the same descriptor, all before one submission: the new one's
/// bytes never reach the old owner.
#[test]
fn a_closed_descriptor_given_out_anew_is_not_touched() {
    let mut driver = driver(&UringConfig::default());
    for round in 0..200u32 {
        let (old, old_peer) = pair();
        driver.receive(token(round), &old);
        driver.send(token(round), &old, gather(&b"old"[..]));
        if round % 2 == 0 {
            driver.turn(Some(0)).expect("turn");
        }
        driver.close(token(round), old);
        if round % 3 == 0 {
            driver.turn(Some(0)).expect("turn");
        }
        let (new, mut new_peer) = pair();
        new_peer.write_all(b"new").expect("write");
        let fresh = Token {
            slot: round,
            generation: 8,
        };
        driver.receive(fresh, &new);
        let (mut sent, mut ended, mut received) = (false, false, false);
        while !(sent && ended && received) {
            match next(&mut driver) {
                Completion::Sent { token: whose, .. } => {
                    assert_eq!(whose, token(round));
                    sent = true;
                }
                Completion::ReceiveEnded { token: whose, .. } => {
                    assert_eq!(whose, token(round), "only the old one ends");
                    ended = true;
                }
                Completion::Received { token: whose, lease } => {
                    assert_eq!((whose, &lease[..]), (fresh, &b"new"[..]));
                    received = true;
                }
                other => panic!("{other:?}"),
            }
        }
        // The old peer sees what the kernel took before the close, and the end; the new one nothing.
        let mut seen = Vec::new();
        let mut old_peer = old_peer;
        old_peer.read_to_end(&mut seen).expect("closed");
        assert!(seen == b"old" || (round % 2 != 0 && seen.is_empty()), "{seen:?}");
        driver.close(fresh, new);
        loop {
            if let Completion::ReceiveEnded { token, .. } = next(&mut driver) {
                assert_eq!(token, fresh);
                break;
            }
        }
    }
}

#[test]
fn closing_ends_what_is_in_flight_and_gives_the_list_back() {
    let mut driver = driver(&UringConfig::default());
    let (socket, peer) = tcp_pair();
    driver.receive(token(0), &socket);
    driver.send(token(0), &socket, gather(vec![1; 64 << 20]));
    let Completion::Sent { .. } = next(&mut driver) else {
        panic!("short")
    };
    // The socket's buffer is full now: this one waits.
    let list = gather(vec![1; 64 << 20]);
    driver.send(token(0), &socket, list);
    driver.close(token(0), socket);
    let (mut sent, mut ended) = (false, false);
    while !(sent && ended) {
        match next(&mut driver) {
            Completion::Sent { gather, .. } => {
                assert_eq!(gather.len(), 64 << 20);
                sent = true;
            }
            Completion::ReceiveEnded { .. } => ended = true,
            other => panic!("{other:?}"),
        }
    }
    let mut rest = Vec::new();
    let mut peer = peer;
    peer.read_to_end(&mut rest)
        .expect("what the kernel took, then the end");
    assert!(!rest.is_empty());
}

#[test]
fn a_turn_that_may_not_park_returns_and_one_that_may_ends_in_time() {
    let mut driver = driver(&UringConfig::default());
    let before = driver.now_ns();
    driver.turn(Some(0)).expect("turn");
    driver.turn(Some(1)).expect("a time in the past");
    assert!(driver.now_ns() >= before);
    let until = driver.now_ns() + 20_000_000;
    driver.turn(Some(until)).expect("turn");
    assert!(driver.now_ns() >= until);
    assert!(driver.poll().is_none());
}

#[test]
fn a_thread_without_a_ring_wakes_a_parked_core_and_forbids_the_next_park() {
    let hub = UringHub::new(1).expect("hub");
    let waker = hub.waker(0);
    waker.wake();
    let mut driver = UringDriver::new(&hub, 0, &UringConfig::default()).expect("driver");
    driver.turn(None).expect("woken before it existed");
    for round in 0..200 {
        let thread = std::thread::spawn({
            let waker = waker.clone();
            move || {
                if round % 2 == 0 {
                    std::thread::yield_now();
                }
                waker.wake();
            }
        });
        // Without limit: a lost wake hangs the test.
        driver.turn(None).expect("turn");
        thread.join().expect("thread");
        driver.turn(Some(0)).expect("takes a note that came late");
        assert!(driver.poll().is_none());
    }
}

#[test]
fn dropping_a_driver_with_everything_in_flight_ends_it_all() {
    let listener = listener("tcp://127.0.0.1:0");
    let mut driver = driver(&UringConfig::default());
    driver.register(ListenerId(0), &listener);
    driver.accept(ListenerId(0));
    let (socket, mut peer) = tcp_pair();
    driver.receive(token(0), &socket);
    peer.write_all(b"kept").expect("write");
    let Completion::Received { lease, .. } = next(&mut driver) else {
        panic!("received")
    };
    let run = Bytes::from(vec![1; 64 << 20]);
    driver.send(token(0), &socket, gather(run.clone()));
    let Completion::Sent { .. } = next(&mut driver) else {
        panic!("short")
    };
    driver.send(token(0), &socket, gather(run.clone()));
    driver.turn(Some(0)).expect("turn");
    assert!(!run.is_unique());
    drop(driver);
    assert!(run.is_unique(), "the list was given up, not leaked");
    assert_eq!(&lease[..], b"kept", "a lease outlives its driver");
    drop((lease, socket));
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).expect("closed for good");
    assert_eq!(Arc::strong_count(&listener), 1, "the listener was let go");
}
