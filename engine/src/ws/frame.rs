//! Frame headers (RFC 6455, 5.2): reading the peer's, with every rule that the header alone can break, and writing
//! ours.

use super::Role;
use super::close::CLOSE_PROTOCOL;
use super::fault::WsFault;
use super::mask::mask;

/// The longest payload of a control frame.
pub(super) const CONTROL_MAX_BYTES: usize = 125;

const FIN: u8 = 0x80;
const RSV: u8 = 0x70;
const MASKED: u8 = 0x80;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Opcode {
    Continuation = CONTINUATION,
    Text = TEXT,
    Binary = BINARY,
    Close = CLOSE,
    Ping = PING,
    Pong = PONG,
}

impl Opcode {
    pub(super) fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }
}

/// A peer's frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) fin: bool,
    pub(super) opcode: Opcode,
    /// Zeros, which change nothing, in a server's frame.
    pub(super) mask: [u8; 4],
    pub(super) payload_bytes: u64,
}

/// What the bytes at hand hold of a header.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// All of it, in so many bytes.
    Whole(FrameHeader, usize),
    /// Only its beginning; at least so many bytes are missing.
    Missing(usize),
}

impl FrameHeader {
    /// Reads the header at the start of `bytes`, which the peer of `role` sent. What breaks a rule is refused as soon as
    /// the octet that does so is there.
    pub(super) fn parse(bytes: &[u8], role: Role) -> Result<Parsed, WsFault> {
        let [first, second, rest @ ..] = bytes else {
            return Ok(Parsed::Missing(2 - bytes.len()));
        };
        let fin = first & FIN != 0;
        let opcode = match first & 0x0f {
            CONTINUATION => Opcode::Continuation,
            TEXT => Opcode::Text,
            BINARY => Opcode::Binary,
            CLOSE => Opcode::Close,
            PING => Opcode::Ping,
            PONG => Opcode::Pong,
            _ => return Err(refused("a reserved opcode")),
        };
        if first & RSV != 0 {
            return Err(refused("a reserved bit is set, and no extension was agreed"));
        }
        // RFC 6455, 5.1: a client masks each frame, a server none; both close over the contrary.
        let mask_bytes = match (role, second & MASKED != 0) {
            (Role::Server, true) => 4,
            (Role::Client, false) => 0,
            (Role::Server, false) => return Err(refused("a client's frame that is not masked")),
            (Role::Client, true) => return Err(refused("a server's frame that is masked")),
        };
        let short_length = second & !MASKED;
        if opcode.is_control() && (!fin || usize::from(short_length) > CONTROL_MAX_BYTES) {
            return Err(refused("a control frame that is fragmented or over 125 bytes"));
        }

        let (payload_bytes, mask) = match (short_length, rest) {
            (126, [a, b, mask @ ..]) => {
                let length = u16::from_be_bytes([*a, *b]);
                if length < 126 {
                    return Err(refused("a length that is not in its shortest form"));
                }
                (u64::from(length), mask)
            }
            (127, [a, b, c, d, e, f, g, h, mask @ ..]) => {
                let length = u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
                if length >> 63 != 0 {
                    return Err(refused("a 64-bit length whose first bit is set"));
                }
                if length <= u64::from(u16::MAX) {
                    return Err(refused("a length that is not in its shortest form"));
                }
                (length, mask)
            }
            (126, _) => return Ok(Parsed::Missing(2 + mask_bytes - rest.len())),
            (127, _) => return Ok(Parsed::Missing(8 + mask_bytes - rest.len())),
            (length, mask) => (u64::from(length), mask),
        };
        let mask = match role {
            Role::Client => [0; 4],
            Role::Server => match mask.first_chunk() {
                Some(mask) => *mask,
                None => return Ok(Parsed::Missing(mask_bytes - mask.len())),
            },
        };
        let header_bytes = 2 + mask_bytes + [0, 2, 8][usize::from(short_length.saturating_sub(125))];
        Ok(Parsed::Whole(
            FrameHeader {
                fin,
                opcode,
                mask,
                payload_bytes,
            },
            header_bytes,
        ))
    }
}

const FIRST: u8 = FIN | BINARY;

/// The lengths of header and payload, if `bytes` begins with the header of a server's binary message in one frame, as
/// [`common_header`].
#[inline]
pub(super) fn common_unmasked_header(bytes: &[u8]) -> Option<(usize, usize)> {
    match *bytes {
        [FIRST, second @ 0..=0x7d, ..] => Some((2, usize::from(second))),
        [FIRST, 0x7e, a, b, ..] if (a, b) >= (0, 126) => {
            Some((2 + 2, usize::from(u16::from_be_bytes([a, b]))))
        }
        _ => None,
    }
}

/// The lengths of header and payload, if `bytes` begins with the header of a client's binary message in one frame, of at
/// most 64 KiB and without a fault. What it does not know is for [`FrameHeader::parse`].
#[inline]
pub(super) fn common_header(bytes: &[u8]) -> Option<(usize, usize)> {
    match *bytes {
        [FIRST, second @ 0x80..=0xfd, ..] => Some((2 + 4, usize::from(second & !MASKED))),
        [FIRST, 0xfe, a, b, ..] if (a, b) >= (0, 126) => {
            Some((2 + 2 + 4, usize::from(u16::from_be_bytes([a, b]))))
        }
        _ => None,
    }
}

#[cold]
fn refused(reason: &'static str) -> WsFault {
    WsFault::frame(CLOSE_PROTOCOL, reason)
}

/// Writes the header of one whole binary message of `message_bytes` bytes, which follow it as they are (a server
/// does not mask). Returns how many bytes of `out` it takes: 2, 4 or 10.
pub fn frame_header(message_bytes: usize, out: &mut [u8; 10]) -> usize {
    header(FIN | BINARY, message_bytes, out)
}

/// Writes the header of one whole binary message of a client, whose bytes follow XORed with `key`. Returns how many bytes
/// of `out` it takes: 6, 8 or 14.
pub(crate) fn masked_frame_header(message_bytes: usize, key: [u8; 4], out: &mut [u8; 14]) -> usize {
    let mut plain = [0; 10];
    let plain_bytes = header(FIN | BINARY, message_bytes, &mut plain);
    plain[1] |= MASKED;
    out[..plain_bytes].copy_from_slice(&plain[..plain_bytes]);
    out[plain_bytes..plain_bytes + 4].copy_from_slice(&key);
    plain_bytes + 4
}

/// A client's form of control frames that were written as a server writes them, one behind the other.
pub(super) fn mask_control_frames(mut plain: &[u8], mut key: impl FnMut() -> [u8; 4]) -> Vec<u8> {
    let mut masked = Vec::with_capacity(plain.len() + 8);
    while let [first, payload_bytes, rest @ ..] = plain {
        debug_assert!(
            usize::from(*payload_bytes) <= CONTROL_MAX_BYTES,
            "not a control frame of ours"
        );
        let (payload, behind) = rest.split_at(rest.len().min(usize::from(*payload_bytes)));
        let key = key();
        masked.extend_from_slice(&[*first, MASKED | *payload_bytes]);
        masked.extend_from_slice(&key);
        let begins = masked.len();
        masked.extend_from_slice(payload);
        mask(&mut masked[begins..], key);
        plain = behind;
    }
    masked
}

/// [`frame_header`] for a text message; its bytes must be UTF-8.
pub fn text_frame_header(message_bytes: usize, out: &mut [u8; 10]) -> usize {
    header(FIN | TEXT, message_bytes, out)
}

/// A ping to send. Bytes of `payload` beyond 125 are left out.
pub fn ping_frame(payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(CONTROL_MAX_BYTES)];
    let mut frame = Vec::with_capacity(2 + payload.len());
    frame.extend_from_slice(&[FIN | PING, payload.len() as u8]);
    frame.extend_from_slice(payload);
    frame
}

/// Appends the pong that answers a ping with this payload (at most 125 bytes, as its header was checked).
pub(super) fn append_pong(payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[FIN | PONG, payload.len() as u8]);
    out.extend_from_slice(payload);
}

/// Takes the pong with a payload of `payload_bytes` off the end of `out`, if that is what stands there.
pub(super) fn remove_pong(payload_bytes: u8, out: &mut Vec<u8>) -> bool {
    let Some(start) = out.len().checked_sub(2 + usize::from(payload_bytes)) else {
        return false;
    };
    let found = out[start..].starts_with(&[FIN | PONG, payload_bytes]);
    if found {
        out.truncate(start);
    }
    found
}

fn header(first: u8, payload_bytes: usize, out: &mut [u8; 10]) -> usize {
    out[0] = first;
    match payload_bytes {
        0..=125 => {
            out[1] = payload_bytes as u8;
            2
        }
        126..=0xffff => {
            out[1] = 126;
            out[2..4].copy_from_slice(&(payload_bytes as u16).to_be_bytes());
            4
        }
        _ => {
            out[1] = 127;
            out[2..].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
            10
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(bytes: &[u8], role: Role) -> (FrameHeader, usize) {
        match FrameHeader::parse(bytes, role) {
            Ok(Parsed::Whole(header, used)) => (header, used),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_form_of_length_is_read() {
        let mask = [1, 2, 3, 4];
        for (length, form) in [
            (0_u64, vec![0x80]),
            (125, vec![0xfd]),
            (126, vec![0xfe, 0, 126]),
            (65_535, vec![0xfe, 0xff, 0xff]),
            (65_536, vec![0xff, 0, 0, 0, 0, 0, 1, 0, 0]),
            (
                u64::MAX >> 1,
                vec![0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            ),
        ] {
            let from_client = [&[0x82][..], &form, &mask].concat();
            let mut from_server = [&[0x82][..], &form].concat();
            from_server[1] &= 0x7f;
            for (role, bytes, mask) in [
                (Role::Server, &from_client, mask),
                (Role::Client, &from_server, [0; 4]),
            ] {
                let header = FrameHeader {
                    fin: true,
                    opcode: Opcode::Binary,
                    mask,
                    payload_bytes: length,
                };
                assert_eq!(whole(bytes, role), (header, bytes.len()));
                for cut in 0..bytes.len() {
                    let missing = match FrameHeader::parse(&bytes[..cut], role) {
                        Ok(Parsed::Missing(missing)) => missing,
                        other => panic!("{cut} of {length}: {other:?}"),
                    };
                    assert!(missing > 0 && cut + missing <= bytes.len());
                }
            }
            assert!(FrameHeader::parse(&from_client, Role::Client).is_err());
            assert!(FrameHeader::parse(&from_server, Role::Server).is_err());
        }
    }

    #[test]
    fn what_is_written_is_the_shortest_form() {
        let mut out = [0; 10];
        for (length, expected) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (65_535, &[0x82, 126, 0xff, 0xff]),
            (65_536, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let used = frame_header(length, &mut out);
            assert_eq!(&out[..used], expected);
        }
        let used = text_frame_header(5, &mut out);
        assert_eq!(out[..used], [0x81, 5]);
        assert_eq!(ping_frame(&[7; 200]).len(), 2 + 125);
    }

    #[test]
    fn the_quick_look_at_a_header_sees_what_the_long_one_does() {
        let mut out = [0; 10];
        for length in [0, 1, 125, 126, 127, 65_535] {
            let used = frame_header(length, &mut out);
            assert_eq!(common_unmasked_header(&out), Some((used, length)));
            let mut masked = [0; 14];
            let used = masked_frame_header(length, [1, 2, 3, 4], &mut masked);
            assert_eq!(common_header(&masked), Some((used, length)));
            assert_eq!(whole(&masked, Role::Server).0.mask, [1, 2, 3, 4]);
            assert_eq!(
                (common_header(&out), common_unmasked_header(&masked)),
                (None, None)
            );
        }
    }

    #[test]
    fn each_control_frame_is_masked_on_its_own() {
        let mut plain = ping_frame(b"one");
        append_pong(b"", &mut plain);
        plain.extend(super::super::close_frame(1000, "bye"));
        let mut keys = [[1, 1, 1, 1], [2, 2, 2, 2], [3, 3, 3, 3]].into_iter();
        let masked = mask_control_frames(&plain, || keys.next().expect("a key for each"));
        let expected: &[&[u8]] = &[
            &[0x89, 0x83, 1, 1, 1, 1, b'o' ^ 1, b'n' ^ 1, b'e' ^ 1],
            &[0x8a, 0x80, 2, 2, 2, 2],
            &[
                0x88,
                0x85,
                3,
                3,
                3,
                3,
                3 ^ 3,
                0xe8 ^ 3,
                b'b' ^ 3,
                b'y' ^ 3,
                b'e' ^ 3,
            ],
        ];
        assert_eq!(masked, expected.concat());
        assert!(keys.next().is_none());
    }

    #[test]
    fn only_a_pong_at_the_end_is_removed() {
        let mut out = vec![1, 2];
        append_pong(b"abc", &mut out);
        assert!(!remove_pong(2, &mut out));
        assert!(!remove_pong(100, &mut out));
        assert!(remove_pong(3, &mut out));
        assert_eq!(out, [1, 2]);
    }
}
