//! Shards with subscribers, for the benches.

use std::collections::VecDeque;

use bytes::Bytes;
use fluxar_protocol::Id;
use fluxar_shard::{Limits, PeerId, Seed, Shard};

/// A shard of the only core, with room for as many subscriptions a peer as a bench wants.
#[must_use]
pub fn empty(limits: Limits) -> Shard {
    let limits = Limits {
        subscriptions_per_peer: 1 << 17,
        ..limits
    };
    let seed = Seed {
        hash: 1,
        ids: 2,
        epoch: 3,
    };
    Shard::new(0, 1, limits, seed)
}

/// A shard in which so many connections subscribed to `topic`, as members of `group` if there is one.
#[must_use]
pub fn subscribed(topic: &str, subscribers: u32, group: Option<&str>) -> Shard {
    let mut shard = empty(Limits::default());
    for slot in 0..subscribers {
        subscribe(&mut shard, slot, 1, topic, group);
    }
    shard
}

/// Subscribes one connection.
///
/// # Panics
/// If the shard refuses it.
pub fn subscribe(shard: &mut Shard, slot: u32, nth: u32, pattern: &str, group: Option<&str>) {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&nth.to_be_bytes());
    let peer = PeerId {
        slot,
        generation: 1,
        core: 0,
    };
    shard
        .subscribe(peer, Id(id), pattern, group)
        .expect("within the limits");
}

/// One queue for each connection of [`subscribed`].
#[must_use]
pub fn queues(subscribers: u32) -> Vec<VecDeque<Bytes>> {
    (0..subscribers).map(|_| VecDeque::with_capacity(4)).collect()
}

/// What a gateway does at least with a delivery: a reference in each receiver's queue.
pub fn deliver(shard: &mut Shard, queues: &mut [VecDeque<Bytes>]) {
    while let Some(delivery) = shard.poll_delivery() {
        for peer in delivery.plain.iter() {
            queues[peer.slot as usize].push_back(delivery.run.framed().clone());
        }
        for piece in delivery.grouped {
            queues[piece.peer.slot as usize].push_back(piece.framed);
        }
    }
}

/// Lets the queues go, as sends that have completed do.
pub fn sent(queues: &mut [VecDeque<Bytes>]) {
    queues.iter_mut().for_each(VecDeque::clear);
}
