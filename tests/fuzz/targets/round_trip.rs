//! What is accepted comes out as it went in, and survives the way into the other form and back.
#![no_main]

use fluxar_protocol::{Batch, Form, envelope};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    for decoded in Batch::new(body).flatten() {
        for form in [Form::Compact, Form::Named] {
            let mut out = Vec::new();
            decoded.transcode(form, &mut out);
            let mut encoded = Vec::new();
            decoded.envelope.encode(form, &mut encoded);
            assert_eq!(out, encoded);
            if form == decoded.form {
                assert_eq!(out, decoded.bytes);
            }
            let again = envelope::decode(&out).expect("what was encoded is accepted");
            assert_eq!(again.envelope, decoded.envelope);
            assert_eq!((again.form, again.bytes.len()), (form, out.len()));
        }
    }
});
