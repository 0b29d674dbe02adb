//! What reading and writing one envelope costs: the first thing that happens to every message.

use std::hint::black_box;
use std::ops::ControlFlow;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fluxar_bench::messages::messages;
use fluxar_protocol::envelope::Decoded;
use fluxar_protocol::exchange::verb;
use fluxar_protocol::hello::Hello;
use fluxar_protocol::{Batch, Form, Kind, envelope};

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    for message in messages() {
        let bytes = message.encoded(Form::Compact);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(message.name, |bencher| {
            bencher.iter(|| envelope::decode(black_box(&bytes)).is_ok());
        });
    }
    let named = messages()[0].encoded(Form::Named);
    group.throughput(Throughput::Bytes(named.len() as u64));
    group.bench_function("event_named", |bencher| {
        bencher.iter(|| envelope::decode(black_box(&named)).is_ok());
    });
    let cut = &messages()[0].encoded(Form::Compact)[..100];
    group.throughput(Throughput::Bytes(cut.len() as u64));
    group.bench_function("event_truncated", |bencher| {
        bencher.iter(|| envelope::decode(black_box(cut)).is_err());
    });
    group.finish();
}

fn hello_payload(criterion: &mut Criterion) {
    let messages = messages();
    let hello = messages
        .iter()
        .find(|message| message.kind == Kind::Hello)
        .expect("it is among them");
    criterion.bench_function("hello_payload", |bencher| {
        bencher.iter(|| Hello::decode(black_box(&hello.payload)).is_ok());
    });
}

/// How many envelopes of a body are as they should be.
fn visited(body: &[u8], is_right: impl Fn(&Decoded<'_>) -> bool) -> usize {
    let mut count = 0;
    let _ = Batch::new(black_box(body)).visit(|decoded| {
        count += usize::from(decoded.is_ok_and(&is_right));
        ControlFlow::Continue(())
    });
    count
}

/// A whole frame of events, as a batch and with what a gateway asks of each.
fn batch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch_16_kib");
    for message in messages().iter().filter(|message| message.kind == Kind::Event) {
        let one = message.encoded(Form::Compact);
        let count = 16 * 1024 / one.len();
        let body = one.repeat(count);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_with_input(
            BenchmarkId::new("decode", message.name),
            &body,
            |bencher, body| {
                bencher.iter(|| visited(body, |decoded| decoded.bytes.len() > 1));
            },
        );
        group.bench_with_input(
            BenchmarkId::new("decode_and_verb", message.name),
            &body,
            |bencher, body| {
                bencher.iter(|| visited(body, |decoded| verb(&decoded.envelope).is_ok()));
            },
        );
    }
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    let messages = messages();
    let mut out = Vec::with_capacity(1024);
    for (name, form) in [("event", Form::Compact), ("event_named", Form::Named)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                black_box(&messages[0]).envelope().encode(form, &mut out);
                out.len()
            });
        });
    }
    group.finish();
}

fn verbs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("verb");
    for message in messages() {
        let envelope = message.envelope();
        group.bench_function(message.name, |bencher| {
            bencher.iter(|| verb(black_box(&envelope)).is_ok());
        });
    }
    group.finish();
}

criterion_group!(benches, decode, hello_payload, batch, encode, verbs);
criterion_main!(benches);
