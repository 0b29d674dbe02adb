//! The judgement on counts of instructions: what was measured beside what is recorded in `bench/counts.toml`.
//!
//! Counts come from gungraun's lines of JSON ([`measured`]); the record is a file that people read ([`Record`]).

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use crate::COUNTED_TIMES;

/// A count may differ by so much from the recorded one, in percent, if it was made with the same tools.
pub const TOLERANCE_PERCENT: f64 = 3.0;
/// And by so much if it was not: another compiler orders and inlines differently, another libc copies differently.
pub const TOLERANCE_OTHER_TOOLS_PERCENT: f64 = 15.0;

/// Whatever it is in percent, a difference of so many instructions each time says nothing: where the allocator puts
/// what is copied and compared decides about as many, and that shifts with the folder that the code is built in.
pub const SLACK_EACH: u64 = 8;

/// Counts by name, `function/case`.
pub type Counts = BTreeMap<String, u64>;

/// The committed file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// What the counts depend on besides the code.
    pub made_with: Tools,
    /// Instructions.
    pub instructions: Counts,
}

/// What counts depend on besides the code that is counted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tools {
    /// As `rustc --version` says it.
    pub rustc: String,
    /// As `valgrind --version` says it.
    pub valgrind: String,
    /// As `getconf GNU_LIBC_VERSION` says it.
    pub libc: String,
    /// Architecture and instructions, which the payload walk is chosen by.
    pub processor: String,
}

const HEAD: &str = "\
# Instructions of the hot path, each case done 64 times. Checked and written by bench/counts; see docs/performance.md,
# \"Kept fast\".
";

impl Record {
    /// Reads the file's text.
    ///
    /// # Errors
    /// What is wrong with it, and in which line.
    pub fn read(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }
}

impl fmt::Display for Record {
    /// The file's text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tools {
            rustc,
            valgrind,
            libc,
            processor,
        } = &self.made_with;
        writeln!(f, "{HEAD}")?;
        writeln!(f, "[made_with]")?;
        writeln!(f, "rustc = {rustc:?}\nvalgrind = {valgrind:?}")?;
        writeln!(f, "libc = {libc:?}\nprocessor = {processor:?}\n\n[instructions]")?;
        for (name, count) in &self.instructions {
            writeln!(f, "{name:?} = {count}")?;
        }
        Ok(())
    }
}

/// Reads the lines of JSON that gungraun writes, one for each case.
///
/// # Errors
/// Which line is not what it should be.
pub fn measured(lines: &str) -> Result<Counts, String> {
    let mut counts = Counts::new();
    for line in lines.lines().filter(|line| line.starts_with('{')) {
        let (name, count) =
            case(line).ok_or_else(|| format!("gungraun wrote what this does not know: {line}"))?;
        counts.insert(name, count);
    }
    Ok(counts)
}

fn case(line: &str) -> Option<(String, u64)> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let name = format!("{}/{}", line["function_name"].as_str()?, line["id"].as_str()?);
    let count = line.pointer("/profiles/0/data/total/metrics/Ir/values/new")?;
    Some((name, count.as_u64()?))
}

/// What became of one case.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Verdict {
    /// Within the tolerance.
    Kept,
    /// More instructions than the tolerance allows: a failure.
    Slower,
    /// Fewer: good, and worth a new record, or half of it can be lost again without anybody noticing.
    Faster,
    /// Measured, but not recorded: a failure.
    Unrecorded,
    /// Recorded, but not measured: a failure.
    Missing,
}

/// One case of a [`Report`].
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    name: String,
    recorded: Option<u64>,
    measured: Option<u64>,
    /// What became of it.
    pub verdict: Verdict,
}

impl Line {
    fn is_slack(&self) -> bool {
        let (recorded, measured) = (self.recorded.unwrap_or(0), self.measured.unwrap_or(0));
        recorded.abs_diff(measured) <= SLACK_EACH * COUNTED_TIMES as u64
    }

    /// By how many percent the count has grown.
    fn growth_percent(&self) -> Option<f64> {
        let (recorded, measured) = (self.recorded? as f64, self.measured? as f64);
        Some(100.0 * (measured - recorded) / recorded)
    }
}

/// What was measured beside what is recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Every case.
    pub lines: Vec<Line>,
    /// See [`TOLERANCE_PERCENT`].
    pub tolerance_percent: f64,
    /// What differs from the tools of the record.
    pub other_tools: Vec<String>,
}

/// Compares.
#[must_use]
pub fn compare(recorded: &Record, measured: &Record) -> Report {
    let other_tools = recorded.made_with.differences(&measured.made_with);
    let tolerance_percent = if other_tools.is_empty() {
        TOLERANCE_PERCENT
    } else {
        TOLERANCE_OTHER_TOOLS_PERCENT
    };
    let (old, new) = (&recorded.instructions, &measured.instructions);
    let mut names: Vec<_> = old.keys().chain(new.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let lines = names.into_iter().map(|name| {
        let mut line = Line {
            name: name.clone(),
            recorded: old.get(name).copied(),
            measured: new.get(name).copied(),
            verdict: Verdict::Kept,
        };
        line.verdict = match line.growth_percent() {
            None if line.measured.is_none() => Verdict::Missing,
            None => Verdict::Unrecorded,
            Some(_) if line.is_slack() => Verdict::Kept,
            Some(growth) if growth > tolerance_percent => Verdict::Slower,
            Some(growth) if growth < -tolerance_percent => Verdict::Faster,
            Some(_) => Verdict::Kept,
        };
        line
    });
    Report {
        lines: lines.collect(),
        tolerance_percent,
        other_tools,
    }
}

impl Tools {
    fn differences(&self, other: &Self) -> Vec<String> {
        let pairs = [
            (&self.rustc, &other.rustc),
            (&self.valgrind, &other.valgrind),
            (&self.libc, &other.libc),
        ];
        let differing = pairs.into_iter().filter(|(recorded, here)| recorded != here);
        differing
            .map(|(recorded, here)| format!("{here} instead of {recorded}"))
            .collect()
    }
}

impl Report {
    /// Whether the check fails.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        !self
            .lines
            .iter()
            .all(|line| matches!(line.verdict, Verdict::Kept | Verdict::Faster))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<44} {:>10}  change, {COUNTED_TIMES} times as recorded",
            "instructions", "each"
        )?;
        for line in &self.lines {
            write!(f, "{line}")?;
        }
        let Self {
            tolerance_percent,
            other_tools,
            ..
        } = self;
        if !other_tools.is_empty() {
            writeln!(f, "counted with {}: hence", other_tools.join(", "))?;
        }
        writeln!(f, "tolerance: {tolerance_percent} %")?;
        let names = |verdict| {
            let lines = self.lines.iter().filter(|line| line.verdict == verdict);
            lines
                .map(|line| line.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        for (verdict, consequence) in [
            (
                Verdict::Slower,
                "takes more instructions than recorded: make it as fast as it was, or, if the change is worth it, say so where it is made and write the new count",
            ),
            (Verdict::Unrecorded, "is not recorded: write its count"),
            (
                Verdict::Missing,
                "is recorded, but was not measured: bring the case back, or write the counts without it",
            ),
            (
                Verdict::Faster,
                "takes fewer instructions: write the new count, so that it is kept",
            ),
        ] {
            let names = names(verdict);
            if !names.is_empty() {
                writeln!(f, "{names} {consequence} (bench/counts --write)")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.verdict {
            Verdict::Kept => ' ',
            Verdict::Faster => '-',
            Verdict::Slower => '+',
            Verdict::Unrecorded | Verdict::Missing => '?',
        };
        write!(f, "{mark} {:<42}", self.name)?;
        match self.measured {
            Some(measured) => write!(f, " {:>10.1}", measured as f64 / COUNTED_TIMES as f64)?,
            None => write!(f, " {:>10}", "–")?,
        }
        match (self.growth_percent(), self.recorded, self.measured) {
            (Some(growth), Some(recorded), Some(measured)) => {
                writeln!(f, "  {growth:+.1} % ({recorded} -> {measured})")
            }
            (_, Some(recorded), _) => writeln!(f, "  recorded {recorded}"),
            (_, _, Some(measured)) => writeln!(f, "  new {measured}"),
            _ => writeln!(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(rustc: &str, instructions: &[(&str, u64)]) -> Record {
        Record {
            made_with: Tools {
                rustc: rustc.to_owned(),
                valgrind: "valgrind-3.19.0".to_owned(),
                libc: "glibc 2.36".to_owned(),
                processor: "x86_64 with avx2".to_owned(),
            },
            instructions: instructions
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect(),
        }
    }

    fn verdicts(report: &Report) -> Vec<Verdict> {
        report.lines.iter().map(|line| line.verdict).collect()
    }

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        let record = record(
            "rustc 1.95.0 (59807616e 2026-04-14)",
            &[("decode/small", 1), ("walk/a", 2)],
        );
        assert_eq!(Record::read(&record.to_string()), Ok(record));
    }

    #[test]
    fn more_than_the_tolerance_fails_and_less_is_told() {
        let recorded = record("1", &[("a", 100000), ("b", 100000), ("c", 100000), ("d", 100000)]);
        let measured = record("1", &[("a", 103000), ("b", 103100), ("c", 97000), ("d", 96900)]);
        let report = compare(&recorded, &measured);
        use Verdict::{Faster, Kept, Slower};
        assert_eq!(verdicts(&report), [Kept, Slower, Kept, Faster]);
        assert!(report.has_failed());
        let text = report.to_string();
        assert!(text.contains("+3.1 % (100000 -> 103100)"), "{text}");
        assert!(text.contains("\nb takes more instructions"), "{text}");
        assert!(text.contains("\nd takes fewer instructions"), "{text}");
        assert!(text.contains("bench/counts --write"), "{text}");
        assert!(!compare(&recorded, &recorded).has_failed());
        let faster = record("1", &[("a", 1), ("b", 1), ("c", 1), ("d", 1)]);
        assert!(!compare(&recorded, &faster).has_failed(), "faster is no failure");
    }

    #[test]
    fn other_tools_widen_the_tolerance_and_are_named() {
        let recorded = record("rustc 1.95.0", &[("a", 100000), ("b", 100000)]);
        let report = compare(
            &recorded,
            &record("rustc 1.96.0", &[("a", 115000), ("b", 115100)]),
        );
        assert_eq!(verdicts(&report), [Verdict::Kept, Verdict::Slower]);
        let text = report.to_string();
        assert!(text.contains("rustc 1.96.0 instead of rustc 1.95.0"), "{text}");
        assert!(text.contains("tolerance: 15 %"), "{text}");
    }

    #[test]
    fn a_few_instructions_each_say_nothing() {
        let slack = SLACK_EACH * COUNTED_TIMES as u64;
        let recorded = record("1", &[("a", 1000), ("b", 1000), ("c", 1000)]);
        let measured = record(
            "1",
            &[("a", 1000 + slack), ("b", 1001 + slack), ("c", 1000 - slack)],
        );
        use Verdict::{Kept, Slower};
        assert_eq!(verdicts(&compare(&recorded, &measured)), [Kept, Slower, Kept]);
    }

    #[test]
    fn what_comes_or_goes_fails() {
        let report = compare(&record("1", &[("gone", 5)]), &record("1", &[("new", 5)]));
        assert_eq!(verdicts(&report), [Verdict::Missing, Verdict::Unrecorded]);
        assert!(report.has_failed());
    }

    #[test]
    fn counts_are_read_from_lines_of_json() {
        let line = |count: &str| {
            format!(
                r#"{{"function_name":"decode","id":"small","profiles":[{{"tool":"Callgrind","data":{{"total":{{"metrics":{{"Ir":{{"values":{{"new":{count}}}}}}}}}}}}}]}}"#
            )
        };
        let counts = measured(&format!("some words\n{}\n", line("7"))).unwrap();
        assert_eq!(counts, Counts::from([("decode/small".to_owned(), 7)]));
        assert!(measured(&line("null")).is_err());
        assert_eq!(measured(""), Ok(Counts::new()));
    }
}
