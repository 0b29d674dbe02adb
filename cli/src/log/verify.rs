//! `fluxar log verify`: checks every byte.

use super::{
    Verify, look,
    report::{Range, Report, plural, ranges},
};
use crate::{
    failure::{Failure, Result},
    output::print,
};

pub(super) fn run(command: &Verify) -> Result<()> {
    let (_, found) = look(&command.dir, true)?;
    let report = Report::new(&found);
    if command.json {
        let text = serde_json::to_string(&report).map_err(|error| Failure::here(error.to_string()))?;
        print(&text)?;
    } else {
        print(&report.summary())?;
        if let Some(why) = &report.meta_damaged {
            print(&format!(
                "meta: damaged ({why}); its copy is whole, and the next start writes both anew"
            ))?;
        }
        for segment in &report.segments {
            for range in &segment.damage {
                print(&format!(
                    "{}: {}: damaged{}",
                    segment.name,
                    bytes(range),
                    held(range)
                ))?;
            }
            if let Some(range) = &segment.unfinished {
                let why = "being written, or torn by a crash: never promised to anybody";
                print(&format!("{}: {}: {why}", segment.name, bytes(range)))?;
            }
        }
        for partition in &report.partitions {
            if !partition.damaged.is_empty() {
                let lost: u64 = partition
                    .damaged
                    .iter()
                    .map(|(first, last)| last - first + 1)
                    .sum();
                print(&format!(
                    "partition {}: {} lost: offset {}",
                    partition.partition,
                    plural(lost, "event"),
                    ranges(&partition.damaged)
                ))?;
            }
        }
    }
    if report.is_damaged() {
        let dir = command.dir.display();
        return Err(Failure::Refused(format!(
            "{dir}: something is not what was written; all else is served"
        )));
    }
    if !command.json {
        print("every byte is what was written")?;
    }
    Ok(())
}

fn bytes(range: &Range) -> String {
    format!("bytes {} to {}", range.from, range.to)
}

fn held(range: &Range) -> String {
    match &range.held {
        Some(held) => format!(", held {held}"),
        None => String::new(),
    }
}
