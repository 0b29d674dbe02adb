//! A town: a simulated machine with workers on its cores and actors on its network, and the phases of its life.

use std::collections::{BTreeMap, BTreeSet};

use fluxar_engine::listener::ListenerId;
use fluxar_engine::mail::Control;
use fluxar_engine::reactor::Parcel;
use fluxar_engine::sim::{Faults, Random, SimDriver, SimSocket, Step, World};
use fluxar_gateway::limits::Limits;
use fluxar_gateway::mail::Mail;
use fluxar_gateway::worker::{Turn, Worker};

use crate::actor::{Actor, Role};
use crate::auditor::{Auditor, CallState, Totals};
use crate::machine::Machine;
use crate::wire::Wire;

/// What kind of town it is.
pub(crate) struct Plan {
    pub(crate) cores: usize,
    pub(crate) faults: Faults,
    pub(crate) mailbox_letters: usize,
    pub(crate) queue_bytes: usize,
    /// Subscribers stop reading now and then.
    pub(crate) slow_readers: bool,
    /// Connections are cut, and others come.
    pub(crate) deaths: bool,
    /// There are actors who mean no good.
    pub(crate) mischief: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            cores: 2,
            faults: Faults::none(),
            mailbox_letters: 64,
            queue_bytes: 1 << 20,
            slow_readers: false,
            deaths: false,
            mischief: false,
        }
    }
}

const MS: u64 = 1_000_000;

/// The town.
pub(crate) struct Town {
    plan: Plan,
    world: World,
    workers: Vec<Option<Worker<SimDriver>>>,
    control: Control<Parcel<SimSocket, Mail>>,
    listeners: [ListenerId; 2],
    actors: Vec<Actor>,
    auditor: Auditor,
    random: Random,
    names: u64,
}

impl Town {
    pub(crate) fn new(seed: u64, plan: Plan) -> Self {
        let limits = Limits {
            queue_bytes: plan.queue_bytes,
            heartbeat_ms: 2_000,
            ..Limits::default()
        };
        let Machine {
            world,
            workers,
            control,
            listeners,
        } = Machine::new(
            seed,
            plan.cores,
            plan.faults.clone(),
            plan.mailbox_letters,
            &limits,
        );
        Self {
            plan,
            world,
            workers,
            control,
            listeners,
            actors: Vec::new(),
            auditor: Auditor::default(),
            random: Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 1),
            names: 0,
        }
    }

    /// Lives from the first connection to the last, and returns what was heard and a hash of all that happened.
    pub(crate) fn live(mut self) -> (Totals, u64) {
        self.settle_in();
        self.bustle();
        self.calm_down();
        self.audit();
        self.leave();
        (self.auditor.totals, self.world.digest())
    }

    /// Everybody connects, subscribes, and is known on all cores before anything is said.
    fn settle_in(&mut self) {
        let mut roles = vec![
            Role::Publisher,
            Role::Subscriber,
            Role::Server,
            Role::Caller,
            Role::Member,
            Role::Member,
        ];
        for _ in 0..self.random.index(8) {
            let one = [
                Role::Publisher,
                Role::Subscriber,
                Role::Member,
                Role::Server,
                Role::Caller,
            ];
            roles.push(one[self.random.index(one.len())]);
        }
        for role in roles {
            self.arrive(role);
        }
        let deadline_ns = self.world.now_ns() + 60_000 * MS;
        while self
            .actors
            .iter()
            .any(|actor| actor.is_alive() && (!actor.greeted || !actor.asked.is_empty()))
        {
            assert!(self.world.now_ns() < deadline_ns, "somebody is never greeted");
            self.pass(10 * MS, false);
        }
        self.pass(200 * MS, false);
        for actor in &mut self.actors {
            actor.ear.since = Some(BTreeMap::new());
        }
    }

    fn bustle(&mut self) {
        if self.plan.mischief {
            for _ in 0..3 {
                self.arrive(Role::Mischief);
            }
        }
        for _ in 0..30 {
            self.pass(10 * MS, true);
            let now_ns = self.world.now_ns();
            if self.plan.slow_readers {
                for actor in &mut self.actors {
                    if matches!(actor.role, Role::Subscriber | Role::Member) && self.random.chance(0.1) {
                        actor.turn_deaf(now_ns + self.random.below(600) * MS);
                    }
                }
            }
            if self.plan.deaths && self.random.chance(0.3) {
                let victim = self.random.index(self.actors.len());
                let reset = self.random.chance(0.5);
                let victim = &mut self.actors[victim];
                victim.wire.die(reset);
                victim.ear.cut_short = true;
                let role = victim.role;
                self.arrive(role);
            }
        }
    }

    /// Nothing new is said; what is under way arrives.
    fn calm_down(&mut self) {
        for actor in &mut self.actors {
            actor.wake_up();
        }
        let deadline_ns = self.world.now_ns() + 600_000 * MS;
        loop {
            let before = (
                self.auditor.totals.events,
                self.auditor.totals.grouped,
                self.auditor.totals.dropped,
            );
            // Longer than a drop may stay untold.
            self.pass(2_000 * MS, false);
            let open = self.actors.iter().filter(|actor| actor.is_alive()).any(|actor| {
                actor.wire.unsent_bytes() > 0
                    || actor
                        .calls
                        .values()
                        .any(|state| matches!(state, CallState::Open { .. }))
            });
            if !open
                && before
                    == (
                        self.auditor.totals.events,
                        self.auditor.totals.grouped,
                        self.auditor.totals.dropped,
                    )
            {
                return;
            }
            assert!(
                self.world.now_ns() < deadline_ns,
                "calls stay open, or something never arrives"
            );
        }
    }

    fn audit(&mut self) {
        if !self.plan.deaths && self.plan.faults.reset == 0.0 && !self.plan.mischief {
            assert!(
                self.actors.iter().all(Actor::is_alive),
                "a connection was lost without a reason"
            );
        }
        let faithful: BTreeSet<u64> = self
            .actors
            .iter()
            .filter(|actor| actor.role == Role::Publisher && actor.is_alive())
            .map(|actor| actor.name)
            .collect();
        for actor in &mut self.actors {
            actor.ear.cut_short |= !actor.is_alive();
            self.auditor.settles(&actor.ear, &faithful);
        }
        if self
            .actors
            .iter()
            .all(|actor| actor.is_alive() && actor.ear.since.is_some())
        {
            let mut groups: BTreeMap<(String, String), u64> = BTreeMap::new();
            for actor in &self.actors {
                for (id, (pattern, group)) in &actor.ear.subscriptions {
                    if let Some(group) = group {
                        let told = Auditor::told_of(&actor.ear, *id);
                        *groups.entry((pattern.clone(), group.clone())).or_default() += told;
                    }
                }
            }
            for ((pattern, group), told) in groups {
                self.auditor
                    .group_settles(&pattern, &group, &BTreeMap::new(), told);
            }
        }
    }

    /// Everybody leaves, or the gateway is stopped; then nothing of anybody is left.
    fn leave(&mut self) {
        if self.random.chance(0.5) {
            for core in 0..self.plan.cores {
                assert!(self.control.post(core, Parcel::from(Mail::Stop)).is_ok());
            }
            let alive: Vec<usize> = (0..self.actors.len())
                .filter(|actor| self.actors[*actor].is_alive())
                .collect();
            let deadline_ns = self.world.now_ns() + 30_000 * MS;
            while self.workers.iter().any(Option::is_some) {
                assert!(self.world.now_ns() < deadline_ns, "a core never stops");
                self.pass(100 * MS, false);
            }
            if self.plan.faults.reset == 0.0 {
                for actor in alive {
                    assert!(
                        self.actors[actor].goodbye,
                        "{:?} was not told goodbye",
                        self.actors[actor].role
                    );
                }
            }
            return;
        }
        for actor in &mut self.actors {
            let reset = self.random.chance(0.5);
            actor.wire.die(reset);
        }
        // Longer than the longest drain and heartbeat.
        self.pass(10_000 * MS, false);
        assert_eq!(self.world.sockets_open(), 0, "sockets are left");
        for (core, worker) in self.workers.iter().enumerate() {
            let front = worker.as_ref().expect("it was not stopped").front();
            assert_eq!(front.sessions(), 0, "core {core} holds sessions");
            assert_eq!(
                self.world.leases_lent(core),
                0,
                "core {core} holds receive buffers"
            );
            let counts = front.shard_counts();
            let left = (
                counts.subscribers,
                counts.subscriptions,
                counts.groups,
                counts.servers,
                counts.open_calls,
            );
            assert_eq!(left, (0, 0, 0, 0, 0), "core {core}: {counts:?}");
            assert_eq!(
                counts.topic_patterns + counts.method_patterns + counts.pattern_bytes,
                0,
                "core {core}: {counts:?}"
            );
            assert_eq!(front.counters().opened, front.counters().closed);
        }
    }

    fn arrive(&mut self, role: Role) {
        let websocket = self.random.chance(0.4);
        let socket = self.world.connect(self.listeners[usize::from(websocket)]);
        self.names += 1;
        let wire = Wire::new(socket, websocket);
        self.actors
            .push(Actor::new(self.names, role, wire, &mut self.random));
        let now_ns = self.world.now_ns();
        self.world.alarm_at(now_ns + 1);
    }

    /// Lets so much time pass.
    fn pass(&mut self, for_ns: u64, active: bool) {
        let until_ns = self.world.now_ns() + for_ns;
        let mut next_alarm_ns = 0;
        let mut steps = 0u64;
        while self.world.now_ns() < until_ns {
            let now_ns = self.world.now_ns();
            if next_alarm_ns <= now_ns {
                // Busy times are looked at closely, quiet ones from afar.
                let pause_ns = if active {
                    1 + self.random.below(2 * MS)
                } else {
                    1 + self.random.below(20 * MS)
                };
                next_alarm_ns = now_ns + pause_ns;
                self.world.alarm_at(next_alarm_ns.min(until_ns));
            }
            steps += 1;
            assert!(steps < 5_000_000, "the town spins without time passing");
            match self.world.step() {
                Step::Core(core) => {
                    if let Some(worker) = &mut self.workers[core]
                        && let Turn::Stopped { cut_off, .. } =
                            worker.turn().expect("a simulated driver does not fail")
                    {
                        assert!(
                            cut_off == 0
                                || self.plan.faults.reset > 0.0
                                || self.plan.mischief
                                || self.plan.deaths,
                            "{cut_off} cut off"
                        );
                        self.workers[core] = None;
                    }
                }
                Step::Clients => {
                    for actor in &mut self.actors {
                        actor.listen(now_ns, &mut self.random, &mut self.auditor);
                        actor.act(now_ns, active, &mut self.random, &mut self.auditor);
                        actor.listen(now_ns, &mut self.random, &mut self.auditor);
                    }
                }
                Step::Quiet => self.world.alarm_at(until_ns),
            }
        }
    }
}
