//! Decoding in one pass, in place.
//!
//! What peers usually send takes the straight way of `usual`. Here is the way that takes everything, and that finds
//! out what is wrong. Both forms share the fields; the named one has a key in front of each.

use super::{COMPACT_HEAD, Decoded, Envelope, FIELD_NAMES, Form, Id, Kind, NAMED_HEAD, salvage, usual};
use crate::cbor;
use crate::error::{self, Fault, Found, Reject};
use crate::head::{self, Head, NoHead};
use crate::limits::{PAYLOAD_DEPTH_MAX, TARGET_BYTES_MAX};
use crate::meta::{self, Meta};

/// First byte of 16 bytes: what ids are.
const ID_HEAD: u8 = 0x50;
/// First byte of the empty text; shorter texts have their length in it.
const TEXT_HEAD: u8 = 0x60;
/// First byte of a text with one byte of length.
const TEXT_HEAD_U8: u8 = 0x78;

/// Decodes the envelope at the start of `bytes`; what follows it is left alone.
///
/// # Errors
/// See [`Reject`]: what is wrong, and all that could be read nonetheless.
#[inline]
pub fn decode(bytes: &[u8]) -> Result<Decoded<'_>, Reject> {
    match usual::decode(bytes) {
        Some(decoded) => Ok(decoded),
        None => decode_any(bytes),
    }
}

#[inline(never)]
pub(super) fn decode_any(bytes: &[u8]) -> Result<Decoded<'_>, Reject> {
    decode_fields(bytes).map_err(|(fault, at)| salvage::reject(bytes, fault, at))
}

/// Decodes the envelope at the start of `bytes`, which may go on behind them. `None`: it does. Nothing is found out
/// about what is there of it, since that is done when the rest has come.
#[inline(never)]
pub(crate) fn decode_piece(bytes: &[u8]) -> Option<Result<Decoded<'_>, Reject>> {
    match decode_fields(bytes) {
        Err((Fault::Truncated, _)) => None,
        Err((fault, at)) => {
            let reject = salvage::reject(bytes, fault, at);
            reject.end.is_some().then_some(Err(reject))
        }
        Ok(decoded) => Some(Ok(decoded)),
    }
}

fn decode_fields(bytes: &[u8]) -> Found<Decoded<'_>> {
    match bytes.first() {
        Some(&COMPACT_HEAD) => fields::<false>(bytes),
        Some(&NAMED_HEAD) => fields::<true>(bytes),
        _ => Err((wrong_outer_head(bytes), 0)),
    }
}

#[inline]
fn fields<const NAMED: bool>(bytes: &[u8]) -> Found<Decoded<'_>> {
    let mut reader = Reader { bytes, at: 1 };
    reader.name::<NAMED>(0)?;
    let kind = reader.kind()?;
    reader.name::<NAMED>(1)?;
    let id = reader.id()?;
    reader.name::<NAMED>(2)?;
    let reference = reader.reference()?;
    reader.name::<NAMED>(3)?;
    let target = reader.target()?;
    reader.name::<NAMED>(4)?;
    let meta = reader.meta()?;
    reader.name::<NAMED>(5)?;
    let payload = reader.payload()?;
    reader.name::<NAMED>(6)?;
    let error = reader.error()?;
    Ok(Decoded {
        envelope: Envelope {
            kind,
            id,
            reference,
            target,
            meta,
            payload,
            error,
        },
        form: if NAMED { Form::Named } else { Form::Compact },
        bytes: &bytes[..reader.at],
    })
}

/// Walks the fields. `at` never passes the end of `bytes`.
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Reader<'a> {
    #[inline]
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    #[inline]
    pub(super) fn kind(&mut self) -> Found<Kind> {
        let kind = self
            .bytes
            .get(self.at)
            .and_then(|&number| Kind::from_number(number.into()));
        match kind {
            Some(kind) => {
                self.at += 1;
                Ok(kind)
            }
            None => Err((self.wrong_kind(), self.at)),
        }
    }

    #[inline]
    pub(super) fn id(&mut self) -> Found<Id> {
        match self.rest() {
            [ID_HEAD, rest @ ..] => self.id_bytes(rest),
            _ => Err((self.wrong_head(head::BYTES, Fault::Id), self.at)),
        }
    }

    #[inline]
    pub(super) fn reference(&mut self) -> Found<Option<Id>> {
        match self.rest() {
            [head::NULL, ..] => {
                self.at += 1;
                Ok(None)
            }
            [ID_HEAD, rest @ ..] => self.id_bytes(rest).map(Some),
            _ => Err((self.wrong_head(head::BYTES, Fault::Ref), self.at)),
        }
    }

    #[inline]
    fn id_bytes(&mut self, rest: &[u8]) -> Found<Id> {
        match rest.first_chunk() {
            Some(id) => {
                self.at += 1 + id.len();
                Ok(Id(*id))
            }
            None => Err((Fault::Truncated, self.bytes.len())),
        }
    }

    #[inline]
    fn target(&mut self) -> Found<Option<&'a str>> {
        let (head_len, len) = match self.rest() {
            [head::NULL, ..] => {
                self.at += 1;
                return Ok(None);
            }
            [head @ 0x61..0x78, ..] => (1, usize::from(head - TEXT_HEAD)),
            [TEXT_HEAD_U8, len @ 24..=0xff, ..] => (2, usize::from(*len)),
            _ => return Err((self.wrong_head(head::TEXT, Fault::Target), self.at)),
        };
        let start = self.at + head_len;
        let Some(text) = self.bytes.get(start..start + len) else {
            return Err((Fault::Truncated, self.bytes.len()));
        };
        let text = cbor::as_str(text).map_err(|error| (Fault::Target, start + error.valid_up_to()))?;
        self.at = start + len;
        Ok(Some(text))
    }

    #[inline]
    fn meta(&mut self) -> Found<Option<Meta<'a>>> {
        let rest = self.rest();
        match rest.first() {
            Some(&head::NULL) => {
                self.at += 1;
                Ok(None)
            }
            _ => {
                let len = meta::check(rest).map_err(|(fault, at)| (fault, self.at + at))?;
                self.at += len;
                Ok(Some(Meta::from_checked(&rest[..len])))
            }
        }
    }

    #[inline]
    fn payload(&mut self) -> Found<&'a [u8]> {
        let rest = self.rest();
        // Small numbers, booleans and null are one byte, and acknowledgements and pings have nothing else.
        if let Some(0x00..=0x17 | 0x20..=0x37 | 0xe0..=0xf7) = rest.first() {
            self.at += 1;
            return Ok(&rest[..1]);
        }
        match cbor::walk(rest, PAYLOAD_DEPTH_MAX) {
            Ok(len) => {
                self.at += len;
                Ok(&rest[..len])
            }
            Err(fault) => Err(error::item_fault(fault, self.at, Fault::Payload(fault.kind))),
        }
    }

    #[inline]
    fn error(&mut self) -> Found<Option<&'a [u8]>> {
        match self.rest() {
            [head::NULL, ..] => {
                self.at += 1;
                Ok(None)
            }
            rest => {
                let len = error::check(rest).map_err(|(fault, at)| (fault, self.at + at))?;
                self.at += len;
                Ok(Some(&rest[..len]))
            }
        }
    }

    /// The key in front of a field, in the named form.
    #[inline]
    pub(super) fn name<const NAMED: bool>(&mut self, field: usize) -> Found<()> {
        if !NAMED {
            return Ok(());
        }
        let name = FIELD_NAMES[field];
        match self.rest() {
            [head, rest @ ..]
                if *head == TEXT_HEAD + name.len() as u8 && rest.starts_with(name.as_bytes()) =>
            {
                self.at += 1 + name.len();
                Ok(())
            }
            _ => Err((self.wrong_name(name), self.at)),
        }
    }

    #[cold]
    fn wrong_kind(&self) -> Fault {
        match Head::read(self.rest()) {
            Err(NoHead::Truncated) => Fault::Truncated,
            Ok(Head {
                major: head::UINT,
                argument: Some(number),
                is_shortest,
                ..
            }) => {
                if is_shortest {
                    Fault::UnknownKind(number)
                } else {
                    Fault::NotShortest
                }
            }
            _ => Fault::Shape,
        }
    }

    #[cold]
    fn wrong_head(&self, major: u8, otherwise: Fault) -> Fault {
        error::head_fault(self.rest(), major, otherwise)
    }

    #[cold]
    fn wrong_name(&self, name: &str) -> Fault {
        let rest = self.rest();
        let head = Head::read(rest);
        match head {
            Err(NoHead::Truncated) => Fault::Truncated,
            Ok(Head {
                major: head::TEXT,
                is_shortest: false,
                ..
            }) => Fault::NotShortest,
            Ok(Head {
                major: head::TEXT,
                argument: Some(len),
                ..
            }) if len == name.len() as u64 && name.as_bytes().starts_with(&rest[1..]) => Fault::Truncated,
            _ => Fault::Names,
        }
    }
}

/// Why bytes that begin with neither form's head are not an envelope.
#[cold]
fn wrong_outer_head(bytes: &[u8]) -> Fault {
    match Head::read(bytes) {
        Err(NoHead::Truncated) => Fault::Truncated,
        Ok(Head {
            major: head::ARRAY | head::MAP,
            is_shortest: false,
            ..
        }) => Fault::NotShortest,
        _ => Fault::Shape,
    }
}

const _: () = assert!(
    TARGET_BYTES_MAX == u8::MAX as usize,
    "a longer target has a longer head"
);
