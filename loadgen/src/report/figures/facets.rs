//! Points of a sweep that differ in one field alone.

use std::collections::BTreeMap;

use serde_json::Value;

use super::style;
use crate::record::{Point, short_field, value_text};

/// What a sweep chose at a point, of one field.
#[derive(Debug, Clone, Copy)]
pub(super) struct Swept<'a> {
    pub(super) field: &'a str,
    pub(super) value: f64,
}

/// Points that differ in one numeric field alone, rising in it, for each such field and for each choice of the others
/// (in words).
pub(super) fn facets<'p, 'a>(
    points: &[&'p Point<'a>],
    is_wanted: impl Fn(&str) -> bool,
) -> Vec<(String, Vec<(Swept<'a>, &'p Point<'a>)>)> {
    let mut fields: Vec<&str> = Vec::new();
    for field in points.iter().flat_map(|point| point.choices.keys()) {
        if is_wanted(field) && !fields.contains(&field.as_str()) {
            fields.push(field);
        }
    }
    let mut all = Vec::new();
    for field in fields {
        let mut of_field: BTreeMap<String, Vec<(Swept<'a>, &'p Point<'a>)>> = BTreeMap::new();
        for point in points {
            if let Some((key, value)) = point.choices.get_key_value(field)
                && let Some(value) = value.as_f64()
            {
                let swept = Swept { field: key, value };
                of_field
                    .entry(rest(point.choices, field))
                    .or_default()
                    .push((swept, point));
            }
        }
        for (rest, mut facet) in of_field {
            facet.sort_by(|(left, _), (right, _)| left.value.total_cmp(&right.value));
            if facet.len() > 1 {
                all.push((rest, facet));
            }
        }
    }
    all
}

/// The choices but for that field, in words.
fn rest(choices: &BTreeMap<String, Value>, but_for: &str) -> String {
    let rest: Vec<String> = choices
        .iter()
        .filter(|(field, _)| *field != but_for)
        .map(|(field, value)| format!("{}={}", short_field(field), value_text(value)))
        .collect();
    rest.join(" ")
}

/// Whether a field says how much is asked of the server, and not how it is spread.
pub(super) fn is_load(field: &str) -> bool {
    field.starts_with("arrivals.") || short_field(field) == "in_flight"
}

pub(super) fn targets_of<'a>(facet: &[(Swept<'_>, &Point<'a>)], order: &[&str]) -> Vec<&'a str> {
    let mut targets: Vec<&str> = Vec::new();
    for repeats in facet.iter().flat_map(|(_, point)| &point.targets) {
        if !targets.contains(&repeats.target) {
            targets.push(repeats.target);
        }
    }
    targets.sort_by_key(|target| style(order, target));
    targets
}
