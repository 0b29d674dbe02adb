//! `fluxar log ls`: what a data directory holds.

use super::{
    Ls, look,
    report::{Partition, Report, Segment, ranges, size, table},
};
use crate::{
    failure::{Failure, Result},
    output::print,
};

pub(super) fn run(command: &Ls) -> Result<()> {
    let (_, found) = look(&command.dir, false)?;
    let report = Report::new(&found);
    if command.json {
        let text = serde_json::to_string(&report).map_err(|error| Failure::here(error.to_string()))?;
        return print(&text);
    }
    print(&report.summary())?;
    if !report.segments.is_empty() {
        let rows: Vec<_> = report.segments.iter().map(segment).collect();
        let titles = [
            "SEGMENT", "START", "SIZE", "STATE", "BATCHES", "EVENTS", "FROM", "TO",
        ];
        print(&format!("\n{}", table(titles, &rows)))?;
    }
    if !report.partitions.is_empty() {
        let rows: Vec<_> = report.partitions.iter().map(partition).collect();
        let titles = [
            "PARTITION",
            "FIRST",
            "LAST",
            "EVENTS",
            "CURSORS",
            "RETAINED",
            "DAMAGED",
        ];
        print(&format!("\n{}", table(titles, &rows)))?;
    }
    Ok(())
}

fn segment(segment: &Segment) -> [String; 8] {
    let state = match (segment.is_sealed, segment.damage.is_empty()) {
        (true, true) => "sealed",
        (false, true) => "open",
        (_, false) => "damaged",
    };
    [
        segment.name.clone(),
        segment.start.to_string(),
        size(segment.bytes),
        state.to_owned(),
        segment.batches.to_string(),
        segment.events.to_string(),
        segment.from.clone(),
        segment.to.clone(),
    ]
}

fn partition(partition: &Partition) -> [String; 7] {
    [
        partition.partition.to_string(),
        partition
            .first
            .map_or_else(String::new, |first| first.to_string()),
        partition.last.to_string(),
        partition.events.to_string(),
        partition.cursors.to_string(),
        partition.retained.to_string(),
        ranges(&partition.damaged),
    ]
}
