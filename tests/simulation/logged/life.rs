//! A life: a gateway on a simulated machine, those around it, and what befalls them; then calm, and the audit.

use std::collections::BTreeMap;

use fluxar_engine::sim::{DiskFaults, Random};

use super::auditor::{Auditor, Broken, DEAD_TOPIC, EventName, Place, UNDER_WAY_NS};
use super::citizen::{Citizen, Role, Scene};
use super::damage::{Holds, sealed_spots};
use super::follower::{Follower, How};
use super::house::{CORES_MOST, House};
use super::line::Line;
use super::member::{Member, Queue};
use super::plan::{Crash, Plan, Retains, Upheaval, failing};
use super::publisher::Publisher;
use super::seam::{Fault, Saboteur};
use super::totals::Totals;
use super::truth::Truth;

const MS: u64 = 1_000_000;
/// What is to come must have come by then, once nothing befalls anybody any more.
const PATIENCE_MS: u64 = 90_000;
/// If nothing has come for so long, nothing will.
const QUIET_MS: u64 = 8_000;

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

    fn start(&mut self) {
        let mut cores = self.plan.cores;
        if self.plan.cores_change && self.auditor.totals.starts > 0 {
            cores = 1 + self.random.index(CORES_MOST);
        }
        self.auditor.era += 1;
        self.auditor.reads_fail = self.reads_fail;
        self.auditor.reads_failed |= self.reads_fail;
        self.auditor.totals.failed_starts += u64::from(self.house.start_fault.is_some());
        if self.house.start(cores) {
            self.auditor.totals.starts += 1;
            self.auditor
                .upheaval(format!("the gateway starts on {cores} cores"));
        } else {
            // It may have counted itself in `meta`, and ended before the copy of that was written.
            self.auditor.rough_starts += 1;
            let fault = &self.house.start_fault;
            self.auditor
                .upheaval(format!("the gateway does not start: {fault:?}"));
        }
    }

    /// The gateway ends without having been asked to.
    fn crash(&mut self, is_power_cut: bool) {
        if self.house.is_running() {
            self.auditor.rough_starts += 1;
        }
        if is_power_cut {
            self.house.power_cut();
            self.auditor.power_is_lost();
            self.auditor.totals.power_cuts += 1;
            self.auditor.upheaval("the power goes");
        } else {
            self.house.kill();
            self.auditor.process_is_lost();
            self.auditor.totals.kills += 1;
            self.auditor.upheaval("the gateway is killed");
        }
    }

    fn befall(&mut self, upheaval: Upheaval) {
        match upheaval {
            Upheaval::None => {}
            Upheaval::Kill | Upheaval::PowerCut => {
                self.crash(upheaval == Upheaval::PowerCut);
                self.come_back();
            }
            Upheaval::Stop => {
                self.stop();
                self.come_back();
            }
            Upheaval::Full => {
                let used = self.house.disk.used_bytes();
                let room = self.random.below(2 * self.plan.segment_bytes);
                self.auditor
                    .upheaval(format!("the disk has room for {room} bytes more"));
                self.house.disk.set_space(Some(used + room));
                self.pass(self.plan.act_ms * MS);
                // Whatever happens to the gateway meanwhile.
                if self.random.chance(0.3) {
                    let is_power_cut = self.random.chance(0.5);
                    self.crash(is_power_cut);
                    self.come_back();
                    self.pass(self.plan.act_ms * MS);
                }
                self.house.disk.set_space(None);
                self.auditor.upheaval("the disk has space again");
                if !self.house.is_running() {
                    self.start();
                }
            }
            Upheaval::Errors => {
                self.auditor.upheaval("the disk fails now and then");
                let faults = failing(self.random.chance(0.3));
                self.reads_fail = faults.read_error > 0.0;
                self.auditor.reads_fail |= self.reads_fail;
                let at_start = self.reads_fail && self.random.chance(0.5);
                self.house.files.fail_reads(if at_start { 0.03 } else { 0.0 });
                self.house.disk.set_faults(faults);
                self.pass(2 * self.plan.act_ms * MS);
                if self.random.chance(0.3) {
                    let is_power_cut = self.random.chance(0.5);
                    self.crash(is_power_cut);
                    self.come_back();
                    self.pass(self.plan.act_ms * MS);
                }
                self.disk_is_well(self.plan.disk.clone());
                self.auditor.upheaval("the disk is well again");
                if !self.house.is_running() {
                    self.start();
                }
            }
            Upheaval::Flip => {
                for _ in 0..1 + self.random.index(2) {
                    self.flip();
                }
            }
        }
    }

    /// Some time later it is started again, perhaps to crash at once.
    fn come_back(&mut self) {
        let away_ns = self.random.below(60) * MS;
        self.pass(away_ns);
        // The process ends while it puts its files in order.
        if self.random.chance(0.15) {
            let changes = self.random.below(4);
            self.house.files.end_behind(Some(changes));
            self.start();
            let awhile_ns = self.random.below(30) * MS;
            self.pass(awhile_ns);
            let is_power_cut = self.random.chance(0.5);
            self.crash(is_power_cut);
            self.house.files.end_behind(None);
        }
        self.start();
    }

    /// Stops it in good order, if it takes no longer than it is given.
    fn stop(&mut self) {
        self.auditor.upheaval("the gateway is told to stop");
        self.auditor.era += 1;
        self.house.stop();
        let patience_ns = if self.random.chance(0.3) {
            self.random.below(300) * MS
        } else {
            20_000 * MS
        };
        let until_ns = self.house.now_ns() + patience_ns;
        while self.house.is_running() && self.house.now_ns() < until_ns && !self.is_over() {
            self.pass(10 * MS);
        }
        if self.house.is_running() {
            let is_power_cut = self.random.chance(0.5);
            return self.crash(is_power_cut);
        }
        self.auditor.totals.stops += 1;
        if self.house.has_stopped_clean() {
            self.auditor.upheaval("the gateway has stopped in good order");
        } else {
            self.auditor.rough_starts += 1;
            self.auditor.process_is_lost();
            self.auditor.upheaval("the gateway has stopped");
        }
    }

    /// The disk does not fail any more. What a start could not read of it stays so until the next.
    fn disk_is_well(&mut self, faults: DiskFaults) {
        self.house.disk.set_faults(faults);
        self.house.files.fail_reads(0.0);
        self.reads_fail = false;
    }

    /// A bit in a sealed segment flips, if there is one.
    fn flip(&mut self) {
        let in_events = self.random.chance(0.6);
        let mut spots = sealed_spots(&self.house.disk);
        spots.retain(|spot| matches!(spot.holds, Holds::Events { .. }) == in_events);
        if spots.is_empty() {
            return;
        }
        let spot = spots.swap_remove(self.random.index(spots.len()));
        let at = spot.at + self.random.below(spot.bytes);
        let mask = 1 << self.random.below(8);
        if self.house.disk.flip(&spot.path, at, mask).is_err() {
            return;
        }
        match spot.holds {
            Holds::Events {
                partition,
                first,
                last,
            } => self.auditor.flips(partition, first, last),
            Holds::Cursors => self.auditor.totals.flips_beside += 1,
            Holds::Footer => {
                self.auditor.totals.flips_beside += 1;
                // It said that the log was stopped behind it in good order.
                self.auditor.rough_starts += 1;
            }
        }
        let what = format!(
            "a bit flips in {} at {at}, of {:?}",
            spot.path.display(),
            spot.holds
        );
        self.auditor.upheaval(what);
    }

    /// Somebody loses a connection: by its end, by a reset, or without the gateway being told.
    fn deaths(&mut self) {
        if self.is_calm || !self.random.chance(self.plan.deaths) {
            return;
        }
        let victim = self.random.index(self.citizens.len());
        let now_ns = self.house.now_ns();
        let again_ns = now_ns + 1 + self.random.below(50) * MS;
        let citizen = &mut self.citizens[victim];
        if !citizen.line.is_connected() {
            return;
        }
        match self.random.index(3) {
            0 => citizen.line.die(true, again_ns),
            1 => citizen.line.die(false, again_ns),
            _ => {
                citizen.line.abandon(now_ns, again_ns, &mut self.random);
                self.auditor.totals.takeovers += 1;
            }
        }
        let mut scene = Scene {
            now_ns,
            calm: false,
            random: &mut self.random,
            auditor: &mut self.auditor,
            queues: &mut self.queues,
        };
        citizen.is_cut(&mut scene);
    }

    /// A core takes no turn for a while.
    fn stalls(&mut self) {
        if let Some(slow) = self.plan.slow
            && !self.is_calm
            && slow.stall_ms > 0
            && self.random.chance(slow.stalls)
        {
            let core = self.random.index(CORES_MOST);
            let for_ms = self.random.below(slow.stall_ms);
            self.auditor.totals.stalls += 1;
            self.auditor
                .upheaval(format!("core {core} stands still for {for_ms} ms"));
            self.house.stall(core, for_ms * MS);
        }
    }

    /// Nothing befalls anybody any more: everything that was promised comes.
    fn calm_down(&mut self) {
        if self.is_over() {
            return;
        }
        self.is_calm = true;
        self.house.disk.set_space(None);
        self.disk_is_well(DiskFaults {
            latency_ns: self.plan.disk.latency_ns,
            ..DiskFaults::none()
        });
        let network = fluxar_engine::sim::Faults {
            reset: 0.0,
            ..self.plan.network.clone()
        };
        self.house.set_network_faults(network);
        self.auditor.upheaval("all is calm");
        // What a start could not read the next one reads.
        if self.auditor.reads_fail && self.house.is_running() {
            let is_power_cut = self.random.chance(0.5);
            self.crash(is_power_cut);
        }
        if !self.house.is_running() {
            self.start();
        }
        for citizen in &mut self.citizens {
            if let Role::Follower(follower) = &citizen.role
                && follower.name != follower.who
            {
                citizen.has_left = true;
                citizen.line.die(false, u64::MAX);
            }
        }
        let deadline_ns = self.house.now_ns() + PATIENCE_MS * MS;
        while let Some(event) = self.undone()
            && !self.is_over()
        {
            if self.house.now_ns() > deadline_ns {
                self.audit_recovered();
                let promise = format!("{event:?} was neither acknowledged nor refused for good");
                return self
                    .auditor
                    .breaks(promise, Some(event), None, Some(event.publisher));
            }
            self.pass(20 * MS);
        }
        self.saboteur.is_last();
        if self.random.chance(0.5) {
            // What was acknowledged is on the disk.
            let is_power_cut = self.random.chance(0.7);
            self.crash(is_power_cut);
            self.start();
        }
        if self.plan.expires {
            // What is given from now on and does not live long is given too late.
            self.pass(UNDER_WAY_NS + 200 * MS);
        }
        let reader = self.names + 1;
        self.arrive(Role::Follower(Follower::new(reader, ">", How::FromAll)));
        let keeper = self.names + 1;
        self.arrive(Role::Follower(Follower::new(keeper, "t.*", How::Table)));
        let mut heard = 0;
        let mut heard_at_ns = self.house.now_ns();
        let deadline_ns = heard_at_ns + PATIENCE_MS * MS;
        while !self.is_over() {
            self.pass(20 * MS);
            let now_ns = self.house.now_ns();
            let is_recovered = self.house.is_recovered();
            if !is_recovered && now_ns > deadline_ns {
                let truth = self.truth();
                return self.audit(&truth);
            }
            if self.auditor.totals.given > heard || !is_recovered {
                (heard, heard_at_ns) = (self.auditor.totals.given, now_ns);
                continue;
            }
            let truth = self.truth();
            let is_complete = self.auditor.has_all(&truth) && self.find_lack(&truth).is_none();
            // What nobody asked for would come now, too.
            if (is_complete && now_ns > heard_at_ns + 60 * MS) || now_ns > heard_at_ns + QUIET_MS * MS {
                return self.audit(&truth);
            }
        }
    }

    /// An event that its publisher knows nothing of yet.
    fn undone(&self) -> Option<EventName> {
        self.citizens.iter().find_map(|citizen| match &citizen.role {
            Role::Publisher(publisher) if !publisher.is_done() => publisher.oldest(),
            _ => None,
        })
    }

    /// All that the log holds, as the last reader got it.
    fn truth(&self) -> Truth {
        let mut readers = self
            .citizens
            .iter()
            .rev()
            .filter_map(|citizen| match &citizen.role {
                Role::Follower(follower) if follower.how == How::FromAll => Some(follower),
                _ => None,
            });
        let reader = readers.next().expect("one came when all was calm");
        Truth {
            reader: reader.who,
            begin: reader.begin.clone(),
            log: reader.seen.clone(),
        }
    }

    /// Somebody who lacks something of the truth, and what.
    fn find_lack(&self, truth: &Truth) -> Option<(u32, String, Option<EventName>, Option<Place>)> {
        for citizen in &self.citizens {
            let Role::Follower(follower) = &citizen.role else {
                continue;
            };
            let who = follower.who;
            if citizen.has_left {
                continue;
            }
            if !follower.is_accepted() {
                return Some((who, format!("{who} is not subscribed"), None, None));
            }
            if follower.how == How::Table {
                let rows = self.auditor.rows(truth, follower.pattern);
                if rows != follower.rows {
                    let mut keys = rows.keys().chain(follower.rows.keys());
                    let key = keys.find(|key| rows.get(*key) != follower.rows.get(*key));
                    let event = key.and_then(|key| follower.rows.get(key).or(rows.get(key)).copied());
                    let promise = format!(
                        "the table {} of {who} is {:?}, and not {rows:?}",
                        follower.pattern, follower.rows
                    );
                    return Some((who, promise, event, None));
                }
                continue;
            }
            if follower.how == How::Plain {
                continue;
            }
            let of_name =
                |citizen: &&Citizen| matches!(&citizen.role, Role::Follower(one) if one.name == who);
            let holders: Vec<&Citizen> = self.citizens.iter().filter(of_name).collect();
            let names: Vec<u32> = holders.iter().map(|holder| holder.who).collect();
            let has = |place, event| {
                holders.iter().any(|holder| {
                    matches!(&holder.role, Role::Follower(one) if one.seen.get(&place) == Some(&event))
                })
            };
            if let Some((event, place)) =
                self.auditor
                    .lacks(truth, &names, follower.pattern, &follower.begin, has)
            {
                let promise = format!(
                    "{who}, who follows {} ({:?}), never got {event:?} at {place:?}",
                    follower.pattern, follower.how
                );
                return Some((who, promise, Some(event), Some(place)));
            }
        }
        for (index, queue) in self.queues.iter().enumerate() {
            let members: Vec<u32> = self
                .citizens
                .iter()
                .filter(|citizen| matches!(&citizen.role, Role::Member(member) if member.queue == index))
                .map(|citizen| citizen.who)
                .collect();
            let aside = |event: EventName| truth.log.values().any(|held| *held == event.set_aside());
            let has = |place, event| queue.done.get(&place) == Some(&event) || aside(event);
            if let Some((event, place)) =
                self.auditor
                    .lacks(truth, &members, queue.pattern, &BTreeMap::new(), has)
            {
                let promise = format!(
                    "nobody of the queue of {} was done with {event:?} at {place:?}",
                    queue.pattern
                );
                return Some((members[0], promise, Some(event), Some(place)));
            }
        }
        None
    }

    /// A log whose disk refuses nothing any more is recovered.
    fn audit_recovered(&mut self) {
        if !self.house.is_recovered() {
            let promise = format!("the log was not recovered: {:?}", self.house.start_fault);
            self.auditor.breaks(promise, None, None, None);
        }
    }

    fn audit(&mut self, truth: &Truth) {
        // First, since it is why all else is not as it should be.
        self.audit_recovered();
        self.auditor.audit(truth);
        if let Some((who, promise, event, place)) = self.find_lack(truth) {
            self.auditor.breaks(promise, event, place, Some(who));
        }
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
