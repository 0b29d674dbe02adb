//! A simulated gateway that dials a simulated service: refused while nobody listens there, connected once somebody
//! does, lost, dialled again, and silent for a while.

mod service;

use std::collections::VecDeque;
use std::sync::Arc;

use fluxar_engine::listener::{Address, ListenerId};
use fluxar_engine::mail::{self, Control};
use fluxar_engine::reactor::{Board, Parcel, Reactor, ReactorConfig, Transport};
use fluxar_engine::sim::{ClientSocket, Faults, Random, SimDriver, SimSocket, Step, World};
use fluxar_gateway::front::Front;
use fluxar_gateway::limits::Limits;
use fluxar_gateway::mail::Mail;
use fluxar_gateway::outbox::Framing;
use fluxar_gateway::upstreams::Services;
use fluxar_gateway::worker::Worker;
use fluxar_protocol::frame::prefix;
use fluxar_protocol::hello::Hello;
use fluxar_protocol::{Code, Id, Kind};
use fluxar_tests::message::{Received, encoded, number};

use self::service::{Ear, Service, alone};
use crate::users;

const MS: u64 = 1_000_000;
const GATEWAY: ListenerId = ListenerId(0);
const SERVICE: ListenerId = ListenerId(1);
/// The gateway's; the service has the next.
const CORES: usize = 2;

/// A gateway, a service that may not be there yet, and somebody who calls it through the gateway.
struct Stage {
    world: World,
    workers: Vec<Worker<SimDriver>>,
    control: Control<Parcel<SimSocket, Mail>>,
    service: Option<Service>,
    /// What runs on the service's core before it is there.
    vacant: Reactor<SimDriver, ()>,
    caller: ClientSocket,
    ear: Ear,
    heard: VecDeque<Received>,
    calls: u64,
}

impl Stage {
    fn new(seed: u64, faults: Faults) -> Self {
        let mut world = World::new(seed, CORES + 1, faults);
        assert_eq!(world.listen(), GATEWAY);
        let (mut control, endpoints) = mail::mesh(CORES, 64);
        let board = Board::new(CORES);
        let workers = endpoints
            .into_iter()
            .enumerate()
            .map(|(core, endpoint)| {
                let reactor = Reactor::new(
                    world.driver(core),
                    endpoint,
                    board.clone(),
                    vec![(GATEWAY, Transport::Stream)],
                    ReactorConfig::default(),
                );
                let mut entropy = Random::new(seed ^ (core as u64 + 1) << 32);
                let front = Front::new(
                    core as u16,
                    CORES as u16,
                    Limits::default(),
                    vec![Framing::Prefixed],
                    seed,
                    Box::new(move |bytes| bytes.iter_mut().for_each(|byte| *byte = entropy.next() as u8)),
                );
                control.attach(core, world.waker(core));
                Worker::new(reactor, front)
            })
            .collect();
        let vacant = alone(&mut world, Vec::new());
        let mut caller = world.connect(GATEWAY);
        let mut payload = Vec::new();
        Hello::default().encode(&mut payload);
        let hello = encoded(Kind::Hello, Id([1; 16]), None, None, None, &payload);
        let bytes = [&prefix(hello.len())[..], &hello].concat();
        assert_eq!(caller.write(&bytes), bytes.len());
        Self {
            world,
            workers,
            control,
            service: None,
            vacant,
            caller,
            ear: Ear::default(),
            heard: VecDeque::new(),
            calls: 0,
        }
    }

    fn set_services(&mut self, services: Services) {
        let services = Arc::new(services);
        for core in 0..CORES {
            let mail = Parcel::from(Mail::Services(Arc::clone(&services)));
            assert!(self.control.post(core, mail).is_ok());
        }
    }

    /// Lives on until `done`, for so long at most; whether it was.
    fn until(&mut self, for_ms: u64, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let until_ns = self.world.now_ns() + for_ms * MS;
        self.world.alarm_at(until_ns);
        let mut steps = 0;
        while !done(self) {
            if self.world.now_ns() >= until_ns {
                return false;
            }
            steps += 1;
            assert!(steps < 1_000_000, "it spins without time passing");
            match self.world.step() {
                Step::Core(core) if core < CORES => {
                    self.workers[core].turn().expect("a turn");
                }
                Step::Core(_) => match &mut self.service {
                    Some(service) => service.turn(),
                    None => {
                        self.vacant.turn(None).expect("a turn");
                        assert!(self.vacant.poll().is_none());
                    }
                },
                Step::Clients => {
                    let bytes = self.caller.read();
                    self.heard.extend(self.ear.hear(&bytes));
                }
                Step::Quiet => return false,
            }
        }
        true
    }

    fn pass(&mut self, for_ms: u64) {
        self.until(for_ms, |_| false);
    }

    /// Calls once, and tells what came of it.
    fn call(&mut self) -> Result<u64, Code> {
        self.calls += 1;
        let id = Id((u128::from(self.calls) | 1 << 100).to_be_bytes());
        let call = encoded(
            Kind::Call,
            id,
            None,
            Some("users.next"),
            None,
            &number(self.calls),
        );
        let bytes = [&prefix(call.len())[..], &call].concat();
        assert_eq!(self.caller.write(&bytes), bytes.len());
        let mut answer = None;
        let came = self.until(60_000, |stage| {
            answer = stage
                .heard
                .iter()
                .find(|message| message.reference == Some(id))
                .cloned();
            answer.is_some()
        });
        assert!(came, "a call has no end");
        let answer = answer.expect("it came");
        match answer.code() {
            Some(code) => Err(code),
            None => Ok(answer.number()),
        }
    }

    /// Each of so many connections is one that serves.
    fn serves_all(&mut self, connections: usize) {
        let service = self.service.as_ref().expect("there");
        assert_eq!(service.greeted.len(), connections);
        let n = self.calls + 1;
        assert_eq!(self.call(), Ok(n + 1));
    }

    fn serves(&mut self, within_ms: u64) {
        let greeted = self.until(within_ms, |stage| {
            stage
                .service
                .as_ref()
                .is_some_and(|service| service.greeted.len() == CORES)
        });
        assert!(greeted, "not every core has dialled within {within_ms} ms");
        // The welcomes arrive.
        self.pass(50);
        self.serves_all(CORES);
    }
}

fn address(is_websocket: bool) -> Address {
    let world = World::new(0, 1, Faults::none());
    if is_websocket {
        world.websocket_address(SERVICE)
    } else {
        world.address(SERVICE)
    }
}

#[test]
fn a_service_is_dialled_until_it_is_there_and_again_whenever_it_is_lost() {
    for seed in 0..40 {
        let is_websocket = seed % 2 == 1;
        let faults = if seed % 4 < 2 {
            Faults::none()
        } else {
            Faults::wild()
        };
        let mut stage = Stage::new(seed, faults);
        stage.set_services(users(&[address(is_websocket)], |_| {}));
        // Nobody is there.
        stage.pass(5_000);
        assert_eq!(stage.call(), Err(Code::Unavailable), "seed {seed}");
        let dialled = stage.workers[0].front().counters().dialled;
        assert!((5..=12).contains(&dialled), "seed {seed}: {dialled} dials in 5 s");
        stage.service = Some(Service::new(&mut stage.world, is_websocket));
        stage.serves(10_100);
        // It is lost, again and again. Nothing waits longer than the pauses allow.
        for loss in 0..5 {
            stage.service.as_mut().expect("there").cut_all();
            stage.world.wake(CORES);
            stage.until(1_000, |stage| {
                stage.service.as_ref().expect("there").ears.is_empty()
            });
            stage.serves(10_100);
            let greetings = stage.service.as_ref().expect("there").greetings;
            assert!(greetings as usize >= CORES * (2 + loss), "seed {seed}");
        }
        let served = stage.service.as_ref().expect("there").served;
        assert_eq!(served, 6, "seed {seed}: no call runs twice");
    }
}

#[test]
fn a_goodbye_is_respected() {
    let mut stage = Stage::new(1, Faults::none());
    stage.set_services(users(&[address(false)], |_| {}));
    stage.service = Some(Service::new(&mut stage.world, false));
    stage.serves(1_000);
    stage.service.as_mut().expect("there").leave(3_000);
    stage.world.wake(CORES);
    stage.pass(100);
    assert_eq!(stage.call(), Err(Code::Unavailable));
    stage.pass(2_800);
    assert_eq!(stage.service.as_ref().expect("there").greeted.len(), 0);
    stage.serves(300);
}

#[test]
fn who_does_not_answer_the_hello_is_left_and_dialled_again() {
    let mut stage = Stage::new(2, Faults::none());
    stage.set_services(users(&[address(false)], |services| {
        services.upstreams[0].connect_ms = 300;
    }));
    let mut service = Service::new(&mut stage.world, false);
    service.is_mute = true;
    stage.service = Some(service);
    stage.pass(2_000);
    assert_eq!(stage.call(), Err(Code::Unavailable));
    assert!(stage.workers[0].front().counters().timed_out >= 2);
    stage.service.as_mut().expect("there").is_mute = false;
    stage.serves(3_000);
}

#[test]
fn who_does_not_answer_pings_gets_nothing_new_until_it_speaks() {
    let mut stage = Stage::new(3, Faults::none());
    stage.set_services(users(&[address(false)], |_| {}));
    stage.service = Some(Service::new(&mut stage.world, false));
    stage.serves(1_000);
    // Pinged and well: nothing comes of it.
    stage.pass(10_000);
    assert_eq!(stage.workers[0].front().counters().silent, 0);
    assert_eq!(stage.call(), Ok(3));
    stage.service.as_mut().expect("there").is_mute = true;
    stage.pass(1_200);
    let silent: u64 = stage
        .workers
        .iter()
        .map(|worker| worker.front().counters().silent)
        .sum();
    assert_eq!(silent, CORES as u64);
    let rows = |stage: &Stage| -> Vec<bool> {
        let fronts = stage.workers.iter().map(Worker::front);
        fronts
            .flat_map(|front| {
                front
                    .service_rows()
                    .map(|row| row.standing.silent)
                    .collect::<Vec<_>>()
            })
            .collect()
    };
    assert!(rows(&stage).iter().all(|silent| *silent), "{:?}", rows(&stage));
    // Any byte will do.
    let service = stage.service.as_mut().expect("there");
    service.is_mute = false;
    for conn in service.greeted.clone() {
        let id = service.id();
        let ping = encoded(Kind::Ping, id, None, None, None, b"\xf6");
        service.say(conn, ping);
    }
    service.reactor.flush();
    stage.world.wake(CORES);
    stage.pass(100);
    assert!(rows(&stage).iter().all(|silent| !silent), "{:?}", rows(&stage));
    assert_eq!(stage.call(), Ok(4));
}

#[test]
fn an_endpoint_that_is_removed_is_told_goodbye_and_one_that_is_added_is_dialled() {
    let mut stage = Stage::new(4, Faults::none());
    stage.service = Some(Service::new(&mut stage.world, false));
    stage.set_services(Services::default());
    stage.pass(100);
    assert_eq!(stage.call(), Err(Code::Unavailable));
    stage.set_services(users(&[address(false)], |_| {}));
    stage.serves(1_000);
    // Other terms: the connections live on.
    stage.set_services(users(&[address(false)], |services| {
        services.upstreams[0].endpoints[0].weight = 3;
    }));
    stage.pass(500);
    assert_eq!(stage.service.as_ref().expect("there").greetings as usize, CORES);
    assert_eq!(stage.call(), Ok(4));
    // Drained: nothing new, and the connections live on.
    let drained = |drain: bool| {
        users(&[address(false)], |services| {
            services.upstreams[0].endpoints[0].drain = drain;
        })
    };
    stage.set_services(drained(true));
    stage.pass(500);
    assert_eq!(stage.call(), Err(Code::Unavailable));
    stage.set_services(drained(false));
    stage.pass(500);
    assert_eq!(stage.call(), Ok(6));
    stage.set_services(Services::default());
    stage.pass(2_000);
    let service = stage.service.as_ref().expect("there");
    assert!(service.ears.is_empty() && service.greetings as usize == CORES);
    assert_eq!(stage.call(), Err(Code::Unavailable));
}

#[test]
fn reloads_in_any_order_leave_what_the_last_one_says() {
    for seed in 0..60 {
        let faults = if seed % 2 == 0 {
            Faults::none()
        } else {
            Faults::wild()
        };
        let is_websocket = seed % 4 >= 2;
        let mut stage = Stage::new(seed, faults);
        stage.service = Some(Service::new(&mut stage.world, is_websocket));
        let nobody = Address::Tcp {
            host: "127.0.0.1".to_owned(),
            port: 9,
        };
        let mut random = Random::new(seed);
        for _ in 0..40 {
            let mut addresses = vec![address(is_websocket); random.index(2)];
            addresses.extend(vec![nobody.clone(); random.index(2)]);
            stage.set_services(users(&addresses, |services| {
                let upstream = &mut services.upstreams[0];
                upstream.connections = 1 + random.index(3) as u32;
                for endpoint in &mut upstream.endpoints {
                    endpoint.weight = 1 + random.index(2) as u32;
                    endpoint.drain = random.chance(0.3);
                }
            }));
            // Often two in one turn.
            if random.chance(0.6) {
                stage.pass(random.below(300));
            }
            if random.chance(0.2) {
                stage.service.as_mut().expect("there").cut_all();
                stage.world.wake(CORES);
            }
        }
        stage.set_services(users(&[address(is_websocket)], |services| {
            services.upstreams[0].connections = 2;
            services.upstreams[0].endpoints[0].weight = 7;
        }));
        let settled = stage.until(60_000, |stage| {
            let service = stage.service.as_ref().expect("there");
            let are_as_said = stage.workers.iter().map(Worker::front).all(|front| {
                let rows = front.service_rows();
                let as_said = rows.filter(|row| row.weight == 7 && row.standing.is_fit());
                // Each in its fleet, and for its methods.
                as_said.count() == 4 && front.service_rows().count() == 4
            });
            let sessions = stage.workers.iter().map(|worker| worker.front().sessions());
            // The caller has one, too.
            are_as_said && service.ears.len() == 2 * CORES && sessions.sum::<u32>() == 2 * CORES as u32 + 1
        });
        assert!(
            settled,
            "seed {seed}: {:?}",
            stage.service.as_ref().expect("there").ears.len()
        );
        stage.serves_all(2 * CORES);
        stage.set_services(Services::default());
        let left = stage.until(70_000, |stage| {
            stage.service.as_ref().expect("there").ears.is_empty()
        });
        assert!(left, "seed {seed}: connections are left");
    }
}
