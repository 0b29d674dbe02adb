//! What a session that can be resumed keeps of what it sent [P-7.7]: copies of its counted envelopes, until the other side
//! is known to have them. The outbox puts each in as it is queued, and takes them out again for a new connection.

use fluxar_protocol::session::{Again, Kept, NotKept};

/// Envelopes are gathered up to so many bytes before they become a piece of their own. A piece fits into a frame.
const PIECE_BYTES: usize = 16 * 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Keeping {
    kept: Kept<Vec<u8>>,
    /// The newest ones, back to back.
    gathered: Vec<u8>,
    gathered_count: u32,
}

impl Keeping {
    /// Nothing, of a new session; at most about so many bytes are kept, and the oldest are forgotten beyond that.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            kept: Kept::new(bytes_max),
            gathered: Vec::new(),
            gathered_count: 0,
        }
    }

    /// Keeps one encoded envelope, which is counted.
    pub(crate) fn keep(&mut self, envelope: &[u8]) {
        if self.gathered.len() + envelope.len() > PIECE_BYTES {
            self.seal();
        }
        self.gathered.extend_from_slice(envelope);
        self.gathered_count += 1;
    }

    fn seal(&mut self) {
        let count = std::mem::take(&mut self.gathered_count);
        if count > 0 {
            self.kept.keep(std::mem::take(&mut self.gathered), count);
        }
    }

    /// The other side has so many.
    pub(crate) fn covered(&mut self, recv: u64) -> Result<(), NotKept> {
        if recv > self.kept.sent() {
            self.seal();
        }
        self.kept.covered(recv)
    }

    /// What the other side, which has so many, is to be sent again: pieces, and where in each that begins.
    pub(crate) fn resume(&mut self, recv: u64) -> Result<Again<'_, Vec<u8>>, NotKept> {
        self.seal();
        self.kept.resume(recv)
    }
}

#[cfg(test)]
mod tests {
    use fluxar_protocol::{Batch as Envelopes, Envelope, Form, Id, Kind};

    use super::*;

    fn answer(number: u16, payload: &[u8]) -> Vec<u8> {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&number.to_be_bytes());
        let mut out = Vec::new();
        Envelope {
            kind: Kind::Call,
            id: Id(id),
            reference: Some(Id([1; 16])),
            target: None,
            meta: None,
            payload,
            error: None,
        }
        .encode(Form::Compact, &mut out);
        out
    }

    fn numbers(keeping: &mut Keeping, recv: u64) -> Vec<u16> {
        let mut numbers = Vec::new();
        for (piece, from) in keeping.resume(recv).unwrap() {
            let is_one = piece.len() > PIECE_BYTES && Envelopes::new(piece).count() == 1;
            assert!(is_one || piece.len() <= PIECE_BYTES);
            for envelope in Envelopes::new(&piece[from..]) {
                let id = envelope.unwrap().envelope.id.0;
                numbers.push(u16::from_be_bytes([id[0], id[1]]));
            }
        }
        numbers
    }

    #[test]
    fn what_is_kept_comes_again_from_anywhere_until_it_is_covered() {
        let mut keeping = Keeping::new(1 << 20);
        for number in 0..500 {
            keeping.keep(&answer(number, &[]));
        }
        let large = [&[0x59, 0xff, 0xff][..], &vec![0; 0xffff]].concat();
        keeping.keep(&answer(500, &large));
        for recv in [0, 1, 250, 499, 500, 501] {
            let expected: Vec<u16> = (0..501).skip(recv as usize).collect();
            assert_eq!(numbers(&mut keeping, recv), expected);
            assert!(keeping.covered(recv).is_ok());
            assert_eq!(numbers(&mut keeping, recv), expected);
        }
        assert!(keeping.resume(500).is_err(), "they are let go");
    }

    #[test]
    fn what_is_told_covers_what_is_still_gathered_and_no_more() {
        let mut keeping = Keeping::new(1 << 20);
        keeping.keep(&answer(0, &[]));
        keeping.keep(&answer(1, &[]));
        assert!(keeping.covered(3).is_err(), "never sent");
        assert!(keeping.covered(1).is_ok());
        keeping.keep(&answer(2, &[]));
        assert_eq!(numbers(&mut keeping, 1), [1, 2]);
    }
}
