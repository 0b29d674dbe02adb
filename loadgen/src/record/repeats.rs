//! Records that belong together: the repeats of one scenario, at one point of its sweep, against one target.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Record;
use crate::metric::{Better, Metric};
use crate::scenario::Scenario;
use crate::statistics::Spread;
use crate::units;

/// A scenario at one point of its sweep: what several targets did there.
#[derive(Debug, Clone)]
pub struct Point<'a> {
    /// The scenario's name.
    pub scenario: &'a str,
    /// What the sweep chose.
    pub choices: &'a BTreeMap<String, Value>,
    /// In the order in which targets first appear in the file.
    pub targets: Vec<Repeats<'a>>,
}

/// The runs of one point against one target.
#[derive(Debug, Clone)]
pub struct Repeats<'a> {
    /// The target's name.
    pub target: &'a str,
    /// Never empty.
    pub records: Vec<&'a Record>,
}

/// All points, in the order in which they first appear.
#[must_use]
pub fn points(records: &[Record]) -> Vec<Point<'_>> {
    let mut points: Vec<Point<'_>> = Vec::new();
    for record in records {
        let known = points
            .iter()
            .position(|point| point.scenario == record.scenario && *point.choices == record.point);
        let index = known.unwrap_or_else(|| {
            points.push(Point {
                scenario: &record.scenario,
                choices: &record.point,
                targets: Vec::new(),
            });
            points.len() - 1
        });
        let targets = &mut points[index].targets;
        match targets.iter_mut().find(|repeats| repeats.target == record.target) {
            Some(repeats) => repeats.records.push(record),
            None => targets.push(Repeats {
                target: &record.target,
                records: vec![record],
            }),
        }
    }
    // Rotation may have put another target first at a later point.
    let order = target_names(records);
    for point in &mut points {
        point
            .targets
            .sort_by_key(|repeats| order.iter().position(|&name| name == repeats.target));
    }
    points
}

/// The names of all targets, in the order in which they first appear.
#[must_use]
pub fn target_names(records: &[Record]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for record in records {
        if !names.contains(&record.target.as_str()) {
            names.push(&record.target);
        }
    }
    names
}

/// Points under their scenarios, in order.
#[must_use]
pub fn scenarios<'p, 'a>(points: &'p [Point<'a>]) -> Vec<(&'a str, Vec<&'p Point<'a>>)> {
    let mut scenarios: Vec<(&'a str, Vec<&'p Point<'a>>)> = Vec::new();
    for point in points {
        match scenarios.iter_mut().find(|(name, _)| *name == point.scenario) {
            Some((_, points)) => points.push(point),
            None => scenarios.push((point.scenario, vec![point])),
        }
    }
    scenarios
}

impl<'a> Point<'a> {
    /// The scenario with what the sweep chose.
    #[must_use]
    pub fn title(&self) -> String {
        self.any_record().map(Record::title).unwrap_or_default()
    }

    /// What the sweep chose; empty without sweeps.
    #[must_use]
    pub fn label(&self) -> String {
        self.any_record().map(Record::point_label).unwrap_or_default()
    }

    /// Figures that only this workload has.
    #[must_use]
    pub fn extras(&self) -> Vec<Metric> {
        let mut names: Vec<&str> = Vec::new();
        for record in self.targets.iter().flat_map(|repeats| &repeats.records) {
            for name in record.extra.keys() {
                if !names.contains(&name.as_str()) {
                    names.push(name);
                }
            }
        }
        names.into_iter().map(Metric::extra).collect()
    }

    /// The repeats against that target.
    #[must_use]
    pub fn target(&self, name: &str) -> Option<&Repeats<'a>> {
        self.targets.iter().find(|repeats| repeats.target == name)
    }

    /// Whether messages were due at a rate of their own, whatever the server did.
    #[must_use]
    pub fn is_open_loop(&self) -> bool {
        self.any_record()
            .is_some_and(|record| record.phases()[0].asked_per_s.is_some())
    }

    /// The scenario as it was set, if this version can read it.
    #[must_use]
    pub fn settings(&self) -> Option<Scenario> {
        serde_json::from_value(self.any_record()?.scenario_settings.clone()).ok()
    }

    fn any_record(&self) -> Option<&'a Record> {
        self.targets.first()?.records.first().copied()
    }
}

impl Repeats<'_> {
    /// The metric in each run that has it.
    #[must_use]
    pub fn values(&self, metric: &Metric) -> Vec<f64> {
        self.records
            .iter()
            .filter_map(|record| metric.of(record))
            .collect()
    }

    /// Its middle and spread; `None` if no run has it.
    #[must_use]
    pub fn spread(&self, metric: &Metric) -> Option<Spread> {
        Spread::of(&self.values(metric))
    }

    /// The sum of a count over all repeats.
    #[must_use]
    pub fn total(&self, metric: &Metric) -> f64 {
        self.values(metric).iter().sum()
    }

    /// What did not arrive as it should, over all repeats, in words: `12 lost, 3 duplicated`. Empty if all is well.
    #[must_use]
    pub fn faults(&self) -> String {
        let mut faults = Vec::new();
        for name in ["lost", "told_dropped", "duplicated", "out_of_order", "refused"] {
            let Some(metric) = Metric::named(name) else {
                continue;
            };
            let total = self.total(metric);
            if total > 0.0 {
                faults.push(format!("{} {}", units::count(total), metric.heading));
            }
        }
        faults.join(", ")
    }

    /// Warnings of these runs, each kind once (see [`Warning`]).
    #[must_use]
    pub fn warnings(&self) -> Vec<Warning> {
        let mut warnings = Vec::new();
        for record in &self.records {
            for text in &record.warnings {
                Warning::add(&mut warnings, text, record);
            }
        }
        warnings
    }

    /// The server's version, as the last run recorded it.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.records
            .iter()
            .rev()
            .find_map(|record| record.target_version.as_deref())
    }
}

/// A warning that several runs gave. Warnings that differ in their numbers alone are of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// As the first run worded it.
    pub text: String,
    /// How many runs gave it.
    pub runs: usize,
    /// Scenario, point and target of these runs, in order.
    pub places: Vec<String>,
    kind: String,
}

impl Warning {
    fn add(warnings: &mut Vec<Warning>, text: &str, record: &Record) {
        let kind: String = text.chars().filter(|char| !char.is_ascii_digit()).collect();
        let place = format!("{} · {}", record.title(), record.target);
        match warnings.iter_mut().find(|warning| warning.kind == kind) {
            Some(warning) => {
                warning.runs += 1;
                if !warning.places.contains(&place) {
                    warning.places.push(place);
                }
            }
            None => warnings.push(Warning {
                text: text.to_owned(),
                runs: 1,
                places: vec![place],
                kind,
            }),
        }
    }
}

/// The warnings of all runs, each kind once.
#[must_use]
pub fn warnings(records: &[Record]) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for record in records {
        for text in &record.warnings {
            Warning::add(&mut warnings, text, record);
        }
    }
    warnings
}

/// Which of some medians is best, by index: if the metric says which way that is, there is more than one, and none comes
/// as near as half a percent to it (all that were asked for the same rate delivered it).
#[must_use]
pub fn best(metric: &Metric, medians: &[Option<f64>]) -> Option<usize> {
    const AS_GOOD: f64 = 0.005;
    let mut known: Vec<(usize, f64)> = medians
        .iter()
        .enumerate()
        .filter_map(|(index, median)| median.map(|median| (index, median)))
        .collect();
    known.sort_by(|(_, left), (_, right)| match metric.better {
        Better::Higher => right.total_cmp(left),
        Better::Lower | Better::Neither => left.total_cmp(right),
    });
    match known[..] {
        [(index, first), (_, second), ..] if metric.better != Better::Neither => {
            ((first - second).abs() > AS_GOOD * first.abs().max(second.abs())).then_some(index)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_stands_alone() {
        let metric = |name| Metric::named(name).expect("a metric");
        let (cpu, rate, switches) = (
            metric("server_ns_per_message"),
            metric("delivered_per_s"),
            metric("switches_voluntary"),
        );
        assert_eq!(best(cpu, &[Some(40.0), None, Some(35.0)]), Some(2));
        assert_eq!(best(rate, &[Some(40.0), None, Some(35.0)]), Some(0));
        assert_eq!(best(switches, &[Some(40.0), Some(35.0)]), None);
        assert_eq!(best(cpu, &[Some(40.0), None]), None, "alone");
        assert_eq!(
            best(rate, &[Some(10_000.0), Some(9_990.0), Some(5_000.0)]),
            None,
            "as good"
        );
        assert_eq!(best(rate, &[Some(0.0), Some(0.0)]), None);
        assert_eq!(best(cpu, &[]), None);
    }
}
