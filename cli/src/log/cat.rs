//! `fluxar log cat`: prints stored events.

use std::io::{self, BufWriter, Write};

use fluxar_protocol::{envelope, target};
use fluxar_shard::log::{
    Stored,
    disk::SegmentId,
    format::BatchHead,
    recovery::{HoleCause, RecoveredPartition},
    scan::Bad,
    verify::{Survey, read_events},
};
use serde::Serialize;

use super::{
    Cat, look,
    report::{Range, ranges, time},
};
use crate::{
    failure::{Failure, Result},
    json::{self, Shown},
    output::{Dead, decode, diagnostic, tell},
};

/// A stored event as one line of JSON.
#[derive(Serialize)]
struct Line<'a> {
    topic: &'a str,
    /// partition@offset
    position: String,
    time: String,
    /// `meta.key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Shown<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dead: Option<Dead>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Shown<'a>>,
    /// In place of a payload that JSON cannot show.
    #[serde(skip_serializing_if = "Option::is_none")]
    diag: Option<String>,
}

pub(super) fn run(command: &Cat) -> Result<()> {
    if let Some(pattern) = &command.topic {
        target::check_pattern(pattern)
            .map_err(|fault| Failure::Usage(format!("`{pattern}` is no pattern of topics: {fault}")))?;
    }
    let (directory, found) = look(&command.dir, false)?;
    if let Some(partition) = command
        .partition
        .filter(|partition| *partition >= found.meta.partitions)
    {
        return Err(Failure::Usage(format!(
            "there is no partition {partition}: this log has {}, counted from 0",
            found.meta.partitions
        )));
    }
    tell_holes(command, &found);
    let mut printing = Printing {
        command,
        out: BufWriter::with_capacity(64 * 1024, io::stdout().lock()),
        left: command.limit.unwrap_or(u64::MAX),
    };
    for part in parts(command, &found) {
        let secret = found.meta.secret;
        let wanted = |partition, first, last| part.overlaps(&found, partition, first, last);
        let take = |partition, stored: Stored| printing.take(&part, &found, partition, &stored);
        let lost = |bad| part.tell_lost(&found, bad);
        if !read_events::<_, Failure>(&directory, secret, part.segment, wanted, take, lost)? {
            break;
        }
    }
    printing.out.flush()?;
    Ok(())
}

/// A segment to go through, and what of it.
struct Part {
    segment: SegmentId,
    /// Of this partition these offsets alone; `None`: all that the segment holds.
    only: Option<(u16, u64, u64)>,
    from: u64,
}

/// What is gone through, in order.
fn parts(command: &Cat, found: &Survey) -> Vec<Part> {
    let from = command.from.unwrap_or(0);
    let Some(number) = command.partition else {
        let segments = found.segments.iter();
        return segments
            .map(|segment| Part {
                segment: segment.id,
                only: None,
                from,
            })
            .collect();
    };
    let partitions = found.partitions.iter().filter(|of| of.partition == number);
    let extents = partitions.flat_map(|of| &of.extents);
    extents
        .filter(|held| held.extent.last >= from)
        .map(|held| Part {
            segment: held.segment,
            only: Some((number, held.extent.first, held.extent.last)),
            from,
        })
        .collect()
}

impl Part {
    fn overlaps(&self, found: &Survey, partition: u16, first: u64, last: u64) -> bool {
        if last < self.from {
            return false;
        }
        match self.only {
            Some((only, only_first, only_last)) => {
                partition == only && first <= only_last && only_first <= last
            }
            None => extents(found, partition, self.segment).any(|(from, to)| first <= to && from <= last),
        }
    }

    /// Says on stderr what of a sealed segment cannot be printed: that was not looked for before. Of others it was said.
    fn tell_lost(&self, found: &Survey, bad: Bad) {
        let mut segments = found.segments.iter();
        let is_sealed = segments.any(|segment| segment.id == self.segment && segment.is_sealed);
        let is_other = |head: BatchHead| self.only.is_some_and(|(only, ..)| only != head.partition);
        if !is_sealed || bad.head.is_some_and(is_other) {
            return;
        }
        let range = Range::new(&bad);
        let held = range
            .held
            .map_or_else(String::new, |held| format!(", held {held}"));
        tell(&format!(
            "{}: bytes {} to {}: damaged{held}",
            self.segment.name(),
            range.from,
            range.to
        ));
    }

    /// Whether this copy of an event is the one that counts.
    fn counts(&self, found: &Survey, partition: u16, offset: u64) -> bool {
        offset >= self.from
            && match self.only {
                Some((_, first, last)) => (first..=last).contains(&offset),
                None => {
                    let partition = found.partitions.get(usize::from(partition));
                    partition.is_some_and(|partition| holder_of(partition, offset) == Some(self.segment))
                }
            }
    }
}

/// The segment whose copy of an event counts: extents ascend.
fn holder_of(partition: &RecoveredPartition, offset: u64) -> Option<SegmentId> {
    let extents = &partition.extents;
    let held = extents.get(extents.partition_point(|held| held.extent.last < offset))?;
    (held.extent.first <= offset).then_some(held.segment)
}

/// The offsets of a partition for which a segment counts.
fn extents(found: &Survey, partition: u16, segment: SegmentId) -> impl Iterator<Item = (u64, u64)> {
    let of_partition = found.partitions.get(usize::from(partition)).into_iter();
    of_partition
        .flat_map(|of: &RecoveredPartition| &of.extents)
        .filter(move |held| held.segment == segment)
        .map(|held| (held.extent.first, held.extent.last))
}

/// Says on stderr what cannot be printed.
fn tell_holes(command: &Cat, found: &Survey) {
    let from = command.from.unwrap_or(0);
    for partition in &found.partitions {
        if command.partition.is_some_and(|only| only != partition.partition) {
            continue;
        }
        let holes = partition.holes.iter();
        let damaged: Vec<_> = holes
            .filter(|hole| hole.cause == HoleCause::Damaged && hole.last >= from)
            .map(|hole| (hole.first, hole.last))
            .collect();
        if !damaged.is_empty() {
            let number = partition.partition;
            tell(&format!(
                "partition {number}: damaged: offset {}",
                ranges(&damaged)
            ));
        }
    }
}

struct Printing<'a, W: Write> {
    command: &'a Cat,
    out: W,
    left: u64,
}

impl<W: Write> Printing<'_, W> {
    /// Prints what is wanted of a batch; whether more is.
    fn take(&mut self, part: &Part, found: &Survey, partition: u16, stored: &Stored) -> Result<bool> {
        for index in 0..stored.events.len() {
            let offset = stored.first + index as u64;
            if part.counts(found, partition, offset) {
                self.event(partition, offset, stored.time_ms, stored.events.get(index))?;
            }
            if self.left == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn event(&mut self, partition: u16, offset: u64, time_ms: u64, event: &[u8]) -> Result<()> {
        let position = format!("{partition}@{offset}");
        let Ok(decoded) = envelope::decode(event) else {
            // Checked before it was stored: written by other code.
            tell(&format!("{position}: what is stored there is no event"));
            return Ok(());
        };
        let topic = decoded.envelope.target.unwrap_or_default();
        let pattern = self.command.topic.as_deref();
        if pattern.is_some_and(|pattern| !target::matches(pattern, topic)) {
            return Ok(());
        }
        self.left -= 1;
        let payload = decoded.envelope.payload;
        if self.command.diag {
            let time = time(time_ms);
            writeln!(self.out, "{position} {time} {topic} {}", diagnostic(payload))?;
            return Ok(());
        }
        let value = decode(payload).ok();
        let meta = |name: &str| {
            let found = decoded.envelope.meta.as_ref()?.get(name)?;
            decode(found).ok()
        };
        let key = meta("key");
        let line = Line {
            topic,
            position,
            time: time(time_ms),
            key: key.as_ref().map(json::Shown),
            dead: Dead::read(meta),
            diag: value.is_none().then(|| diagnostic(payload)),
            payload: value.as_ref().map(json::Shown),
        };
        let line = serde_json::to_string(&line).map_err(|error| Failure::here(error.to_string()))?;
        writeln!(self.out, "{line}")?;
        Ok(())
    }
}
