//! Bad peers and hard times over the simulation: what is bounded stays bounded, what must end ends, and nothing of
//! what ended is left.

mod sim_echo;

use fluxar_engine::limits::{CONTROL_BYTES_MAX, HANDSHAKE_MS};
use fluxar_engine::reactor::{Cause, Close, ReactorConfig};
use fluxar_engine::sim::{ClientSocket, ClientState, Faults, Random, Step, World};

use sim_echo::client::{Client, act_all, frame};
use sim_echo::{House, Service, for_seeds};

const MS: u64 = 1_000_000;

/// Connections come, are reset, closed, abandoned in any state, and closed by the service at any event.
#[test]
fn a_storm_of_connections_leaks_nothing() {
    for_seeds(0..20, |seed| {
        let mut random = Random::new(seed);
        let service = Service {
            pauses: 0.2,
            closes: 0.05,
            ..Service::default()
        };
        let mut house = House::new(seed, 3, Faults::brutal(), service);
        let mut clients: Vec<Client> = Vec::new();
        for _ in 0..300 {
            let kind = random.index(2);
            clients.push(if kind == 0 {
                let bytes = random.index(5_000);
                Client::stream(house.world.connect(house.stream), &mut random, bytes)
            } else {
                let messages = random.index(5);
                Client::websocket(house.world.connect(house.websocket), &mut random, messages, 1_000)
            });
            let pause_ns = house.world.now_ns() + random.below(2 * MS);
            house.world.alarm_at(pause_ns);
            house.run_until(&mut clients, act_all, |house, _| house.world.now_ns() >= pause_ns);
            if clients.len() > 20 {
                let client = clients.swap_remove(random.index(20));
                match random.index(3) {
                    0 => client.socket.abort(),
                    1 => drop(client),
                    _ => {
                        let mut client = client;
                        client.say_goodbye(&mut random);
                        client.act();
                    }
                }
            }
        }
        drop(std::mem::take(&mut clients));
        house.run_until_quiet(&mut clients, act_all);
        assert!(house.opened() > 100, "{}", house.opened());
        house.assert_empty();
        let stale: u64 = house.cores.iter().map(|core| core.reactor.counters().stale).sum();
        assert!(
            stale > 0,
            "completions came for connections that were gone, and were ignored"
        );
    });
}

#[test]
fn a_peer_that_does_not_read_stops_its_own_writing_and_loses_nothing() {
    for_seeds(100..130, |seed| {
        let mut random = Random::new(seed);
        let service = Service {
            queued_max: 10_000,
            ..Service::default()
        };
        let mut house = House::new(seed, 1, Faults::wild(), service);
        let bytes = 200_000;
        let mut clients = vec![Client::stream(
            house.world.connect(house.stream),
            &mut random,
            bytes,
        )];
        clients[0].socket.stop_reading();
        house.run_until_quiet(&mut clients, act_all);
        let taken = bytes - clients[0].outgoing.len();
        let Faults {
            socket_buffer_bytes,
            buffers,
            buffer_bytes,
            ..
        } = Faults::wild();
        // The two pipes, what the service queues, and what was in receive buffers when it stopped.
        let bound = 2 * socket_buffer_bytes + 10_000 + 2 * buffers * buffer_bytes;
        assert!(taken <= bound, "{taken} of {bound}");
        assert!(house.cores[0].queued_most <= 10_000 + buffers * buffer_bytes);
        clients[0].socket.read_on();
        let served = house.run_until(&mut clients, act_all, |_, clients| clients[0].is_served());
        assert!(served, "all comes back once it reads");
    });
}

/// What is held for a paused connection is at most what arrived before the kernel heard of the pause, however often it
/// is resumed and paused again.
#[test]
fn pausing_again_and_again_gathers_nothing() {
    for_seeds(150..180, |seed| {
        let mut random = Random::new(seed);
        let mut house = House::new(seed, 1, Faults::wild(), Service::default());
        let mut clients = vec![Client::stream(
            house.world.connect(house.stream),
            &mut random,
            100_000,
        )];
        house.run_until(&mut clients, act_all, |house, _| house.opened() == 1);
        let conn = *house.cores[0].known.keys().next().unwrap();
        let Faults {
            buffers,
            buffer_bytes,
            ..
        } = Faults::wild();
        for _ in 0..200 {
            let core = &mut house.cores[0];
            core.known.get_mut(&conn).unwrap().paused = true;
            core.reactor.resume(conn);
            core.reactor.pause(conn);
            house.run_until_quiet(&mut clients, act_all);
            let held_bytes = house.cores[0].reactor.held_bytes();
            // As many as there are at most before the receive ends, late completions included.
            let bound = 4 * buffers * buffer_bytes;
            assert!(held_bytes <= bound, "{held_bytes} of {bound}");
        }
        let core = &mut house.cores[0];
        core.known.get_mut(&conn).unwrap().paused = false;
        core.reactor.resume(conn);
        house.world.wake(0);
        let served = house.run_until(&mut clients, act_all, |_, clients| clients[0].is_served());
        assert!(served, "nothing is lost");
        assert_eq!(house.cores[0].reactor.held_bytes(), 0);
    });
}

/// Much had arrived when the pause came: it is held up to the bound. Beyond, the connection is closed, and told why.
#[test]
fn more_than_is_held_for_a_paused_connection_closes_it() {
    const HELD_BYTES_MAX: usize = 10_000;
    let configure = |config: &mut ReactorConfig| config.held_bytes_max = HELD_BYTES_MAX;
    let faults = Faults {
        buffers: 64,
        buffer_bytes: 500,
        ..Faults::none()
    };
    let service = Service {
        // It takes one chunk of those that one turn brought, pauses for good, and leaves the others to the reactor.
        budget: Some(1),
        queued_max: 0,
        ..Service::default()
    };
    let run = |bytes: usize| {
        let mut house = House::with_config(1, 1, faults.clone(), service.clone(), configure);
        let mut random = Random::new(1);
        let mut clients = vec![Client::stream(
            house.world.connect(house.stream),
            &mut random,
            bytes,
        )];
        house.run_until(&mut clients, act_all, |house, _| {
            assert!(house.cores[0].reactor.held_bytes() <= HELD_BYTES_MAX);
            false
        });
        (house, clients)
    };
    let (mut house, mut clients) = run(500 + HELD_BYTES_MAX);
    let core = &mut house.cores[0];
    let conn = *core.known.keys().next().unwrap();
    assert_eq!(core.reactor.held_bytes(), HELD_BYTES_MAX);
    core.known.get_mut(&conn).unwrap().paused = false;
    core.reactor.resume(conn);
    house.world.wake(0);
    assert!(house.run_until(&mut clients, act_all, |_, clients| clients[0].is_served()));

    let (house, clients) = run(500 + HELD_BYTES_MAX + 1);
    let causes: Vec<_> = house.causes().collect();
    assert!(
        matches!(causes[..], [Cause::Transport(why)] if why.contains("paused")),
        "{causes:?}"
    );
    drop(clients);
    house.assert_empty();
}

#[test]
fn a_slow_reader_does_not_delay_its_neighbour() {
    for_seeds(200..220, |seed| {
        let mut random = Random::new(seed);
        let mut house = House::new(seed, 1, Faults::wild(), Service::default());
        let mut clients: Vec<Client> = (0..2)
            .map(|_| Client::stream(house.world.connect(house.stream), &mut random, 50_000))
            .collect();
        clients[0].socket.stop_reading();
        let served = house.run_until(&mut clients, act_all, |_, clients| clients[1].is_served());
        assert!(served && clients[0].got[0].is_empty());
    });
}

#[test]
fn a_drain_to_a_peer_that_does_not_read_ends() {
    for_seeds(300..320, |seed| {
        let mut random = Random::new(seed);
        let service = Service {
            farewell: Some(100_000),
            ..Service::default()
        };
        let mut house = House::new(seed, 1, Faults::wild(), service);
        let mut clients = vec![Client::stream(house.world.connect(house.stream), &mut random, 10)];
        clients[0].socket.stop_reading();
        house.run_until_quiet(&mut clients, act_all);
        let causes: Vec<_> = house.causes().collect();
        assert!(
            matches!(causes[..], [Cause::Failed(error)] if error.kind() == std::io::ErrorKind::TimedOut),
            "{causes:?}"
        );
        assert_eq!(house.cores[0].reactor.connections(), 0);
        drop(clients);
        house.run_until_quiet(&mut Vec::new(), act_all);
        house.assert_empty();
    });
}

/// The peer resets while the last bytes are in flight: not all was sent, so it did not end as it was closed.
#[test]
fn a_drain_whose_last_send_fails_is_not_a_good_one() {
    for_seeds(350..370, |seed| {
        let service = Service {
            farewell: Some(100),
            ..Service::default()
        };
        let faults = Faults {
            reset: 1.0,
            ..Faults::none()
        };
        let mut house = House::new(seed, 1, faults, service);
        let mut random = Random::new(seed);
        let mut clients = vec![Client::stream(house.world.connect(house.stream), &mut random, 10)];
        house.run_until_quiet(&mut clients, act_all);
        let causes: Vec<_> = house.causes().collect();
        assert!(
            matches!(causes[..], [Cause::Failed(error)] if error.kind() == std::io::ErrorKind::ConnectionReset),
            "{causes:?}"
        );
        drop(clients);
        house.assert_empty();
    });
}

/// The end is told behind the last byte, and a peer that answers it is gone at once: nobody waits for a deadline, and
/// no deadline is left armed.
#[test]
fn a_drain_among_friends_takes_no_time() {
    let service = Service {
        farewell: Some(5_000),
        ..Service::default()
    };
    let mut house = House::new(1, 1, Faults::none(), service);
    let mut random = Random::new(1);
    let mut clients = vec![
        Client::stream(house.world.connect(house.stream), &mut random, 10),
        Client::websocket(house.world.connect(house.websocket), &mut random, 1, 10),
    ];
    let begun_ns = house.world.now_ns();
    let hang_up = |_: &mut World, clients: &mut Vec<Client>| {
        for client in clients {
            client.act();
            if client.state() == ClientState::Ended {
                assert_eq!(client.got, [vec![7; 5_000]]);
                client.socket.shutdown();
            }
        }
    };
    house.run_until_quiet(&mut clients, hang_up);
    let took_ns = house.world.now_ns() - begun_ns;
    assert!(took_ns < 10 * MS, "{took_ns}");
    drop(clients);
    house.assert_empty();
}

/// Writes as much as there is room for, again and again.
struct Flood {
    socket: ClientSocket,
    bytes: Vec<u8>,
    at: usize,
    written: usize,
}

impl Flood {
    fn act(_: &mut World, flood: &mut Flood) {
        while flood.written < 10_000_000 {
            let written = flood.socket.write(&flood.bytes[flood.at..]);
            if written == 0 {
                break;
            }
            flood.written += written;
            flood.at = (flood.at + written) % flood.bytes.len();
        }
    }
}

#[test]
fn a_flood_of_pings_from_a_peer_that_does_not_read_is_ended() {
    for_seeds(400..405, |seed| {
        let mut random = Random::new(seed);
        let mut house = House::new(seed, 1, Faults::wild(), Service::default());
        let mut client = Client::websocket(house.world.connect(house.websocket), &mut random, 0, 0);
        let mut clients = vec![client];
        let opened = house.run_until(&mut clients, act_all, |house, _| house.opened() == 1);
        assert!(opened);
        client = clients.pop().unwrap();
        let mut flood = Flood {
            socket: client.socket,
            bytes: frame(&mut random, 9, true, &[0; 125]),
            at: 0,
            written: 0,
        };
        flood.socket.stop_reading();
        house.run_until_quiet(&mut flood, Flood::act);
        let causes: Vec<_> = house.causes().collect();
        assert!(matches!(causes[..], [Cause::Transport(_)]), "{causes:?}");
        assert!(flood.written < 10 * CONTROL_BYTES_MAX, "{}", flood.written);
        drop(flood);
        house.run_until_quiet(&mut Vec::new(), act_all);
        house.assert_empty();
    });
}

#[test]
fn a_handshake_that_does_not_come_is_ended_and_nobody_is_told() {
    for_seeds(500..520, |seed| {
        let mut random = Random::new(seed);
        let mut house = House::new(seed, 2, Faults::wild(), Service::default());
        let mut silent = vec![Client::websocket(
            house.world.connect(house.websocket),
            &mut random,
            0,
            0,
        )];
        silent[0].outgoing.clear();
        let begun_ns = house.world.now_ns();
        house.run_until_quiet(&mut silent, act_all);
        let took_ms = (house.world.now_ns() - begun_ns) / MS;
        assert!((HANDSHAKE_MS..HANDSHAKE_MS + 100).contains(&took_ms), "{took_ms}");
        assert_eq!(silent[0].state(), ClientState::Ended);

        // One byte a second does not help it.
        let mut request = Client::websocket(house.world.connect(house.websocket), &mut random, 0, 0);
        let mut bytes = std::mem::take(&mut request.outgoing).into_iter();
        let mut trickle = vec![request];
        house.world.alarm_at(house.world.now_ns());
        let act = |world: &mut World, clients: &mut Vec<Client>| {
            if clients[0].outgoing.is_empty()
                && clients[0].state() == ClientState::Open
                && let Some(byte) = bytes.next()
            {
                clients[0].outgoing.push(byte);
                let next_ns = world.now_ns() + 1_000 * MS;
                world.alarm_at(next_ns);
            }
            act_all(world, clients);
        };
        house.run_until_quiet(&mut trickle, act);
        assert_ne!(trickle[0].state(), ClientState::Open);

        let failed: u64 = house
            .cores
            .iter()
            .map(|core| core.reactor.counters().handshakes_failed)
            .sum();
        assert_eq!((failed, house.opened()), (2, 0));
        drop((silent, trickle));
        house.run_until_quiet(&mut Vec::new(), act_all);
        house.assert_empty();
    });
}

#[test]
fn a_refused_handshake_is_answered() {
    let mut house = House::new(1, 1, Faults::wild(), Service::default());
    let mut sockets = vec![house.world.connect(house.websocket)];
    sockets[0].write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut answer = Vec::new();
    let read = |_: &mut World, sockets: &mut Vec<ClientSocket>| answer.extend(sockets[0].read());
    house.run_until_quiet(&mut sockets, read);
    assert!(
        answer.starts_with(b"HTTP/1.1 4"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert_eq!(sockets[0].state(), ClientState::Ended);
    assert_eq!(house.opened(), 0);
    drop(sockets);
    house.run_until_quiet(&mut (), |_, ()| {});
    house.assert_empty();
}

#[test]
fn a_broken_frame_is_told_with_its_code() {
    for_seeds(600..620, |seed| {
        let mut random = Random::new(seed);
        let mut house = House::new(seed, 1, Faults::wild(), Service::default());
        let mut client = Client::websocket(house.world.connect(house.websocket), &mut random, 3, 500);
        // A reserved opcode: 1002.
        client.outgoing.extend(frame(&mut random, 3, true, b"?"));
        let mut clients = vec![client];
        house.run_until_quiet(&mut clients, act_all);
        assert_eq!(clients[0].got, clients[0].sent, "what was good is answered");
        assert_eq!(clients[0].close_code, Some(1002));
        assert_eq!(clients[0].state(), ClientState::Ended);
        assert!(house.causes().all(|cause| matches!(cause, Cause::Transport(_))));
    });
}

#[test]
fn a_lost_websocket_is_not_a_closed_one() {
    let mut house = House::new(1, 1, Faults::none(), Service::default());
    let mut clients = vec![Client::websocket(
        house.world.connect(house.websocket),
        &mut Random::new(1),
        1,
        10,
    )];
    house.run_until(&mut clients, act_all, |_, clients| clients[0].is_served());
    clients[0].socket.shutdown();
    house.run_until_quiet(&mut clients, act_all);
    let causes: Vec<_> = house.causes().collect();
    assert!(
        matches!(causes[..], [Cause::Failed(error)] if error.kind() == std::io::ErrorKind::UnexpectedEof),
        "{causes:?}"
    );
}

/// Two buffers for fifty connections: receives that found none are armed again as buffers come back, not all at once.
#[test]
fn scarce_buffers_make_no_storm() {
    for_seeds(700..705, |seed| {
        let mut random = Random::new(seed);
        let faults = Faults {
            buffers: 2,
            buffer_bytes: 256,
            socket_buffer_bytes: 3_000,
            short_read: 0.4,
            ..Faults::none()
        };
        let mut house = House::new(seed, 1, faults, Service::default());
        let mut clients: Vec<Client> = (0..50)
            .map(|_| Client::stream(house.world.connect(house.stream), &mut random, 2_000))
            .collect();
        let served = house.run_until(&mut clients, act_all, |_, clients| {
            clients.iter().all(Client::is_served)
        });
        assert!(served);
        let starved = house.cores[0].reactor.counters().receives_starved;
        assert!(starved > 0);
        // Each connection's first receive may find none, and then each chunk that is done with lets one try again.
        let bound = 50 + house.cores[0].chunks;
        assert!(
            starved <= bound,
            "{starved} receives starved, {bound} expected at most"
        );
    });
}

#[test]
fn connections_spread_over_the_cores() {
    for_seeds(800..820, |seed| {
        let mut random = Random::new(seed);
        let mut house = House::new(seed, 3, Faults::wild(), Service::default());
        let mut clients: Vec<Client> = (0..30)
            .map(|_| Client::stream(house.world.connect(house.stream), &mut random, 100))
            .collect();
        house.run_until(&mut clients, act_all, |_, clients| {
            clients.iter().all(Client::is_served)
        });
        let spread: Vec<usize> = (0..3).map(|core| house.board.connections(core)).collect();
        assert_eq!(spread.iter().sum::<usize>(), 30);
        // A full mailbox (there is room for four) may keep one where it came in.
        assert!(
            spread.iter().all(|connections| (5..=15).contains(connections)),
            "{spread:?}"
        );
        for (core, connections) in spread.into_iter().enumerate() {
            assert_eq!(house.cores[core].reactor.connections(), connections);
        }
    });
}

#[test]
fn beyond_the_limit_connections_are_refused_and_later_ones_taken() {
    let configure = |config: &mut ReactorConfig| config.connections_max = 2;
    let mut house = House::with_config(1, 1, Faults::none(), Service::default(), configure);
    let mut random = Random::new(1);
    let mut clients: Vec<Client> = (0..3)
        .map(|_| Client::stream(house.world.connect(house.stream), &mut random, 0))
        .collect();
    house.run_until_quiet(&mut clients, act_all);
    assert_eq!(house.cores[0].reactor.counters().refused, 1);
    assert_eq!(
        clients
            .iter()
            .filter(|client| client.state() == ClientState::Open)
            .count(),
        2
    );
    clients.clear();
    house.run_until_quiet(&mut clients, act_all);
    clients.push(Client::stream(house.world.connect(house.stream), &mut random, 10));
    assert!(house.run_until(&mut clients, act_all, |_, clients| clients[0].is_served()));
}

#[test]
fn nothing_is_accepted_after_the_stop() {
    let mut house = House::new(1, 2, Faults::none(), Service::default());
    for core in &mut house.cores {
        core.reactor.stop_accepting();
    }
    let mut clients = vec![Client::stream(
        house.world.connect(house.stream),
        &mut Random::new(1),
        10,
    )];
    house.run_until_quiet(&mut clients, act_all);
    assert_eq!((house.opened(), house.world.sockets_open()), (0, 0));
}

/// What was accepted before the stop is opened all the same, be it on its way to its core or not polled yet, so that a
/// gateway can tell it that it stops.
#[test]
fn what_was_accepted_before_the_stop_is_opened() {
    for_seeds(900..930, |seed| {
        let mut random = Random::new(seed);
        let service = Service {
            budget: Some(1),
            ..Service::default()
        };
        let mut house = House::new(seed, 2, Faults::none(), service);
        let mut clients: Vec<Client> = (0..6)
            .map(|_| Client::stream(house.world.connect(house.stream), &mut random, 0))
            .collect();
        let under_way = |house: &House, _: &Vec<Client>| house.opened() < house.world.sockets_open();
        assert!(house.run_until(&mut clients, act_all, under_way));
        for core in &mut house.cores {
            core.reactor.stop_accepting();
        }
        let accepted = house.world.sockets_open();
        house.run_until_quiet(&mut clients, act_all);
        assert_eq!(house.opened(), accepted);
        assert_eq!(house.world.sockets_open(), accepted);
    });
}

/// Verbs on a connection that is gone do nothing, even if its slot is in use again.
#[test]
fn verbs_on_a_closed_connection_are_ignored() {
    let mut house = House::new(1, 1, Faults::none(), Service::default());
    let mut random = Random::new(1);
    let mut clients = vec![Client::stream(house.world.connect(house.stream), &mut random, 10)];
    house.run_until(&mut clients, act_all, |_, clients| clients[0].is_served());
    let gone = *house.cores[0].known.keys().next().unwrap();
    clients.clear();
    house.run_until_quiet(&mut clients, act_all);
    clients.push(Client::stream(house.world.connect(house.stream), &mut random, 10));
    house.run_until(&mut clients, act_all, |_, clients| clients[0].is_served());
    let here = *house.cores[0].known.keys().next().unwrap();
    assert_eq!(here.0.slot, gone.0.slot);
    let reactor = &mut house.cores[0].reactor;
    reactor.send(gone, "not for you".into());
    reactor.pause(gone);
    reactor.close(gone, Close::Now);
    reactor.close(gone, Close::Drain { ws_code: 1000 });
    house.world.wake(0);
    house.run_until_quiet(&mut clients, act_all);
    assert_eq!(clients[0].state(), ClientState::Open);
    assert!(clients[0].is_served());
    assert_eq!(house.world.step(), Step::Quiet);
}
