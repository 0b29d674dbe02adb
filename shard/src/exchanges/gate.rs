//! The gate in front of a serving peer of this core that takes a bounded number of calls at a time.
//!
//! Every core gives the peer calls as it sees fit, and each sees only its own. The peer's home core sees all that pass:
//! what is beyond the peer's `in_flight_max` waits here, in the order of `prio`, then of age. Since no core has more
//! than that many open at the peer, at most (cores × `in_flight_max`) are here.
//!
//! Exchanges of the home core itself are counted by its [`crate::exchanges`]; a gate counts those of other cores, and
//! exists only while there are some, or somebody waits.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use fluxar_protocol::Id;
use foldhash::fast::FixedState;

use crate::peer::PeerId;

/// A call or an open in front of a gate, its id replaced already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    /// The id under which it is forwarded.
    pub(crate) reference: Id,
    pub(crate) bytes: Bytes,
    /// Its slot, if it is one of this core's own.
    pub(crate) here: Option<u32>,
    /// Since when, µs.
    pub(crate) held_us: u64,
}

/// What left a gate.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// One that had passed it: there is room for another.
    Passed,
    /// One that was waiting; the peer never heard of it.
    Waiting(Held),
    Unknown,
}

#[derive(Debug)]
pub(crate) struct Gates {
    gates: HashMap<PeerId, Gate, FixedState>,
    hasher: FixedState,
    serial: u64,
    waiting: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Gate {
    /// Exchanges of other cores that have passed.
    passed: HashSet<Id, FixedState>,
    waiting: BTreeMap<Place, Held>,
    places: HashMap<Id, Place, FixedState>,
    /// How many of those that wait are of this core.
    waiting_here: usize,
}

type Place = (Reverse<u8>, u64);

impl Gates {
    pub(crate) fn new(hasher: &FixedState) -> Self {
        Self {
            gates: HashMap::with_hasher(hasher.clone()),
            hasher: hasher.clone(),
            serial: 0,
            waiting: 0,
            bytes: 0,
        }
    }

    /// Whether nothing of another core is open at any peer of this one that takes a bounded number.
    pub(crate) fn is_empty(&self) -> bool {
        self.gates.is_empty()
    }

    /// Exchanges that wait at all gates.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Exchanges of other cores that have passed, over all gates.
    pub(crate) fn passed(&self) -> usize {
        self.gates.values().map(|gate| gate.passed.len()).sum()
    }

    /// How many exchanges the peer has, if this core has `open_here` open at it.
    pub(crate) fn in_flight(&self, peer: PeerId, open_here: usize) -> usize {
        match self.gates.get(&peer) {
            Some(gate) => gate.passed.len() + open_here.saturating_sub(gate.waiting_here),
            None => open_here,
        }
    }

    /// Whether somebody waits in front of this peer.
    pub(crate) fn has_waiting(&self, peer: PeerId) -> bool {
        self.waiting > 0 && self.gates.get(&peer).is_some_and(|gate| !gate.waiting.is_empty())
    }

    /// An exchange of another core passes.
    pub(crate) fn pass(&mut self, peer: PeerId, reference: Id) {
        self.gate(peer).passed.insert(reference);
    }

    /// An exchange has to wait.
    pub(crate) fn hold(&mut self, peer: PeerId, prio: u8, held: Held) {
        self.serial += 1;
        let place = (Reverse(prio), self.serial);
        self.waiting += 1;
        self.bytes += held.bytes.len();
        let gate = self.gate(peer);
        gate.waiting_here += usize::from(held.here.is_some());
        gate.places.insert(held.reference, place);
        gate.waiting.insert(place, held);
    }

    /// Takes out the first that waits: it passes now.
    pub(crate) fn next(&mut self, peer: PeerId) -> Option<Held> {
        let gate = self.gates.get_mut(&peer)?;
        let (_, held) = gate.waiting.pop_first()?;
        gate.places.remove(&held.reference);
        match held.here {
            Some(_) => gate.waiting_here -= 1,
            None => {
                gate.passed.insert(held.reference);
            }
        }
        self.waiting -= 1;
        self.bytes -= held.bytes.len();
        self.release(peer);
        Some(held)
    }

    /// An exchange is over, for whatever reason.
    pub(crate) fn leave(&mut self, peer: PeerId, reference: Id) -> Left {
        let Some(gate) = self.gates.get_mut(&peer) else {
            return Left::Unknown;
        };
        let left = if gate.passed.remove(&reference) {
            Left::Passed
        } else if let Some(held) = gate
            .places
            .remove(&reference)
            .and_then(|place| gate.waiting.remove(&place))
        {
            gate.waiting_here -= usize::from(held.here.is_some());
            self.waiting -= 1;
            self.bytes -= held.bytes.len();
            Left::Waiting(held)
        } else {
            return Left::Unknown;
        };
        self.release(peer);
        left
    }

    /// Takes one out that waits, if it does.
    pub(crate) fn withdraw(&mut self, peer: PeerId, reference: Id) -> Option<Held> {
        let gate = self.gates.get(&peer)?;
        gate.places.get(&reference)?;
        match self.leave(peer, reference) {
            Left::Waiting(held) => Some(held),
            Left::Passed | Left::Unknown => None,
        }
    }

    /// All that waits in front of a peer, in order.
    pub(crate) fn held(&self, peer: PeerId) -> impl Iterator<Item = &Held> {
        self.gates
            .get(&peer)
            .into_iter()
            .flat_map(|gate| gate.waiting.values())
    }

    /// The peer is lost, and its gate with it. What waited there, which the peer never heard of.
    pub(crate) fn lose(&mut self, peer: PeerId) -> impl Iterator<Item = Held> + use<> {
        let waiting = self
            .gates
            .remove(&peer)
            .map(|gate| gate.waiting)
            .unwrap_or_default();
        self.waiting -= waiting.len();
        self.bytes -= waiting.values().map(|held| held.bytes.len()).sum::<usize>();
        waiting.into_values()
    }

    fn gate(&mut self, peer: PeerId) -> &mut Gate {
        self.gates.entry(peer).or_insert_with(|| Gate {
            passed: HashSet::with_hasher(self.hasher.clone()),
            waiting: BTreeMap::new(),
            places: HashMap::with_hasher(self.hasher.clone()),
            waiting_here: 0,
        })
    }

    fn release(&mut self, peer: PeerId) {
        if self
            .gates
            .get(&peer)
            .is_some_and(|gate| gate.passed.is_empty() && gate.waiting.is_empty())
        {
            self.gates.remove(&peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId {
        slot: 1,
        generation: 2,
        core: 0,
    };

    fn held(number: u8, here: Option<u32>) -> Held {
        Held {
            reference: Id([number; 16]),
            bytes: Bytes::from_static(b"call"),
            here,
            held_us: 0,
        }
    }

    #[test]
    fn what_waits_is_not_in_flight_and_goes_by_prio_then_age() {
        let mut gates = Gates::new(&FixedState::with_seed(3));
        assert_eq!(gates.in_flight(PEER, 2), 2);
        gates.pass(PEER, Id([1; 16]));
        gates.hold(PEER, 4, held(2, Some(7)));
        gates.hold(PEER, 5, held(3, None));
        gates.hold(PEER, 4, held(4, None));
        // Two of this core's are open: one that passed, and the one that waits.
        assert_eq!(gates.in_flight(PEER, 2), 2);
        assert_eq!((gates.waiting(), gates.bytes()), (3, 12));
        assert_eq!(gates.leave(PEER, Id([1; 16])), Left::Passed);
        assert_eq!(gates.leave(PEER, Id([1; 16])), Left::Unknown);
        assert_eq!(gates.next(PEER), Some(held(3, None)));
        assert_eq!(gates.in_flight(PEER, 2), 2);
        assert_eq!(gates.leave(PEER, Id([2; 16])), Left::Waiting(held(2, Some(7))));
        assert_eq!(gates.next(PEER), Some(held(4, None)));
        assert_eq!(gates.next(PEER), None);
        assert!(!gates.has_waiting(PEER));
        assert_eq!(gates.passed(), 2);
        gates.leave(PEER, Id([3; 16]));
        gates.leave(PEER, Id([4; 16]));
        assert!(gates.gates.is_empty(), "a gate that nobody needs is not there");
    }

    #[test]
    fn a_lost_peer_takes_its_gate_along() {
        let mut gates = Gates::new(&FixedState::with_seed(3));
        gates.hold(PEER, 0, held(1, None));
        gates.pass(PEER, Id([2; 16]));
        assert_eq!(gates.lose(PEER).collect::<Vec<_>>(), [held(1, None)]);
        assert_eq!(gates.lose(PEER).count(), 0);
        assert_eq!((gates.waiting(), gates.bytes(), gates.passed()), (0, 0, 0));
        assert_eq!(gates.leave(PEER, Id([1; 16])), Left::Unknown);
    }
}
