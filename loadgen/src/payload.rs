//! What messages carry, prepared once: well-formed CBOR maps with room for a stamp, into which nothing but the stamp is
//! written later.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use fluxar_engine::sim::Random;
use fluxar_protocol::cbor::{self, WalkFault, WalkFaultKind};
use serde_json::Value;

use crate::scenario::Payload;
use crate::stamp::{PAYLOAD_BYTES_MIN, STAMP_BYTES, Stamp};

/// Payload nesting that FLUXAR takes; a document stands one deeper than in its file.
const DEPTH_MAX: usize = 64;
/// Draws from a distribution that are made beforehand and then repeated.
const DRAWS: usize = 4_096;
/// The largest payload: what fits a frame of the default limit with an envelope around it.
const PAYLOAD_BYTES_MAX: usize = 1_000_000;

/// Why payloads cannot be made.
#[derive(Debug)]
pub enum PayloadError {
    /// No map has this size.
    Size {
        /// What was asked for.
        bytes: usize,
    },
    /// A distribution without sizes, or with weights that are no weights.
    Distribution,
    /// The file cannot be read.
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A document of the file cannot be used.
    Document {
        /// Which file.
        path: PathBuf,
        /// The how-manyeth in it, from 1.
        number: usize,
        /// What is wrong.
        fault: String,
    },
    /// There is no document in it.
    Empty {
        /// Which.
        path: PathBuf,
    },
}

impl fmt::Display for PayloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PayloadError::Size { bytes } => write!(
                f,
                "payload of {bytes} bytes: it has to lie between {PAYLOAD_BYTES_MIN} (the stamp) and {PAYLOAD_BYTES_MAX}"
            ),
            PayloadError::Distribution => f.write_str(
                "a distribution takes sizes with weights above 0: sizes = [[64, 0.9], [1024, 0.1]]",
            ),
            PayloadError::File { path, error } => write!(f, "payload file {}: {error}", path.display()),
            PayloadError::Document { path, number, fault } => {
                write!(f, "payload file {}, document {number}: {fault}", path.display())
            }
            PayloadError::Empty { path } => write!(
                f,
                "payload file {} has no document: it takes JSON lines, one JSON array, or a CBOR sequence (*.cbor)",
                path.display()
            ),
        }
    }
}

impl std::error::Error for PayloadError {}

/// Prepared payloads and the order in which they are taken. Each generator thread has a copy.
#[derive(Debug, Clone)]
pub struct Payloads {
    payloads: Vec<Vec<u8>>,
    /// Indices into them, taken one after the other and again from the start; empty: all in turn.
    order: Vec<u32>,
    at: usize,
}

impl Payloads {
    /// Makes what a scenario asks for. The same seed draws the same sizes.
    ///
    /// # Errors
    /// See [`PayloadError`].
    pub fn prepare(payload: &Payload, seed: u64) -> Result<Payloads, PayloadError> {
        let (payloads, order) = match payload {
            Payload::Fixed { bytes } => (vec![of_size(*bytes)?], Vec::new()),
            Payload::Distribution { sizes } => {
                let payloads = sizes
                    .iter()
                    .map(|&(bytes, _)| of_size(bytes))
                    .collect::<Result<_, _>>()?;
                (payloads, draw(sizes, seed)?)
            }
            Payload::File { path } => (from_file(path)?, Vec::new()),
        };
        Ok(Payloads {
            payloads,
            order,
            at: 0,
        })
    }

    /// The next one, with this stamp in it.
    #[inline]
    pub fn next(&mut self, stamp: &Stamp) -> &[u8] {
        let index = if self.order.is_empty() {
            if self.at >= self.payloads.len() {
                self.at = 0;
            }
            self.at
        } else {
            if self.at >= self.order.len() {
                self.at = 0;
            }
            self.order[self.at] as usize
        };
        self.at += 1;
        let payload = &mut self.payloads[index];
        stamp.write(payload);
        payload
    }

    /// The largest of those that were prepared.
    #[must_use]
    pub fn largest_bytes(&self) -> usize {
        self.payloads.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// The mean size of those that were prepared, as often as each is taken.
    #[must_use]
    pub fn mean_bytes(&self) -> f64 {
        let size = |index: usize| self.payloads[index].len() as f64;
        if self.order.is_empty() {
            (0..self.payloads.len()).map(size).sum::<f64>() / self.payloads.len() as f64
        } else {
            self.order.iter().map(|&index| size(index as usize)).sum::<f64>() / self.order.len() as f64
        }
    }
}

/// Draws by weight.
fn draw(sizes: &[(usize, f64)], seed: u64) -> Result<Vec<u32>, PayloadError> {
    let total: f64 = sizes.iter().map(|&(_, weight)| weight).sum();
    if sizes.iter().any(|&(_, weight)| weight.is_nan() || weight <= 0.0) || !total.is_finite() || total <= 0.0
    {
        return Err(PayloadError::Distribution);
    }
    let mut random = Random::new(seed);
    let draws = (0..DRAWS).map(|_| {
        let mut left = (random.next() >> 11) as f64 / (1u64 << 53) as f64 * total;
        let found = sizes.iter().position(|&(_, weight)| {
            left -= weight;
            left < 0.0
        });
        found.unwrap_or(sizes.len() - 1) as u32
    });
    Ok(draws.collect())
}

/// The head of a map of so many pairs (below 24) and the stamp, still zero.
fn stamped(pairs: u8) -> Vec<u8> {
    let mut payload = vec![0xa0 | pairs, 0x61, b's', 0x40 | STAMP_BYTES as u8];
    payload.resize(PAYLOAD_BYTES_MIN, 0);
    payload
}

/// A map like those that devices send, of exactly this size.
fn of_size(bytes: usize) -> Result<Vec<u8>, PayloadError> {
    if !(PAYLOAD_BYTES_MIN..=PAYLOAD_BYTES_MAX).contains(&bytes) {
        return Err(PayloadError::Size { bytes });
    }
    let mut payload = stamped(1);
    if bytes == PAYLOAD_BYTES_MIN + 1 {
        // No pair has one byte, but a map without a stated length has a byte at its end.
        payload[0] = 0xbf;
        payload.push(0xff);
        return Ok(payload);
    }
    let mut fields: Vec<Vec<u8>> = Vec::new();
    for (name, value) in [
        ("device", Value::from("press-17")),
        ("value", Value::from(21.375)),
        ("unit", Value::from("bar")),
        ("at", Value::from(1_764_000_000_000_u64)),
        ("ok", Value::from(true)),
    ] {
        let mut field = Vec::new();
        text(name, &mut field);
        encode(&value, &mut field);
        fields.push(field);
    }
    let mut left = bytes - payload.len();
    for field in fields {
        // What is left over has to hold a further pair, or be nothing.
        if left == field.len() || left >= field.len() + 3 {
            payload[0] += 1;
            left -= field.len();
            payload.extend(field);
        }
    }
    if left > 0 {
        payload[0] += 1;
        filler(left, &mut payload);
    }
    Ok(payload)
}

/// A pair of exactly so many bytes, at least 2: the key is "log", or shorter where that does not come out.
fn filler(bytes: usize, into: &mut Vec<u8>) {
    for key in ["log", "l", "lo", ""] {
        let Some(value_bytes) = bytes.checked_sub(1 + key.len()) else {
            continue;
        };
        // Around the sizes at which the head of a text grows, some are not to be had.
        let head_bytes = (1..=5).find(|head_bytes| {
            value_bytes
                .checked_sub(*head_bytes)
                .is_some_and(|length| head(3, length as u64).len() == *head_bytes)
        });
        if let Some(head_bytes) = head_bytes {
            let length = value_bytes - head_bytes;
            text(key, into);
            let line = "pressure within limits, valve 3 open, pump at 1480 rpm; ";
            let log: String = line.chars().cycle().take(length).collect();
            text(&log, into);
            return;
        }
    }
    unreachable!("one of two neighbouring key lengths always comes out");
}

/// Documents of a file, each beside a stamp: `{"s": stamp, "d": document}`.
fn from_file(path: &Path) -> Result<Vec<Vec<u8>>, PayloadError> {
    let bytes = std::fs::read(path).map_err(|error| PayloadError::File {
        path: path.to_owned(),
        error,
    })?;
    let fault = |number: usize, fault: String| PayloadError::Document {
        path: path.to_owned(),
        number,
        fault,
    };
    let is_cbor = path.extension().is_some_and(|extension| {
        extension.eq_ignore_ascii_case("cbor") || extension.eq_ignore_ascii_case("cborseq")
    });
    let documents = if is_cbor {
        cbor_sequence(&bytes)
    } else {
        json_documents(&bytes)
    };
    let documents = documents.map_err(|(number, what)| fault(number, what))?;
    let mut payloads = Vec::with_capacity(documents.len());
    for (number, document) in (1..).zip(documents) {
        let mut payload = stamped(2);
        text("d", &mut payload);
        payload.extend(document);
        if payload.len() > PAYLOAD_BYTES_MAX {
            let size = payload.len();
            return Err(fault(
                number,
                format!("{size} bytes as CBOR; at most {PAYLOAD_BYTES_MAX} fit"),
            ));
        }
        match cbor::walk(&payload, DEPTH_MAX) {
            Ok(end) if end == payload.len() => payloads.push(payload),
            Ok(_) => return Err(fault(number, "it ends before its last byte".into())),
            Err(what) => return Err(fault(number, format!("as CBOR, {}", described(what)))),
        }
    }
    if payloads.is_empty() {
        return Err(PayloadError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(payloads)
}

/// Documents, or the number of the one that is wrong (from 1) and how.
type Documents = Result<Vec<Vec<u8>>, (usize, String)>;

fn described(fault: WalkFault) -> String {
    let what = match fault.kind {
        WalkFaultKind::Truncated => "it ends too early",
        WalkFaultKind::Utf8 => "its text is not UTF-8",
        WalkFaultKind::Depth => "it is nested too deep (at most 64, the map around it included)",
        _ => "it is not well-formed",
    };
    format!("{what}, at byte {}", fault.at)
}

fn cbor_sequence(mut bytes: &[u8]) -> Documents {
    let mut documents = Vec::new();
    while !bytes.is_empty() {
        let end = cbor::walk(bytes, DEPTH_MAX).map_err(|what| (documents.len() + 1, described(what)))?;
        documents.push(bytes[..end].to_vec());
        bytes = &bytes[end..];
    }
    Ok(documents)
}

fn json_documents(bytes: &[u8]) -> Documents {
    let mut values = Vec::new();
    for value in serde_json::Deserializer::from_slice(bytes).into_iter::<Value>() {
        values.push(value.map_err(|error| (values.len() + 1, format!("it is not JSON: {error}")))?);
    }
    if values.len() == 1
        && let Some(Value::Array(elements)) = values.first_mut()
    {
        values = std::mem::take(elements);
    }
    let documents = values.iter().map(|value| {
        let mut document = Vec::new();
        encode(value, &mut document);
        document
    });
    Ok(documents.collect())
}

/// JSON as CBOR (RFC 8949 §6.2): integers stay integers, other numbers become doubles, heads are the shortest.
fn encode(value: &Value, into: &mut Vec<u8>) {
    match value {
        Value::Null => into.push(0xf6),
        Value::Bool(false) => into.push(0xf4),
        Value::Bool(true) => into.push(0xf5),
        Value::Number(number) => {
            if let Some(positive) = number.as_u64() {
                into.extend(head(0, positive));
            } else if let Some(negative) = number.as_i64() {
                into.extend(head(1, !negative as u64));
            } else {
                into.push(0xfb);
                into.extend(number.as_f64().unwrap_or(f64::NAN).to_be_bytes());
            }
        }
        Value::String(string) => text(string, into),
        Value::Array(elements) => {
            into.extend(head(4, elements.len() as u64));
            for element in elements {
                encode(element, into);
            }
        }
        Value::Object(members) => {
            into.extend(head(5, members.len() as u64));
            for (name, member) in members {
                text(name, into);
                encode(member, into);
            }
        }
    }
}

fn text(string: &str, into: &mut Vec<u8>) {
    into.extend(head(3, string.len() as u64));
    into.extend(string.as_bytes());
}

/// The shortest head of a major type with its argument.
fn head(major: u8, argument: u64) -> Vec<u8> {
    let major = major << 5;
    let bytes = argument.to_be_bytes();
    match argument {
        0..24 => vec![major | argument as u8],
        24..0x100 => vec![major | 24, bytes[7]],
        0x100..0x1_0000 => [&[major | 25], &bytes[6..]].concat(),
        0x1_0000..0x1_0000_0000 => [&[major | 26], &bytes[4..]].concat(),
        _ => [&[major | 27], &bytes[..]].concat(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STAMP: Stamp = Stamp {
        publisher: 3,
        sequence: 77,
        intended_ns: 1 << 60,
    };

    fn well_formed(payload: &[u8]) {
        assert_eq!(cbor::walk(payload, DEPTH_MAX), Ok(payload.len()));
        assert_eq!(Stamp::read(payload), Some(STAMP));
    }

    fn written(name: &str, content: &[u8]) -> (tempfile::TempDir, Payload) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(name);
        std::fs::write(&path, content).expect("a file");
        (folder, Payload::File { path })
    }

    #[test]
    fn every_size_is_exact_and_well_formed() {
        for bytes in (24..1_200)
            .chain(65_500..65_700)
            .chain([262_144, PAYLOAD_BYTES_MAX])
        {
            let mut payloads = Payloads::prepare(&Payload::Fixed { bytes }, 1).expect("payloads");
            let payload = payloads.next(&STAMP);
            assert_eq!(payload.len(), bytes);
            well_formed(payload);
        }
        for bytes in [0, 23, PAYLOAD_BYTES_MAX + 1] {
            assert!(matches!(of_size(bytes), Err(PayloadError::Size { .. })));
        }
    }

    #[test]
    fn sixty_four_bytes_are_a_handful_of_fields() {
        let payload = of_size(64).expect("a payload");
        assert_eq!(payload[0], 0xa4);
        assert!(payload.windows(8).any(|part| part == b"press-17"));
    }

    #[test]
    fn a_distribution_is_drawn_by_weight() {
        let sizes = vec![(64, 9.0), (1_024, 1.0)];
        let mut payloads = Payloads::prepare(&Payload::Distribution { sizes }, 1).expect("payloads");
        let large = (0..10_000)
            .filter(|_| payloads.next(&STAMP).len() == 1_024)
            .count();
        assert!((800..1_200).contains(&large), "{large}");
        let weights = vec![(64, 0.0)];
        assert!(Payloads::prepare(&Payload::Distribution { sizes: weights }, 1).is_err());
        assert!(Payloads::prepare(&Payload::Distribution { sizes: vec![] }, 1).is_err());
    }

    #[test]
    fn json_becomes_the_cbor_that_it_means() {
        let lines = b"{\"a\": 1, \"b\": [-500, 1.5, null, true]}\n{\"c\": \"\\u00fc\"}\n";
        let (_folder, payload) = written("documents.jsonl", lines);
        let mut payloads = Payloads::prepare(&payload, 1).expect("payloads");
        let first = payloads.next(&STAMP).to_vec();
        well_formed(&first);
        let mut expected = vec![
            0x61, b'd', 0xa2, 0x61, b'a', 0x01, 0x61, b'b', 0x84, 0x39, 0x01, 0xf3, 0xfb,
        ];
        expected.extend(1.5f64.to_be_bytes());
        expected.extend([0xf6, 0xf5]);
        assert_eq!(first[PAYLOAD_BYTES_MIN..], expected);
        let second = payloads.next(&STAMP).to_vec();
        well_formed(&second);
        assert!(second.ends_with(&[0xa1, 0x61, b'c', 0x62, 0xc3, 0xbc]));
        assert_eq!(payloads.next(&STAMP), first);
    }

    #[test]
    fn an_array_and_a_sequence_hold_documents() {
        let (_folder, payload) = written("documents.json", b" [ {\"a\": 1}, {\"a\": 2}, 3 ]");
        assert_eq!(
            Payloads::prepare(&payload, 1).expect("payloads").payloads.len(),
            3
        );
        let (_folder, payload) = written("documents.cbor", &[0xa1, 0x61, b'a', 0x01, 0x83, 1, 2, 3]);
        let mut payloads = Payloads::prepare(&payload, 1).expect("payloads");
        assert!(payloads.next(&STAMP).ends_with(&[0xa1, 0x61, b'a', 0x01]));
        assert!(payloads.next(&STAMP).ends_with(&[0x83, 1, 2, 3]));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let deep = [b"[".repeat(70), b"]".repeat(70), b"\n1".to_vec()].concat();
        for (name, content, number) in [
            ("broken.jsonl", &b"{}\n{\"a\": }\n"[..], 2),
            ("broken.cbor", &[0x01, 0x61], 2),
            ("deep.json", &deep, 1),
        ] {
            let (_folder, payload) = written(name, content);
            match Payloads::prepare(&payload, 1) {
                Err(PayloadError::Document { number: found, .. }) => assert_eq!(found, number, "{name}"),
                other => panic!("{name}: {other:?}"),
            }
        }
        let (_folder, payload) = written("empty.json", b"\n");
        assert!(matches!(
            Payloads::prepare(&payload, 1),
            Err(PayloadError::Empty { .. })
        ));
        let path = PathBuf::from("/does/not/exist.json");
        assert!(matches!(
            Payloads::prepare(&Payload::File { path }, 1),
            Err(PayloadError::File { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_file_is_used_or_refused(content in prop::collection::vec(any::<u8>(), 0..300), cbor: bool) {
            let documents = if cbor { cbor_sequence(&content) } else { json_documents(&content) };
            if let Ok(documents) = documents {
                for document in documents {
                    prop_assert_eq!(cbor::walk(&document, 200), Ok(document.len()));
                }
            }
        }
    }
}
