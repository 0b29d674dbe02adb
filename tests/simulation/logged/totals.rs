//! What was lived through in a life, or in many.

use std::fmt;

/// Counts, for the table at the end.
#[derive(Default, Clone)]
pub(crate) struct Totals {
    pub(crate) published: u64,
    pub(crate) acknowledged: u64,
    pub(crate) refused: u64,
    pub(crate) given: u64,
    pub(crate) repeated: u64,
    pub(crate) worked: u64,
    pub(crate) worked_again: u64,
    pub(crate) set_aside: u64,
    pub(crate) expired: u64,
    pub(crate) starts: u64,
    pub(crate) failed_starts: u64,
    pub(crate) kills: u64,
    pub(crate) power_cuts: u64,
    pub(crate) stops: u64,
    pub(crate) flips: u64,
    pub(crate) flips_beside: u64,
    pub(crate) told_damaged: u64,
    pub(crate) told_gone: u64,
    pub(crate) lost_connections: u64,
    pub(crate) given_up: u64,
    pub(crate) stalls: u64,
    pub(crate) resumed: u64,
    pub(crate) takeovers: u64,
    pub(crate) disk_operations: u64,
    pub(crate) struck: u64,
}

impl Totals {
    /// Name and value of each.
    pub(crate) fn rows(&self) -> [(&'static str, u64); 25] {
        [
            ("events published", self.published),
            ("acknowledged", self.acknowledged),
            ("refused for a while", self.refused),
            ("given to subscribers", self.given),
            ("of these, repeated", self.repeated),
            ("given to members of queues", self.worked),
            ("of these, again", self.worked_again),
            ("events set aside", self.set_aside),
            ("events that expired unread", self.expired),
            ("starts of the gateway", self.starts),
            ("of these, unable to read all", self.failed_starts),
            ("kills", self.kills),
            ("power cuts", self.power_cuts),
            ("stops in good order", self.stops),
            ("bits flipped in events", self.flips),
            ("in cursors and footers", self.flips_beside),
            ("subscribers told of damage", self.told_damaged),
            ("subscribers told what is gone", self.told_gone),
            ("connections lost", self.lost_connections),
            ("of these, silent ones given up", self.given_up),
            ("cores that stood still", self.stalls),
            ("sessions resumed", self.resumed),
            ("subscriptions taken over", self.takeovers),
            ("operations of disks", self.disk_operations),
            ("faults that were planted", self.struck),
        ]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.published += other.published;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.given += other.given;
        self.repeated += other.repeated;
        self.worked += other.worked;
        self.worked_again += other.worked_again;
        self.set_aside += other.set_aside;
        self.expired += other.expired;
        self.starts += other.starts;
        self.failed_starts += other.failed_starts;
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.stops += other.stops;
        self.flips += other.flips;
        self.flips_beside += other.flips_beside;
        self.told_damaged += other.told_damaged;
        self.told_gone += other.told_gone;
        self.lost_connections += other.lost_connections;
        self.given_up += other.given_up;
        self.stalls += other.stalls;
        self.resumed += other.resumed;
        self.takeovers += other.takeovers;
        self.disk_operations += other.disk_operations;
        self.struck += other.struck;
    }
}

impl fmt::Debug for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.rows()).finish()
    }
}
