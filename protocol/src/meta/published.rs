//! What a publish asks of the log, read in one pass [P-5.8].

use super::{Meta, Qos};
use crate::error::Fault;
use crate::head;

/// The keys of a publish that a gateway acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Published {
    /// `qos`, default 0.
    pub qos: Qos,
    /// `retain`: it becomes its topic's row in the table.
    pub retain: bool,
    /// `ttl_ms`: how long after it was stored it is worth anything, ms.
    pub ttl_ms: Option<u64>,
}

impl Published {
    /// Reads them.
    ///
    /// # Errors
    /// [`Fault::MetaValue`] names the key whose value has the wrong type or range.
    #[inline]
    pub fn read(meta: Option<&Meta<'_>>) -> Result<Self, Fault> {
        let mut published = Self::default();
        let Some(meta) = meta else { return Ok(published) };
        for (key, item) in meta.entries() {
            match key {
                b"qos" => published.qos = Qos::from_item(item).ok_or(Fault::MetaValue("qos"))?,
                b"retain" => published.retain = head::as_bool(item).ok_or(Fault::MetaValue("retain"))?,
                b"ttl_ms" => {
                    published.ttl_ms = Some(head::as_uint(item).ok_or(Fault::MetaValue("ttl_ms"))?);
                }
                _ => {}
            }
        }
        Ok(published)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::MetaWriter;

    #[test]
    fn one_pass_reads_what_the_readers_of_single_keys_do() {
        let first = || MetaWriter::new().text("trace", "0123").uint("qos", 2);
        for writer in [
            MetaWriter::new(),
            first(),
            first().flag("retain", true).uint("x-mine", 7),
            first().uint("ttl_ms", 1 << 40).flag("retain", false),
            MetaWriter::new().uint("ttl_ms", 0).text("type", "a"),
        ] {
            let raw = writer.finish().unwrap_or_else(|| b"\xa0".to_vec());
            let meta = Meta::from_checked(&raw);
            let published = Published {
                qos: meta.qos().unwrap(),
                retain: meta.flag("retain").unwrap(),
                ttl_ms: meta.uint("ttl_ms").unwrap(),
            };
            assert_eq!(Published::read(Some(&meta)), Ok(published), "{raw:x?}");
        }
        assert_eq!(Published::read(None), Ok(Published::default()));
    }

    #[test]
    fn a_wrong_value_is_named() {
        for (key, item) in [("qos", 3), ("retain", 1), ("ttl_ms", 0xf6)] {
            let raw = MetaWriter::new().raw(key, &[item]).finish().unwrap();
            let read = Published::read(Some(&Meta::from_checked(&raw)));
            assert_eq!(read, Err(Fault::MetaValue(key)));
        }
    }
}
