//! A fleet of echo services behind a gateway, those who call it and stream with it, and what happens to the services:
//! they are killed, stopped for a while, and leave in good order. The ledger holds what the gateway promises.
//!
//! `SIM_SEED` and `SIM_SEEDS` work as for the other lives.

mod asker;
mod flow;
mod ledger;
mod line;
mod service;

use fluxar_engine::sim::{Faults, Random, Step};
use fluxar_gateway::limits::Limits;
use fluxar_gateway::worker::Turn;

use crate::machine::Machine;
use asker::Asker;
pub(crate) use ledger::Totals;
use ledger::{Ledger, Misfortune};
use line::Line;
use service::{Life, SERVING_NS_MAX, Service, WINDOW_BYTES};

const MS: u64 = 1_000_000;

/// What kind of life it is.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) cores: usize,
    pub(crate) faults: Faults,
    pub(crate) services: usize,
    pub(crate) callers: usize,
    /// Mean pause between two calls of a caller, µs.
    pub(crate) call_every_us: u64,
    pub(crate) streamers: usize,
    /// How long misfortunes go on, ms.
    pub(crate) for_ms: u64,
    /// Mean time between two of them, ms.
    pub(crate) misfortune_every_ms: u64,
}

/// A network that is only quick, or one that also cuts and delays. Neither loses a connection: what fails is to follow
/// from what happens to the services.
pub(crate) fn faults(is_unkind: bool) -> Faults {
    let quick = Faults {
        buffers: 64,
        buffer_bytes: 4 * 1024,
        socket_buffer_bytes: 64 * 1024,
        ..Faults::none()
    };
    if !is_unkind {
        return quick;
    }
    Faults {
        short_read: 0.2,
        short_write: 0.2,
        late: 0.2,
        late_ns_max: MS,
        latency_ns: (5_000, MS),
        ..quick
    }
}

pub(crate) struct Fleet {
    plan: Plan,
    machine: Machine,
    services: Vec<Service>,
    askers: Vec<Asker>,
    ledger: Ledger,
    random: Random,
    lines: u64,
    /// The clients had a turn: what they do next may have changed.
    has_turned: bool,
}

impl Fleet {
    pub(crate) fn new(seed: u64, plan: Plan) -> Self {
        let limits = Limits::default();
        let machine = Machine::new(seed, plan.cores, plan.faults.clone(), 64, &limits);
        let mut random = Random::new(seed ^ 0xf1ee7);
        // Served, and up to a dozen times on a way that may be long.
        let calm_ns = SERVING_NS_MAX + 12 * (plan.faults.latency_ns.1 + plan.faults.late_ns_max);
        Self {
            services: (0..plan.services)
                .map(|instance| Service::new(instance, &mut random))
                .collect(),
            askers: Vec::new(),
            ledger: Ledger::new(calm_ns),
            random,
            lines: 0,
            has_turned: false,
            machine,
            plan,
        }
    }

    /// Lives from the first connection until everything that was asked has ended.
    pub(crate) fn live(mut self) -> Totals {
        self.settle_in();
        self.suffer();
        self.calm_down();
        let totals = self.ledger.settle();
        for worker in self.machine.workers.iter().flatten() {
            let counts = worker.front().shard_counts();
            assert_eq!(
                counts.open_calls, 0,
                "something is open that has ended: {counts:?}"
            );
        }
        totals
    }

    /// All services serve before anything is asked.
    fn settle_in(&mut self) {
        for at in 0..self.services.len() {
            self.start(at);
        }
        let deadline_ns = self.machine.world.now_ns() + 10_000 * MS;
        while !self.services.iter().all(Service::is_up) {
            self.pass(50 * MS, false);
            assert!(
                self.machine.world.now_ns() < deadline_ns,
                "a service is never accepted"
            );
        }
        self.pass(100 * MS, false);
        for _ in 0..self.plan.callers {
            let line = self.line(0);
            self.askers
                .push(Asker::new(line, self.plan.call_every_us * 1_000, 0));
        }
        for _ in 0..self.plan.streamers {
            let line = self.line(0);
            self.askers.push(Asker::new(line, 60 * MS, 4));
        }
    }

    fn suffer(&mut self) {
        let end_ns = self.machine.world.now_ns() + self.plan.for_ms * MS;
        while self.machine.world.now_ns() < end_ns {
            let pause_ms = 1 + self.random.below(2 * self.plan.misfortune_every_ms);
            self.pass(pause_ms * MS, true);
            self.strike();
        }
        // Whether it recovers is seen by what is asked behind the last of them.
        self.pass(2_600 * MS, true);
    }

    /// Something happens to one that is up. At least one of three stays.
    fn strike(&mut self) {
        let up: Vec<usize> = (0..self.services.len())
            .filter(|at| self.services[*at].is_up())
            .collect();
        if up.len() * 3 <= self.services.len() {
            return;
        }
        let now_ns = self.machine.world.now_ns();
        let service = &mut self.services[up[self.random.index(up.len())]];
        let (instance, incarnation) = (service.instance, service.incarnation);
        let what = [Misfortune::Killed, Misfortune::Paused, Misfortune::Left][self.random.index(3)];
        self.ledger.befalls(what, instance, incarnation, now_ns);
        match what {
            Misfortune::Killed => {
                let until_ns = now_ns + self.random.between(50, 3_000) * MS;
                service.die(until_ns, self.random.chance(0.5));
            }
            Misfortune::Paused => service.pause(now_ns + self.random.between(50, 4_000) * MS),
            Misfortune::Left => service.leave(&mut self.random),
        }
    }

    /// Nothing new is asked and nothing happens any more; everything ends.
    fn calm_down(&mut self) {
        let deadline_ns = self.machine.world.now_ns() + 20_000 * MS;
        while self.ledger.open() > 0 {
            self.pass(200 * MS, false);
            assert!(
                self.machine.world.now_ns() < deadline_ns,
                "{} calls and streams never end",
                self.ledger.open()
            );
        }
        // Longer than a cancelled stream may stay, and than late answers take.
        self.pass(6_000 * MS, false);
    }

    fn line(&mut self, credit_bytes: u32) -> Line {
        let is_websocket = self.random.chance(0.3);
        let socket = self
            .machine
            .world
            .connect(self.machine.listeners[usize::from(is_websocket)]);
        self.lines += 1;
        Line::new(socket, is_websocket, self.lines, credit_bytes, &mut self.random)
    }

    fn start(&mut self, at: usize) {
        let line = self.line(WINDOW_BYTES);
        self.services[at].start(line, &mut self.random);
    }

    /// Lets so much time pass.
    fn pass(&mut self, for_ns: u64, is_active: bool) {
        let until_ns = self.machine.world.now_ns() + for_ns;
        let mut steps = 0u64;
        let mut alarm_ns = 0;
        while self.machine.world.now_ns() < until_ns {
            let now_ns = self.machine.world.now_ns();
            steps += 1;
            assert!(steps < 5_000_000, "the fleet spins without time passing");
            if alarm_ns <= now_ns || self.has_turned {
                self.has_turned = false;
                let due_ns = self.due_ns(now_ns, is_active).min(until_ns);
                if due_ns != alarm_ns {
                    alarm_ns = due_ns;
                    self.machine.world.alarm_at(due_ns);
                }
            }
            match self.machine.world.step() {
                Step::Core(core) => {
                    if let Some(worker) = &mut self.machine.workers[core] {
                        let turn = worker.turn().expect("a simulated driver does not fail");
                        assert!(!matches!(turn, Turn::Stopped { .. }));
                    }
                }
                Step::Clients => self.turn(is_active),
                Step::Quiet => self.machine.world.alarm_at(until_ns),
            }
        }
    }

    fn turn(&mut self, is_active: bool) {
        let now_ns = self.machine.world.now_ns();
        self.has_turned = true;
        for at in 0..self.services.len() {
            if let Life::Down { until_ns } = self.services[at].life
                && until_ns <= now_ns
                && self.services[at].incarnation > 0
            {
                self.start(at);
            }
            self.services[at].turn(now_ns, &mut self.random, &mut self.ledger);
        }
        for asker in &mut self.askers {
            asker.turn(now_ns, is_active, &mut self.random, &mut self.ledger);
        }
    }

    /// When somebody next does something on his own.
    fn due_ns(&self, now_ns: u64, is_active: bool) -> u64 {
        let services = self.services.iter().filter_map(|service| service.due_ns(now_ns));
        let askers = self
            .askers
            .iter()
            .filter_map(|asker| asker.due_ns(now_ns, is_active));
        services.chain(askers).min().unwrap_or(u64::MAX)
    }
}
