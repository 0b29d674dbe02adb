//! The instructions that the fast walk is made of, for each kind of processor, and the shortcut to text that is ASCII:
//! the only unsafe code of the crate.
//!
//! The walk itself is safe code that is generic over [`Simd`]; it is compiled once for each set of instructions, and
//! [`walk`] chooses: at run time on x86-64 with the feature `std`, by the compiler's target features otherwise.
#![allow(unsafe_code)]

mod scratch;
mod text;

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(super) use scratch::{Appender, Scratch};
pub(crate) use text::{as_str, is_ascii};

/// Bytes that are worked on at once.
pub(super) const BLOCK: usize = 32;
/// Bytes that a shuffle can reach.
pub(super) const LANE: usize = 16;

/// A set of instructions. Values of it exist only where the processor has them.
pub(super) trait Simd: Copy {
    /// Whether [`Simd::hops`] is worth calling.
    const HOPS: bool;

    /// For each byte: the length of the item, if it is the initial byte of an item whose length it tells alone: a
    /// number, a string below 24 bytes, or the head of an array or a map below 24 entries or of a tag. Any value
    /// from 1 to 255 for other bytes.
    fn skips(self, block: &[u8; BLOCK], skips: &mut [u8; BLOCK]);

    /// Whether all bytes equal `byte` in those bits that are set in `marks`.
    fn all_equal(self, block: &[u8; 64], byte: u8, marks: &[u8; 64]) -> bool;

    /// Where numbers lead to, see [`Hops`].
    fn hops(self, block: &[u8; BLOCK]) -> Hops;
}

/// For each byte of a block: where one gets to from it by going from number to number until the lane of the byte is
/// left, or something begins that is not a number.
pub(super) struct Hops {
    /// That place, counted from the beginning of the lane.
    pub(super) to: [u8; BLOCK],
    /// How many numbers lie between.
    pub(super) items: [u8; BLOCK],
}

/// The fast walk: the item's length, or `None` if something is wrong with it or there is no fast walk here.
pub(super) fn walk(bytes: &[u8], depth_max: usize) -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    {
        if x86::has_avx2() {
            // SAFETY: the processor has all that `walk_avx2` is compiled for.
            unsafe { x86::walk_avx2(bytes, depth_max) }
        } else {
            x86::walk_sse2(bytes, depth_max)
        }
    }
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    {
        neon::walk_neon(bytes, depth_max)
    }
    #[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon"))))]
    {
        let _ = (bytes, depth_max);
        None
    }
}

#[cfg(test)]
type FastWalk = fn(&[u8], usize) -> Option<usize>;

/// Every fast walk that this machine can do, for the tests.
#[cfg(test)]
pub(super) fn walks() -> alloc::vec::Vec<(&'static str, FastWalk)> {
    let mut walks: alloc::vec::Vec<(&'static str, FastWalk)> = alloc::vec![];
    #[cfg(target_arch = "x86_64")]
    {
        if x86::has_avx2() {
            // SAFETY: the processor has all that `walk_avx2` is compiled for.
            walks.push(("avx2", |bytes, depth_max| unsafe {
                x86::walk_avx2(bytes, depth_max)
            }));
        }
        walks.push(("sse2", x86::walk_sse2));
    }
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    walks.push(("neon", neon::walk_neon));
    walks
}
