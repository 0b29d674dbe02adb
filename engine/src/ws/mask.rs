//! The mask that a client lays over every payload, how it is taken off again (RFC 6455, 5.3), and where the keys of
//! our own come from.
//!
//! Octet `i` of a payload is XORed with octet `i mod 4` of the mask, which is the same both ways. A payload that comes
//! or goes in pieces is masked piece by piece: after each one the mask is [rotated](rotated), so that its first octet
//! again belongs to the next octet of payload and the loop below never needs to know where in the payload it stands.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Keys for the frames of a core's dialled connections.
///
/// The mask is there so that nobody who chooses a payload can choose what a proxy on the way sees (RFC 6455, 10.3): each
/// frame needs a key that cannot be told from those before it, and a generator that is merely quick and even can be
/// reconstructed from a few of its outputs. So they are drawn from a stream cipher, keyed once by the kernel: unpredictable
/// as it is, and a few nanoseconds each instead of a system call.
#[derive(Debug)]
pub struct Masks(StdRng);

impl Masks {
    /// The keys that follow from this seed, which has to be from a source of entropy.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Masks {
        Masks(StdRng::from_seed(seed))
    }

    /// The next frame's key.
    #[inline]
    pub fn key(&mut self) -> [u8; 4] {
        self.0.next_u32().to_ne_bytes()
    }

    /// Any bits, for a nonce.
    pub(super) fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }
}

/// XORs `data` with `key`, whose first octet belongs to the first octet of `data`.
pub(crate) fn mask(data: &mut [u8], key: [u8; 4]) {
    let [a, b, c, d] = key;
    let pattern = [a, b, c, d, a, b, c, d];
    // The compiler makes vectors of these words on its own.
    let word = u64::from_ne_bytes(pattern);
    let (words, rest) = data.as_chunks_mut::<8>();
    for octets in words {
        *octets = (u64::from_ne_bytes(*octets) ^ word).to_ne_bytes();
    }
    for (octet, key) in rest.iter_mut().zip(pattern) {
        *octet ^= key;
    }
}

/// The mask for what follows after `done` octets of payload.
pub(crate) fn rotated(mask: [u8; 4], done: usize) -> [u8; 4] {
    u32::from_le_bytes(mask)
        .rotate_right(8 * (done % 4) as u32)
        .to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// The definition in RFC 6455, 5.3, word for word.
    fn by_definition(data: &[u8]) -> Vec<u8> {
        data.iter()
            .enumerate()
            .map(|(i, octet)| octet ^ MASK[i % 4])
            .collect()
    }

    #[test]
    fn every_length_matches_the_definition() {
        for length in 0..300 {
            let masked: Vec<u8> = (0..length).map(|i| (i * 7) as u8).collect();
            let mut data = masked.clone();
            mask(&mut data, MASK);
            assert_eq!(data, by_definition(&masked), "{length} octets");
        }
    }

    #[test]
    fn pieces_at_any_cut_match_the_whole() {
        let masked: Vec<u8> = (0..=200).collect();
        for cut in 0..masked.len() {
            let mut data = masked.clone();
            let (first, second) = data.split_at_mut(cut);
            mask(first, MASK);
            mask(second, rotated(MASK, cut));
            assert_eq!(data, by_definition(&masked), "cut at {cut}");
        }
    }
}
