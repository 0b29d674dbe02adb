//! The reactor over the simulation: whatever the network does short of a reset, every byte is echoed in order, and
//! once the connections are gone nothing of them is left.

mod sim_echo;

use fluxar_engine::reactor::{Cause, ReactorConfig};
use fluxar_engine::sim::{ClientState, Faults, Random};

use sim_echo::client::{Client, act_all};
use sim_echo::{House, Service, for_seeds};

fn connect(house: &mut House, random: &mut Random, clients: usize) -> Vec<Client> {
    let mut connected = Vec::new();
    for index in 0..clients {
        let client = if index % 2 == 0 {
            let socket = house.world.connect(house.stream);
            let bytes = random.index(20_000);
            Client::stream(socket, random, bytes)
        } else {
            let socket = house.world.connect(house.websocket);
            let messages = random.index(12);
            Client::websocket(socket, random, messages, 3_000)
        };
        connected.push(client);
    }
    connected
}

/// All is echoed, then the clients say goodbye, and nothing is left. Returns the world's digest.
fn echo_everything(seed: u64, faults: Faults, service: Service) -> u64 {
    let mut random = Random::new(seed);
    let cores = 1 + random.index(3);
    let mut house = House::new(seed, cores, faults, service);
    let count = 1 + random.index(8);
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
    assert_eq!(house.opened(), count);
    house.assert_empty();
    house.world.digest()
}

#[test]
fn every_byte_is_echoed_in_order() {
    for_seeds(0..300, |seed| {
        echo_everything(seed, Faults::wild(), Service::default());
    });
}

#[test]
fn every_byte_is_echoed_in_order_without_faults() {
    for_seeds(0..20, |seed| {
        echo_everything(seed, Faults::none(), Service::default());
    });
}

#[test]
fn pauses_lose_and_reorder_nothing() {
    for_seeds(1000..1200, |seed| {
        let service = Service {
            pauses: 0.3,
            ..Service::default()
        };
        echo_everything(seed, Faults::wild(), service);
    });
}

#[test]
fn a_seed_makes_the_same_world_again() {
    for_seeds(2000..2005, |seed| {
        let run = || echo_everything(seed, Faults::wild(), Service::default());
        assert_eq!(run(), run());
    });
}

/// A peer that ends its direction right behind its bytes still gets what they are answered with.
#[test]
fn what_was_queued_is_sent_after_the_peers_end() {
    for_seeds(3000..3200, |seed| {
        let mut random = Random::new(seed);
        let service = Service {
            pauses: 0.2,
            ..Service::default()
        };
        let mut house = House::new(seed, 2, Faults::wild(), service);
        let bytes = 1 + random.index(2_900);
        let mut clients = vec![Client::stream(
            house.world.connect(house.stream),
            &mut random,
            bytes,
        )];
        clients[0].act();
        assert!(clients[0].outgoing.is_empty());
        clients[0].socket.shutdown();
        house.run_until_quiet(&mut clients, act_all);
        assert!(clients[0].is_served());
        assert_eq!(clients[0].state(), ClientState::Ended);
        assert!(house.causes().all(|cause| matches!(cause, Cause::Peer)));
        drop(clients);
        house.assert_empty();
    });
}

#[test]
fn a_drain_delivers_what_was_queued_and_the_reason() {
    for_seeds(4000..4200, |seed| {
        let mut random = Random::new(seed);
        let service = Service {
            farewell: Some(random.index(20_000)),
            ..Service::default()
        };
        let farewell = service.farewell.unwrap();
        let mut house = House::new(seed, 2, Faults::wild(), service);
        let mut clients = connect(&mut house, &mut random, 6);
        // An empty stream says nothing, so nothing is said to it.
        clients.retain(|client| !client.sent.is_empty() && client.sent.iter().any(|sent| !sent.is_empty()));
        house.run_until_quiet(&mut clients, act_all);
        for client in &clients {
            assert_eq!(client.got, [vec![7; farewell]], "all that was queued");
            assert_eq!(client.state(), ClientState::Ended, "and the end in good order");
            assert_eq!(client.close_code, client.is_websocket.then_some(1001));
        }
        assert_eq!(
            house
                .causes()
                .filter(|cause| matches!(cause, Cause::Ours))
                .count(),
            clients.len()
        );
        drop(clients);
        house.run_until_quiet(&mut Vec::new(), act_all);
        house.assert_empty();
    });
}

/// More than one send carries, in one piece.
#[test]
fn a_large_message_leaves_in_sends_of_the_bound() {
    let service = Service {
        farewell: Some(1_000_000),
        ..Service::default()
    };
    let faults = Faults {
        socket_buffer_bytes: 2_000_000,
        ..Faults::none()
    };
    let mut house = House::new(1, 1, faults, service);
    let mut random = Random::new(1);
    let mut clients = vec![
        Client::stream(house.world.connect(house.stream), &mut random, 1),
        Client::websocket(house.world.connect(house.websocket), &mut random, 1, 1),
    ];
    house.run_until_quiet(&mut clients, act_all);
    assert!(clients.iter().all(|client| client.got == [vec![7; 1_000_000]]));
    // Four each. To the WebSocket, the first carries the answer to its handshake too, the last the close frame.
    assert_eq!(house.cores[0].reactor.counters().sends, 4 + 4);
}

/// Cores that watch their mailboxes before they park (in real time, which the virtual clock does not see).
#[test]
fn cores_that_spin_lose_nothing_either() {
    for_seeds(6000..6010, |seed| {
        let mut random = Random::new(seed);
        let spin = |config: &mut ReactorConfig| config.spin_us = 1;
        let mut house = House::with_config(seed, 3, Faults::wild(), Service::default(), spin);
        let mut clients = connect(&mut house, &mut random, 6);
        assert!(house.run_until(&mut clients, act_all, |_, clients| {
            clients.iter().all(Client::is_served)
        }));
        drop(clients);
        house.run_until_quiet(&mut Vec::new(), act_all);
        house.assert_empty();
    });
}

#[test]
fn letters_arrive_in_order_among_connections() {
    for_seeds(5000..5100, |seed| {
        let mut random = Random::new(seed);
        let service = Service {
            letters: 200,
            ..Service::default()
        };
        let mut house = House::new(seed, 3, Faults::wild(), service);
        let mut clients = connect(&mut house, &mut random, 4);
        let mut from_main = 0;
        let served = house.run_until(&mut clients, act_all, |house, clients| {
            let posted = |next: &u64| *next == 200;
            clients.iter().all(Client::is_served)
                && house
                    .cores
                    .iter()
                    .all(|core| core.letters_next[..3].iter().all(posted))
        });
        assert!(served);
        while from_main < 50 {
            while house.control.post(1, from_main.into()).is_ok() {
                from_main += 1;
            }
            house.run_until(&mut clients, act_all, |house, _| {
                house.cores[1].letters_next[3] == from_main
            });
        }
        assert_eq!(house.cores[1].letters_next[3], from_main);
    });
}

/// A user that takes a few events a turn misses none, and no turn parks over what it left.
#[test]
fn a_budget_for_events_loses_and_reorders_nothing() {
    for_seeds(7000..7100, |seed| {
        let service = Service {
            budget: Some(1 + seed as usize % 4),
            pauses: 0.2,
            letters: 50,
            ..Service::default()
        };
        echo_everything(seed, Faults::wild(), service);
    });
}
