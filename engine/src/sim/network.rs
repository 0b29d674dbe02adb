//! What goes on below the drivers: operations of cores, links, the clock, and who goes on next.

mod clients;
mod operations;
mod requests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::listener::ListenerId;

use super::disk::Disk;
use super::link::Link;
use super::{Faults, Random, Step};

use operations::Operation;
pub(super) use operations::Outcome;

/// The clock begins here, so that a time of 0 is never meant by accident.
const BEGIN_NS: u64 = 1_000_000_000;

/// The port of the first listener; each has the next.
pub(super) const FIRST_PORT: u16 = 1024;

/// A connection's name. Never used twice.
pub(super) type LinkId = u64;

#[derive(Debug)]
pub(super) struct Network {
    now_ns: u64,
    random: Random,
    faults: Faults,
    digest: u64,
    cores: Vec<Core>,
    disk: Disk,
    /// By listener: when a connection may be accepted, and which.
    backlogs: Vec<VecDeque<(u64, LinkId)>>,
    links: BTreeMap<LinkId, Link>,
    next_link: LinkId,
    /// Moments at which the clock stops, and why.
    moments: BinaryHeap<Reverse<(u64, Moment)>>,
    clients_due: bool,
    sockets_open: usize,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    /// Something may arrive on a link.
    Link(LinkId),
    /// The clients asked for it.
    Alarm,
    /// An operation of some core is ready.
    Operation,
}

#[derive(Debug)]
struct Core {
    operations: Vec<Operation>,
    /// Listeners on which it accepts, and not before when.
    accepting: Vec<(ListenerId, u64)>,
    /// Its last turn was to park, and found nothing; nothing was asked of the driver since.
    parked: bool,
    woken: bool,
    /// Its driver was dropped.
    retired: bool,
    /// How many drivers it had.
    lives: u32,
    deadline_ns: Option<u64>,
    /// It takes no turn before then.
    stalled_until_ns: u64,
    buffers: usize,
    buffers_lent: Arc<AtomicUsize>,
}

impl Network {
    pub(super) fn new(seed: u64, cores: usize, faults: Faults) -> Network {
        let core = || Core {
            operations: Vec::new(),
            accepting: Vec::new(),
            parked: false,
            woken: false,
            retired: false,
            lives: 0,
            deadline_ns: None,
            stalled_until_ns: 0,
            buffers: faults.buffers,
            buffers_lent: Arc::default(),
        };
        Network {
            now_ns: BEGIN_NS,
            random: Random::new(seed),
            digest: seed,
            cores: (0..cores).map(|_| core()).collect(),
            disk: Disk::new(seed, cores),
            faults,
            backlogs: Vec::new(),
            links: BTreeMap::new(),
            next_link: 0,
            moments: BinaryHeap::new(),
            clients_due: false,
            sockets_open: 0,
        }
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.now_ns
    }

    pub(super) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    pub(super) fn set_faults(&mut self, faults: Faults) {
        self.faults = faults;
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    pub(super) fn leases_lent(&self, core: usize) -> usize {
        self.cores[core].buffers_lent.load(Ordering::Relaxed)
    }

    pub(super) fn sockets_open(&self) -> usize {
        self.sockets_open
    }

    pub(super) fn operations(&self) -> usize {
        self.cores.iter().map(|core| core.operations.len()).sum()
    }

    pub(super) fn alarm_at(&mut self, at_ns: u64) {
        self.moments.push(Reverse((at_ns, Moment::Alarm)));
    }

    /// A core takes no turn before then, whatever is ready.
    pub(super) fn stall(&mut self, core: usize, until_ns: u64) {
        self.cores[core].stalled_until_ns = until_ns;
        self.moments.push(Reverse((until_ns, Moment::Operation)));
        self.note(7, core as u64);
    }

    pub(super) fn step(&mut self) -> Step {
        loop {
            let runnable: Vec<usize> = (0..self.cores.len()).filter(|core| self.can_run(*core)).collect();
            if self.clients_due && (runnable.is_empty() || self.random.chance(0.5)) {
                self.clients_due = false;
                self.note(1, 0);
                return Step::Clients;
            }
            if !runnable.is_empty() {
                let core = runnable[self.random.index(runnable.len())];
                self.note(2, core as u64);
                return Step::Core(core);
            }
            let moment = self.moments.peek().map(|Reverse((at_ns, _))| *at_ns);
            let deadlines = self.cores.iter().filter_map(|core| {
                let deadline_ns = core.deadline_ns?;
                Some(deadline_ns.max(core.stalled_until_ns))
            });
            let deadline = deadlines.min();
            let Some(next_ns) = moment.into_iter().chain(deadline).min() else {
                return Step::Quiet;
            };
            self.now_ns = self.now_ns.max(next_ns);
            while self
                .moments
                .peek()
                .is_some_and(|Reverse((at_ns, _))| *at_ns <= self.now_ns)
                && let Some(Reverse((_, moment))) = self.moments.pop()
            {
                match moment {
                    Moment::Operation => {}
                    Moment::Alarm => self.clients_due = true,
                    Moment::Link(link) => {
                        if let Some(link) = self.links.get_mut(&link) {
                            link.to_core.arrive(self.now_ns);
                            let arrived = link.to_client.arrive(self.now_ns);
                            self.clients_due |= arrived && !link.dialled;
                        }
                    }
                }
            }
        }
    }

    /// Takes part of everything that happens, so that runs can be compared.
    fn note(&mut self, what: u64, number: u64) {
        for word in [self.now_ns, what, number] {
            self.digest = (self.digest ^ word)
                .wrapping_mul(0x0000_0100_0000_01b3)
                .rotate_left(23);
        }
    }

    /// A core gets a driver: which of its lives begins.
    pub(super) fn enlist(&mut self, core: usize) -> u32 {
        let buffers = self.faults.buffers;
        let core = &mut self.cores[core];
        core.lives += 1;
        core.stalled_until_ns = 0;
        if std::mem::take(&mut core.retired) {
            core.parked = false;
            core.woken = false;
            core.buffers = buffers;
            core.buffers_lent = Arc::default();
        }
        core.lives
    }

    /// The core's driver is gone: it runs no more, and what it had under way with it.
    pub(super) fn retire(&mut self, core: usize, life: u32) {
        if self.cores[core].lives != life {
            return;
        }
        self.disk_now().abandon(core);
        let core = &mut self.cores[core];
        core.operations.clear();
        core.accepting.clear();
        core.deadline_ns = None;
        core.retired = true;
    }

    fn can_run(&self, core: usize) -> bool {
        let Core {
            operations,
            accepting,
            parked,
            woken,
            deadline_ns,
            stalled_until_ns,
            retired,
            ..
        } = &self.cores[core];
        if *retired || self.now_ns < *stalled_until_ns {
            return false;
        }
        !parked
            || *woken
            || deadline_ns.is_some_and(|at_ns| at_ns <= self.now_ns)
            || operations.iter().any(|operation| self.is_ready(operation))
            || accepting.iter().any(|accepting| self.can_accept(*accepting))
            || self.disk.is_ready(core, self.now_ns)
    }

    /// A core's turn: everything of it that is ready, in any order that keeps each socket's own.
    pub(super) fn turn(&mut self, core: usize, park_until_ns: Option<u64>, outcomes: &mut VecDeque<Outcome>) {
        if !outcomes.is_empty() {
            self.cores[core].parked = false;
            return;
        }
        let mut runs: Vec<VecDeque<Outcome>> = Vec::new();
        let mut operations = std::mem::take(&mut self.cores[core].operations);
        self.random.shuffle(&mut operations);
        for operation in operations {
            let mut run = VecDeque::new();
            if let Some(operation) = self.advance(core, operation, &mut run) {
                self.cores[core].operations.push(operation);
            }
            if !run.is_empty() {
                runs.push(run);
            }
        }
        let now_ns = self.now_ns;
        for done in self.disk_now().tell(core, now_ns) {
            runs.push(VecDeque::from([Outcome::Disk(done)]));
        }
        let accepted = self.accept_some(core);
        if !accepted.is_empty() {
            runs.push(accepted);
        }
        while !runs.is_empty() {
            let chosen = self.random.index(runs.len());
            outcomes.extend(runs[chosen].pop_front());
            if runs[chosen].is_empty() {
                runs.swap_remove(chosen);
            }
        }
        let now_ns = self.now_ns;
        let core = &mut self.cores[core];
        let woken = std::mem::take(&mut core.woken);
        core.deadline_ns = park_until_ns;
        core.parked = outcomes.is_empty() && !woken && park_until_ns.is_none_or(|until_ns| until_ns > now_ns);
        self.note(3, outcomes.len() as u64);
    }

    /// The disk, as it is at this moment.
    pub(super) fn disk_now(&mut self) -> &mut Disk {
        self.disk.advance(self.now_ns);
        &mut self.disk
    }

    /// When bytes that are sent now arrive.
    fn arrival_ns(&mut self) -> u64 {
        let (low, high) = self.faults.latency_ns;
        self.now_ns + self.random.between(low, high).max(1)
    }

    /// Has the clock stop when the next thing arrives on a link.
    fn expect(&mut self, id: LinkId) {
        if let Some(link) = self.links.get(&id) {
            for at_ns in link.expected_ns(self.now_ns) {
                self.moments.push(Reverse((at_ns, Moment::Link(id))));
            }
        }
    }

    /// Whether the completion at hand comes late, and when.
    fn late(&mut self) -> Option<u64> {
        if !self.random.chance(self.faults.late) {
            return None;
        }
        let ready_at_ns = self.now_ns + self.random.between(1, self.faults.late_ns_max.max(1));
        self.moments.push(Reverse((ready_at_ns, Moment::Operation)));
        Some(ready_at_ns)
    }

    fn forget_if_over(&mut self, id: LinkId) {
        if self.links.get(&id).is_some_and(Link::is_over) {
            self.links.remove(&id);
        }
    }
}
