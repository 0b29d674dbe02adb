//! A byte stream that arrives in pieces: however it is cut, the same frames come out, the reader that does not wait for
//! whole frames finds in them what is found in whole ones, and no more memory is held than twice what arrived.
#![no_main]

use std::ops::ControlFlow;

use fluxar_protocol::Batch;
use fluxar_protocol::frame::{Deframer, FrameTooLarge};
use fluxar_protocol::reader::{EnvelopeReader, Progress};
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
    assert_eq!(read(stream, pieces.clone().cycle()), whole);

    let (bodies, too_large) = whole;
    let mut told: Vec<String> = Vec::new();
    for body in &bodies {
        told.extend(Batch::within(body, LIMIT_BYTES).map(tell));
        told.push("frame".into());
    }
    for pieces in [vec![usize::MAX], vec![1], pieces.collect()] {
        let (found, end) = read_envelopes(stream, pieces.into_iter().cycle());
        assert_eq!(end, too_large);
        // Of a frame that never became whole, the reader may have found some.
        assert_eq!(found[..told.len()], told);
        assert!(!found[told.len()..].contains(&"frame".into()));
    }
});

fn tell(decoded: Result<fluxar_protocol::envelope::Decoded<'_>, fluxar_protocol::Reject>) -> String {
    match decoded {
        Ok(decoded) => format!("{:?}", decoded.bytes),
        Err(reject) => format!("{reject:?}"),
    }
}

fn read_envelopes(
    stream: &[u8],
    pieces: impl Iterator<Item = usize>,
) -> (Vec<String>, Option<FrameTooLarge>) {
    let mut reader = EnvelopeReader::new();
    let mut found = Vec::new();
    let mut rest = stream;
    for piece_bytes in pieces {
        let (mut piece, behind) = rest.split_at(piece_bytes.min(rest.len()));
        rest = behind;
        loop {
            let progress = reader.read(&mut piece, LIMIT_BYTES, LIMIT_BYTES, |decoded| {
                found.push(tell(decoded.copied().map_err(|reject| *reject)));
                ControlFlow::Continue(())
            });
            match progress {
                Ok(Progress::Frame) => found.push("frame".into()),
                Ok(Progress::Starved) => break,
                Ok(Progress::Stopped) => unreachable!("nobody stopped it"),
                Err(too_large) => return (found, Some(too_large)),
            }
        }
        assert!(piece.is_empty());
        assert!(reader.held_bytes() <= LIMIT_BYTES + 4);
        assert!(reader.is_partial() || reader.held_bytes() == 0);
        if rest.is_empty() {
            break;
        }
    }
    (found, None)
}

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
