//! NEON.

use core::arch::aarch64::*;

use super::{BLOCK, Hops, LANE, Simd};
use crate::cbor::fast;

/// The fast walk with NEON, which the target has.
#[cfg(target_feature = "neon")]
pub(super) fn walk_neon(bytes: &[u8], depth_max: usize) -> Option<usize> {
    fast::walk(Neon(()), bytes, depth_max)
}

/// NEON. Made in [`walk_neon`] only, which is there only if the target has it.
#[derive(Clone, Copy)]
struct Neon(());

/// For additional information 16 and up: the bytes that the argument takes, as far as there is one.
const ARGUMENT_BYTES: [u8; LANE] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 0, 0, 0, 0];
/// The same for 1 + those bytes, where 0 stands for none that a number has.
const NUMBER_BYTES: [u8; LANE] = [1, 1, 1, 1, 1, 1, 1, 1, 2, 3, 5, 9, 0, 0, 0, 0];
/// Each byte's place in its lane.
const PLACES: [u8; LANE] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

impl Neon {
    #[inline(always)]
    fn load(self, bytes: &[u8; LANE]) -> uint8x16_t {
        // SAFETY: there are 16 bytes to load; `self` proves NEON.
        unsafe { vld1q_u8(bytes.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, bytes: &mut [u8; LANE], value: uint8x16_t) {
        // SAFETY: there are 16 bytes to store to; `self` proves NEON.
        unsafe { vst1q_u8(bytes.as_mut_ptr(), value) }
    }
}

impl Simd for Neon {
    const HOPS: bool = true;

    #[inline(always)]
    fn skips(self, block: &[u8; BLOCK], skips: &mut [u8; BLOCK]) {
        let argument_bytes = self.load(&ARGUMENT_BYTES);
        for (block, skips) in block.as_chunks().0.iter().zip(skips.as_chunks_mut::<LANE>().0) {
            let first = self.load(block);
            // SAFETY: values in, values out; `self` proves NEON.
            let result = unsafe {
                let info = vandq_u8(first, vdupq_n_u8(0x1f));
                // Below 16 the index wraps round, and out of the table a look-up gives 0.
                let argument = vqtbl1q_u8(argument_bytes, vsubq_u8(info, vdupq_n_u8(16)));
                let string = vceqq_u8(vandq_u8(first, vdupq_n_u8(0xc0)), vdupq_n_u8(0x40));
                vaddq_u8(vbslq_u8(string, info, argument), vdupq_n_u8(1))
            };
            self.store(skips, result);
        }
    }

    #[inline(always)]
    fn all_equal(self, block: &[u8; 64], byte: u8, marks: &[u8; 64]) -> bool {
        // SAFETY: values in, values out; `self` proves NEON.
        unsafe {
            let byte = vdupq_n_u8(byte);
            let mut differing = vdupq_n_u8(0);
            for (block, marks) in block.as_chunks().0.iter().zip(marks.as_chunks().0) {
                let part = vandq_u8(veorq_u8(self.load(block), byte), self.load(marks));
                differing = vorrq_u8(differing, part);
            }
            vmaxvq_u8(differing) == 0
        }
    }

    #[inline(always)]
    fn hops(self, block: &[u8; BLOCK]) -> Hops {
        let number_bytes = self.load(&NUMBER_BYTES);
        let places = self.load(&PLACES);
        let mut hops = Hops {
            to: [0; BLOCK],
            items: [0; BLOCK],
        };
        let outputs = hops
            .to
            .as_chunks_mut::<LANE>()
            .0
            .iter_mut()
            .zip(hops.items.as_chunks_mut::<LANE>().0);
        for (block, (to_bytes, items_bytes)) in block.as_chunks().0.iter().zip(outputs) {
            let first = self.load(block);
            // SAFETY: values in, values out; `self` proves NEON.
            let (to, items) = unsafe {
                let one = vdupq_n_u8(1);
                let info = vandq_u8(first, vdupq_n_u8(0x1f));
                let short = vandq_u8(vcltq_u8(info, vdupq_n_u8(16)), one);
                let long = vqtbl1q_u8(number_bytes, vsubq_u8(info, vdupq_n_u8(16)));
                // Majors 2 to 6 are the bytes from 0x40 to 0xdf.
                let strings_to_tags = vcltq_u8(vsubq_u8(first, vdupq_n_u8(0x40)), vdupq_n_u8(0xa0));
                let simple = vceqq_u8(first, vdupq_n_u8(0xf8));
                let bytes = vbicq_u8(vorrq_u8(short, long), vorrq_u8(strings_to_tags, simple));
                let mut items = vminq_u8(bytes, one);
                let mut to = vaddq_u8(places, bytes);
                // Each round doubles the number of hops; sixteen leave any lane. Out of it a look-up gives 0.
                for _ in 0..4 {
                    items = vaddq_u8(items, vqtbl1q_u8(items, to));
                    to = vmaxq_u8(to, vqtbl1q_u8(to, to));
                }
                (to, items)
            };
            self.store(to_bytes, to);
            self.store(items_bytes, items);
        }
        hops
    }
}
