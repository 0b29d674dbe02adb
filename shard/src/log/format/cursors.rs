//! A durable cursor in a batch of cursors.

use std::sync::Arc;

use super::{Fields, put_text, put_varint};
use crate::log::{CursorName, CursorState};

/// What a number of variable length takes at most.
const VARINT_BYTES_MAX: usize = 10;

/// A cursor as it is written: the newest of a name and partition counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CursorEntry {
    /// Whose.
    pub name: Arc<CursorName>,
    /// How far it is; `None`: it was forgotten.
    pub state: Option<CursorState>,
    /// When it was used last, ms since 1970.
    pub used_ms: u64,
}

impl CursorEntry {
    /// What it takes in a batch at most, bytes.
    pub(in crate::log) fn bytes_max(&self) -> usize {
        let name = &self.name;
        let texts = [&name.principal, &name.name, &name.pattern, &name.group];
        let texts: usize = texts.iter().map(|text| VARINT_BYTES_MAX + text.len()).sum();
        let state = self.state.as_ref();
        9 + texts + state.map_or(0, |state| VARINT_BYTES_MAX * (2 + state.beyond.len()))
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.state.is_some()));
        out.extend_from_slice(&self.used_ms.to_le_bytes());
        for text in [
            &self.name.principal,
            &self.name.name,
            &self.name.pattern,
            &self.name.group,
        ] {
            put_text(out, text);
        }
        let Some(state) = &self.state else { return };
        put_varint(out, state.acked);
        put_varint(out, state.beyond.len() as u64);
        let mut before = state.acked;
        for offset in &state.beyond {
            put_varint(out, offset.wrapping_sub(before));
            before = *offset;
        }
    }

    pub(super) fn decode(fields: &mut Fields<'_>) -> Option<Self> {
        let has_state = match fields.u8()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let used_ms = fields.u64()?;
        let mut text = || fields.text().map(Box::<str>::from);
        let name = Arc::new(CursorName {
            principal: text()?,
            name: text()?,
            pattern: text()?,
            group: text()?,
        });
        let state = if has_state {
            Some(decode_state(fields)?)
        } else {
            None
        };
        Some(Self { name, state, used_ms })
    }
}

fn decode_state(fields: &mut Fields<'_>) -> Option<CursorState> {
    let acked = fields.varint()?;
    let count = usize::try_from(fields.varint()?).ok()?;
    // Each takes a byte at least: a count is not believed beyond what is there.
    let mut beyond = Vec::with_capacity(count.min(fields.0.len()));
    let mut before = acked;
    for _ in 0..count {
        before = before.checked_add(fields.varint()?)?;
        beyond.push(before);
    }
    Some(CursorState { acked, beyond })
}
