//! Whether what was promised was kept.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::{Assertion, Bound, Pick, figure, phase_at};
use crate::record::{Record, short_field, value_text};

/// Figures that must not happen: the worst repeat counts.
const WRONGS: &[&str] = &["lost", "duplicated", "out_of_order", "refused", "streams_failed"];

/// One assertion at one point for one target.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// The scenario with its point.
    pub title: String,
    /// Of whom.
    pub target: String,
    /// As it was written, without the targets in front.
    pub assertion: String,
    /// What came out.
    pub outcome: Outcome,
}

/// What came out of a judgement.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Kept.
    Held {
        /// What was measured.
        value: f64,
        /// What it was compared with.
        bound: f64,
    },
    /// Broken.
    Failed {
        /// What was measured.
        value: f64,
        /// What it was compared with.
        bound: f64,
    },
    /// There is nothing to judge by: why. It counts as broken, since nobody may take it for kept.
    Unknown(String),
}

impl Judged {
    /// Whether it was kept.
    #[must_use]
    pub fn holds(&self) -> bool {
        matches!(self.outcome, Outcome::Held { .. })
    }
}

impl Judged {
    /// The assertion and what came out, without whose and where.
    #[must_use]
    pub fn verdict(&self) -> String {
        match &self.outcome {
            Outcome::Held { value, bound } => {
                format!(
                    "{}: held, {} against {}",
                    self.assertion,
                    Brief(*value),
                    Brief(*bound)
                )
            }
            Outcome::Failed { value, bound } => {
                format!(
                    "{}: FAILED, {} against {}",
                    self.assertion,
                    Brief(*value),
                    Brief(*bound)
                )
            }
            Outcome::Unknown(why) => format!("{}: FAILED, {why}", self.assertion),
        }
    }
}

impl fmt::Display for Judged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} · {} · {}", self.title, self.target, self.verdict())
    }
}

/// A figure with as many digits as a reader wants.
struct Brief(f64);

impl fmt::Display for Brief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Brief(figure) = *self;
        let decimals = match figure.abs() {
            size if size == 0.0 || size >= 1_000.0 || figure.fract() == 0.0 => 0,
            size if size >= 100.0 => 1,
            size if size >= 1.0 => 2,
            _ => 4,
        };
        write!(f, "{figure:.decimals$}")
    }
}

/// Judges the assertions of one scenario by the records of a campaign. Targets that did not run at a point are not
/// judged there: whether they should have is the campaign's to say.
#[must_use]
pub fn judge(scenario: &str, assertions: &[Assertion], records: &[Record]) -> Vec<Judged> {
    let mut points: Vec<&BTreeMap<String, Value>> = Vec::new();
    for record in records.iter().filter(|record| record.scenario == scenario) {
        if !points.contains(&&record.point) {
            points.push(&record.point);
        }
    }
    let mut judged = Vec::new();
    for point in points {
        let here: Vec<&Record> = records
            .iter()
            .filter(|record| record.scenario == scenario && record.point == *point)
            .collect();
        for assertion in assertions
            .iter()
            .filter(|assertion| is_meant(&assertion.when, point))
        {
            judged.extend(judge_point(assertion, &here));
        }
    }
    judged
}

fn judge_point(assertion: &Assertion, here: &[&Record]) -> Vec<Judged> {
    let mut targets: Vec<&str> = Vec::new();
    for record in here {
        if assertion.is_about(&record.target) && !targets.contains(&record.target.as_str()) {
            targets.push(&record.target);
        }
    }
    let mut judged = Vec::new();
    for target in targets {
        let outcome = match reached(assertion, here, target) {
            Reached::NotAsked => continue,
            Reached::Unknown(why) => Outcome::Unknown(why),
            Reached::Value(value) => match bound(assertion, here) {
                Err(why) => Outcome::Unknown(why),
                Ok(bound) if assertion.operator.holds(value, bound) => Outcome::Held { value, bound },
                Ok(bound) => Outcome::Failed { value, bound },
            },
        };
        judged.push(Judged {
            title: here.first().map(|record| record.title()).unwrap_or_default(),
            target: target.to_owned(),
            assertion: assertion.without_targets().to_owned(),
            outcome,
        });
    }
    judged
}

enum Reached {
    Value(f64),
    /// That rate was not asked for at this point.
    NotAsked,
    Unknown(String),
}

/// The median (or the worst) of a target's repeats.
fn reached(assertion: &Assertion, here: &[&Record], target: &str) -> Reached {
    let name = assertion.figure.as_str();
    let mut values = Vec::new();
    let mut asked = 0;
    for record in here.iter().filter(|record| record.target == target) {
        let Some(phase) = phase_at(record, assertion.at_per_s) else {
            continue;
        };
        asked += 1;
        values.extend(figure(record, phase, name));
    }
    if asked == 0 {
        return Reached::NotAsked;
    }
    // A repeat without the figure may be the one in which it was worst: nobody arrived, nobody looked.
    if !values.is_empty() && values.len() < asked {
        let without = asked - values.len();
        let why = missing(name, here, target);
        return Reached::Unknown(format!("in {without} of {asked} repeats {why}"));
    }
    values.sort_by(f64::total_cmp);
    match (values.last(), values.len()) {
        (None, _) => Reached::Unknown(missing(name, here, target)),
        (Some(worst), _) if WRONGS.contains(&name) => Reached::Value(*worst),
        (_, count) if count % 2 == 1 => Reached::Value(values[count / 2]),
        (_, count) => Reached::Value((values[count / 2 - 1] + values[count / 2]) / 2.0),
    }
}

fn bound(assertion: &Assertion, here: &[&Record]) -> Result<f64, String> {
    let (factor, of, targets) = match &assertion.bound {
        Bound::Number(number) => return Ok(*number),
        Bound::Share { factor, of, targets } => (factor, of, targets),
    };
    let mut reference: Option<f64> = None;
    for target in targets {
        match reached(assertion, here, target) {
            Reached::Value(value) => {
                reference = Some(match (reference, of) {
                    (None, _) => value,
                    (Some(other), Pick::Min) => other.min(value),
                    (Some(other), Pick::Max) => other.max(value),
                });
            }
            Reached::Unknown(why) => return Err(why),
            Reached::NotAsked => {}
        }
    }
    reference.map(|value| factor * value).ok_or_else(|| {
        format!(
            "{} did not run at this point, so there is nothing to compare with",
            targets.join(", ")
        )
    })
}

fn missing(name: &str, here: &[&Record], target: &str) -> String {
    let of_server =
        name.contains("server") || name.contains("rss") || name.contains("cpu") || name.contains("switches");
    let without_process = here
        .iter()
        .any(|record| record.target == target && record.server.is_none());
    let is_silent = here
        .iter()
        .any(|record| record.target == target && record.overall.is_silent);
    let in_steps = here
        .iter()
        .any(|record| record.target == target && !record.steps.is_empty());
    if of_server && in_steps {
        "what the server used is known of whole runs only, not of their steps; sweep arrivals.per_s instead"
            .to_owned()
    } else if of_server && without_process {
        format!("the process of {target} is not known; give the target `command`, `pid` or `pid_of`")
    } else if is_silent && (name.ends_with("_per_s") || name.ends_with("_per_message")) {
        "idle connections say nothing in the measured time, so there is no rate and no cost of a message"
            .to_owned()
    } else if name.starts_with('p') || name.starts_with("max_") || name.starts_with("mean_") {
        format!("nothing arrived at {target}")
    } else {
        format!("the runs of {target} have no figure `{name}`")
    }
}

/// Whether the point is one of those that are meant.
fn is_meant(when: &[(String, String)], point: &BTreeMap<String, Value>) -> bool {
    when.iter().all(|(field, wanted)| {
        point.iter().any(|(path, value)| {
            (path == field || short_field(path) == field)
                && value_text(value).replace('_', "") == wanted.replace('_', "")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{LatencyRecord, PhaseRecord, ServerRecord};

    /// A run of a scenario "s" at a point with so many subscribers.
    fn record(target: &str, subscribers: u32, p99_us: f64, lost: u64, ns_per_message: Option<f64>) -> Record {
        let overall = PhaseRecord {
            asked_per_s: Some(1_000.0),
            lost,
            delivered: 10,
            latency: Some(LatencyRecord {
                p99_us,
                ..LatencyRecord::default()
            }),
            ..PhaseRecord::default()
        };
        Record {
            campaign: "c".into(),
            scenario: "s".into(),
            point: [("workload.subscribers".to_owned(), Value::from(subscribers))].into(),
            target: target.into(),
            target_version: None,
            repeat: 1,
            at: String::new(),
            overall,
            steps: Vec::new(),
            server: ns_per_message.map(|ns| ServerRecord {
                ns_per_message: Some(ns),
                ..ServerRecord::default()
            }),
            generator_cpu_ns: 0,
            generator_busy: 0.5,
            warnings: Vec::new(),
            extra: BTreeMap::new(),
            scenario_settings: Value::Null,
            target_settings: Value::Null,
        }
    }

    fn judged(assertion: &str, records: &[Record]) -> Vec<Judged> {
        judge("s", &[assertion.parse().expect("an assertion")], records)
    }

    #[test]
    fn the_median_of_the_repeats_counts_but_the_worst_loss() {
        let records = [
            record("a", 1, 1_000.0, 0, None),
            record("a", 1, 9_000.0, 3, None),
            record("a", 1, 2_000.0, 0, None),
        ];
        let p99 = judged("p99_ms < 5", &records);
        assert_eq!(p99.len(), 1);
        assert_eq!(
            p99[0].outcome,
            Outcome::Held {
                value: 2.0,
                bound: 5.0
            }
        );
        let lost = judged("lost == 0", &records);
        assert_eq!(
            lost[0].outcome,
            Outcome::Failed {
                value: 3.0,
                bound: 0.0
            }
        );
        assert!(
            lost[0].to_string().contains("lost == 0: FAILED, 3 against 0"),
            "{}",
            lost[0]
        );
    }

    #[test]
    fn targets_are_compared_at_the_same_point() {
        let records = [
            record("a", 1, 10.0, 0, Some(40.0)),
            record("b", 1, 10.0, 0, Some(100.0)),
            record("c", 1, 10.0, 0, Some(70.0)),
            record("a", 10, 10.0, 0, Some(40.0)),
            record("b", 10, 10.0, 0, Some(50.0)),
            record("c", 10, 10.0, 0, Some(300.0)),
        ];
        let all = judged("a: server_ns_per_message <= 0.5 * b", &records);
        assert_eq!(all.iter().map(Judged::holds).collect::<Vec<_>>(), [true, false]);
        let best = judged("a: server_ns_per_message <= 0.5 * min(b, c)", &records);
        assert_eq!(
            best[0].outcome,
            Outcome::Failed {
                value: 40.0,
                bound: 35.0
            }
        );
        let at_ten = judged("a: server_ns_per_message < b when subscribers = 10", &records);
        assert_eq!(at_ten.len(), 1);
        assert_eq!(
            at_ten[0].outcome,
            Outcome::Held {
                value: 40.0,
                bound: 50.0
            }
        );
    }

    #[test]
    fn what_cannot_be_judged_is_not_taken_for_kept() {
        let records = [record("a", 1, 10.0, 0, None), record("b", 1, 10.0, 0, Some(1.0))];
        let unknown = judged("server_ns_per_message < 5", &records);
        assert!(
            unknown[0].to_string().contains("process of a is not known"),
            "{}",
            unknown[0]
        );
        assert!(!unknown[0].holds() && unknown[1].holds());
        let absent = judged("a: p99_us < gone", &records);
        assert!(
            absent[0].to_string().contains("gone did not run"),
            "{}",
            absent[0]
        );
    }

    #[test]
    fn a_repeat_without_the_figure_is_not_left_out() {
        let mut records = [
            record("a", 1, 10.0, 0, Some(1.0)),
            record("a", 1, 10.0, 0, None),
            record("b", 1, 10.0, 0, Some(9.0)),
            record("c", 1, 10.0, 0, None),
        ];
        let own = judged("a: server_ns_per_message < 5", &records);
        assert!(own[0].to_string().contains("in 1 of 2 repeats"), "{}", own[0]);
        assert!(!own[0].holds());
        let compared = judged("b: server_ns_per_message < 5 * max(a, c)", &records);
        assert!(!compared[0].holds(), "{}", compared[0]);
        records[0].overall.latency = None;
        assert!(!judged("a: p99_ms < 5", &records)[0].holds());
    }

    #[test]
    fn a_rate_selects_the_step() {
        let mut run = record("a", 1, 10.0, 0, None);
        run.steps = vec![run.overall.clone(), run.overall.clone()];
        run.steps[1].asked_per_s = Some(50_000.0);
        run.steps[1].latency.as_mut().expect("latency").p99_us = 8_000.0;
        let records = [run];
        let fast = judged("p99_ms < 5 at 50000/s", &records);
        assert_eq!(
            fast[0].outcome,
            Outcome::Failed {
                value: 8.0,
                bound: 5.0
            }
        );
        assert!(judged("p99_ms < 5 at 1000/s", &records)[0].holds());
        assert!(judged("p99_ms < 5 at 7/s", &records).is_empty());
    }
}
