//! Decoding allocates nothing: a counting allocator sees to it. (A test of its own, as an allocator is for a whole
//! program.)
#![allow(unsafe_code)] // a global allocator cannot be written without

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use fluxar_protocol::exchange::verb;
use fluxar_protocol::frame::{Deframer, prefix};
use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::{Batch, Envelope, Form, Id, Kind, envelope};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator unchanged; counting touches a thread-local `Cell` that
// needs neither allocation nor destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps `alloc`'s contract, which is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` above with this layout, that is, from the system's allocator.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What `work` allocates on this thread.
fn allocations(work: impl FnOnce()) -> usize {
    let before = ALLOCATIONS.with(Cell::get);
    work();
    ALLOCATIONS.with(Cell::get) - before
}

fn event(payload: &[u8], form: Form) -> Vec<u8> {
    let meta = MetaWriter::new()
        .uint("qos", 0)
        .text("trace", "00-4bf9-00f0-01")
        .flag("retain", false)
        .finish();
    let meta = meta.as_deref().map(fluxar_protocol::meta::Meta::from_checked);
    let target = Some("sensors.hall-3.temperature");
    let envelope = Envelope {
        kind: Kind::Event,
        id: Id([7; 16]),
        reference: None,
        target,
        meta,
        payload,
        error: None,
    };
    let mut out = Vec::new();
    envelope.encode(form, &mut out);
    out
}

#[test]
fn the_counter_counts() {
    assert!(allocations(|| drop(std::hint::black_box(Vec::<u8>::with_capacity(100)))) > 0);
}

#[test]
fn decoding_allocates_nothing() {
    let nested = [&[0x81].repeat(64)[..], &[0x63], "aü".as_bytes()].concat();
    for payload in [
        &b"\xf6"[..],
        b"\xbf\x61a\x9f\x01\x02\xff\xff",
        &nested,
        &[&[0x79, 2, 0][..], &[b'x'; 512]].concat(),
    ] {
        for form in [Form::Compact, Form::Named] {
            let bytes = event(payload, form);
            let counted = allocations(|| {
                let decoded = envelope::decode(&bytes).unwrap();
                assert_eq!(decoded.bytes.len(), bytes.len());
                verb(&decoded.envelope).unwrap();
                let meta = decoded.envelope.meta.unwrap();
                assert_eq!(meta.text("trace"), Ok(Some("00-4bf9-00f0-01")));
            });
            assert_eq!(counted, 0);
        }
    }
}

#[test]
fn a_frame_of_many_allocates_nothing() {
    let body = event(b"\xa1\x61t\xf9\x4d\x00", Form::Compact).repeat(100);
    let stream = [&prefix(body.len())[..], &body].concat();
    let counted = allocations(|| {
        let mut deframer = Deframer::new();
        let mut input = &stream[..];
        let body = deframer.next(&mut input, 1 << 20).unwrap().unwrap();
        assert_eq!(Batch::within(body, 1 << 20).filter(Result::is_ok).count(), 100);
    });
    assert_eq!(counted, 0);
}

#[test]
fn refusing_allocates_nothing() {
    let good = event(b"\x01", Form::Compact);
    let counted = allocations(|| {
        for cut in 0..good.len() {
            assert!(envelope::decode(&good[..cut]).is_err());
        }
    });
    assert_eq!(counted, 0);
}
