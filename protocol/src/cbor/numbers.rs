//! Runs of numbers in large arrays, many at a time.
//!
//! Numbers are the items of majors 0, 1 and 7, but for the two-byte simple values, whose second byte has to be
//! looked at, and the break.

use super::simd::{BLOCK, LANE, Simd};

/// A run of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) bytes: usize,
    pub(super) items: u64,
}

/// Numbers that are all of one width: how they lie in 64 bytes.
struct Width {
    /// Bytes of the numbers that lie in 64 bytes as a whole.
    bytes: usize,
    /// How many they are.
    items: u64,
    /// Which bits of which bytes say that they are of the same kind: those of the initial bytes; not the one that
    /// tells a negative integer from a positive one.
    integers: [u8; 64],
    /// The same for floating-point numbers.
    floats: [u8; 64],
}

impl Width {
    const fn new(number_bytes: usize) -> Self {
        let items = 64 / number_bytes;
        let (mut integers, mut floats) = ([0; 64], [0; 64]);
        let mut item = 0;
        while item < items {
            integers[item * number_bytes] = !0x20;
            floats[item * number_bytes] = !0;
            item += 1;
        }
        Self {
            bytes: items * number_bytes,
            items: items as u64,
            integers,
            floats,
        }
    }
}

static THREE: Width = Width::new(3);
static FIVE: Width = Width::new(5);
static NINE: Width = Width::new(9);

/// How far numbers go at the beginning of `bytes`, at most `items_max` of them: not necessarily to the last, and the
/// last may go on past the end of `bytes`.
#[inline(always)]
pub(super) fn number_run<S: Simd>(simd: S, bytes: &[u8], items_max: u64) -> Run {
    let mut run = same_width(simd, bytes, items_max);
    if S::HOPS {
        any_width(simd, bytes, items_max, &mut run);
    }
    run
}

/// The run for as long as the numbers are of the kind of the first one and longer than two bytes, 64 bytes at a time.
#[inline(always)]
pub(super) fn same_width<S: Simd>(simd: S, bytes: &[u8], items_max: u64) -> Run {
    let mut run = Run { bytes: 0, items: 0 };
    let Some(&first) = bytes.first() else { return run };
    let width = match first & 0x1f {
        25 => &THREE,
        26 => &FIVE,
        27 => &NINE,
        _ => return run,
    };
    let marks = match first >> 5 {
        0 | 1 => &width.integers,
        7 => &width.floats,
        _ => return run,
    };
    while items_max - run.items >= width.items
        && let Some(block) = bytes[run.bytes..].first_chunk()
        && simd.all_equal(block, first, marks)
    {
        run.bytes += width.bytes;
        run.items += width.items;
    }
    run
}

/// Goes on with `run` whatever the widths are, a block at a time. The hops of a block do not depend on where in it the
/// first number begins, so that the processor works on several blocks at once.
#[inline(always)]
fn any_width<S: Simd>(simd: S, bytes: &[u8], items_max: u64, run: &mut Run) {
    let mut base = run.bytes;
    // Where in the block at `base` the next number begins. No number is longer than nine bytes.
    let mut first = 0;
    while base < bytes.len() {
        let mut filled_up;
        let block: &[u8; BLOCK] = match bytes[base..].first_chunk() {
            Some(block) => block,
            None => {
                // Breaks, which are no numbers, end the run with the input.
                filled_up = [0xff; BLOCK];
                filled_up[..bytes.len() - base].copy_from_slice(&bytes[base..]);
                &filled_up
            }
        };
        let hops = simd.hops(block);
        let mut at = first;
        let mut items = 0;
        for lane in 0..BLOCK / LANE {
            let end = (lane + 1) * LANE;
            // Always so, except behind a number that goes over the whole lane, and there is none.
            if at < end {
                items += u64::from(hops.items[at % BLOCK]);
                at = end - LANE + usize::from(hops.to[at % BLOCK]);
            }
            if at < end {
                break;
            }
        }
        if run.items + items > items_max {
            return;
        }
        *run = Run {
            bytes: base + at,
            items: run.items + items,
        };
        if at < BLOCK {
            return;
        }
        first = at - BLOCK;
        base += BLOCK;
    }
}
