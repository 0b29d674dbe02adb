//! Lines and decimal numbers, as NATS and Redis write them.

use super::Fault;

/// Longest line that is taken, bytes: a NATS server's INFO is by far the longest that is known.
const LINE_BYTES_MAX: usize = 32 * 1024;
/// Largest message that is taken, bytes.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The line that begins at `at`, without its end, and where the next one begins. `None` if its end has not arrived.
pub(super) fn line(input: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, Fault> {
    let rest = input.get(at..).unwrap_or_default();
    match rest.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') {
        Some(end) => {
            let line = &rest[..end];
            Ok(Some((line.strip_suffix(b"\r").unwrap_or(line), at + end + 1)))
        }
        None if rest.len() >= LINE_BYTES_MAX => Err(Fault(format!(
            "the server sent a line of more than {LINE_BYTES_MAX} bytes: {}",
            quoted(rest)
        ))),
        None => Ok(None),
    }
}

/// A decimal number without a sign, at most [`MESSAGE_BYTES_MAX`].
pub(super) fn length(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let mut number = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number * 10 + usize::from(digit - b'0');
    }
    (number <= MESSAGE_BYTES_MAX).then_some(number)
}

/// Appends a number in decimal.
pub(super) fn write_decimal(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// The start of what a server sent, for a message to a person.
pub(super) fn quoted(bytes: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 120;
    let shown = &bytes[..bytes.len().min(SHOWN_BYTES_MAX)];
    let dots = if bytes.len() > SHOWN_BYTES_MAX { "…" } else { "" };
    format!("\"{}{dots}\"", shown.escape_ascii())
}

/// A head that came before: as long as the next one is byte for byte the same, it needs no parsing. Subscribers of one
/// topic get one head over and over.
#[derive(Debug, Default)]
pub(super) struct KnownHead {
    bytes: Vec<u8>,
    payload_bytes: usize,
}

impl KnownHead {
    /// Remembers a head and the length of the payload behind it, which "\r\n" ends.
    pub(super) fn learn(&mut self, head: &[u8], payload_bytes: usize) {
        self.bytes.clear();
        self.bytes.extend_from_slice(head);
        self.payload_bytes = payload_bytes;
    }

    /// The payload and where it ends, if the input begins with the known head and all is there.
    #[inline]
    pub(super) fn recognise<'i>(&self, input: &'i [u8]) -> Option<(&'i [u8], usize)> {
        let at = self.bytes.len();
        if at == 0 || !input.starts_with(&self.bytes) {
            return None;
        }
        let end = at + self.payload_bytes;
        (input.get(end..end + 2)? == b"\r\n").then(|| (&input[at..end], end + 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        for number in [0, 1, 9, 10, 64, 99, 100, 1_048_576, MESSAGE_BYTES_MAX] {
            let mut digits = Vec::new();
            write_decimal(number as u64, &mut digits);
            assert_eq!(digits, number.to_string().as_bytes());
            assert_eq!(length(&digits), Some(number));
        }
        let mut most = Vec::new();
        write_decimal(u64::MAX, &mut most);
        assert_eq!(most, u64::MAX.to_string().as_bytes());
        for wrong in [&b""[..], b"-1", b"+1", b" 1", b"1 ", b"67108865", b"123456789"] {
            assert_eq!(length(wrong), None);
        }
    }

    #[test]
    fn lines_end_and_are_bounded() {
        assert_eq!(line(b"ab\r\ncd\n", 0), Ok(Some((&b"ab"[..], 4))));
        assert_eq!(line(b"ab\r\ncd\n", 4), Ok(Some((&b"cd"[..], 7))));
        assert_eq!(line(b"ab\r\ncd", 4), Ok(None));
        assert_eq!(line(b"ab", 9), Ok(None));
        assert_eq!(line(&[b'a'; LINE_BYTES_MAX - 1], 0), Ok(None));
        assert!(line(&[b'a'; LINE_BYTES_MAX], 0).is_err());
    }
}
