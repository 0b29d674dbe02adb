//! Properties of envelopes: round trips in both forms, and that nothing that arrives can surprise the decoder.

mod generate;

use fluxar_protocol::envelope::{self, Decoded, patch_id, patch_ref};
use fluxar_protocol::exchange::verb;
use fluxar_protocol::{Batch, Fault, Form, Id, Reject};
use generate::{Parts, body, damaged, form, id, item, parts};
use proptest::collection::vec;
use proptest::prelude::*;

const FORMS: [Form; 2] = [Form::Compact, Form::Named];

fn transcoded(decoded: &Decoded<'_>, form: Form) -> Vec<u8> {
    let mut out = Vec::new();
    decoded.transcode(form, &mut out);
    out
}

/// Reads a body to its end and checks what holds for every body, whatever it holds.
fn read(body: &[u8]) -> Vec<Result<Decoded<'_>, Reject>> {
    let mut batch = Batch::new(body);
    let mut results = Vec::new();
    let mut at = 0;
    while let Some(result) = batch.next() {
        match &result {
            Ok(decoded) => {
                assert_eq!(decoded.bytes, &body[at..at + decoded.bytes.len()]);
                assert!(!decoded.envelope.payload.is_empty());
                at += decoded.bytes.len();
            }
            Err(reject) => match reject.end {
                Some(end) => {
                    assert!(end > 0);
                    at += end;
                }
                None => {
                    assert!(batch.next().is_none(), "finished");
                    assert_eq!(batch.position(), at);
                    results.push(result);
                    return results;
                }
            },
        }
        assert!(at <= body.len());
        assert_eq!(batch.position(), at);
        results.push(result);
    }
    assert_eq!(at, body.len());
    results
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn round_trip(parts in parts(), behind in vec(any::<u8>(), 0..40)) {
        for form in FORMS {
            let encoded = parts.encoded(form);
            let bytes = [&encoded[..], &behind].concat();
            let decoded = envelope::decode(&bytes).unwrap();
            prop_assert_eq!(decoded.envelope, parts.envelope());
            prop_assert_eq!(decoded.form, form);
            prop_assert_eq!(decoded.bytes, &encoded[..]);
            for other in FORMS {
                prop_assert_eq!(transcoded(&decoded, other), parts.encoded(other));
            }
        }
    }

    #[test]
    fn ids_stand_at_fixed_offsets(mut parts in parts(), new in id(), new_ref in id()) {
        let mut bytes = parts.encoded(Form::Compact);
        patch_id(&mut bytes, new);
        parts.id = new;
        if parts.reference.is_some() {
            patch_ref(&mut bytes, new_ref);
            parts.reference = Some(new_ref);
        }
        prop_assert_eq!(bytes, parts.encoded(Form::Compact));
    }

    #[test]
    fn every_truncation_is_refused(parts in parts(), form in form()) {
        let bytes = parts.encoded(form);
        for cut in 0..bytes.len() {
            let reject = envelope::decode(&bytes[..cut]).unwrap_err();
            prop_assert_eq!((reject.fault, reject.end, reject.answer()), (Fault::Truncated, None, None));
            // What is there is told all the same.
            prop_assert!(reject.kind.is_none_or(|kind| kind == parts.kind));
            prop_assert!(reject.id.is_none_or(|id| id == parts.id));
            prop_assert!(reject.has_ref.is_none_or(|has_ref| has_ref == parts.reference.is_some()));
            if form == Form::Compact {
                prop_assert_eq!(reject.id.is_some(), cut >= 19);
            }
        }
    }

    #[test]
    fn a_batch_gives_back_what_was_put_in(envelopes in vec((parts(), form()), 0..6)) {
        let body: Vec<u8> = envelopes.iter().flat_map(|(parts, form)| parts.encoded(*form)).collect();
        let read: Vec<_> = Batch::new(&body).map(Result::unwrap).collect();
        prop_assert_eq!(read.len(), envelopes.len());
        for (decoded, (parts, form)) in read.iter().zip(&envelopes) {
            prop_assert_eq!((decoded.envelope, decoded.form), (parts.envelope(), *form));
        }
    }

    #[test]
    fn arbitrary_bytes_are_harmless(bytes in vec(any::<u8>(), 0..300)) {
        for result in read(&bytes).into_iter().flatten() {
            let _ = verb(&result.envelope);
        }
    }

    #[test]
    fn bytes_behind_a_good_start_are_harmless(
        compact in any::<bool>(),
        mut bytes in vec(any::<u8>(), 24..120),
        reference in any::<bool>(),
    ) {
        if compact {
            bytes[..3].copy_from_slice(&[0x87, 5, 0x50]);
            bytes[19] = if reference { 0x50 } else { 0xf6 };
        } else {
            bytes[..6].copy_from_slice(b"\xa7\x64type");
        }
        for result in read(&bytes).into_iter().flatten() {
            let _ = verb(&result.envelope);
        }
    }

    #[test]
    fn what_is_accepted_encodes_to_itself(body in damaged()) {
        for decoded in read(&body).into_iter().flatten() {
            let mut again = Vec::new();
            decoded.envelope.encode(decoded.form, &mut again);
            prop_assert_eq!(&again[..], decoded.bytes);
        }
    }

    #[test]
    fn good_neighbours_are_read_whatever_stands_between(before in parts(), between in item(), after in parts()) {
        // Any well-formed item that is not an envelope costs itself only.
        prop_assume!(envelope::decode(&between).is_err());
        let body = [before.encoded(Form::Compact), between.clone(), after.encoded(Form::Compact)].concat();
        let results = read(&body);
        prop_assert_eq!(results.len(), 3);
        prop_assert_eq!(results[0].as_ref().unwrap().envelope, before.envelope());
        prop_assert_eq!(results[1].as_ref().unwrap_err().end, Some(between.len()));
        prop_assert_eq!(results[2].as_ref().unwrap().envelope, after.envelope());
    }

    /// A payload may hold whole envelopes: none of them is ever taken for one.
    #[test]
    fn payloads_smuggle_nothing(outer in parts(), inner in body(), wrapping in 0..6_usize, form in form()) {
        let payload = wrap(&inner, wrapping);
        let outer = Parts { payload, ..outer };
        let body = outer.encoded(form);
        let results = read(&body);
        prop_assert_eq!(results.len(), 1);
        prop_assert_eq!(results[0].as_ref().unwrap().envelope, outer.envelope());
    }

    /// The same with a payload whose head lies about its length: whatever comes out, no envelope begins inside.
    #[test]
    fn lying_payloads_smuggle_nothing(
        outer in parts(),
        inner in parts(),
        wrapping in 0..6_usize,
        lie in any::<u8>(),
        form in form(),
    ) {
        let mut payload = wrap(&inner.encoded(Form::Compact), wrapping);
        payload[0] = lie;
        let outer = Parts { payload, ..outer };
        let body = outer.encoded(form);
        // Envelopes begin where items of the sequence begin: an independent reader finds the same ones, as far as it
        // goes (text that is not UTF-8 stops it).
        let mut reader = minicbor::Decoder::new(&body);
        let mut at = 0;
        for result in read(&body) {
            prop_assert_eq!(reader.position(), at);
            match result {
                Ok(decoded) => {
                    prop_assert!(reader.skip().is_ok());
                    at += decoded.bytes.len();
                }
                Err(reject) => {
                    let Some(end) = reject.end else { break };
                    if reader.skip().is_err() {
                        break;
                    }
                    at += end;
                }
            }
        }
    }
}

/// An item that has these bytes in it, `wrapping` says how.
fn wrap(inner: &[u8], wrapping: usize) -> Vec<u8> {
    let string = |major: u8| {
        let mut head = vec![major << 5 | 26];
        head.extend_from_slice(&(inner.len() as u32).to_be_bytes());
        [&head[..], inner].concat()
    };
    let items = Batch::new(inner).count() as u8;
    match wrapping {
        0 => string(2),
        1 => [vec![0xd8, 24], string(2)].concat(), // an encoded item, as RFC 8949 tags it
        2 => [&[0x80 | items][..], inner].concat(),
        3 => [&[0x9f][..], inner, &[0xff]].concat(),
        4 => [vec![0x5f], string(2), string(2), vec![0xff]].concat(),
        _ => [&[0xa1, 0x60, 0x80 | items][..], inner].concat(),
    }
}

#[test]
fn a_payload_that_ends_early_smuggles_nothing() {
    let inner = b"\x87\x05\x50abcdefghijklmnop\xf6\x66secret\xf6\xf6\xf6";
    let outer = |payload: &[u8]| {
        [
            &b"\x87\x05\x50ABCDEFGHIJKLMNOP\xf6\x66public\xf6"[..],
            payload,
            &b"\xf6"[..],
        ]
        .concat()
    };
    // The payload is over before the envelope inside begins, so that one stands where the error has to be.
    for ended in [&b"\xf6"[..], b"\x40", b"\x80", b"\xa0", b"\x9f\xff", b"\xf4"] {
        let body = outer(&[ended, &inner[..]].concat());
        let results = read(&body);
        assert_eq!(results[0].as_ref().unwrap_err().fault, Fault::Error, "{ended:x?}");
        assert!(results.iter().all(Result::is_err), "{ended:x?}");
    }
    // The payload claims more than is there and swallows what follows it.
    for claim in [&b"\x58\xff"[..], b"\x98\x20", b"\x9f", b"\x5f", b"\xbf"] {
        let results = read(&outer(&[claim, &inner[..]].concat())).len();
        assert_eq!(results, 1, "{claim:x?}");
    }
}

#[test]
fn envelopes_over_the_receivers_limit_are_refused_alone() {
    let event = |payload_bytes: u16| {
        let head = [&[0x59][..], &payload_bytes.to_be_bytes()].concat();
        let payload = [head, vec![0; payload_bytes.into()]].concat();
        let parts = Parts {
            kind: fluxar_protocol::Kind::Event,
            id: Id([3; 16]),
            reference: None,
            target: Some("t".into()),
            meta: None,
            payload,
            error: None,
        };
        parts.encoded(Form::Compact)
    };
    let overhead = event(300).len() - 300;
    let fits = event((64 * 1024 - 1024 - overhead) as u16);
    let over = event((64 * 1024 - 1024 - overhead + 1) as u16);
    assert_eq!(fits.len(), 64 * 1024 - 1024);
    let body = [&over[..], &fits].concat();
    let results: Vec<_> = Batch::within(&body, 64 * 1024).collect();
    let reject = results[0].as_ref().unwrap_err();
    assert_eq!((reject.fault, reject.end), (Fault::TooLarge, Some(over.len())));
    assert_eq!(reject.answer(), Some((fluxar_protocol::Kind::Event, Id([3; 16]))));
    assert_eq!(results[1].as_ref().unwrap().bytes, &fits[..]);
    assert!(Batch::new(&body).all(|result| result.is_ok()));
}
