//! Streams of Redis: entries are appended with XADD and read, from the first one on, with one XREAD after the other.
//!
//! ```text
//!   XADD topic * d payload ─▶ $ id: Acknowledged
//!   PING, XREAD COUNT n BLOCK 0 STREAMS topic id ─▶ PONG: Subscribed
//!   *1 *2 $ topic *n (*2 $ id *2 $ d $ payload)…: Event each; behind the last one the next XREAD leaves
//! ```
//!
//! The answer to an XREAD is taken apart entry by entry as it arrives. A connection that reads does nothing else: Redis lets it
//! wait for entries and answers nothing meanwhile. Redis keeps no place for such a reader, and is told of none.

use super::super::text;
use super::super::{Fault, Incoming, Outgoing};
use super::{Element, Step, element, not_redis, write_bulk};

/// The field that entries carry their payload in.
const FIELD: &[u8] = b"d";
/// Entries of one answer at most: a few hundred KiB of small ones.
const COUNT: &[u8] = b"1000";

/// What publishes begin with, up to the `$` of the payload's length.
pub(super) fn publish_head(topic: &str) -> Box<[u8]> {
    let mut head = b"*5\r\n".to_vec();
    for part in [&b"XADD"[..], topic.as_bytes(), b"*", FIELD] {
        write_bulk(part, &mut head);
    }
    head.push(b'$');
    head.into()
}

/// A stream that is read.
#[derive(Debug)]
pub(super) struct Reading {
    topic: String,
    /// Of the entry that came last.
    last_id: Vec<u8>,
    /// Entries of the answer in hand that have not come; 0 between two answers.
    left: usize,
    /// No XREAD follows.
    is_over: bool,
}

impl Reading {
    /// From the first entry on; asks for what there is.
    pub(super) fn begin(topic: &str, out: &mut Outgoing) -> Reading {
        let reading = Reading {
            topic: topic.to_owned(),
            last_id: b"0".to_vec(),
            left: 0,
            is_over: false,
        };
        reading.ask(out);
        reading
    }

    /// What still comes of it is the answer that is under way.
    pub(super) fn end(&mut self) {
        self.is_over = true;
    }

    fn ask(&self, out: &mut Outgoing) {
        let out = &mut out.bytes;
        out.extend_from_slice(b"*8\r\n");
        for part in [&b"XREAD"[..], b"COUNT", COUNT, b"BLOCK", b"0", b"STREAMS"] {
            write_bulk(part, out);
        }
        write_bulk(self.topic.as_bytes(), out);
        write_bulk(&self.last_id, out);
    }

    /// Whether an answer has begun: what comes next is an entry of it.
    #[inline]
    pub(super) fn is_inside(&self) -> bool {
        self.left > 0
    }

    /// The start of an answer, up to its first entry; `at` is behind the first line, which said that there is one stream.
    pub(super) fn open(&mut self, input: &[u8], at: usize) -> Result<Step, Fault> {
        let Some((line, at)) = text::line(input, at)? else {
            return Ok(Step::Need(input.len() + 1));
        };
        if line != b"*2" {
            return Err(not_redis(input));
        }
        let at = match element(input, at)? {
            None => return Ok(Step::Need(input.len() + 1)),
            Some((Element::Need(bytes), _)) => return Ok(Step::Need(bytes)),
            Some((Element::Bytes(topic), at)) if topic == self.topic.as_bytes() => at,
            Some(_) => return Err(not_redis(input)),
        };
        let Some((line, at)) = text::line(input, at)? else {
            return Ok(Step::Need(input.len() + 1));
        };
        let count = line.strip_prefix(b"*").and_then(text::length);
        self.left = count.filter(|count| *count > 0).ok_or_else(|| not_redis(input))?;
        Ok(Step::Taken(at))
    }

    /// One entry. Behind the last one of an answer, the next is asked for.
    #[inline]
    pub(super) fn entry(
        &mut self,
        input: &[u8],
        out: &mut Outgoing,
        on: &mut impl FnMut(Incoming<'_>),
    ) -> Result<Step, Fault> {
        let mut parts = [&[][..]; 3];
        let mut at = 0;
        for (index, part) in parts.iter_mut().enumerate() {
            // An entry and its fields are arrays of two each.
            if index < 2 {
                let Some((line, next)) = text::line(input, at)? else {
                    return Ok(Step::Need(input.len() + 1));
                };
                if line != b"*2" {
                    return Err(not_redis(input));
                }
                at = next;
            }
            match element(input, at)? {
                None => return Ok(Step::Need(input.len() + 1)),
                Some((Element::Need(bytes), _)) => return Ok(Step::Need(bytes)),
                Some((Element::Number, _)) => return Err(not_redis(input)),
                Some((Element::Bytes(bytes), next)) => {
                    *part = bytes;
                    at = next;
                }
            }
        }
        let [id, field, payload] = parts;
        if field != FIELD {
            return Err(not_redis(input));
        }
        on(Incoming::Event { payload });
        self.left -= 1;
        if self.left == 0 && !self.is_over {
            self.last_id.clear();
            self.last_id.extend_from_slice(id);
            self.ask(out);
        }
        Ok(Step::Taken(at))
    }
}
