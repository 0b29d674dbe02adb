//! What one core sees of each offer, for people and for `$services.list`.

use crate::offering::Standing;
use crate::peer::PeerId;

use super::Serving;

/// One offer as one core sees it. Numbers of calls are this core's; those of all cores are to be added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceRow<'a> {
    /// Who serves.
    pub peer: PeerId,
    /// Its name: what it calls itself, or the endpoint that was dialled.
    pub name: &'a str,
    /// The fleet that it offered in; `None`: outside of any named one.
    pub fleet: Option<&'a str>,
    /// The methods.
    pub pattern: &'a str,
    /// Its share, relative to the others'.
    pub weight: u32,
    /// Where it stands.
    pub zone: Option<&'a str>,
    /// Calls and streams of this core's connections that are open at the peer, by whichever offer.
    pub in_flight: usize,
    /// How many it takes at a time, from all cores; `u32::MAX`: any number.
    pub in_flight_max: u32,
    /// Whether it gets new calls, as its home core says.
    pub standing: Standing,
    /// For so long this core leaves it out yet, ms; 0: it does not.
    pub ejected_ms: u64,
    /// How long its answers take, µs; `None`: not known yet.
    pub latency_us: Option<u64>,
    /// Ever: answers without an error to this core's connections, and streams that ended well.
    pub answered: u64,
    /// Ever: errors, and calls that were not answered in time.
    pub failed: u64,
    /// This core dialled it, and no other core gives it anything.
    pub is_local: bool,
}

impl Serving {
    pub(crate) fn rows(&self) -> impl Iterator<Item = ServiceRow<'_>> {
        self.offers.iter().map(|(_, offer)| {
            let server = &self.servers[offer.server as usize];
            let set = &self.sets[offer.set as usize];
            let fleet = &self.fleets[set.fleet as usize];
            let left_us = server.health.ejected_until_us.saturating_sub(self.now_us);
            ServiceRow {
                peer: server.peer,
                name: &server.name,
                fleet: fleet.name.as_deref(),
                pattern: fleet.patterns.text(set.pattern),
                weight: set.members[offer.at_set as usize].weight,
                zone: server.zone.as_deref(),
                in_flight: server.open.len(),
                in_flight_max: server.in_flight_max,
                standing: server.standing,
                ejected_ms: left_us.div_ceil(1_000),
                latency_us: server.latency.expected_us(self.now_us),
                answered: server.answered,
                failed: server.failed,
                is_local: !server.is_announced,
            }
        })
    }
}
