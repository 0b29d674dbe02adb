//! What a call or the open of a stream asks of those on its way, read in one pass [P-5.6].

use super::Meta;
use crate::error::Fault;
use crate::head;

/// Priority of a call that says nothing.
pub const PRIO_DEFAULT: u8 = 4;

/// The keys of a call or an open that a gateway acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked<'a> {
    /// `timeout_ms`: how long the asker waits from the moment it sent this, ms.
    pub timeout_ms: Option<u64>,
    /// `prio`, 0..=7; higher goes first.
    pub prio: u8,
    /// `idempotent`: it may be served more than once without harm.
    pub idempotent: bool,
    /// `hedge_ms`: unanswered for so long, an idempotent call is also given to another peer, ms.
    pub hedge_ms: Option<u64>,
    /// The content of `key`: calls with equal ones go to the same peer where the fleet is balanced by key.
    pub key: Option<&'a [u8]>,
    /// `credit` of an open, bytes.
    pub credit_bytes: Option<u64>,
    /// `end` of an open: its sender sends no chunks.
    pub end: bool,
}

impl Default for Asked<'_> {
    fn default() -> Self {
        Self {
            timeout_ms: None,
            prio: PRIO_DEFAULT,
            idempotent: false,
            hedge_ms: None,
            key: None,
            credit_bytes: None,
            end: false,
        }
    }
}

impl<'a> Asked<'a> {
    /// Reads them.
    ///
    /// # Errors
    /// [`Fault::MetaValue`] names the key whose value has the wrong type or range.
    #[inline]
    pub fn read(meta: Option<&Meta<'a>>) -> Result<Self, Fault> {
        let mut asked = Self::default();
        let Some(meta) = meta else { return Ok(asked) };
        for (key, item) in meta.entries() {
            let uint = |name| head::as_uint(item).ok_or(Fault::MetaValue(name));
            let flag = |name| head::as_bool(item).ok_or(Fault::MetaValue(name));
            match key {
                b"timeout_ms" => asked.timeout_ms = Some(uint("timeout_ms")?),
                b"prio" => {
                    asked.prio = uint("prio")?
                        .try_into()
                        .ok()
                        .filter(|prio| *prio <= 7)
                        .ok_or(Fault::MetaValue("prio"))?;
                }
                b"idempotent" => asked.idempotent = flag("idempotent")?,
                b"hedge_ms" => asked.hedge_ms = Some(uint("hedge_ms")?),
                b"key" => {
                    let content = head::as_bytes(item).or_else(|| head::as_text(item).map(str::as_bytes));
                    asked.key = Some(content.ok_or(Fault::MetaValue("key"))?);
                }
                b"credit" => asked.credit_bytes = Some(uint("credit")?),
                b"end" => asked.end = flag("end")?,
                _ => {}
            }
        }
        Ok(asked)
    }
}
