//! What befalls those who live: crashes, stops and starts, a disk that is full, fails or turns bits, connections that die.

use fluxar_engine::sim::DiskFaults;

use super::{Life, MS};
use crate::logged::citizen::Scene;
use crate::logged::damage::{Holds, sealed_spots};
use crate::logged::house::CORES_MOST;
use crate::logged::plan::{Upheaval, failing};

impl Life {
    pub(super) fn start(&mut self) {
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
    pub(super) fn crash(&mut self, is_power_cut: bool) {
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

    pub(super) fn befall(&mut self, upheaval: Upheaval) {
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
    pub(super) fn disk_is_well(&mut self, faults: DiskFaults) {
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
    pub(super) fn deaths(&mut self) {
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
    pub(super) fn stalls(&mut self) {
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
}
