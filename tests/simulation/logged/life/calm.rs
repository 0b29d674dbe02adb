//! The end of a life: nothing befalls anybody any more, what was promised comes, and all is held against the truth.

use std::collections::BTreeMap;

use fluxar_engine::sim::DiskFaults;

use super::{Life, MS};
use crate::logged::auditor::{EventName, Place, UNDER_WAY_NS};
use crate::logged::citizen::{Citizen, Role};
use crate::logged::follower::{Follower, How};
use crate::logged::truth::Truth;

/// What is to come must have come by then, once nothing befalls anybody any more.
const PATIENCE_MS: u64 = 90_000;
/// If nothing has come for so long, nothing will.
const QUIET_MS: u64 = 8_000;

impl Life {
    /// Nothing befalls anybody any more: everything that was promised comes.
    pub(super) fn calm_down(&mut self) {
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
}
