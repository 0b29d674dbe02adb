//! Close frames: their codes (RFC 6455, 7.4), what a peer may say in one, and how ours are made.

use super::fault::WsFault;
use super::frame::CONTROL_MAX_BYTES;

/// Normal closure: the purpose is fulfilled.
pub const CLOSE_NORMAL: u16 = 1000;
/// The server goes down, or the page is left.
pub const CLOSE_GOING_AWAY: u16 = 1001;
/// The peer broke RFC 6455.
pub const CLOSE_PROTOCOL: u16 = 1002;
/// A kind of message that this endpoint does not take.
pub const CLOSE_UNSUPPORTED: u16 = 1003;
/// Stands for a close frame without a code. It is reported, and never on the wire.
pub const CLOSE_NO_STATUS: u16 = 1005;
/// Text that is not UTF-8.
pub const CLOSE_INVALID: u16 = 1007;
/// The endpoint's own rules, if no other code says it better.
pub const CLOSE_POLICY: u16 = 1008;
/// A message over the size limit.
pub const CLOSE_TOO_BIG: u16 = 1009;
/// The endpoint itself failed.
pub const CLOSE_INTERNAL: u16 = 1011;
/// Overloaded: try again later.
pub const CLOSE_TRY_AGAIN: u16 = 1013;

/// A close frame to send. A reason over 123 bytes is cut, at a character. `CLOSE_NO_STATUS` makes one without code
/// and reason.
pub fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    append_close_frame(code, reason, &mut frame);
    frame
}

pub(super) fn append_close_frame(code: u16, reason: &str, out: &mut Vec<u8>) {
    if code == CLOSE_NO_STATUS {
        out.extend_from_slice(&[0x88, 0]);
        return;
    }
    debug_assert!(may_be_sent(code), "{code} is not for the wire");
    let mut reason_bytes = reason.len().min(CONTROL_MAX_BYTES - 2);
    while !reason.is_char_boundary(reason_bytes) {
        reason_bytes -= 1;
    }
    let reason = &reason[..reason_bytes];
    out.extend_from_slice(&[0x88, 2 + reason.len() as u8]);
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Code and reason of a peer's close frame.
pub(super) fn parse(payload: &[u8]) -> Result<(u16, &str), WsFault> {
    match payload {
        [] => Ok((CLOSE_NO_STATUS, "")),
        [_] => Err(WsFault::frame(
            CLOSE_PROTOCOL,
            "a close frame's payload of one byte is no code",
        )),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !may_be_sent(code) {
                return Err(WsFault::frame(
                    CLOSE_PROTOCOL,
                    "a close code that must not be sent",
                ));
            }
            match simdutf8::basic::from_utf8(reason) {
                Ok(reason) => Ok((code, reason)),
                Err(_) => Err(WsFault::frame(CLOSE_INVALID, "a close reason that is not UTF-8")),
            }
        }
    }
}

/// Whether a code may stand in a frame: the defined ones less those that only report (1005, 1006, 1015), and the
/// ranges for libraries and applications.
fn may_be_sent(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_reasons_are_cut_at_a_character() {
        let frame = close_frame(CLOSE_POLICY, &"é".repeat(100));
        assert_eq!(frame.len(), 2 + 2 + 122);
        assert_eq!(frame[1], 124);
        assert_eq!(parse(&frame[2..]), Ok((CLOSE_POLICY, "é".repeat(61).as_str())));
    }

    #[test]
    fn no_status_is_an_empty_frame() {
        assert_eq!(close_frame(CLOSE_NO_STATUS, "unsaid"), [0x88, 0]);
        assert_eq!(parse(&[]), Ok((CLOSE_NO_STATUS, "")));
    }
}
