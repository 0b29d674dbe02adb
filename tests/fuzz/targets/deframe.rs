//! A byte stream that arrives in pieces: however it is cut, the same frames come out, and no more memory is held than
//! twice what arrived.
#![no_main]

use fluxar_protocol::frame::{Deframer, FrameTooLarge};
use libfuzzer_sys::fuzz_target;

const LIMIT_BYTES: usize = 2048;

/// So many bytes at the start of the input say how the rest is cut.
const CUTS: usize = 4;

fuzz_target!(|input: &[u8]| {
    let Some((cuts, stream)) = input.split_first_chunk::<CUTS>() else {
        return;
    };
    let whole = read(stream, core::iter::repeat(stream.len().max(1)));
    assert_eq!(read(stream, core::iter::repeat(1)), whole);
    // Pieces of no length among them, as a transport may well report; the 1 keeps it going.
    let pieces = cuts.iter().map(|cut| usize::from(*cut)).chain([1]);
    assert_eq!(read(stream, pieces.cycle()), whole);
});

fn read(stream: &[u8], pieces: impl Iterator<Item = usize>) -> (Vec<Vec<u8>>, Option<FrameTooLarge>) {
    let mut deframer = Deframer::new();
    let mut bodies = Vec::new();
    let mut rest = stream;
    for piece_bytes in pieces {
        let (mut piece, behind) = rest.split_at(piece_bytes.min(rest.len()));
        rest = behind;
        loop {
            match deframer.next(&mut piece, LIMIT_BYTES) {
                Ok(Some(body)) => bodies.push(body.to_vec()),
                Ok(None) => break,
                Err(too_large) => return (bodies, Some(too_large)),
            }
        }
        assert!(piece.is_empty());
        assert!(deframer.held_bytes() <= LIMIT_BYTES + 4);
        assert!(deframer.is_partial() || deframer.held_bytes() == 0);
        if rest.is_empty() {
            break;
        }
    }
    (bodies, None)
}
