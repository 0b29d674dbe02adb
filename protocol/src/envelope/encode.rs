//! Encoding, and the way from one form to the other.

use alloc::vec::Vec;

use super::{COMPACT_HEAD, Decoded, Envelope, FIELD_NAMES, Form, Id, NAMED_HEAD};
use crate::head::{self, Head};
use crate::limits::TARGET_BYTES_MAX;

/// Bytes of the seven keys of the named form, with their heads.
const NAMES_BYTES: usize = {
    let (mut bytes, mut field) = (0, 0);
    while field < FIELD_NAMES.len() {
        bytes += 1 + FIELD_NAMES[field].len();
        field += 1;
    }
    bytes
};

impl Envelope<'_> {
    /// Appends the encoded envelope. Heads are shortest-form; payload, meta and error go out as they are.
    pub fn encode(&self, form: Form, out: &mut Vec<u8>) {
        debug_assert!(
            self.target
                .is_none_or(|target| (1..=TARGET_BYTES_MAX).contains(&target.len()))
        );
        out.reserve(self.encoded_bytes_most(form));
        match form {
            Form::Compact => self.fields(COMPACT_HEAD, |_, _| {}, out),
            Form::Named => self.fields(
                NAMED_HEAD,
                |field, out| Head::write_text(FIELD_NAMES[field], out),
                out,
            ),
        }
    }

    /// Writes the fields in their order, `key` in front of each.
    #[inline]
    fn fields(&self, outer_head: u8, key: impl Fn(usize, &mut Vec<u8>), out: &mut Vec<u8>) {
        out.push(outer_head);
        key(0, out);
        out.push(self.kind as u8);
        key(1, out);
        write_id(self.id, out);
        key(2, out);
        match self.reference {
            Some(reference) => write_id(reference, out),
            None => out.push(head::NULL),
        }
        key(3, out);
        match self.target {
            Some(target) => Head::write_text(target, out),
            None => out.push(head::NULL),
        }
        key(4, out);
        write_item(self.meta.map_or(&[], |meta| meta.as_bytes()), out);
        key(5, out);
        write_item(self.payload, out);
        key(6, out);
        write_item(self.error.unwrap_or_default(), out);
    }

    /// At least as many bytes as encoding appends, so that the buffer grows once.
    fn encoded_bytes_most(&self, form: Form) -> usize {
        let heads = match form {
            Form::Compact => 1 + 1 + 2 * 17 + 9 + 3,
            Form::Named => 1 + 1 + 2 * 17 + 9 + 3 + NAMES_BYTES,
        };
        heads
            + self.target.map_or(0, str::len)
            + self.meta.map_or(0, |meta| meta.as_bytes().len())
            + self.payload.len()
            + self.error.map_or(0, <[u8]>::len)
    }
}

impl Decoded<'_> {
    /// Appends the envelope in the form asked for: as it is if it has that form, otherwise transcoded. Meta, payload
    /// and error keep their bytes.
    pub fn transcode(&self, form: Form, out: &mut Vec<u8>) {
        if self.form == form {
            out.extend_from_slice(self.bytes);
        } else {
            self.envelope.encode(form, out);
        }
    }
}

fn write_id(id: Id, out: &mut Vec<u8>) {
    Head::write(head::BYTES, 16, out);
    out.extend_from_slice(&id.0);
}

/// Writes an encoded item; none is null.
fn write_item(item: &[u8], out: &mut Vec<u8>) {
    if item.is_empty() {
        out.push(head::NULL);
    } else {
        out.extend_from_slice(item);
    }
}
