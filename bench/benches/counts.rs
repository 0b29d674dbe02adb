//! How many instructions the hot path takes, counted by callgrind: the same on every run, so that a check can hold
//! them where a clock would need luck. `bench/counts` runs this and compares with `bench/counts.toml`.
//!
//! Each case does its work [`TIMES`] times; what it works on is made before, and is not counted.

// What the macros of gungraun make is public, and they document none of it.
#![allow(missing_docs)]

use std::collections::VecDeque;
use std::hint::black_box;
use std::ops::ControlFlow;

use bytes::Bytes;
use fluxar_bench::documents::{Shape, documents};
use fluxar_bench::messages::{self, Message, TOPIC};
use fluxar_bench::{COUNTED_TIMES as TIMES, shards};
use fluxar_protocol::envelope::Decoded;
use fluxar_protocol::exchange::verb;
use fluxar_protocol::hello::{Hello, Welcome};
use fluxar_protocol::limits::PAYLOAD_DEPTH_MAX;
use fluxar_protocol::meta::{Meta, Published as PublishedMeta};
use fluxar_protocol::{Batch, Form, cbor, envelope};
use fluxar_shard::{Limits, Shard};
use gungraun::prelude::*;

/// The choice of instructions is made at the first walk of a process; the gateway made it long ago.
fn choose_instructions() {
    let document = &documents(Shape::Mixed, 1024, 1, 0)[0];
    assert!(cbor::walk(document, PAYLOAD_DEPTH_MAX).is_ok());
}

fn encoded(message: &Message) -> Vec<u8> {
    choose_instructions();
    message.encoded(Form::Compact)
}

fn body(message: &Message) -> Vec<u8> {
    encoded(message).repeat(TIMES)
}

#[library_benchmark]
#[bench::small(encoded(&messages::small_event()))]
#[bench::small_with_meta(encoded(&messages::small_event_with_meta()))]
fn decode(bytes: Vec<u8>) -> Vec<u8> {
    for _ in 0..TIMES {
        let _ = black_box(envelope::decode(black_box(&bytes)));
    }
    bytes
}

#[library_benchmark]
#[bench::small(body(&messages::small_event()))]
#[bench::larger(body(&messages::reading_event()))]
fn decode_batch(body: Vec<u8>) -> Vec<u8> {
    handle_batch(&body, is_there);
    body
}

#[library_benchmark]
#[bench::small(body(&messages::small_event()))]
#[bench::small_with_meta(body(&messages::small_event_with_meta()))]
fn decode_batch_and_verb(body: Vec<u8>) -> Vec<u8> {
    handle_batch(&body, has_verb);
    body
}

// Not closures of the counted functions: callgrind would take their names for those of counted functions as well, and
// stop counting where one is entered.
fn handle_batch(body: &[u8], handle: fn(&Decoded<'_>) -> bool) {
    let mut handled = 0;
    let _ = Batch::new(black_box(body)).visit(|decoded| {
        handled += usize::from(decoded.is_ok_and(handle));
        ControlFlow::Continue(())
    });
    assert_eq!(handled, TIMES);
}

fn is_there(decoded: &Decoded<'_>) -> bool {
    !black_box(decoded).bytes.is_empty()
}

fn has_verb(decoded: &Decoded<'_>) -> bool {
    verb(&black_box(decoded).envelope).is_ok()
}

fn meta(message: Message) -> Vec<u8> {
    choose_instructions();
    message.meta.unwrap_or_default()
}

#[library_benchmark]
#[bench::three_keys(meta(messages::small_event_with_meta()))]
fn read_published(raw: Vec<u8>) -> Vec<u8> {
    for _ in 0..TIMES {
        let meta = Meta::from_checked(black_box(&raw));
        let _ = black_box(PublishedMeta::read(Some(&meta)));
    }
    raw
}

fn corpus(shape: Shape, bytes: usize) -> Vec<Vec<u8>> {
    choose_instructions();
    documents(shape, bytes, TIMES, 1)
}

#[library_benchmark]
#[bench::mixed_96_bytes(corpus(Shape::Mixed, 96))]
#[bench::mixed_1_kib(corpus(Shape::Mixed, 1024))]
#[bench::integers_1_kib(corpus(Shape::Integers, 1024))]
#[bench::doubles_1_kib(corpus(Shape::F64, 1024))]
#[bench::ascii_1_kib(corpus(Shape::TextAscii, 1024))]
#[bench::foreign_1_kib(corpus(Shape::TextForeign, 1024))]
#[bench::nested_1_kib(corpus(Shape::Nested, 1024))]
fn walk(documents: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    for document in &documents {
        let _ = black_box(cbor::walk(black_box(document), PAYLOAD_DEPTH_MAX));
    }
    documents
}

/// A shard, and what is published to it in turn.
struct Published {
    shard: Shard,
    topics: Vec<String>,
    events: Vec<Vec<u8>>,
}

impl Published {
    /// Topics that are all the same connection's, so that their events share a run.
    fn new(mut shard: Shard, topics: usize, patterns: &[&str]) -> Self {
        let topics: Vec<_> = (0..topics)
            .map(|nth| format!("plant.line{nth}.temperature"))
            .collect();
        if patterns.is_empty() {
            for (topic, nth) in topics.iter().zip(0..) {
                shards::subscribe(&mut shard, 0, nth, topic, None);
            }
        }
        for (pattern, nth) in patterns.iter().zip(0..) {
            shards::subscribe(&mut shard, 0, nth, pattern, None);
        }
        let events = topics.iter().map(|topic| {
            let mut event = messages::small_event();
            let topic = String::leak(topic.clone());
            event.target = Some(topic);
            event.encoded(Form::Compact)
        });
        let mut published = Self {
            events: events.collect(),
            shard,
            topics,
        };
        published.round();
        published
    }

    fn round(&mut self) {
        for nth in 0..TIMES {
            let at = nth % self.topics.len();
            self.shard.publish(black_box(&self.topics[at]), &self.events[at]);
        }
        self.shard.flush_run();
        while let Some(delivery) = self.shard.poll_delivery() {
            black_box(delivery);
        }
    }
}

fn remembered(topics: usize) -> Box<Published> {
    Box::new(Published::new(shards::empty(Limits::default()), topics, &[]))
}

/// Nothing is remembered for long enough to be found again.
fn forgotten(patterns: &[&str]) -> Box<Published> {
    let limits = Limits {
        names_remembered: 1,
        ..Limits::default()
    };
    let mut shard = shards::empty(limits);
    for nth in 0..999 {
        let pattern = match nth % 3 {
            0 => format!("site{nth}.*.temperature"),
            1 => format!("*.zone{nth}.*"),
            _ => format!("site{nth}.>"),
        };
        shards::subscribe(&mut shard, 1, nth, &pattern, None);
    }
    Box::new(Published::new(shard, 8, patterns))
}

// Boxed, for a shard is thousands of bytes, and whether it is copied to be handed back is not what is to be counted.
#[library_benchmark]
#[bench::same_topic(remembered(1))]
#[bench::remembered(remembered(8))]
#[bench::exact_among_1000(forgotten(&[]))]
#[bench::wild_among_1000(forgotten(&["plant.>", "plant.*.temperature"]))]
fn publish(mut published: Box<Published>) -> Box<Published> {
    published.round();
    published
}

/// A shard with receivers, and their queues.
struct Fan {
    shard: Shard,
    event: Vec<u8>,
    queues: Vec<VecDeque<Bytes>>,
}

impl Fan {
    fn new(subscribers: u32, group: Option<&str>) -> Self {
        let mut fan = Self {
            shard: shards::subscribed(TOPIC, subscribers, group),
            event: messages::small_event().encoded(Form::Compact),
            queues: shards::queues(subscribers),
        };
        fan.run();
        fan
    }

    fn run(&mut self) {
        for _ in 0..TIMES {
            self.shard.publish(black_box(TOPIC), black_box(&self.event));
        }
        self.shard.flush_run();
        shards::deliver(&mut self.shard, &mut self.queues);
        shards::sent(&mut self.queues);
    }
}

#[library_benchmark]
#[bench::to_10(Box::new(Fan::new(10, None)))]
#[bench::to_100(Box::new(Fan::new(100, None)))]
#[bench::to_a_group_of_10(Box::new(Fan::new(10, Some("workers"))))]
fn deliver(mut fan: Box<Fan>) -> Box<Fan> {
    fan.run();
    fan
}

fn room() -> Vec<u8> {
    Vec::with_capacity(1024)
}

#[library_benchmark]
#[bench::hello(messages::hello(), room())]
fn encode_hello(hello: Hello<'_>, mut out: Vec<u8>) -> Vec<u8> {
    for _ in 0..TIMES {
        out.clear();
        black_box(&hello).encode(&mut out);
        black_box(&mut out);
    }
    out
}

#[library_benchmark]
#[bench::welcome(messages::welcome(), room())]
fn encode_welcome(welcome: Welcome<'_>, mut out: Vec<u8>) -> Vec<u8> {
    for _ in 0..TIMES {
        out.clear();
        black_box(&welcome).encode(&mut out);
        black_box(&mut out);
    }
    out
}

library_benchmark_group!(
    name = protocol,
    benchmarks = [
        decode,
        decode_batch,
        decode_batch_and_verb,
        read_published,
        walk,
        encode_hello,
        encode_welcome
    ]
);
library_benchmark_group!(name = shard, benchmarks = [publish, deliver]);
main!(library_benchmark_groups = protocol, shard);
