//! Finding who gets an event. A topic is resolved when it differs from the one before it, so the two topics of a
//! pair are published in turn; both have the same receiver, and all events of a round are appended to its run.
//!
//! `same`: the topic of the event before. `remembered`: found in the table of topics. `forgotten`: another topic
//! each time, out of more than are remembered, found among the patterns.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fluxar_bench::shards::{empty, subscribe};
use fluxar_protocol::{Envelope, Form, Id, Kind};
use fluxar_shard::{Limits, Shard};

const ROUND: usize = 256;

fn event(topic: &str, bytes: usize) -> Vec<u8> {
    let mut payload = vec![0x58, 0];
    let mut event = Vec::new();
    let mut encode = |payload: &[u8]| {
        event.clear();
        let envelope = Envelope {
            kind: Kind::Event,
            id: Id([7; 16]),
            reference: None,
            target: Some(topic),
            meta: None,
            payload,
            error: None,
        };
        envelope.encode(Form::Compact, &mut event);
        event.len()
    };
    let padding = bytes.saturating_sub(encode(&payload)).max(24);
    payload[1] = padding as u8;
    payload.resize(2 + padding, 0);
    encode(&payload);
    event
}

/// Publishes a round of these topics in turn, and takes the runs.
fn round(shard: &mut Shard, topics: &[String], events: &[Vec<u8>], from: usize) {
    for nth in from..from + ROUND {
        let at = nth % topics.len();
        shard.publish(black_box(&topics[at]), &events[at]);
    }
    shard.flush_run();
    while let Some(delivery) = shard.poll_delivery() {
        black_box(delivery);
    }
}

fn topics(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("topics");
    group.throughput(Throughput::Elements(ROUND as u64));
    let names = |count: usize| {
        (0..count)
            .map(|nth| format!("plant.line{nth}.temperature"))
            .collect::<Vec<_>>()
    };
    let exact = |topics: &[String]| {
        let mut shard = empty(Limits::default());
        for (nth, topic) in topics.iter().enumerate() {
            subscribe(&mut shard, 1, nth as u32, topic, None);
        }
        shard
    };
    let wild = || {
        let mut shard = empty(Limits::default());
        subscribe(&mut shard, 1, 0, "plant.>", None);
        for nth in 1..10_000 {
            let pattern = match nth % 3 {
                0 => format!("site{nth}.*.temperature"),
                1 => format!("*.zone{nth}.*"),
                _ => format!("site{nth}.>"),
            };
            subscribe(&mut shard, nth, 1, &pattern, None);
        }
        shard
    };
    let cases = [
        ("same, exact", names(1), true),
        ("remembered, exact", names(2), true),
        ("remembered, exact, 4,096 topics", names(4_096), true),
        ("forgotten, exact, 65,536 topics", names(65_536), true),
        ("remembered, 10,000 wildcards", names(2), false),
        ("forgotten, 10,000 wildcards", names(65_536), false),
    ];
    for (name, topics, is_exact) in cases {
        let mut shard = if is_exact { exact(&topics) } else { wild() };
        let events: Vec<_> = topics.iter().map(|topic| event(topic, 100)).collect();
        let mut from = 0;
        group.bench_function(name, |bench| {
            bench.iter(|| {
                round(&mut shard, &topics, &events, from);
                from += ROUND;
            });
        });
    }
    group.finish();
}

criterion_group!(benches, topics);
criterion_main!(benches);
