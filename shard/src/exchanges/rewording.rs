//! The few things that a gateway writes into what it forwards: the credit of an open, and what is left of a time.
//! What needs neither goes on as its bytes.

use bytes::Bytes;
use fluxar_protocol::envelope::{self, Envelope};
use fluxar_protocol::meta::{Meta, MetaWriter};
use fluxar_protocol::{Code, Form, Id};

use crate::refusal::Refusal;

/// What is to be written.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Changes {
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) credit_bytes: Option<u64>,
}

/// The envelope with these keys of its meta set.
///
/// # Errors
/// `resource_exhausted` if its meta has no room for them.
pub(crate) fn reworded(envelope: &Envelope<'_>, changes: Changes) -> Result<Vec<u8>, Refusal> {
    let mut writer = MetaWriter::new();
    if let Some(meta) = &envelope.meta {
        let except: &[&str] = match (changes.timeout_ms, changes.credit_bytes) {
            (Some(_), Some(_)) => &["timeout_ms", "credit"],
            (Some(_), None) => &["timeout_ms"],
            (None, Some(_)) => &["credit"],
            (None, None) => &[],
        };
        writer = writer.copy(meta, except);
    }
    if let Some(timeout_ms) = changes.timeout_ms {
        writer = writer.uint("timeout_ms", timeout_ms);
    }
    if let Some(credit_bytes) = changes.credit_bytes {
        writer = writer.uint("credit", credit_bytes);
    }
    if !writer.fits() {
        return Err(Refusal::fixed(
            Code::ResourceExhausted,
            "the meta has no room left for `credit` and `timeout_ms`, which the gateway writes; use fewer keys",
        ));
    }
    let meta = writer.finish();
    let mut out = Vec::new();
    Envelope {
        meta: meta.as_deref().map(Meta::from_checked),
        ..*envelope
    }
    .encode(Form::Compact, &mut out);
    Ok(out)
}

/// Bytes that were kept, to go out under this id, with what is left of their time.
pub(crate) fn renewed(kept: &Bytes, forward_id: Id, timeout_ms: Option<u64>) -> Bytes {
    let changes = Changes {
        timeout_ms,
        credit_bytes: None,
    };
    let mut bytes = timeout_ms
        .and_then(|_| envelope::decode(kept).ok())
        .and_then(|decoded| reworded(&decoded.envelope, changes).ok())
        .unwrap_or_else(|| kept.to_vec());
    envelope::patch_id(&mut bytes, forward_id);
    bytes.into()
}

/// Bytes that were held for so long, with what is left of their `timeout_ms`.
pub(crate) fn aged(bytes: Bytes, held_ms: u64) -> Bytes {
    if held_ms == 0 {
        return bytes;
    }
    let Ok(decoded) = envelope::decode(&bytes) else {
        return bytes;
    };
    let envelope = &decoded.envelope;
    let timeout_ms = envelope
        .meta
        .and_then(|meta| meta.uint("timeout_ms").ok().flatten());
    let Some(timeout_ms) = timeout_ms else {
        return bytes;
    };
    let changes = Changes {
        timeout_ms: Some(timeout_ms.saturating_sub(held_ms).max(1)),
        credit_bytes: None,
    };
    match reworded(envelope, changes) {
        Ok(reworded) => reworded.into(),
        Err(_) => bytes.clone(),
    }
}
