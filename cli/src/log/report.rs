//! What `ls` and `verify` say about a log, as JSON and as text.

use fluxar_shard::log::{
    recovery::{HoleCause, Meta, RecoveredPartition},
    scan::Bad,
    verify::{Survey, SurveyedSegment},
};
use serde::Serialize;

/// A log.
#[derive(Serialize)]
pub(super) struct Report {
    /// Names the directory in epochs.
    dir_id: String,
    epoch: u64,
    starts: u64,
    /// Of the last start.
    cores: u16,
    /// Whether the last start was stopped in good order.
    is_clean: bool,
    /// What is wrong with the file `meta`, whose copy was read instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) meta_damaged: Option<String>,
    partition_count: u16,
    pub(super) segments: Vec<Segment>,
    /// Those that ever had an event.
    pub(super) partitions: Vec<Partition>,
}

/// A segment's file.
#[derive(Serialize)]
pub(super) struct Segment {
    pub(super) name: String,
    pub(super) start: u64,
    pub(super) bytes: u64,
    pub(super) is_sealed: bool,
    pub(super) batches: u64,
    pub(super) events: u64,
    pub(super) from: String,
    pub(super) to: String,
    /// Byte ranges that are not what was written.
    pub(super) damage: Vec<Range>,
    /// What is being written, or was when the gateway crashed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unfinished: Option<Range>,
}

/// Bytes of a segment, the end not included.
#[derive(Serialize)]
pub(super) struct Range {
    pub(super) from: u64,
    pub(super) to: u64,
    /// What was there, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) held: Option<String>,
}

/// A partition.
#[derive(Serialize)]
pub(super) struct Partition {
    pub(super) partition: u16,
    /// The first offset that is held; null: none is.
    pub(super) first: Option<u64>,
    pub(super) last: u64,
    pub(super) events: u64,
    pub(super) cursors: usize,
    pub(super) retained: usize,
    /// First and last offsets of events that were lost.
    pub(super) damaged: Vec<(u64, u64)>,
    /// Those that were removed, although older ones are held.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) removed: Vec<(u64, u64)>,
}

impl Report {
    pub(super) fn new(found: &Survey) -> Self {
        let partitions = found.partitions.iter();
        Self {
            dir_id: format!("{:010x}", found.meta.dir_id),
            epoch: found.meta.epoch(),
            starts: found.meta.starts,
            cores: found.meta.cores,
            is_clean: found.meta.is_clean,
            meta_damaged: found.meta_fault.clone(),
            partition_count: found.meta.partitions,
            segments: found.segments.iter().map(Segment::new).collect(),
            partitions: partitions
                .filter(|found| found.last > 0)
                .map(Partition::new)
                .collect(),
        }
    }

    /// What the whole is, in one line.
    pub(super) fn summary(&self) -> String {
        let bytes: u64 = self.segments.iter().map(|segment| segment.bytes).sum();
        format!(
            "log {}, {}, {} of {}, {}, {}",
            self.dir_id,
            plural(self.segments.len() as u64, "segment"),
            plural(self.partitions.iter().map(|of| of.events).sum(), "event"),
            size(bytes),
            plural(self.partition_count.into(), "partition"),
            match (self.starts, self.is_clean) {
                (0, _) => "never started".to_owned(),
                (1, true) => "started once, stopped in good order".to_owned(),
                (starts, true) => format!("started {starts} times, stopped in good order"),
                (1, false) => "started once, running or not stopped in good order".to_owned(),
                (starts, false) =>
                    format!("started {starts} times, running or not stopped in good order the last time"),
            }
        )
    }

    /// Whether anything is not what was written.
    pub(super) fn is_damaged(&self) -> bool {
        self.meta_damaged.is_some()
            || self.segments.iter().any(|segment| !segment.damage.is_empty())
            || self
                .partitions
                .iter()
                .any(|partition| !partition.damaged.is_empty())
    }
}

impl Segment {
    fn new(found: &SurveyedSegment) -> Self {
        Self {
            name: found.id.name(),
            start: Meta::start_of(found.epoch),
            bytes: found.file_bytes,
            is_sealed: found.is_sealed,
            batches: found.batches,
            events: found.events,
            from: time(found.oldest_ms),
            to: time(found.newest_ms),
            damage: found.damage.iter().map(Range::new).collect(),
            unfinished: found.torn.as_ref().map(Range::new),
        }
    }
}

impl Range {
    pub(super) fn new(bad: &Bad) -> Self {
        Self {
            from: bad.at,
            to: bad.end,
            held: bad.head.map(|head| match head.kind {
                fluxar_shard::log::format::Kind::Events => format!(
                    "events {} to {} of partition {}",
                    head.first,
                    head.last(),
                    head.partition
                ),
                kind => format!("{kind:?} of partition {}", head.partition).to_lowercase(),
            }),
        }
    }
}

impl Partition {
    fn new(found: &RecoveredPartition) -> Self {
        let of_cause = |cause| {
            let holes = found.holes.iter().filter(move |hole| hole.cause == cause);
            holes.map(|hole| (hole.first, hole.last)).collect::<Vec<_>>()
        };
        let (damaged, removed) = (of_cause(HoleCause::Damaged), of_cause(HoleCause::Removed));
        // Holes may lie within an extent, or between two.
        let mut events = 0;
        for held in &found.extents {
            let (first, last) = (held.extent.first, held.extent.last);
            events += last - first + 1;
            for (hole_first, hole_last) in damaged.iter().chain(&removed) {
                let (from, to) = (first.max(*hole_first), last.min(*hole_last));
                events -= (to + 1).saturating_sub(from);
            }
        }
        Self {
            partition: found.partition,
            first: found.extents.first().map(|held| held.extent.first),
            last: found.last,
            events,
            cursors: found.cursors.len(),
            retained: found.rows.len(),
            damaged,
            removed,
        }
    }
}

/// Rows below their titles, the columns as wide as they need to be; numbers stand at the right.
pub(super) fn table<const N: usize>(titles: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let of_rows = rows.iter().map(|row| row[column].chars().count());
        of_rows.max().unwrap_or(0).max(titles[column].len())
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let cells = cells.into_iter().zip(widths).map(|(cell, width)| {
            let is_number =
                cell.starts_with(|first: char| first.is_ascii_digit()) && !cell.contains(['-', '.']);
            if is_number {
                format!("{cell:>width$}")
            } else {
                format!("{cell:width$}")
            }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let rows = rows.iter().map(|row| line(row.each_ref().map(String::as_str)));
    std::iter::once(line(titles))
        .chain(rows)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Offsets as they are said: `7`, `3 to 9`.
pub(super) fn ranges(ranges: &[(u64, u64)]) -> String {
    let said = ranges.iter().map(|(first, last)| {
        if first == last {
            first.to_string()
        } else {
            format!("{first} to {last}")
        }
    });
    said.collect::<Vec<_>>().join(", ")
}

/// `1 event`, `3 events`.
pub(super) fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Bytes as a person reads them.
pub(super) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let power = (bytes.ilog2() / 10).min(units.len() as u32);
    let value = bytes as f64 / f64::from(power * 10).exp2();
    format!("{value:.1} {}", units[power as usize - 1])
}

/// A time of the log, ms since 1970, as RFC 3339 in UTC; empty: there is none.
pub(super) fn time(unix_ms: u64) -> String {
    if unix_ms == 0 {
        return String::new();
    }
    let (days, ms) = (unix_ms / 86_400_000, unix_ms % 86_400_000);
    // Days since 1 March of the year 0, in eras of 400 years, whose years begin in March: leap days come last.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (seconds, ms) = (ms / 1_000, ms % 1_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (unix_ms, text) in [
            (1, "1970-01-01T00:00:00.001Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_709_164_800_000, "2024-02-29T00:00:00.000Z"),
            (1_795_340_586_123, "2026-11-22T09:43:06.123Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(time(unix_ms), text);
        }
        assert_eq!(time(0), "");
    }

    #[test]
    fn sizes_have_the_unit_that_a_person_would_choose() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (67_108_864, "64.0 MiB"),
            (5 << 40, "5.0 TiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        let row = |name: &str, count: &str| [name.to_owned(), count.to_owned()];
        let text = table(["NAME", "N"], &[row("a", "7"), row("longer", "120")]);
        assert_eq!(text, "NAME    N\na         7\nlonger  120");
        assert_eq!(ranges(&[(1, 1), (3, 9)]), "1, 3 to 9");
    }
}
