//! What this crate accepts, `ciborium` and `minicbor` read as the same envelope, byte for byte of every field.

mod generate;

use ciborium::Value;
use fluxar_protocol::envelope::Decoded;
use fluxar_protocol::{Batch, Form, envelope};
use generate::{body, damaged, form, item, parts};
use minicbor::data::{Token, Type};
use proptest::collection::vec;
use proptest::prelude::*;

/// Reads one item with ciborium, and how long it was. Not all that is well-formed has a place in its `Value`.
fn generic(bytes: &[u8]) -> Option<(Value, usize)> {
    let mut rest = bytes;
    let value = ciborium::from_reader(&mut rest).ok()?;
    Some((value, bytes.len() - rest.len()))
}

/// Values with NaN in them are not equal to themselves; their texts are.
fn text(value: &Value) -> String {
    format!("{value:?}")
}

/// Whether an item holds what ciborium has no value for: unassigned simple values, tags of big numbers.
fn is_beyond_values(item: &[u8]) -> bool {
    minicbor::decode::Tokenizer::new(item).any(|token| match token {
        Ok(Token::Simple(_)) => true,
        Ok(Token::Tag(tag)) => matches!(tag.as_u64(), 2 | 3),
        _ => false,
    })
}

fn check_ciborium(decoded: &Decoded<'_>) {
    if is_beyond_values(decoded.bytes) {
        return;
    }
    let (value, len) = generic(decoded.bytes).expect("ciborium reads it");
    assert_eq!(len, decoded.bytes.len());
    let fields: Vec<Value> = match (value, decoded.form) {
        (Value::Array(fields), Form::Compact) => fields,
        (Value::Map(entries), Form::Named) => {
            let names: Vec<_> = entries.iter().map(|(name, _)| name.as_text().unwrap()).collect();
            assert_eq!(names, envelope::FIELD_NAMES);
            entries.into_iter().map(|(_, value)| value).collect()
        }
        (value, form) => panic!("{form:?} as {value:?}"),
    };
    let envelope = &decoded.envelope;
    let item = |bytes: Option<&[u8]>| bytes.map_or(Value::Null, |bytes| generic(bytes).unwrap().0);
    let expected = [
        Value::from(envelope.kind as u8),
        Value::from(&envelope.id.0[..]),
        envelope
            .reference
            .map_or(Value::Null, |id| Value::from(&id.0[..])),
        envelope.target.map_or(Value::Null, Value::from),
        item(envelope.meta.map(|meta| meta.as_bytes())),
        item(Some(envelope.payload)),
        item(envelope.error),
    ];
    assert_eq!(fields.len(), 7);
    for (field, expected) in fields.iter().zip(&expected) {
        assert_eq!(text(field), text(expected));
    }
}

fn check_minicbor(decoded: &Decoded<'_>) {
    let mut reader = minicbor::Decoder::new(decoded.bytes);
    let names = match decoded.form {
        Form::Compact => {
            assert_eq!(reader.array().unwrap(), Some(7));
            [None; 7]
        }
        Form::Named => {
            assert_eq!(reader.map().unwrap(), Some(7));
            envelope::FIELD_NAMES.map(Some)
        }
    };
    let name = |field: usize, reader: &mut minicbor::Decoder<'_>| {
        if let Some(name) = names[field] {
            assert_eq!(reader.str().unwrap(), name);
        }
    };
    let is_null = |reader: &mut minicbor::Decoder<'_>| {
        let is_null = reader.datatype().unwrap() == Type::Null;
        if is_null {
            reader.null().unwrap();
        }
        is_null
    };
    let span = |reader: &mut minicbor::Decoder<'_>| {
        let start = reader.position();
        reader.skip().unwrap();
        start..reader.position()
    };
    let envelope = &decoded.envelope;
    name(0, &mut reader);
    assert_eq!(reader.u8().unwrap(), envelope.kind as u8);
    name(1, &mut reader);
    assert_eq!(reader.bytes().unwrap(), envelope.id.0);
    name(2, &mut reader);
    let reference = if is_null(&mut reader) {
        None
    } else {
        Some(reader.bytes().unwrap())
    };
    assert_eq!(reference, envelope.reference.as_ref().map(|id| &id.0[..]));
    name(3, &mut reader);
    let target = if is_null(&mut reader) {
        None
    } else {
        Some(reader.str().unwrap())
    };
    assert_eq!(target, envelope.target);
    name(4, &mut reader);
    let meta = if is_null(&mut reader) {
        None
    } else {
        Some(span(&mut reader))
    };
    assert_eq!(
        meta.map(|span| &decoded.bytes[span]),
        envelope.meta.map(|meta| meta.as_bytes())
    );
    name(5, &mut reader);
    assert_eq!(&decoded.bytes[span(&mut reader)], envelope.payload);
    name(6, &mut reader);
    let error = if is_null(&mut reader) {
        None
    } else {
        Some(span(&mut reader))
    };
    assert_eq!(error.map(|span| &decoded.bytes[span]), envelope.error);
    assert_eq!(reader.position(), decoded.bytes.len());
}

/// Keys and values of a checked meta, as another library sees them.
fn check_meta(decoded: &Decoded<'_>) {
    let Some(meta) = decoded.envelope.meta else { return };
    let mut reader = minicbor::Decoder::new(meta.as_bytes());
    let keys = reader.map().unwrap().unwrap();
    for _ in 0..keys {
        let key = reader.str().unwrap();
        let start = reader.position();
        reader.skip().unwrap();
        assert_eq!(meta.get(key), Some(&meta.as_bytes()[start..reader.position()]));
    }
    assert_eq!(reader.position(), meta.as_bytes().len());
}

fn check(body: &[u8]) {
    let mut at = 0;
    for result in Batch::new(body) {
        match result {
            Ok(decoded) => {
                check_ciborium(&decoded);
                check_minicbor(&decoded);
                check_meta(&decoded);
                at += decoded.bytes.len();
            }
            Err(reject) => {
                let Some(end) = reject.end else { return };
                let mut reader = minicbor::Decoder::new(&body[at..]);
                if reader.skip().is_err() {
                    return; // text that is not UTF-8 has an end here, and none there
                }
                assert_eq!(reader.position(), end, "where a refused item ends");
                at += end;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn generated_items_are_well_formed(item in item()) {
        prop_assert!(generic(&item).is_some_and(|(_, len)| len == item.len()), "{:x?}", item);
    }

    #[test]
    fn envelopes_are_read_alike(parts in parts(), form in form()) {
        let bytes = parts.encoded(form);
        let decoded = envelope::decode(&bytes).unwrap();
        check_ciborium(&decoded);
        check_minicbor(&decoded);
        check_meta(&decoded);
    }

    #[test]
    fn damaged_bodies_are_read_alike(body in damaged()) {
        check(&body);
    }

    #[test]
    fn bodies_with_bytes_between_are_read_alike(before in body(), between in vec(any::<u8>(), 0..6), after in body()) {
        check(&[before, between, after].concat());
    }
}
