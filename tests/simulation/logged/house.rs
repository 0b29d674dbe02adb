//! A gateway with a log on a simulated machine: started, recovered, stopped, killed, and started again with another number of
//! cores. The machine's disk and network outlive it.

use std::path::Path;
use std::sync::Arc;

use fluxar_engine::listener::ListenerId;
use fluxar_engine::mail::{self, Control};
use fluxar_engine::reactor::{Board, Parcel, Reactor, ReactorConfig, Transport};
use fluxar_engine::sim::{ClientSocket, Faults, Random, SimDisk, SimSocket, Step, World};
use fluxar_gateway::front::Front;
use fluxar_gateway::limits::Limits;
use fluxar_gateway::mail::Mail;
use fluxar_gateway::outbox::Framing;
use fluxar_gateway::worker::{Turn, Worker};
use fluxar_shard::log::recovery::{Meta, Recovery, RecoveryFault};
use fluxar_shard::log::{RecoveredLog, Settings};

use super::files::SimFiles;
use super::plan::SlowStarts;
use super::seam::{Fault, Saboteur, Seam};

/// The machine has so many.
pub(crate) const CORES_MOST: usize = 3;
/// Where the log is.
pub(crate) const DIRECTORY: &str = "/log";
/// The world's clock begins at one second; that of the people then shows this, ms since 1970.
const WALL_CLOCK_MS: u64 = 1_800_000_000_000;

/// The machine, and the gateway while it runs.
pub(crate) struct House {
    world: World,
    listener: ListenerId,
    pub(crate) disk: SimDisk,
    pub(crate) files: SimFiles,
    settings: Settings,
    limits: Limits,
    slow: Option<SlowStarts>,
    saboteur: Saboteur,
    random: Random,
    running: Option<Running>,
    has_stopped_clean: bool,
    /// What a start could not do, the last time.
    pub(crate) start_fault: Option<RecoveryFault>,
    /// What a start could not do although the disk refused nothing.
    unprovoked_fault: Option<String>,
}

struct Running {
    /// `None` once one has stopped.
    workers: Vec<Option<Worker<Seam>>>,
    control: Control<Parcel<SimSocket, Mail>>,
    /// `None` once it has ended.
    recovery: Option<Recovery<SimFiles>>,
    /// It ended by a fault: what it had not handed out stays unavailable until the next start.
    has_failed: bool,
    was_clean: bool,
    /// A share for which its core's mailbox had no room yet.
    share: Option<(usize, Parcel<SimSocket, Mail>)>,
    /// When recovery goes on.
    recovers_at_ns: u64,
    /// Each share takes so long to be read, at most, if starts are slow.
    share_ns: Option<u64>,
    /// A core that was handed its share, and how long it is about that.
    is_about_share: Option<(usize, u64)>,
    all_sealed: bool,
}

impl Running {
    /// Whether everything that the disk held was handed to the cores.
    fn is_recovered(&self) -> bool {
        self.recovery.is_none() && self.share.is_none() && !self.has_failed
    }
}

impl House {
    pub(crate) fn new(
        seed: u64,
        faults: Faults,
        (settings, limits): (Settings, Limits),
        slow: Option<SlowStarts>,
        saboteur: Saboteur,
    ) -> Self {
        let mut world = World::new(seed, CORES_MOST, faults);
        let listener = world.listen();
        // A core that never had a driver is one that spins.
        for core in 0..CORES_MOST {
            drop(world.driver(core));
        }
        let disk = world.disk();
        let files = SimFiles::new(seed, disk.clone(), Path::new(DIRECTORY), saboteur.clone());
        Self {
            world,
            listener,
            disk,
            files,
            settings,
            limits,
            slow,
            saboteur,
            random: Random::new(seed ^ 0x686f_7573),
            running: None,
            has_stopped_clean: false,
            start_fault: None,
            unprovoked_fault: None,
        }
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.world.now_ns()
    }

    pub(crate) fn digest(&self) -> u64 {
        self.world.digest()
    }

    pub(crate) fn set_network_faults(&mut self, faults: Faults) {
        self.world.set_faults(faults);
    }

    pub(crate) fn alarm_at(&mut self, at_ns: u64) {
        self.world.alarm_at(at_ns);
    }

    pub(crate) fn connect(&mut self) -> ClientSocket {
        self.world.connect(self.listener)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Whether everything that the disk held was handed to the cores.
    pub(crate) fn is_recovered(&self) -> bool {
        self.running.as_ref().is_some_and(Running::is_recovered)
    }

    /// What a start could not do although the disk refused nothing, since this was last asked.
    pub(crate) fn unprovoked_fault(&mut self) -> Option<String> {
        self.unprovoked_fault.take()
    }

    /// Starts the gateway; whether it could be.
    pub(crate) fn start(&mut self, cores: usize) -> bool {
        assert!(self.running.is_none(), "one gateway has the directory at a time");
        let random: [u8; 16] = std::array::from_fn(|_| self.random.next() as u8);
        let unix_ms = WALL_CLOCK_MS + self.now_ns() / 1_000_000;
        self.files.has_refused();
        let opened = Recovery::open(self.files.clone(), cores as u16, &self.settings, random, unix_ms);
        self.has_stopped_clean = false;
        let recovery = match opened {
            Ok(recovery) => recovery,
            Err(fault) => {
                if !self.files.has_refused() {
                    self.unprovoked_fault = Some(fault.to_string());
                }
                self.start_fault = Some(fault);
                return false;
            }
        };
        self.start_fault = None;
        let mut settings = Settings {
            partitions: recovery.partitions(),
            ..self.settings.clone()
        };
        let has_dead_letters = settings.topics.iter().any(|rule| rule.dead_letter.is_some());
        if has_dead_letters && self.saboteur.strikes(Fault::DeadLetterLost) {
            settings
                .topics
                .iter_mut()
                .for_each(|rule| rule.dead_letter = None);
        }
        let settings = Arc::new(settings);
        let (mut control, endpoints) = mail::mesh(cores, 16);
        let board = Board::new(cores);
        let mut workers = Vec::new();
        for (core, endpoint) in endpoints.into_iter().enumerate() {
            let config = ReactorConfig {
                spin_us: 0,
                ..ReactorConfig::default()
            };
            let driver = Seam::new(self.world.driver(core), core, self.saboteur.clone());
            let transports = vec![(self.listener, Transport::Stream)];
            let reactor = Reactor::new(driver, endpoint, board.clone(), transports, config);
            let mut entropy = Random::new(self.random.next());
            let mut front = Front::new(
                core as u16,
                cores as u16,
                self.limits.clone(),
                vec![Framing::Prefixed],
                recovery.epoch(),
                Box::new(move |bytes| bytes.iter_mut().for_each(|byte| *byte = entropy.next() as u8)),
            );
            front.set_log(Arc::clone(&settings), Arc::from(Path::new(DIRECTORY)));
            let clock_saboteur = self.saboteur.clone();
            front.set_wall_clock(Box::new(move |now_ms| {
                let stands = clock_saboteur.strikes(Fault::ExpiryForgotten);
                WALL_CLOCK_MS + if stands { 0 } else { now_ms }
            }));
            control.attach(core, self.world.waker(core));
            workers.push(Some(Worker::new(reactor, front)));
        }
        let mut recovers_at_ns = self.now_ns();
        let share_ns = self.slow.as_ref().map(|slow| {
            let start_ns = slow.start_ms.0 + self.random.below(slow.start_ms.1 - slow.start_ms.0);
            2 * start_ns * 1_000_000 / cores as u64
        });
        if let Some(share_ns) = share_ns {
            recovers_at_ns += self.random.below(share_ns);
        }
        self.running = Some(Running {
            workers,
            control,
            was_clean: recovery.was_clean(),
            recovery: Some(recovery),
            has_failed: false,
            share: None,
            recovers_at_ns,
            share_ns,
            is_about_share: None,
            all_sealed: true,
        });
        true
    }

    /// The process ends here and now.
    pub(crate) fn kill(&mut self) {
        self.running = None;
    }

    /// So does everything that was not synced.
    pub(crate) fn power_cut(&mut self) {
        self.running = None;
        self.disk.power_cut();
    }

    /// Tells it to stop in good order; [`House::is_running`] says when it has.
    pub(crate) fn stop(&mut self) {
        let Some(running) = &mut self.running else { return };
        for core in 0..running.workers.len() {
            let posted = running.control.post(core, Parcel::from(Mail::Stop));
            assert!(posted.is_ok(), "core {core} has not kept up");
        }
    }

    /// One of its cores takes no turn for so long.
    pub(crate) fn stall(&mut self, core: usize, for_ns: u64) {
        if let Some(running) = &self.running
            && core < running.workers.len()
        {
            let until_ns = self.now_ns() + for_ns;
            self.world.stall(core, until_ns);
        }
    }

    /// Whether it sealed its log when it ended the last time.
    pub(crate) fn has_stopped_clean(&self) -> bool {
        self.has_stopped_clean
    }

    /// Lets whose turn it is go on; true if it is the clients'.
    pub(crate) fn step(&mut self, until_ns: u64) -> bool {
        self.recover();
        match self.world.step() {
            Step::Core(core) => self.turn(core),
            Step::Clients => return true,
            Step::Quiet => self.world.alarm_at(until_ns),
        }
        false
    }

    fn turn(&mut self, core: usize) {
        let Some(running) = &mut self.running else { return };
        let Some(worker) = running.workers.get_mut(core).and_then(Option::as_mut) else {
            return;
        };
        match worker.turn().expect("a simulated driver does not fail") {
            Turn::Running => {}
            Turn::Stopped { log_is_sealed, .. } => {
                running.all_sealed &= log_is_sealed;
                running.workers[core] = None;
            }
        }
        if let Some((_, for_ns)) = running.is_about_share.take_if(|(about, _)| *about == core) {
            let until_ns = self.world.now_ns() + for_ns;
            self.world.stall(core, until_ns);
        }
        if running.workers.iter().all(Option::is_none) {
            let is_clean = running.all_sealed && running.is_recovered();
            self.running = None;
            // One that cannot be marked is no harm: offsets skip some numbers.
            self.has_stopped_clean = is_clean && Meta::mark_clean(&mut self.files).is_ok();
        }
    }

    /// Recovery goes on, beside the cores and slower than they.
    fn recover(&mut self) {
        let now_ns = self.now_ns();
        let Some(running) = &mut self.running else { return };
        if now_ns < running.recovers_at_ns {
            return;
        }
        if running.recovery.is_some() && self.saboteur.strikes(Fault::RecoveryStuck) {
            running.recovers_at_ns = now_ns + 15_000_000;
            return self.world.alarm_at(running.recovers_at_ns);
        }
        if running.share.is_none() {
            let Some(recovery) = &mut running.recovery else {
                return;
            };
            self.files.has_refused();
            let stepped = match self.saboteur.fails_step() {
                Some(fault) => Err(fault),
                None => recovery.step(|_| ()),
            };
            match stepped {
                Ok(Some(mut share)) => {
                    self.saboteur.tamper(&mut share, running.was_clean);
                    let core = usize::from(share.core);
                    let log = RecoveredLog::new(share, self.random.next());
                    running.share = Some((core, Parcel::from(Mail::Recovered(Box::new(log)))));
                }
                Ok(None) => running.recovery = None,
                Err(fault) => {
                    // What the disk does not give or take now is tried again; anything else stays unavailable until the next start.
                    if !matches!(fault, RecoveryFault::Disk { .. }) {
                        running.recovery = None;
                        running.has_failed = true;
                    }
                    if !self.files.has_refused() {
                        self.unprovoked_fault = Some(fault.to_string());
                    }
                    self.start_fault = Some(fault);
                }
            }
        }
        if let Some((core, parcel)) = running.share.take()
            && running.workers[core].is_some()
        {
            match running.control.post(core, parcel) {
                Err(parcel) => running.share = Some((core, parcel)),
                Ok(()) => {
                    running.is_about_share = self
                        .slow
                        .as_ref()
                        .filter(|slow| slow.stall_ms > 0 && self.random.chance(0.5))
                        .map(|slow| (core, self.random.below(slow.stall_ms) * 1_000_000));
                }
            }
        }
        let pause_ns = match running.share_ns {
            Some(share_ns) if running.share.is_none() => share_ns,
            _ => 15_000_000,
        };
        running.recovers_at_ns = now_ns + self.random.below(pause_ns);
        self.world.alarm_at(running.recovers_at_ns);
    }
}
