//! The way of logged events from their publisher into the hands of ten subscribers on the same core, each of which
//! acknowledges; and of a late subscriber, which reads what the log still has in memory.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fluxar_bench::messages::{TOPIC, small_event};
use fluxar_protocol::meta::Qos;
use fluxar_protocol::{Form, Id};
use fluxar_shard::log::class::{Level, TopicRule};
use fluxar_shard::log::{Settings, partition_of};
use fluxar_shard::logged::{From, LoggedNews, LoggedPublish, LoggedWish};
use fluxar_shard::{Limits, PeerId, Seed, Shard};

const PARTITIONS: u16 = 64;
const HOW: LoggedPublish = LoggedPublish {
    once: false,
    retain: false,
    expires: false,
    acked: true,
};

fn peer(slot: u32) -> PeerId {
    PeerId {
        slot,
        generation: 0,
        core: 0,
    }
}

fn wish(from: From<'static>) -> LoggedWish<'static> {
    LoggedWish {
        qos: Qos::AtLeastOnce,
        group: None,
        durable: None,
        from,
        retain: false,
        skip_damaged: false,
        in_flight: 0,
        principal: "",
    }
}

/// A core with its log in memory.
fn shard(tail_bytes: usize) -> Shard {
    let seed = Seed {
        hash: 1,
        ids: 2,
        epoch: 3,
    };
    let mut shard = Shard::new(0, 1, Limits::default(), seed);
    shard.set_log(Some(Arc::new(Settings {
        partitions: PARTITIONS,
        tail_bytes,
        // What is in memory only is never let go of here, for there is no disk.
        unsynced_bytes_max: usize::MAX,
        topics: vec![TopicRule {
            pattern: ">".into(),
            level: Some(Level::Memory),
            always: None,
            deliveries_max: None,
            dead_letter: None,
        }],
        ..Settings::default()
    })));
    shard.handle_empty_log(1);
    shard
}

/// One input of a publisher.
fn publish(shard: &mut Shard, event: &[u8], events: u64) {
    for _ in 0..events {
        shard.publish_logged(peer(0), black_box(TOPIC), black_box(event), HOW);
    }
    shard.flush_run();
}

/// Takes what came, and acknowledges it; how many events.
fn take(shard: &mut Shard, last: &mut u64) -> u64 {
    let partition = partition_of(TOPIC, PARTITIONS);
    let mut taken = 0;
    let mut acks = [(peer(0), Id([0; 16])); 16];
    let mut runs = 0;
    loop {
        match shard.poll_logged() {
            None => break,
            Some(LoggedNews::Stored { first, events, .. }) => *last = first + events.len() as u64 - 1,
            Some(LoggedNews::Run { to, sub, count, .. }) => {
                taken += u64::from(count);
                acks[runs % acks.len()] = (to, sub);
                runs += 1;
            }
            Some(_) => {}
        }
    }
    for (to, sub) in &acks[..runs.min(acks.len())] {
        shard.acknowledge(*to, *sub, partition, *last, std::iter::empty());
    }
    taken
}

/// A disk that does at once whatever it is asked.
fn disk(shard: &mut Shard) {
    use fluxar_shard::log::disk::{DiskDone, DiskOp};
    while let Some(op) = shard.poll_disk() {
        let done = match op {
            DiskOp::Create { segment, .. } | DiskOp::Open { segment } => DiskDone::Opened {
                segment,
                result: Ok(()),
            },
            DiskOp::Write { segment, .. } => DiskDone::Wrote {
                segment,
                result: Ok(()),
            },
            DiskOp::Sync { segment } => DiskDone::Synced {
                segment,
                result: Ok(()),
            },
            _ => continue,
        };
        shard.handle_disk(done);
    }
}

fn logged(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("logged");
    let event = small_event().encoded(Form::Compact);
    for (events, subscribers) in [(64u64, 1u32), (1, 10), (64, 10), (400, 10)] {
        let mut shard = shard(1 << 20);
        for slot in 1..=subscribers {
            let sub = Id([slot as u8; 16]);
            shard
                .subscribe_logged(peer(slot), sub, TOPIC, wish(From::New))
                .expect("a subscription");
        }
        while shard.poll_logged().is_some() {}
        let mut last = 0;
        group.throughput(Throughput::Elements(events * u64::from(subscribers)));
        group.bench_function(
            format!("runs of {events} to {subscribers}, {} bytes", event.len()),
            |bench| {
                bench.iter(|| {
                    publish(&mut shard, &event, events);
                    let taken = take(&mut shard, &mut last);
                    assert_eq!(taken, events * u64::from(subscribers));
                    disk(&mut shard);
                });
            },
        );
    }
    let mut shard = shard(64 << 20);
    for _ in 0..1_000 {
        publish(&mut shard, &event, 100);
    }
    while shard.poll_logged().is_some() {}
    let partition = partition_of(TOPIC, PARTITIONS);
    group.throughput(Throughput::Elements(100_000));
    group.bench_function("a late one reads 100,000 in runs of 100", |bench| {
        bench.iter(|| {
            let sub = Id([77; 16]);
            shard
                .subscribe_logged(peer(77), sub, TOPIC, wish(From::All))
                .expect("a subscription");
            let mut offset = 0;
            while offset < 100_000 {
                while let Some(news) = shard.poll_logged() {
                    if let LoggedNews::Run { count, .. } = news {
                        offset += u64::from(count);
                    }
                }
                shard.acknowledge(peer(77), sub, partition, offset, std::iter::empty());
            }
            shard.end_subscription(peer(77), sub);
        });
    });
    group.finish();
}

criterion_group!(benches, logged);
criterion_main!(benches);
