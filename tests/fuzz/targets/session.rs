//! What is counted and what is kept of a session, driven by bytes, beside a model that keeps everything: whatever is sent,
//! covered, forgotten and resumed, what is sent again is what the model says, or the refusal is true.
#![no_main]

use std::collections::VecDeque;

use fluxar_protocol::exchange::{Verb, verb};
use fluxar_protocol::session::{Kept, NotKept, is_counted, is_counted_refused};
use fluxar_protocol::{Batch, Envelope, Form, Id, Kind, envelope};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    match envelope::decode(input) {
        Ok(decoded) => {
            let counted = is_counted(&decoded.envelope);
            if let Ok(verb) = verb(&decoded.envelope) {
                let never = matches!(
                    verb,
                    Verb::Hello | Verb::Welcome(_) | Verb::Publish | Verb::Close | Verb::Ping | Verb::Pong(_)
                );
                let note = matches!(verb, Verb::SubscriptionNote(_));
                assert!(if never { !counted } else { counted || note });
            }
        }
        Err(reject) => {
            let _ = is_counted_refused(&reject);
        }
    }
    if let Some((bytes_max, script)) = input.split_first_chunk::<2>() {
        keep(usize::from(u16::from_be_bytes(*bytes_max)), script);
    }
});

/// Every envelope that was kept, with what it takes; the model forgets by the piece, as the bound says.
#[derive(Default)]
struct Model {
    pieces: VecDeque<(Vec<Vec<u8>>, usize)>,
    begin: u64,
    first: u64,
    sent: u64,
}

impl Model {
    fn bytes(&self) -> usize {
        self.pieces.iter().map(|(_, bytes)| bytes).sum()
    }

    fn forget(&mut self) {
        if let Some((envelopes, _)) = self.pieces.pop_front() {
            self.begin += envelopes.len() as u64;
            self.first = self.first.max(self.begin);
        }
    }

    fn behind(&self, recv: u64) -> Vec<u8> {
        let all = self.pieces.iter().flat_map(|(envelopes, _)| envelopes);
        all.skip((recv - self.begin) as usize).flatten().copied().collect()
    }
}

fn keep(bytes_max: usize, script: &[u8]) {
    // What an item takes beside its bytes.
    let mut probe = Kept::new(usize::MAX);
    probe.keep(vec![0u8; 1], 1);
    let item_bytes = probe.bytes() - 1;

    let mut kept = Kept::new(bytes_max);
    let mut model = Model::default();
    for operation in script.chunks_exact(2).take(100) {
        let [code, argument] = [operation[0], operation[1]];
        match code % 4 {
            0 | 1 => {
                let envelopes: Vec<Vec<u8>> = (0..code >> 5).map(|n| answer(n, argument)).collect();
                if !envelopes.is_empty() {
                    let bytes = envelopes.concat();
                    model.sent += envelopes.len() as u64;
                    model.pieces.push_back((envelopes, bytes.len() + item_bytes));
                    while model.bytes() > bytes_max {
                        model.forget();
                    }
                    kept.keep(bytes, u32::from(code >> 5));
                }
            }
            2 => {
                let recv = u64::from(argument);
                let told = kept.covered(recv);
                if recv > model.sent {
                    assert_eq!(told, Err(NotKept::NeverSent { recv, sent: model.sent }));
                } else {
                    assert_eq!(told, Ok(()));
                    while model.pieces.front().is_some_and(|(e, _)| model.begin + e.len() as u64 <= recv) {
                        model.forget();
                    }
                    model.first = model.first.max(recv);
                }
            }
            _ => {
                let recv = u64::from(argument);
                match kept.resume(recv) {
                    Ok(again) => {
                        let again: Vec<u8> = again.flat_map(|(bytes, from)| bytes[from..].to_vec()).collect();
                        assert_eq!(again, model.behind(recv));
                        assert!(Batch::new(&again).all(|envelope| envelope.is_ok()));
                        while model.pieces.front().is_some_and(|(e, _)| model.begin + e.len() as u64 <= recv) {
                            model.forget();
                        }
                        model.first = model.first.max(recv);
                    }
                    Err(NotKept::Forgotten { first, .. }) => assert!(recv < first && first == model.first),
                    Err(NotKept::NeverSent { sent, .. }) => assert!(recv > sent && sent == model.sent),
                }
            }
        }
        assert_eq!((kept.bytes(), kept.sent()), (model.bytes(), model.sent));
        assert!(kept.bytes() <= bytes_max);
    }
}

fn answer(number: u8, length: u8) -> Vec<u8> {
    let mut payload = vec![0x58, length];
    payload.resize(2 + usize::from(length), number);
    let mut out = Vec::new();
    let form = if number % 2 == 0 { Form::Compact } else { Form::Named };
    Envelope {
        kind: Kind::Call,
        id: Id([number; 16]),
        reference: Some(Id([length; 16])),
        target: None,
        meta: None,
        payload: &payload,
        error: None,
    }
    .encode(form, &mut out);
    out
}
