//! From the text of a campaign file to a [`Campaign`].

use std::path::Path;

use serde::Deserialize;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::fields::{Fields, Reading, nearest, place_of_key};
use super::sweep::{self, Misfit, POINTS_MAX};
use super::{Campaign, Fault, ScenarioPlan, TargetPlan, target};
use crate::scenario::Arrivals;
use crate::slo::Assertion;

/// Sections of a scenario, by whose fields a sweep may go.
const SECTIONS: &[&str] = &["workload", "arrivals", "payload"];
/// Longest time that a field in ms may say: a day.
pub(super) const MS_MAX: u64 = 86_400_000;

/// What scenarios inherit from the head.
struct Head {
    name: String,
    repeats: u32,
    pause_ms: u64,
    warmup_ms: u64,
    duration_ms: u64,
    generator_cores: Vec<usize>,
    seed: u64,
    /// Targets of scenarios that name none; empty: all.
    targets: Vec<String>,
    targets_at: usize,
    /// A file whose targets belong to this campaign too, and where it was named.
    targets_from: Option<(String, usize)>,
}

pub(super) fn parse(source: &str, text: &str, directory: &Path) -> Result<Campaign, Vec<Fault>> {
    let mut reading = Reading::new(source, text);
    let root = match DeTable::parse(text) {
        Ok(root) => root,
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            reading.fault(at, error.message().to_owned());
            return Err(reading.faults);
        }
    };
    let root = root.get_ref();
    let mut fields = Fields::new(root, 0, "the file");
    let head = match fields.table(&mut reading, "campaign") {
        Some(table) => read_head(&mut reading, table, place_of_key(root, "campaign").unwrap_or(0)),
        None => read_head(&mut reading, &DeTable::new(), 0),
    };
    let mut targets: Vec<TargetPlan> = Vec::new();
    let mut faults_elsewhere = Vec::new();
    if let Some((path, at)) = &head.targets_from {
        match target::read_file(&directory.join(path)) {
            Ok(Ok(shared)) => targets = shared,
            Ok(Err(faults)) => faults_elsewhere = faults,
            Err(error) => reading.fault(
                *at,
                format!("campaign: targets_from: {path} cannot be read: {error}"),
            ),
        }
    }
    target::read_all(&mut reading, &mut fields, &mut targets);
    for name in &head.targets {
        if faults_elsewhere.is_empty() && !targets.iter().any(|plan| plan.target.name == *name) {
            let at = head.targets_at;
            reading.fault(at, format!("campaign: targets: {}", no_target(name, &targets)));
        }
    }
    let mut scenarios: Vec<ScenarioPlan> = Vec::new();
    for (table, at) in fields.tables(&mut reading, "scenario") {
        let plan = read_scenario(&mut reading, table, at, &head, &targets, directory);
        if scenarios.iter().any(|other| other.name == plan.name) {
            reading.fault(at, format!("there are two scenarios of the name {:?}", plan.name));
        }
        scenarios.push(plan);
    }
    if targets.is_empty() && faults_elsewhere.is_empty() {
        reading.fault_without_line("there is no [[target]]: say what to measure");
    }
    if !root.contains_key("scenario") {
        reading.fault_without_line("there is no [[scenario]]: say what to do");
    }
    fields.finish(&mut reading);
    if !faults_elsewhere.is_empty() || !reading.faults.is_empty() {
        reading.faults.sort_by_key(|fault| fault.line);
        faults_elsewhere.extend(reading.faults);
        return Err(faults_elsewhere);
    }
    Ok(Campaign {
        name: if head.name.is_empty() {
            stem(source)
        } else {
            head.name
        },
        directory: directory.to_owned(),
        repeats: head.repeats,
        pause_ms: head.pause_ms,
        generator_cores: head.generator_cores,
        seed: head.seed,
        targets,
        scenarios,
    })
}

/// `bench/campaigns/first.toml` → `first`.
fn stem(source: &str) -> String {
    Path::new(source).file_stem().map_or_else(
        || "campaign".to_owned(),
        |stem| stem.to_string_lossy().into_owned(),
    )
}

fn read_head(reading: &mut Reading<'_>, table: &DeTable<'_>, at: usize) -> Head {
    let mut fields = Fields::new(table, at, "campaign");
    let head = Head {
        name: fields.text(reading, "name").unwrap_or_default(),
        repeats: fields.number(reading, "repeats", 1..=1_000).unwrap_or(3) as u32,
        pause_ms: fields.number(reading, "pause_ms", 0..=MS_MAX).unwrap_or(100),
        warmup_ms: fields.number(reading, "warmup_ms", 0..=MS_MAX).unwrap_or(500),
        duration_ms: fields.number(reading, "duration_ms", 1..=MS_MAX).unwrap_or(3_000),
        generator_cores: fields.cores(reading, "generator_cores").unwrap_or_default(),
        seed: fields.number(reading, "seed", 0..=i64::MAX as u64).unwrap_or(1),
        targets: fields.texts(reading, "targets").unwrap_or_default(),
        targets_at: fields.place("targets"),
        targets_from: fields
            .text(reading, "targets_from")
            .map(|path| (path, fields.place("targets_from"))),
    };
    fields.finish(reading);
    head
}

fn read_scenario(
    reading: &mut Reading<'_>,
    table: &DeTable<'_>,
    at: usize,
    head: &Head,
    targets: &[TargetPlan],
    directory: &Path,
) -> ScenarioPlan {
    let mut fields = Fields::new(table, at, "scenario");
    let name = fields.text_needed(reading, "name", "fan-out");
    fields.what = format!("scenario {name:?}");
    let repeats = fields
        .number(reading, "repeats", 1..=1_000)
        .map(|repeats| repeats as u32);
    let only = fields
        .texts(reading, "targets")
        .unwrap_or_else(|| head.targets.clone());
    for name in &only {
        if table.contains_key("targets") && !targets.iter().any(|plan| plan.target.name == *name) {
            fields.wrong(reading, "targets", no_target(name, targets));
        }
    }
    let mut sections = Table::new();
    for (name, default, least) in [
        ("warmup_ms", head.warmup_ms, 0),
        ("duration_ms", head.duration_ms, 1),
    ] {
        let ms = fields.number(reading, name, least..=MS_MAX).unwrap_or(default);
        sections.insert(name.to_owned(), Value::Integer(ms as i64));
    }
    for name in SECTIONS {
        if let Some(inner) = fields.table(reading, name) {
            sections.insert((*name).to_owned(), plain(inner));
        }
    }
    let sections = sweep::with_defaults(sections);
    let sweep = read_sweep(reading, &mut fields);
    let choices = sweep::choices(&sweep);
    let mut points = Vec::new();
    if choices.len() > POINTS_MAX {
        fields.wrong(
            reading,
            "sweep",
            format!("more than {POINTS_MAX} points; leave some values out"),
        );
    } else {
        for choice in &choices {
            match sweep::point(&sections, choice) {
                Ok(mut point) => {
                    resolve_payload(&mut point.scenario.payload, directory);
                    points.push(point);
                }
                Err(misfits) => {
                    for misfit in misfits {
                        tell(reading, &fields, table, choice, &misfit);
                    }
                    break; // the other points have the same faults, or can wait for the next try
                }
            }
        }
    }
    let mut plan = ScenarioPlan {
        name,
        points,
        targets: only,
        repeats,
        assertions: Vec::new(),
    };
    plan.assertions = read_assertions(reading, &mut fields, &plan, targets);
    fields.finish(reading);
    plan
}

/// Documents are named relative to the campaign file.
fn resolve_payload(payload: &mut crate::scenario::Payload, directory: &Path) {
    if let crate::scenario::Payload::File { path } = payload {
        *path = directory.join(&*path);
    }
}

/// A table as plain values.
fn plain(table: &DeTable<'_>) -> Value {
    let entries = table.iter().filter_map(|(name, value)| {
        let value = Value::deserialize(toml::de::ValueDeserializer::from(value.clone())).ok()?;
        Some((name.get_ref().to_string(), value))
    });
    Value::Table(entries.collect())
}

/// Puts a misfit where it stands: at the sweep's field, at the section's field, or at the section.
fn tell(
    reading: &mut Reading<'_>,
    fields: &Fields<'_, '_>,
    table: &DeTable<'_>,
    choice: &[(&str, &Value)],
    misfit: &Misfit,
) {
    let path = match &misfit.field {
        Some(field) => format!("{}.{field}", misfit.section),
        None => misfit.section.to_owned(),
    };
    let inner = |name: &str, key: &str| match table.get(name)?.get_ref() {
        DeValue::Table(table) => place_of_key(table, key),
        _ => None,
    };
    let swept = choice.iter().find(|(field, _)| *field == path);
    let place = if swept.is_some() {
        inner("sweep", &path)
    } else {
        misfit
            .field
            .as_deref()
            .and_then(|field| inner(misfit.section, field))
    };
    let place = place.unwrap_or_else(|| fields.place(misfit.section));
    let at = swept
        .map(|(_, value)| format!(" (sweep: {path} = {value})"))
        .unwrap_or_default();
    reading.fault(place, format!("{}: {}{at}", fields.what, misfit.message));
}

/// `sweep = { "workload.subscribers" = [1, 10, 100] }`
fn read_sweep(reading: &mut Reading<'_>, fields: &mut Fields<'_, '_>) -> Vec<(String, Vec<Value>)> {
    let Some(table) = fields.table(reading, "sweep") else {
        return Vec::new();
    };
    let mut sweep = Vec::new();
    for (path, values) in flat(table) {
        let at = values.span().start;
        let section = path.split_once('.').map_or(path.as_str(), |(section, _)| section);
        if !SECTIONS.contains(&section) && path != "duration_ms" && path != "warmup_ms" {
            reading.fault(
                at,
                format!(
                    "{}: sweep: there is no field `{path}`; name one by its section, as in \"workload.subscribers\"",
                    fields.what
                ),
            );
            continue;
        }
        let values: Vec<Value> = match values.get_ref() {
            DeValue::Array(values) => values
                .iter()
                .filter_map(|value| Value::deserialize(toml::de::ValueDeserializer::from(value.clone())).ok())
                .collect(),
            _ => Vec::new(),
        };
        if values.is_empty() || values.iter().any(|value| value.is_array() || value.is_table()) {
            reading.fault(
                at,
                format!(
                    "{}: sweep: {path}: a list of values belongs here, as in [1, 10]",
                    fields.what
                ),
            );
            continue;
        }
        sweep.push((path, values));
    }
    // In the order of the file: the first field changes slowest.
    sweep.sort_by_key(|(path, _)| {
        flat(table)
            .into_iter()
            .find(|(other, _)| other == path)
            .map(|(_, value)| value.span().start)
    });
    sweep
}

/// `sweep = { "a.b" = … }`, `sweep.a.b = …` and `[scenario.sweep.a] b = …` say the same.
fn flat<'a, 'i>(table: &'a DeTable<'i>) -> Vec<(String, &'a toml::Spanned<DeValue<'i>>)> {
    let mut all = Vec::new();
    for (name, value) in table {
        match value.get_ref() {
            DeValue::Table(inner) => all.extend(
                flat(inner)
                    .into_iter()
                    .map(|(path, value)| (format!("{}.{path}", name.get_ref()), value)),
            ),
            _ => all.push((name.get_ref().to_string(), value)),
        }
    }
    all
}

fn read_assertions(
    reading: &mut Reading<'_>,
    fields: &mut Fields<'_, '_>,
    plan: &ScenarioPlan,
    targets: &[TargetPlan],
) -> Vec<Assertion> {
    let Some(list) = fields.get("assert") else {
        return Vec::new();
    };
    let DeValue::Array(items) = list.get_ref() else {
        fields.wrong(
            reading,
            "assert",
            "a list of texts belongs here, as in [\"p99_ms < 5\"]",
        );
        return Vec::new();
    };
    let mut assertions = Vec::new();
    for item in items {
        let at = item.span().start;
        let mut wrong = |text: &str, message: String| {
            reading.fault(at, format!("{}: assert {text:?}: {message}", fields.what));
        };
        let Some(text) = item.get_ref().as_str() else {
            wrong("", "a text belongs here, as in \"p99_ms < 5\"".into());
            continue;
        };
        match text.parse::<Assertion>() {
            Err(message) => wrong(text, message),
            Ok(assertion) => {
                for message in unknown_targets(&assertion, targets) {
                    wrong(text, message);
                }
                if !plan.points.is_empty()
                    && let Err(message) = check_reach(&assertion, plan)
                {
                    wrong(text, message);
                }
                assertions.push(assertion);
            }
        }
    }
    assertions
}

/// What is wrong with the targets that an assertion names.
pub(super) fn unknown_targets(assertion: &Assertion, targets: &[TargetPlan]) -> Vec<String> {
    let is_known = |name: &str| targets.iter().any(|plan| plan.target.name == name);
    let unknown = assertion.names().filter(|name| !is_known(name));
    unknown.map(|name| no_target(name, targets)).collect()
}

/// An assertion that no point can fulfil is a slip: it would never be judged.
pub(super) fn check_reach(assertion: &Assertion, plan: &ScenarioPlan) -> Result<(), String> {
    for (field, value) in &assertion.when {
        let is_chosen = plan.points.iter().any(|point| {
            point.at.iter().any(|(path, chosen)| {
                (path == field || crate::record::short_field(path) == field)
                    && crate::record::value_text(chosen) == value.replace('_', "")
            })
        });
        if !is_chosen {
            return Err(format!("no point of the sweep has {field} = {value}"));
        }
    }
    if let Some(rate) = assertion.at_per_s {
        let is_asked = plan.points.iter().any(|point| match &point.scenario.arrivals {
            Arrivals::Constant { per_s } | Arrivals::Poisson { per_s } | Arrivals::Bursts { per_s, .. } => {
                *per_s == rate
            }
            Arrivals::Steps { per_s } => per_s.contains(&rate),
            Arrivals::Window { .. } | Arrivals::Ramp { .. } => false,
        });
        if !is_asked {
            return Err(format!("no arrivals of this scenario ask for {rate}/s"));
        }
    }
    Ok(())
}

fn no_target(name: &str, targets: &[TargetPlan]) -> String {
    let known: Vec<&str> = targets.iter().map(|plan| plan.target.name.as_str()).collect();
    match nearest(name, known.iter().copied()) {
        Some(near) => format!("there is no target {name:?}; did you mean {near:?}?"),
        None => format!("there is no target {name:?}; there are {}", known.join(", ")),
    }
}
