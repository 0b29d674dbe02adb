//! Where the keys of a large set lead: each offer has some points on a circle, and a key goes to the next one.
//!
//! A small set weighs every peer for each key ([`super::pick`]), which costs what the set is large; here a key costs
//! what it takes to find its place. Either way, a peer that leaves moves only its own keys.

use std::collections::BTreeSet;

use super::health::WHOLE;

/// Points of each offer. The load that each may have beyond the average evens out what the points leave uneven.
const POINTS: u64 = 16;

pub(crate) fn enter(ring: &mut BTreeSet<(u64, u32)>, identity: u64, offer: u32) {
    ring.extend(points(identity).map(|point| (point, offer)));
}

pub(crate) fn leave(ring: &mut BTreeSet<(u64, u32)>, identity: u64, offer: u32) {
    for point in points(identity) {
        ring.remove(&(point, offer));
    }
}

/// The offers from a key's place on, each point's.
pub(crate) fn from(ring: &BTreeSet<(u64, u32)>, key: u64) -> impl Iterator<Item = u32> + '_ {
    ring.range((key, 0)..)
        .chain(ring.range(..(key, 0)))
        .map(|&(_, offer)| offer)
}

fn points(identity: u64) -> impl Iterator<Item = u64> {
    (0..POINTS).map(move |nth| mix(identity ^ mix(nth)))
}

/// How much a key is drawn to a peer.
#[inline]
pub(crate) fn affinity(key: u64, identity: u64) -> u64 {
    mix(key ^ identity)
}

/// Whether a key is among those that have come back already to a peer that takes part with such a share.
#[inline]
pub(crate) fn is_back(affinity: u64, share: u64) -> bool {
    share >= WHOLE || mix(affinity) % WHOLE < share
}

/// The last step of splitmix64: all bits depend on all bits.
#[inline]
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
