//! A frame body from anybody: it is read to its end, and everything in it that can be understood is.
#![no_main]

use fluxar_protocol::exchange::{Verb, verb};
use fluxar_protocol::hello::{Handshake, Hello, Welcome};
use fluxar_protocol::{Batch, ErrorBody};
use libfuzzer_sys::fuzz_target;

const KEYS: [&str; 5] = ["timeout_ms", "prio", "recv", "dropped", "weight"];

fuzz_target!(|body: &[u8]| {
    let mut handshake = Handshake::default();
    let mut at = 0;
    let mut batch = Batch::within(body, 64 * 1024);
    while let Some(result) = batch.next() {
        let decoded = match result {
            Ok(decoded) => decoded,
            Err(reject) => {
                let _ = (reject.to_string(), reject.answer());
                match reject.end {
                    Some(end) => at += end,
                    None => assert!(batch.next().is_none()),
                }
                assert_eq!(batch.position(), at);
                continue;
            }
        };
        at += decoded.bytes.len();
        assert_eq!(batch.position(), at);
        let envelope = &decoded.envelope;
        if handshake.admit(envelope).is_ok() && handshake == Handshake::Greeted {
            handshake.opened();
        }
        if let Some(meta) = envelope.meta {
            let _ = (meta.qos(), meta.run_count(), meta.text("group"), meta.flag("end"));
            for key in KEYS {
                let _ = meta.uint(key);
            }
        }
        if let Some(error) = envelope.error {
            ErrorBody::decode(error).expect("decoding checked it");
        }
        match verb(envelope) {
            Ok(Verb::Hello) => drop(Hello::decode(envelope.payload)),
            Ok(Verb::Welcome(_)) => drop(Welcome::decode(envelope.payload)),
            Ok(_) => {}
            Err(fault) => drop(fault.to_string()),
        }
    }
});
