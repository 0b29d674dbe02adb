//! The payload walk of `fluxar-protocol` beside its plain twin and `minicbor`'s skip, which checks the UTF-8 of text
//! as well, but neither depth nor breaks.
//!
//! Each measurement goes through many different documents of 1 KiB, for a branch predictor knows a single one by
//! heart soon; `mixed/one` shows what that hides.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fluxar_bench::documents::{Shape, documents};
use fluxar_protocol::cbor::{walk, walk_scalar};
use fluxar_protocol::limits::PAYLOAD_DEPTH_MAX;

/// The walks that are compared: name, and what gives the length of the item that bytes begin with.
type Walk = fn(&[u8]) -> usize;
const WALKS: [(&str, Walk); 3] = [
    ("fluxar", |bytes| {
        walk(bytes, PAYLOAD_DEPTH_MAX).expect("a sound item")
    }),
    ("scalar", |bytes| {
        walk_scalar(bytes, PAYLOAD_DEPTH_MAX).expect("a sound item")
    }),
    ("minicbor", |bytes| {
        let mut decoder = minicbor::Decoder::new(bytes);
        decoder.skip().expect("a sound item");
        decoder.position()
    }),
];

const SEED: u64 = 1;

fn compare(criterion: &mut Criterion, group: &str, cases: &[(&str, Shape, usize, usize)]) {
    let mut group = criterion.benchmark_group(group);
    for &(case, shape, bytes, count) in cases {
        let documents = documents(shape, bytes, count, SEED);
        let total: usize = documents.iter().map(Vec::len).sum();
        group.throughput(Throughput::Bytes(total as u64));
        for (name, walk) in WALKS {
            group.bench_function(format!("{case}/{name}"), |bencher| {
                bencher.iter(|| {
                    documents
                        .iter()
                        .map(|document| walk(black_box(document)))
                        .sum::<usize>()
                });
            });
            assert_eq!(
                documents.iter().map(|document| walk(document)).sum::<usize>(),
                total
            );
        }
    }
    group.finish();
}

fn mixed(criterion: &mut Criterion) {
    compare(
        criterion,
        "mixed",
        &[
            ("many", Shape::Mixed, 1024, 400),
            ("one", Shape::Mixed, 1024, 1),
            ("small", Shape::Mixed, 96, 400),
            ("large", Shape::Mixed, 64 * 1024, 6),
        ],
    );
}

fn numbers(criterion: &mut Criterion) {
    compare(
        criterion,
        "numbers",
        &[
            ("u8", Shape::U8, 1024, 100),
            ("u16", Shape::U16, 1024, 100),
            ("u32", Shape::U32, 1024, 100),
            ("f64", Shape::F64, 1024, 100),
            ("all_widths", Shape::Integers, 1024, 100),
        ],
    );
}

fn text(criterion: &mut Criterion) {
    compare(
        criterion,
        "text",
        &[
            ("ascii", Shape::TextAscii, 1024, 100),
            ("foreign", Shape::TextForeign, 1024, 100),
        ],
    );
}

fn nested(criterion: &mut Criterion) {
    compare(criterion, "nested", &[("many", Shape::Nested, 1024, 100)]);
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30);
    targets = mixed, numbers, text, nested
}
criterion_main!(benches);
