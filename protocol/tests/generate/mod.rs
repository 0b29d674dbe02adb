//! Strategies: CBOR items in every encoding that is allowed, and envelopes around them.
//!
//! Shared by several test programs, none of which uses all of it.
#![allow(dead_code)]

use fluxar_protocol::meta::Meta;
use fluxar_protocol::{Code, Envelope, ErrorBody, Form, Id, Kind};
use proptest::collection::vec;
use proptest::prelude::*;

/// A head with this argument: the shortest, or one that is `wider` steps longer.
fn head(major: u8, argument: u64, wider: usize) -> Vec<u8> {
    let shortest = match argument {
        0..=23 => 0,
        24..=0xff => 1,
        0x100..=0xffff => 2,
        0x1_0000..=0xffff_ffff => 3,
        _ => 4,
    };
    let step = (shortest + wider).min(4);
    let first = major << 5;
    match step {
        0 => vec![first | argument as u8],
        _ => {
            let len = 1 << (step - 1);
            let mut out = vec![first | (23 + step as u8)];
            out.extend_from_slice(&argument.to_be_bytes()[8 - len..]);
            out
        }
    }
}

/// Mostly 0: heads are usually the shortest.
fn wider() -> impl Strategy<Value = usize> {
    prop_oneof![4 => Just(0), 1 => 0..5_usize]
}

/// Numbers of all magnitudes.
fn argument() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..24_u64,
        24..300_u64,
        any::<u16>().prop_map(u64::from),
        any::<u64>()
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-z.]{0,30}", 1 => any::<String>(), 1 => "[aä€𝄞]{0,80}"]
}

/// One item without others in it.
fn scalar() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0..2_u8, argument(), wider()).prop_map(|(major, argument, wider)| head(major, argument, wider)),
        (vec(any::<u8>(), 0..80), wider()).prop_map(|(bytes, wider)| [
            head(2, bytes.len() as u64, wider),
            bytes
        ]
        .concat()),
        (text(), wider())
            .prop_map(|(text, wider)| [&head(3, text.len() as u64, wider)[..], text.as_bytes()].concat()),
        prop_oneof![Just(0xf4_u8), Just(0xf5), Just(0xf6), Just(0xf7)].prop_map(|simple| vec![simple]),
        any::<[u8; 2]>().prop_map(|bits| [&[0xf9][..], &bits].concat()),
        any::<[u8; 4]>().prop_map(|bits| [&[0xfa][..], &bits].concat()),
        any::<[u8; 8]>().prop_map(|bits| [&[0xfb][..], &bits].concat()),
        vec(text(), 0..4).prop_map(|chunks| {
            let chunks = chunks
                .iter()
                .map(|chunk| [&head(3, chunk.len() as u64, 0)[..], chunk.as_bytes()].concat());
            [vec![0x7f], chunks.collect::<Vec<_>>().concat(), vec![0xff]].concat()
        }),
        vec(vec(any::<u8>(), 0..40), 0..4).prop_map(|chunks| {
            let chunks = chunks
                .iter()
                .map(|chunk| [&head(2, chunk.len() as u64, 0)[..], chunk].concat());
            [vec![0x5f], chunks.collect::<Vec<_>>().concat(), vec![0xff]].concat()
        }),
    ]
}

/// Any well-formed item.
pub(crate) fn item() -> impl Strategy<Value = Vec<u8>> {
    scalar().prop_recursive(6, 40, 6, |inner| {
        prop_oneof![
            (vec(inner.clone(), 0..6), wider()).prop_map(|(items, wider)| [
                head(4, items.len() as u64, wider),
                items.concat()
            ]
            .concat()),
            vec(inner.clone(), 0..6).prop_map(|items| [vec![0x9f], items.concat(), vec![0xff]].concat()),
            (vec((inner.clone(), inner.clone()), 0..6), wider()).prop_map(|(pairs, wider)| {
                let items: Vec<_> = pairs.into_iter().flat_map(|(key, value)| [key, value]).collect();
                [head(5, items.len() as u64 / 2, wider), items.concat()].concat()
            }),
            vec((inner.clone(), inner.clone()), 0..4).prop_map(|pairs| {
                let items: Vec<_> = pairs.into_iter().flat_map(|(key, value)| [key, value]).collect();
                [vec![0xbf], items.concat(), vec![0xff]].concat()
            }),
            // Not the tags of big numbers, which libraries turn into numbers.
            (4..70_000_u64, inner, wider())
                .prop_map(|(tag, content, wider)| [head(6, tag, wider), content].concat()),
        ]
    })
}

/// The parts of an envelope, owned.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    pub(crate) kind: Kind,
    pub(crate) id: Id,
    pub(crate) reference: Option<Id>,
    pub(crate) target: Option<String>,
    pub(crate) meta: Option<Vec<u8>>,
    pub(crate) payload: Vec<u8>,
    pub(crate) error: Option<Vec<u8>>,
}

impl Parts {
    pub(crate) fn envelope(&self) -> Envelope<'_> {
        Envelope {
            kind: self.kind,
            id: self.id,
            reference: self.reference,
            target: self.target.as_deref(),
            meta: self.meta.as_deref().map(Meta::from_checked),
            payload: &self.payload,
            error: self.error.as_deref(),
        }
    }

    pub(crate) fn encoded(&self, form: Form) -> Vec<u8> {
        let mut out = Vec::new();
        self.envelope().encode(form, &mut out);
        out
    }
}

pub(crate) fn kind() -> impl Strategy<Value = Kind> {
    (1..=7_u64).prop_map(|number| Kind::from_number(number).unwrap())
}

pub(crate) fn id() -> impl Strategy<Value = Id> {
    any::<[u8; 16]>().prop_map(Id)
}

pub(crate) fn form() -> impl Strategy<Value = Form> {
    prop_oneof![3 => Just(Form::Compact), 1 => Just(Form::Named)]
}

fn target() -> impl Strategy<Value = String> {
    prop_oneof![3 => "[a-z]{1,8}(\\.[a-z*>$]{1,8}){0,5}", 1 => "[a-zäöü€]{1,60}"]
        .prop_filter("at most 255 bytes", |target| target.len() <= 255)
}

fn meta() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::btree_map("[a-zü_-]{0,30}", item(), 0..6)
        .prop_map(|entries| {
            let mut out = head(5, entries.len() as u64, 0);
            for (key, value) in entries {
                out.extend(head(3, key.len() as u64, 0));
                out.extend_from_slice(key.as_bytes());
                out.extend(value);
            }
            out
        })
        .prop_filter("at most 2 KiB", |meta| meta.len() <= 2048)
}

fn error() -> impl Strategy<Value = Vec<u8>> {
    (
        1..=16_u64,
        any::<String>(),
        prop::option::of(item()),
        prop::option::of(any::<u32>()),
    )
        .prop_map(|(code, message, details, retry_after_ms)| {
            let code = Code::from_number(code);
            let mut out = Vec::new();
            ErrorBody {
                code,
                message: &message,
                details: details.as_deref(),
                retry_after_ms,
            }
            .encode(&mut out);
            out
        })
}

pub(crate) fn parts() -> impl Strategy<Value = Parts> {
    (
        kind(),
        id(),
        prop::option::of(id()),
        prop::option::of(target()),
        prop::option::of(meta()),
        item(),
        prop::option::weighted(0.2, error()),
    )
        .prop_map(|(kind, id, reference, target, meta, payload, error)| Parts {
            kind,
            id,
            reference,
            target,
            meta,
            payload,
            error,
        })
}

/// A frame body of valid envelopes.
pub(crate) fn body() -> impl Strategy<Value = Vec<u8>> {
    vec((parts(), form()), 1..4).prop_map(|envelopes| {
        envelopes
            .iter()
            .flat_map(|(parts, form)| parts.encoded(*form))
            .collect()
    })
}

/// One small damage.
#[derive(Debug, Clone)]
pub(crate) enum Damage {
    Set(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Remove(prop::sample::Index),
}

pub(crate) fn damage() -> impl Strategy<Value = Damage> {
    let index = any::<prop::sample::Index>;
    // The bytes that mean most to structure.
    let byte = || {
        prop_oneof![
            any::<u8>(),
            prop::sample::select(vec![
                0x00, 0x18, 0x50, 0x5f, 0x78, 0x7f, 0x87, 0x9f, 0xa7, 0xbf, 0xf6, 0xf8, 0xff
            ])
        ]
    };
    prop_oneof![
        (index(), byte()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (index(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        (index(), byte()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        index().prop_map(Damage::Remove),
    ]
}

pub(crate) fn damaged() -> impl Strategy<Value = Vec<u8>> {
    (body(), vec(damage(), 1..4)).prop_map(|(mut body, damages)| {
        for damage in damages {
            if body.is_empty() {
                break;
            }
            match damage {
                Damage::Set(at, byte) => *at.get_mut(&mut body) = byte,
                Damage::Flip(at, bit) => *at.get_mut(&mut body) ^= 1 << bit,
                Damage::Insert(at, byte) => body.insert(at.index(body.len()), byte),
                Damage::Remove(at) => drop(body.remove(at.index(body.len()))),
            }
        }
        body
    })
}
