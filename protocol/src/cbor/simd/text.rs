//! Short text. Nearly all targets and keys are short and ASCII, and then a few words tell that they are UTF-8: the
//! checks of longer text begin with more than that.

use core::str::{self, Utf8Error};

const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// The text that these bytes are.
#[inline]
pub(crate) fn as_str(bytes: &[u8]) -> Result<&str, Utf8Error> {
    if is_ascii(bytes) {
        // SAFETY: ASCII is UTF-8.
        return Ok(unsafe { str::from_utf8_unchecked(bytes) });
    }
    str::from_utf8(bytes)
}

/// Whether no byte is above 127.
#[inline]
pub(crate) fn is_ascii(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks();
    let mut all = words
        .iter()
        .fold(0, |all, word: &[u8; 8]| all | u64::from_ne_bytes(*word));
    match bytes.last_chunk() {
        // It overlaps with the last of the words.
        Some(last) => all |= u64::from_ne_bytes(*last),
        None => all = rest.iter().fold(0, |all, byte| all | u64::from(*byte)),
    }
    all & HIGH_BITS == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_the_standard_library_says() {
        for len in 0..70 {
            let mut bytes = alloc::vec![b'a'; len];
            assert_eq!(as_str(&bytes), str::from_utf8(&bytes));
            for at in 0..len {
                for byte in [0x00, 0x7f, 0x80, 0xff] {
                    bytes[at] = byte;
                    assert_eq!(is_ascii(&bytes), bytes.is_ascii(), "{bytes:x?}");
                    assert_eq!(as_str(&bytes), str::from_utf8(&bytes));
                }
                bytes[at] = b'a';
            }
        }
        assert_eq!(as_str("größe".as_bytes()), Ok("größe"));
    }
}
