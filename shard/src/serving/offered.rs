//! What a peer offers, for those who ask whether it still serves something that is on its way to it.

use std::sync::Arc;

use fluxar_protocol::{Id, target};

use super::{Offer, Serving};
use crate::offering::Offering;
use crate::peer::PeerId;

impl Serving {
    /// The pattern of an offer, by its name.
    pub(crate) fn text_of(&self, peer: PeerId, sub: Id) -> Option<Arc<str>> {
        let &(offer, _) = self.by_name.get(&(peer, sub))?;
        Some(self.text(offer))
    }

    /// An offer's pattern and its terms as they are now, by its name.
    pub(crate) fn terms_of(&self, peer: PeerId, sub: Id) -> Option<(Arc<str>, Offering)> {
        let &(offer, _) = self.by_name.get(&(peer, sub))?;
        let Offer {
            server, set, at_set, ..
        } = self.offers[offer as usize];
        let set = &self.sets[set as usize];
        let server = &self.servers[server as usize];
        let terms = Offering {
            fleet: self.fleets[set.fleet as usize].name.clone(),
            weight: set.members[at_set as usize].weight,
            in_flight_max: server.in_flight_max,
            zone: server.zone.clone(),
            credit_bytes: server.credit_bytes,
            name: server.name.clone(),
        };
        Some((self.text(offer), terms))
    }

    /// Whether a peer offers a method, in whatever fleet; one with more than so many offers counts as if it did.
    pub(crate) fn is_offered_by(&self, peer: PeerId, method: &str, offers_seen_max: usize) -> bool {
        let Some(server) = self.find(peer) else {
            return false;
        };
        let offers = &self.servers[server as usize].offers;
        let mut patterns = offers.iter().map(|&offer| self.text(offer));
        offers.len() > offers_seen_max || patterns.any(|pattern| target::matches(&pattern, method))
    }
}
