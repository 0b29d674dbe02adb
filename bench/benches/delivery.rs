//! The way of events into the queues of their subscribers: appended to a run, sealed, given to each receiver.

use std::collections::VecDeque;
use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fluxar_protocol::{Envelope, Form, Id, Kind};
use fluxar_shard::{Limits, PeerId, Seed, Shard};

const TOPIC: &str = "plant.line7.temperature";

/// An event of 150 bytes.
fn event() -> Vec<u8> {
    let mut payload = vec![0x58, 100];
    payload.resize(102, 0);
    let mut event = Vec::new();
    let envelope = Envelope {
        kind: Kind::Event,
        id: Id([7; 16]),
        reference: None,
        target: Some(TOPIC),
        meta: None,
        payload: &payload,
        error: None,
    };
    envelope.encode(Form::Compact, &mut event);
    event.resize(event.len().max(148), 0xf6);
    event
}

fn shard(subscribers: u32, group: Option<&str>) -> Shard {
    let mut shard = Shard::new(
        0,
        1,
        Limits::default(),
        Seed {
            hash: 1,
            ids: 2,
            epoch: 3,
        },
    );
    for slot in 0..subscribers {
        let peer = PeerId {
            slot,
            generation: 1,
            core: 0,
        };
        shard
            .subscribe(peer, Id([1; 16]), TOPIC, group)
            .expect("within the limits");
    }
    shard
}

/// What a gateway does at least with a delivery: a reference in each receiver's queue.
fn queue(shard: &mut Shard, queues: &mut [VecDeque<Bytes>]) {
    while let Some(delivery) = shard.poll_delivery() {
        for peer in delivery.plain.iter() {
            queues[peer.slot as usize].push_back(delivery.run.framed().clone());
        }
        for piece in delivery.grouped {
            queues[piece.peer.slot as usize].push_back(piece.framed);
        }
    }
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("delivery");
    let event = event();
    for events in [1u64, 8, 64, 400] {
        let mut shard = shard(1, None);
        group.throughput(Throughput::Elements(events));
        group.bench_function(
            format!("append, {} bytes, runs of {events}", event.len()),
            |bench| {
                bench.iter(|| {
                    for _ in 0..events {
                        shard.publish(black_box(TOPIC), black_box(&event));
                    }
                    shard.flush_run();
                    black_box(shard.poll_delivery())
                });
            },
        );
    }
    for (subscribers, of) in [(10, None), (100, None), (10, Some("workers"))] {
        let mut shard = shard(subscribers, of);
        let mut queues: Vec<_> = (0..subscribers).map(|_| VecDeque::with_capacity(4)).collect();
        let kind = if of.is_some() { " members of a group" } else { "" };
        group.throughput(Throughput::Elements(64));
        group.bench_function(format!("a run of 64 to {subscribers}{kind}"), |bench| {
            bench.iter(|| {
                for _ in 0..64 {
                    shard.publish(black_box(TOPIC), black_box(&event));
                }
                shard.flush_run();
                queue(&mut shard, &mut queues);
                queues.iter_mut().for_each(VecDeque::clear);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
