//! Connections that are handed from core to core over the simulation: no byte is lost, repeated or reordered in either
//! direction, whatever was under way, and none of their letters is lost.

mod sim_echo;

use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use fluxar_engine::reactor::{Cause, Counters};
use fluxar_engine::sim::{ClientState, Faults, Random};

use sim_echo::client::{Client, act_all};
use sim_echo::{House, Service, for_seeds};

fn moving() -> Service {
    Service {
        moves: 0.2,
        ..Service::default()
    }
}

fn connect(house: &mut House, random: &mut Random, clients: usize) -> Vec<Client> {
    let connect = |index| {
        if index % 2 == 0 {
            let bytes = random.index(8_000);
            Client::stream(house.world.connect(house.stream), random, bytes)
        } else {
            let messages = random.index(8);
            Client::websocket(house.world.connect(house.websocket), random, messages, 2_000)
        }
    };
    (0..clients).map(connect).collect()
}

/// All is echoed, whichever cores a connection has been on, and nothing is left. Returns how often one was handed over.
fn echo_everything(seed: u64, faults: Faults, service: Service) -> usize {
    let mut random = Random::new(seed);
    let cores = 1 + random.index(3);
    let mut house = House::new(seed, cores, faults, service);
    let count = 1 + random.index(4);
    let mut clients = connect(&mut house, &mut random, count);
    let served = house.run_until(&mut clients, act_all, |_, clients| {
        clients.iter().all(Client::is_served)
    });
    assert!(served, "every client gets everything back");
    for client in &mut clients {
        client.say_goodbye(&mut random);
    }
    house.run_until_quiet(&mut clients, act_all);
    for client in &clients {
        assert_eq!(client.state(), ClientState::Ended);
        assert_eq!(client.close_code, client.is_websocket.then_some(1000));
    }
    drop(clients);
    house.run_until_quiet(&mut Vec::new(), act_all);
    assert!(house.causes().all(|cause| matches!(cause, Cause::Peer)));
    house.assert_empty();
    let handed_over = house.handed_over();
    let counted = |count: fn(&Counters) -> u64| -> u64 {
        let counters = house.cores.iter().map(|core| core.reactor.counters());
        counters.map(|counters| count(&counters)).sum()
    };
    assert_eq!(counted(|counters| counters.handed_over), handed_over as u64);
    assert_eq!(counted(|counters| counters.taken_over), handed_over as u64);
    handed_over
}

#[test]
fn every_byte_is_echoed_in_order_over_any_cores() {
    let moves = AtomicUsize::new(0);
    for_seeds(0..2_000, |seed| {
        let handed_over = echo_everything(seed, Faults::wild(), moving());
        moves.fetch_add(handed_over, Ordering::Relaxed);
    });
    let moves = moves.into_inner();
    assert!(moves > 1_000, "{moves}");
}

/// Pauses, letters that fill the mailboxes, and few events a turn.
#[test]
fn a_busy_house_hands_over_as_well() {
    for_seeds(10_000..10_500, |seed| {
        let service = Service {
            pauses: 0.2,
            letters: 200,
            budget: (seed % 2 == 0).then_some(1 + seed as usize % 3),
            ..moving()
        };
        echo_everything(seed, Faults::wild(), service);
    });
}

/// Resets, closes and ends at any moment: each connection is closed once, on one core, and what came back is a
/// beginning of what was sent.
#[test]
fn a_connection_that_dies_on_the_way_is_closed_once() {
    let handed_over = AtomicUsize::new(0);
    for_seeds(20_000..22_000, |seed| {
        let mut random = Random::new(seed);
        let service = Service {
            closes: 0.02,
            ..moving()
        };
        let mut house = House::new(seed, 3, Faults::brutal(), service);
        let mut clients = connect(&mut house, &mut random, 6);
        for client in &mut clients {
            client.act();
            // Some end their direction with all under way.
            if !client.is_websocket && client.outgoing.is_empty() && random.chance(0.5) {
                client.socket.shutdown();
            }
        }
        let hung_up = random.index(clients.len());
        clients.remove(hung_up);
        house.run_until_quiet(&mut clients, act_all);
        for client in &clients {
            if client.is_websocket {
                assert!(client.sent.starts_with(&client.got));
            } else {
                assert!(client.sent[0].starts_with(&client.got[0]));
            }
        }
        drop(clients);
        house.run_until_quiet(&mut Vec::new(), act_all);
        house.assert_empty();
        handed_over.fetch_add(house.handed_over(), Ordering::Relaxed);
    });
    let handed_over = handed_over.into_inner();
    assert!(handed_over > 1_000, "{handed_over}");
}

/// A peer that ends its direction while it is handed over still gets what is queued, and what it had sent is read.
#[test]
fn what_came_before_the_peers_end_is_read_on_the_other_core() {
    for_seeds(30_000..30_500, |seed| {
        let mut random = Random::new(seed);
        let service = Service {
            moves: 0.5,
            ..moving()
        };
        let mut house = House::new(seed, 2, Faults::wild(), service);
        let bytes = 1 + random.index(2_900);
        let socket = house.world.connect(house.stream);
        let mut clients = vec![Client::stream(socket, &mut random, bytes)];
        clients[0].act();
        clients[0].socket.shutdown();
        house.run_until_quiet(&mut clients, act_all);
        assert!(clients[0].is_served());
        drop(clients);
        house.assert_empty();
        house.handed_over();
    });
}

/// Connects so many clients that say nothing, and waits until each core has its share of them.
fn silent_clients(house: &mut House, count: usize) -> Vec<Client> {
    let mut random = Random::new(1);
    let mut clients: Vec<Client> = (0..count)
        .map(|_| Client::stream(house.world.connect(house.stream), &mut random, 0))
        .collect();
    assert!(house.run_until(&mut clients, act_all, |house, _| house.opened() == count));
    clients
}

/// Hands core 0's only connection to core 1, with so much queued.
fn hand_over(house: &mut House, queued_bytes: usize) {
    let core = &mut house.cores[0];
    let (conn, _) = core.known.pop_first().expect("a connection");
    core.reactor.send(conn, Bytes::from(vec![7; queued_bytes]));
    core.reactor.hand_over(conn, 1, 42).expect("it is open");
    core.handed.push(42);
    house.world.wake(0);
}

#[test]
fn one_whose_peer_does_not_read_is_not_waited_for_for_ever() {
    let mut house = House::new(1, 2, Faults::none(), Service::default());
    let clients = silent_clients(&mut house, 2);
    let begun_ns = house.world.now_ns();
    // More than the pipe holds, and nobody reads.
    hand_over(&mut house, 1_000_000);
    house.run_until(&mut (), |_, ()| {}, |house, ()| house.causes().next().is_some());
    let waited_ms = (house.world.now_ns() - begun_ns) / 1_000_000;
    assert!((5_000..6_000).contains(&waited_ms), "{waited_ms}");
    match &house.cores[1].causes[..] {
        [Cause::Failed(error)] => assert_eq!(error.kind(), ErrorKind::TimedOut),
        causes => panic!("{causes:?}"),
    }
    drop(clients);
    house.run_until_quiet(&mut (), |_, ()| {});
    assert_eq!(house.handed_over(), 1);
    house.assert_empty();
}

#[test]
fn a_full_core_takes_the_letter_and_closes_the_connection() {
    let mut house = House::with_config(1, 2, Faults::none(), Service::default(), |config| {
        config.connections_max = 1;
    });
    let clients = silent_clients(&mut house, 2);
    hand_over(&mut house, 10);
    house.run_until(&mut (), |_, ()| {}, |house, ()| house.causes().next().is_some());
    assert!(matches!(&house.cores[1].causes[..], [Cause::Failed(_)]));
    assert_eq!(house.cores[1].known.len(), 1, "its own is not touched");
    drop(clients);
    house.run_until_quiet(&mut (), |_, ()| {});
    assert_eq!(house.handed_over(), 1);
    house.assert_empty();
}

/// The letter names a connection that is still to come; a core that stops reading its mail does not lose it.
#[test]
fn a_full_mailbox_delays_and_loses_nothing() {
    let mut house = House::new(1, 2, Faults::none(), Service::default());
    let mut clients = silent_clients(&mut house, 2);
    // Four letters fit.
    for letter in 0..4 {
        house.cores[0].reactor.post(1, letter).expect("room");
    }
    hand_over(&mut house, 10);
    let reactor = &mut house.cores[0].reactor;
    reactor.turn(Some(0)).expect("turn");
    while reactor.poll().is_some() {}
    reactor.flush();
    let served = house.run_until(&mut clients, act_all, |house, clients| {
        house.cores[1].known.len() == 2 && clients.iter().any(|client| client.got[0] == [7; 10])
    });
    assert!(served);
    assert_eq!(house.cores[1].letters_next[0], 4);
    drop(clients);
    house.run_until_quiet(&mut (), |_, ()| {});
    assert_eq!(house.handed_over(), 1);
    house.assert_empty();
}
