//! AVX2 and SSE2.

use core::arch::x86_64::*;

use super::{BLOCK, Hops, LANE, Simd};
use crate::cbor::fast;

/// Whether the processor has AVX2, and the bit instructions that came with it.
#[inline(always)]
pub(super) fn has_avx2() -> bool {
    #[cfg(feature = "std")]
    {
        std::arch::is_x86_feature_detected!("avx2")
            && std::arch::is_x86_feature_detected!("bmi1")
            && std::arch::is_x86_feature_detected!("bmi2")
    }
    #[cfg(not(feature = "std"))]
    {
        cfg!(all(
            target_feature = "avx2",
            target_feature = "bmi1",
            target_feature = "bmi2"
        ))
    }
}

/// The fast walk with AVX2.
#[target_feature(enable = "avx2,bmi1,bmi2")]
pub(super) fn walk_avx2(bytes: &[u8], depth_max: usize) -> Option<usize> {
    fast::walk(Avx2(()), bytes, depth_max)
}

/// The fast walk with what every x86-64 has.
pub(super) fn walk_sse2(bytes: &[u8], depth_max: usize) -> Option<usize> {
    fast::walk(Sse2, bytes, depth_max)
}

/// AVX2. Made in [`walk_avx2`] only, so where there is one, the processor has it.
#[derive(Clone, Copy)]
struct Avx2(());

/// For additional information 16 and up: the bytes that the argument takes, as far as there is one.
const ARGUMENT_BYTES: [i8; LANE] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 0, 0, 0, 0];
/// The same for 1 + those bytes, where 0 stands for none that a number has.
const NUMBER_BYTES: [i8; LANE] = [1, 1, 1, 1, 1, 1, 1, 1, 2, 3, 5, 9, 0, 0, 0, 0];
/// Each byte's place in its lane.
const PLACES: [i8; LANE] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

impl Avx2 {
    /// Loads the same 16 bytes into both lanes.
    #[inline(always)]
    fn both_lanes(self, bytes: &[i8; LANE]) -> __m256i {
        // SAFETY: there are 16 bytes to load, at any alignment; `self` proves AVX2.
        unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load(self, bytes: &[u8; BLOCK]) -> __m256i {
        // SAFETY: there are 32 bytes to load, at any alignment; `self` proves AVX2.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store(self, bytes: &mut [u8; BLOCK], value: __m256i) {
        // SAFETY: there are 32 bytes to store to, at any alignment; `self` proves AVX2.
        unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), value) }
    }
}

impl Simd for Avx2 {
    const HOPS: bool = true;

    #[inline(always)]
    fn skips(self, block: &[u8; BLOCK], skips: &mut [u8; BLOCK]) {
        let first = self.load(block);
        let argument_bytes = self.both_lanes(&ARGUMENT_BYTES);
        // SAFETY: values in, values out; `self` proves AVX2.
        let result = unsafe {
            let info = _mm256_and_si256(first, _mm256_set1_epi8(0x1f));
            // Below 16 the index is negative, for which a shuffle gives 0.
            let argument = _mm256_shuffle_epi8(argument_bytes, _mm256_sub_epi8(info, _mm256_set1_epi8(16)));
            let kind = _mm256_and_si256(first, _mm256_set1_epi8(0xc0_u8 as i8));
            let string = _mm256_cmpeq_epi8(kind, _mm256_set1_epi8(0x40));
            _mm256_add_epi8(_mm256_blendv_epi8(argument, info, string), _mm256_set1_epi8(1))
        };
        self.store(skips, result);
    }

    #[inline(always)]
    fn all_equal(self, block: &[u8; 64], byte: u8, marks: &[u8; 64]) -> bool {
        let (blocks, marks) = (block.as_chunks().0, marks.as_chunks().0);
        let (low, high) = (self.load(&blocks[0]), self.load(&blocks[1]));
        let (low_marks, high_marks) = (self.load(&marks[0]), self.load(&marks[1]));
        // SAFETY: values in, values out; `self` proves AVX2.
        unsafe {
            let byte = _mm256_set1_epi8(byte as i8);
            let low = _mm256_and_si256(_mm256_xor_si256(low, byte), low_marks);
            let high = _mm256_and_si256(_mm256_xor_si256(high, byte), high_marks);
            let differing = _mm256_or_si256(low, high);
            _mm256_testz_si256(differing, differing) == 1
        }
    }

    #[inline(always)]
    fn hops(self, block: &[u8; BLOCK]) -> Hops {
        let first = self.load(block);
        let number_bytes = self.both_lanes(&NUMBER_BYTES);
        let places = self.both_lanes(&PLACES);
        // SAFETY: values in, values out; `self` proves AVX2.
        let (to, items) = unsafe {
            let one = _mm256_set1_epi8(1);
            let info = _mm256_and_si256(first, _mm256_set1_epi8(0x1f));
            let short = _mm256_and_si256(_mm256_cmpgt_epi8(_mm256_set1_epi8(16), info), one);
            let long = _mm256_shuffle_epi8(number_bytes, _mm256_sub_epi8(info, _mm256_set1_epi8(16)));
            // Majors 0, 1 and 7 are the bytes from -32 to 63.
            let above = _mm256_cmpgt_epi8(first, _mm256_set1_epi8(0x3f));
            let below = _mm256_cmpgt_epi8(_mm256_set1_epi8(-0x20), first);
            let simple = _mm256_cmpeq_epi8(first, _mm256_set1_epi8(0xf8_u8 as i8));
            let other = _mm256_or_si256(_mm256_or_si256(above, below), simple);
            let bytes = _mm256_andnot_si256(other, _mm256_or_si256(short, long));
            let mut items = _mm256_min_epu8(bytes, one);
            let mut to = _mm256_add_epi8(places, bytes);
            // Each round doubles the number of hops; sixteen leave any lane.
            for _ in 0..4 {
                // From 16 on, which is out of the lane, the index is negative and the shuffle gives 0.
                let index = _mm256_add_epi8(to, _mm256_set1_epi8(0x70));
                items = _mm256_add_epi8(items, _mm256_shuffle_epi8(items, index));
                to = _mm256_max_epu8(to, _mm256_shuffle_epi8(to, index));
            }
            (to, items)
        };
        let mut hops = Hops {
            to: [0; BLOCK],
            items: [0; BLOCK],
        };
        self.store(&mut hops.to, to);
        self.store(&mut hops.items, items);
        hops
    }
}

/// SSE2, which is part of x86-64.
#[derive(Clone, Copy)]
struct Sse2;

impl Sse2 {
    #[inline(always)]
    fn load(self, bytes: &[u8; LANE]) -> __m128i {
        // SAFETY: there are 16 bytes to load, at any alignment.
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    }
}

impl Simd for Sse2 {
    const HOPS: bool = false;

    #[inline(always)]
    fn skips(self, block: &[u8; BLOCK], skips: &mut [u8; BLOCK]) {
        for (block, skips) in block.as_chunks().0.iter().zip(skips.as_chunks_mut::<LANE>().0) {
            let first = self.load(block);
            // SAFETY: values in, values out, but for the last line, where there are 16 bytes to store to.
            unsafe {
                let info = _mm_and_si128(first, _mm_set1_epi8(0x1f));
                let when = |value, then| {
                    _mm_and_si128(_mm_cmpeq_epi8(info, _mm_set1_epi8(value)), _mm_set1_epi8(then))
                };
                let argument = _mm_or_si128(
                    _mm_or_si128(when(24, 1), when(25, 2)),
                    _mm_or_si128(when(26, 4), when(27, 8)),
                );
                let kind = _mm_and_si128(first, _mm_set1_epi8(0xc0_u8 as i8));
                let string = _mm_cmpeq_epi8(kind, _mm_set1_epi8(0x40));
                let rest = _mm_or_si128(_mm_and_si128(string, info), _mm_andnot_si128(string, argument));
                _mm_storeu_si128(skips.as_mut_ptr().cast(), _mm_add_epi8(rest, _mm_set1_epi8(1)));
            }
        }
    }

    #[inline(always)]
    fn all_equal(self, block: &[u8; 64], byte: u8, marks: &[u8; 64]) -> bool {
        // SAFETY: values in, values out.
        unsafe {
            let byte = _mm_set1_epi8(byte as i8);
            let mut differing = _mm_setzero_si128();
            for (block, marks) in block.as_chunks().0.iter().zip(marks.as_chunks().0) {
                let part = _mm_and_si128(_mm_xor_si128(self.load(block), byte), self.load(marks));
                differing = _mm_or_si128(differing, part);
            }
            _mm_movemask_epi8(_mm_cmpeq_epi8(differing, _mm_setzero_si128())) == 0xffff
        }
    }

    /// Nothing is a number, for SSE2 has no shuffle that would make this worth while.
    #[inline(always)]
    fn hops(self, _: &[u8; BLOCK]) -> Hops {
        Hops {
            to: core::array::from_fn(|at| (at % LANE) as u8),
            items: [0; BLOCK],
        }
    }
}
