//! A life: a gateway on a simulated machine, those around it, and what befalls them; then calm, and the audit.

mod calm;
mod upheavals;

use fluxar_engine::sim::Random;

use super::auditor::{Auditor, Broken, DEAD_TOPIC};
use super::citizen::{Citizen, Role, Scene};
use super::follower::{Follower, How};
use super::house::House;
use super::line::Line;
use super::member::{Member, Queue};
use super::plan::{Crash, Plan, Retains};
use super::publisher::Publisher;
use super::seam::{Fault, Saboteur};
use super::totals::Totals;

const MS: u64 = 1_000_000;

/// Lives a small life again and again, each time ended at the next operation that the cores ask of their disk: once by a
/// kill, once by a power cut.
pub(crate) fn live_everywhere(seed: u64) -> Result<Totals, Box<Broken>> {
    let mut whole = Life::new(seed, Plan::small(seed), None);
    whole.bustle();
    let operations = whole.saboteur.operations();
    let mut totals = Totals::default();
    for at_operation in 1..=operations {
        for is_power_cut in [false, true] {
            let crash = Crash {
                at_operation,
                is_power_cut,
            };
            let plan = Plan {
                crash: Some(crash),
                ..Plan::small(seed)
            };
            match Life::new(seed, plan, None).live() {
                Ok((of_life, _)) => totals.add(&of_life),
                Err(mut broken) => {
                    broken.promise = format!("{crash:?} of {operations}: {}", broken.promise);
                    return Err(broken);
                }
            }
        }
    }
    Ok(totals)
}

/// See the module.
pub(crate) struct Life {
    plan: Plan,
    house: House,
    saboteur: Saboteur,
    citizens: Vec<Citizen>,
    queues: Vec<Queue>,
    auditor: Auditor,
    random: Random,
    is_calm: bool,
    /// What is read of the disk fails now and then.
    reads_fail: bool,
    next_alarm_ns: u64,
    has_crashed: bool,
    names: u32,
}

impl Life {
    pub(crate) fn new(seed: u64, plan: Plan, fault: Option<Fault>) -> Self {
        let saboteur = Saboteur::new(fault, seed);
        let house = House::new(
            seed,
            plan.network.clone(),
            (plan.settings(), plan.limits()),
            plan.slow,
            saboteur.clone(),
        );
        house.disk.set_faults(plan.disk.clone());
        let mut life = Self {
            plan,
            house,
            saboteur,
            citizens: Vec::new(),
            queues: Vec::new(),
            auditor: Auditor::default(),
            random: Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 3),
            is_calm: false,
            reads_fail: false,
            next_alarm_ns: 0,
            has_crashed: false,
            names: 0,
        };
        life.auditor.retains = life.plan.retains.is_some();
        if let Some(Retains::Events(events)) = life.plan.retains {
            life.auditor.retain_events = events;
        }
        life.auditor.sessions_last = life.plan.sessions_last();
        life.auditor.deliveries_max = life.plan.deliveries_max;
        life.settle();
        life
    }

    /// Everybody who lives there.
    fn settle(&mut self) {
        for (once, topics) in self.plan.publishers.clone() {
            let name = self.names + 1;
            let ways = (self.plan.manner, self.plan.expires);
            self.arrive(Role::Publisher(Publisher::new(name, once, topics, ways)));
        }
        let mut followers = self.plan.followers.clone();
        if self.plan.deliveries_max.is_some() {
            followers.push((DEAD_TOPIC, How::Once));
        }
        for (pattern, how) in followers {
            let name = self.names + 1;
            self.arrive(Role::Follower(Follower::new(name, pattern, how)));
        }
        if self.plan.has_rival {
            self.rival();
        }
        for (queue, (pattern, members)) in self.plan.queues.clone().into_iter().enumerate() {
            self.queues.push(Queue::new(pattern, "crew"));
            for _ in 0..members {
                let name = self.names + 1;
                let in_flight = 1 + self.random.below(20);
                let terms = (in_flight, self.plan.fails);
                let member = Member::new(name, queue, terms, self.saboteur.clone());
                self.arrive(Role::Member(member));
            }
        }
    }

    /// Somebody has the name of another's cursor, too: one takes it from the other over and over.
    fn rival(&mut self) {
        let mut followers = self.citizens.iter().filter_map(|citizen| match &citizen.role {
            Role::Follower(follower) if follower.how == How::Once => Some(follower),
            _ => None,
        });
        let Some((name, pattern)) = followers.next().map(|first| (first.who, first.pattern)) else {
            return;
        };
        // What one of them has is had: neither of them keeps positions.
        for citizen in &mut self.citizens {
            if let Role::Follower(follower) = &mut citizen.role
                && follower.who == name
            {
                follower.how = How::Durable;
            }
        }
        let mut rival = Follower::new(self.names + 1, pattern, How::Durable);
        rival.name = name;
        self.arrive(Role::Follower(rival));
    }

    fn arrive(&mut self, role: Role) {
        self.names += 1;
        let resumes = self.random.chance(self.plan.resumes);
        let mut line = Line::new(self.names, resumes, self.saboteur.clone());
        line.gives_up = self.plan.slow.is_some();
        self.citizens.push(Citizen {
            who: self.names,
            line,
            role,
            has_left: false,
        });
    }

    /// Lives; what was lived through and a hash of all that happened, or the promise that was broken.
    pub(crate) fn live(mut self) -> Result<(Totals, u64), Box<Broken>> {
        self.bustle();
        self.calm_down();
        self.auditor.totals.disk_operations = self.saboteur.operations();
        self.auditor.totals.struck = self.saboteur.struck();
        match self.auditor.broken() {
            Some(broken) => Err(Box::new(broken.clone())),
            None => Ok((self.auditor.totals, self.house.digest())),
        }
    }

    fn bustle(&mut self) {
        self.start();
        for upheaval in self.plan.upheavals.clone() {
            self.pass(self.plan.act_ms * MS);
            self.befall(upheaval);
        }
        self.pass(self.plan.act_ms * MS);
    }

    fn is_over(&self) -> bool {
        self.auditor.broken().is_some()
    }

    /// Lets so much time pass.
    fn pass(&mut self, for_ns: u64) {
        let until_ns = self.house.now_ns() + for_ns;
        let mut steps = 0u64;
        while self.house.now_ns() < until_ns && !self.is_over() {
            let now_ns = self.house.now_ns();
            self.auditor.now_ns = now_ns;
            if self.next_alarm_ns <= now_ns {
                let pause_ns = if self.is_calm { 10 * MS } else { 4 * MS };
                self.next_alarm_ns = now_ns + 1 + self.random.below(pause_ns);
                self.house.alarm_at(self.next_alarm_ns.min(until_ns));
                self.deaths();
                self.stalls();
            }
            steps += 1;
            assert!(steps < 2_000_000, "the town spins without time passing");
            if self.house.step(until_ns) {
                self.citizens_go_on();
            }
            if let Some(fault) = self.house.unprovoked_fault() {
                let promise = format!("a start failed although the disk refused nothing: {fault}");
                self.auditor.breaks(promise, None, None, None);
            }
            if let Some(crash) = self.plan.crash
                && !self.has_crashed
                && self.saboteur.operations() >= crash.at_operation
            {
                self.has_crashed = true;
                self.crash(crash.is_power_cut);
                self.start();
            }
        }
    }

    fn citizens_go_on(&mut self) {
        let now_ns = self.house.now_ns();
        for citizen in self.citizens.iter_mut().filter(|citizen| !citizen.has_left) {
            let house = &mut self.house;
            let since = (self.auditor.losses, self.auditor.era);
            citizen
                .line
                .reach(now_ns, since, &mut self.random, || house.connect());
            let mut scene = Scene {
                now_ns,
                calm: self.is_calm,
                random: &mut self.random,
                auditor: &mut self.auditor,
                queues: &mut self.queues,
            };
            citizen.go_on(&mut scene);
        }
    }
}
