//! The way of events into the queues of their subscribers: appended to a run, sealed, given to each receiver.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fluxar_bench::messages::{Message, TOPIC, small_event};
use fluxar_bench::shards::{deliver, queues, sent, subscribed};
use fluxar_protocol::Form;

/// An event of 147 bytes.
fn event() -> Vec<u8> {
    let mut payload = vec![0x58, 100];
    payload.resize(102, 0);
    Message {
        payload,
        ..small_event()
    }
    .encoded(Form::Compact)
}

fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("delivery");
    let event = event();
    for events in [1u64, 8, 64, 400] {
        let mut shard = subscribed(TOPIC, 1, None);
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
        let mut shard = subscribed(TOPIC, subscribers, of);
        let mut queues = queues(subscribers);
        let kind = if of.is_some() { " members of a group" } else { "" };
        group.throughput(Throughput::Elements(64));
        group.bench_function(format!("a run of 64 to {subscribers}{kind}"), |bench| {
            bench.iter(|| {
                for _ in 0..64 {
                    shard.publish(black_box(TOPIC), black_box(&event));
                }
                shard.flush_run();
                deliver(&mut shard, &mut queues);
                sent(&mut queues);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
