//! What reading and writing one envelope costs: the first thing that happens to every message.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fluxar_protocol::exchange::verb;
use fluxar_protocol::hello::{Caps, Hello};
use fluxar_protocol::meta::{Meta, MetaWriter};
use fluxar_protocol::{Batch, Envelope, Form, Id, Kind, envelope};

/// An envelope's parts, owned.
struct Message {
    name: &'static str,
    kind: Kind,
    target: Option<&'static str>,
    meta: Option<Vec<u8>>,
    payload: Vec<u8>,
}

impl Message {
    fn envelope(&self) -> Envelope<'_> {
        Envelope {
            kind: self.kind,
            id: Id([0x5a; 16]),
            reference: None,
            target: self.target,
            meta: self.meta.as_deref().map(Meta::from_checked),
            payload: &self.payload,
            error: None,
        }
    }

    fn encoded(&self, form: Form) -> Vec<u8> {
        let mut out = Vec::new();
        self.envelope().encode(form, &mut out);
        out
    }
}

/// A sensor's reading: about 150 bytes as an event.
fn reading() -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = minicbor::Encoder::new(&mut out);
    let written = encoder
        .map(6)
        .and_then(|encoder| encoder.str("sensor")?.str("hall-3/rack-17"))
        .and_then(|encoder| encoder.str("time_ms")?.u64(1_790_000_000_123))
        .and_then(|encoder| encoder.str("celsius")?.f32(21.4))
        .and_then(|encoder| encoder.str("humidity")?.f32(0.43))
        .and_then(|encoder| encoder.str("rpm")?.array(3)?.u16(1200)?.u16(1180)?.u16(0))
        .and_then(|encoder| encoder.str("ok")?.bool(true))
        .is_ok();
    assert!(written);
    out
}

fn messages() -> Vec<Message> {
    let three_keys = || {
        MetaWriter::new()
            .uint("qos", 0)
            .uint("timeout_ms", 1500)
            .text("trace", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
            .finish()
    };
    let mut hello = Vec::new();
    let caps = Caps {
        resume: true,
        ..Caps::default()
    };
    Hello {
        caps,
        agent: "bench/1.0",
        ..Hello::default()
    }
    .encode(&mut hello);
    let event = Some("sensors.hall-3.climate");
    let call = Some("users.getProfile");
    vec![
        Message {
            name: "event",
            kind: Kind::Event,
            target: event,
            meta: None,
            payload: reading(),
        },
        Message {
            name: "event_with_meta",
            kind: Kind::Event,
            target: event,
            meta: three_keys(),
            payload: reading(),
        },
        Message {
            name: "event_least",
            kind: Kind::Event,
            target: Some("a"),
            meta: None,
            payload: vec![0xf6],
        },
        Message {
            name: "call",
            kind: Kind::Call,
            target: call,
            meta: None,
            payload: b"\xa1\x62id\x18\x2a".to_vec(),
        },
        Message {
            name: "hello",
            kind: Kind::Hello,
            target: None,
            meta: None,
            payload: hello,
        },
    ]
}

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
                bencher.iter(|| Batch::new(black_box(body)).filter(Result::is_ok).count());
            },
        );
        group.bench_with_input(
            BenchmarkId::new("decode_and_verb", message.name),
            &body,
            |bencher, body| {
                bencher.iter(|| {
                    let decoded = Batch::new(black_box(body)).flatten();
                    decoded.filter(|decoded| verb(&decoded.envelope).is_ok()).count()
                });
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
