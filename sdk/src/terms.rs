//! What a call or the open of a stream asks of those on its way, put together by the builders and written as meta.

use std::time::{Duration, Instant};

use fluxar_protocol::{Code, meta::MetaWriter};

use crate::{Error, Origin, Result};

/// Longest key and trace context, so that meta always has room for them.
const TEXT_BYTES_MAX: usize = 255;

/// The terms of one call or stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Terms {
    pub(crate) timeout: Option<Duration>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) priority: Option<u8>,
    pub(crate) trace: Option<String>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) is_idempotent: bool,
    pub(crate) hedge_after: Option<Duration>,
    pub(crate) credit_bytes: Option<u32>,
    /// Of the open of a stream: nothing more is sent.
    pub(crate) ends: bool,
}

impl Terms {
    /// How long it may take from now on; `None` is as long as it likes.
    pub(crate) fn time_left(&self) -> Result<Option<Duration>> {
        let until = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let left = match (self.timeout, self.deadline.map(until)) {
            (Some(timeout), Some(left)) => Some(timeout.min(left)),
            (timeout, left) => timeout.or(left),
        };
        if self.deadline.is_some() && left == Some(Duration::ZERO) {
            let message = "its deadline was over before it was sent";
            return Err(Error::from_origin(
                Origin::Timeout,
                Code::DeadlineExceeded,
                message,
            ));
        }
        Ok(left)
    }

    /// The meta map that says this, with so much time left.
    pub(crate) fn meta(&self, left: Option<Duration>) -> Result<Option<Vec<u8>>> {
        let unusable = |what: String| Error::from_origin(Origin::Input, Code::InvalidArgument, what);
        let mut meta = MetaWriter::new();
        if let Some(left) = left {
            meta = meta.uint("timeout_ms", whole_ms(left));
        }
        if let Some(priority) = self.priority {
            meta = meta.uint("prio", priority.into());
        }
        if let Some(trace) = &self.trace {
            meta = write_trace(meta, trace)?;
        }
        if let Some(key) = &self.key {
            meta = write_key(meta, key)?;
        }
        if self.is_idempotent {
            meta = meta.flag("idempotent", true);
        }
        if let Some(after) = self.hedge_after {
            if !self.is_idempotent {
                let what =
                    "`hedge_after` gives a call to two peers; say `idempotent(true)` if that does no harm";
                return Err(unusable(what.to_owned()));
            }
            meta = meta.uint("hedge_ms", whole_ms(after));
        }
        if let Some(credit_bytes) = self.credit_bytes {
            meta = meta.uint("credit", credit_bytes.into());
        }
        if self.ends {
            meta = meta.flag("end", true);
        }
        Ok(meta.finish())
    }
}

/// Milliseconds, at least one: zero would be no time at all.
pub(crate) fn whole_ms(time: Duration) -> u64 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1).into()
}

/// Adds a `key`: text if it is some, else bytes.
pub(crate) fn write_key(meta: MetaWriter, key: &[u8]) -> Result<MetaWriter> {
    check_len("key", key.len())?;
    Ok(match std::str::from_utf8(key) {
        Ok(text) => meta.text("key", text),
        Err(_) => meta.bytes("key", key),
    })
}

/// Adds a trace context.
pub(crate) fn write_trace(meta: MetaWriter, trace: &str) -> Result<MetaWriter> {
    check_len("trace", trace.len())?;
    Ok(meta.text("trace", trace))
}

fn check_len(name: &str, bytes: usize) -> Result<()> {
    if bytes <= TEXT_BYTES_MAX {
        return Ok(());
    }
    let message = format!("a {name} of {bytes} bytes; it may have {TEXT_BYTES_MAX}");
    Err(Error::from_origin(Origin::Input, Code::InvalidArgument, message))
}

#[cfg(test)]
mod tests {
    use fluxar_protocol::meta::{Asked, Meta};

    use super::*;

    #[test]
    fn what_is_asked_for_is_what_is_read() {
        let terms = Terms {
            priority: Some(6),
            key: Some(b"\xff\x00".to_vec()),
            is_idempotent: true,
            hedge_after: Some(Duration::from_micros(1)),
            credit_bytes: Some(4096),
            ends: true,
            ..Terms::default()
        };
        let raw = terms.meta(Some(Duration::from_millis(250))).unwrap().unwrap();
        let asked = Asked::read(Some(&Meta::from_checked(&raw))).unwrap();
        let expected = Asked {
            timeout_ms: Some(250),
            prio: 6,
            idempotent: true,
            hedge_ms: Some(1),
            key: Some(b"\xff\x00"),
            credit_bytes: Some(4096),
            end: true,
        };
        assert_eq!(asked, expected);
        assert_eq!(Terms::default().meta(None).unwrap(), None);
    }

    #[test]
    fn what_cannot_be_asked_for_is_refused() {
        let hedged = Terms {
            hedge_after: Some(Duration::from_millis(5)),
            ..Terms::default()
        };
        let long = Terms {
            key: Some(vec![b'k'; 256]),
            ..Terms::default()
        };
        for terms in [hedged, long] {
            assert_eq!(terms.meta(None).unwrap_err().code(), Code::InvalidArgument);
        }
    }

    #[test]
    fn the_earlier_of_timeout_and_deadline_counts() {
        let mut terms = Terms {
            timeout: Some(Duration::from_secs(30)),
            ..Terms::default()
        };
        assert_eq!(terms.time_left().unwrap(), Some(Duration::from_secs(30)));
        terms.deadline = Some(Instant::now() + Duration::from_secs(10));
        assert!(terms.time_left().unwrap() <= Some(Duration::from_secs(10)));
        terms.deadline = Some(Instant::now());
        assert_eq!(terms.time_left().unwrap_err().code(), Code::DeadlineExceeded);
    }
}
