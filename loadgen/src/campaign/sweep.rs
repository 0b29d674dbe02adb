//! One scenario as a table of fields, and the points that its sweep makes of it.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::{Table, Value};

use super::Point;
use crate::scenario::{Arrivals, Direction, Payload, Scenario, Stops, Workload};

/// Points of one scenario; more are probably a slip, and would run for days.
pub(super) const POINTS_MAX: usize = 1_000;

/// Which part of a scenario does not fit, and why.
#[derive(Debug, PartialEq)]
pub(super) struct Misfit {
    /// `workload`, `arrivals`, `payload`.
    pub(super) section: &'static str,
    /// The field in it, if it can be told.
    pub(super) field: Option<String>,
    /// What is wrong.
    pub(super) message: String,
}

/// The sections of a scenario that serde reads, with what is left out written in.
pub(super) fn with_defaults(mut sections: Table) -> Table {
    let defaults = [
        ("arrivals", Value::try_from(Arrivals::default())),
        ("payload", Value::try_from(Payload::default())),
    ];
    for (name, default) in defaults {
        if let (false, Ok(default)) = (sections.contains_key(name), default) {
            sections.insert(name.to_owned(), default);
        }
    }
    sections
}

/// Makes a scenario of its fields; or says everything that does not fit.
pub(super) fn scenario(sections: &Table) -> Result<Scenario, Vec<Misfit>> {
    let mut misfits = Vec::new();
    let workload = section::<Workload>(sections, "workload", &mut misfits);
    let arrivals = section::<Arrivals>(sections, "arrivals", &mut misfits);
    let payload = section::<Payload>(sections, "payload", &mut misfits);
    let number = |name: &str| {
        sections
            .get(name)
            .and_then(Value::as_integer)
            .and_then(|ms| u64::try_from(ms).ok())
    };
    match (workload, arrivals, payload) {
        (Some(workload), Some(arrivals), Some(payload)) => {
            let mut scenario = Scenario {
                workload,
                arrivals,
                payload,
                warmup_ms: 0,
                duration_ms: 0,
            };
            for (name, field) in [
                ("warmup_ms", &mut scenario.warmup_ms),
                ("duration_ms", &mut scenario.duration_ms),
            ] {
                match number(name) {
                    Some(ms) => *field = ms,
                    None => misfits.push(Misfit {
                        section: if name == "warmup_ms" {
                            "warmup_ms"
                        } else {
                            "duration_ms"
                        },
                        field: None,
                        message: "a whole number of ms belongs here".into(),
                    }),
                }
            }
            check(&scenario, &mut misfits);
            if misfits.is_empty() {
                Ok(scenario)
            } else {
                Err(misfits)
            }
        }
        _ => Err(misfits),
    }
}

/// Reads one section. Serde stops at the first fault and does not say of which field it is; so each field is tried
/// without, and the one whose absence changes the answer is to blame.
fn section<T: for<'de> Deserialize<'de>>(
    sections: &Table,
    name: &'static str,
    misfits: &mut Vec<Misfit>,
) -> Option<T> {
    let Some(Value::Table(table)) = sections.get(name) else {
        misfits.push(Misfit {
            section: name,
            field: None,
            message: format!(
                "{name} is missing, for example {name} = {{ kind = \"fan-out\", subscribers = 10 }}"
            ),
        });
        return None;
    };
    let mut table = table.clone();
    let mut removed: Vec<String> = Vec::new();
    loop {
        let error = match T::deserialize(Value::Table(table.clone())) {
            Ok(read) => return removed.is_empty().then_some(read),
            Err(error) => error.message().to_owned(),
        };
        // A field that was already blamed is now missing: nothing more can be found out.
        if removed
            .iter()
            .any(|field| error.contains(&format!("missing field `{field}`")))
        {
            return None;
        }
        let blamed = table
            .keys()
            .filter(|field| *field != "kind")
            .find(|field| {
                let mut without = table.clone();
                without.remove(*field);
                match T::deserialize(Value::Table(without)) {
                    Ok(_) => true,
                    Err(other) => other.message() != error,
                }
            })
            .cloned();
        misfits.push(Misfit {
            section: name,
            message: match &blamed {
                Some(field) => format!("{name}.{field}: {error}"),
                None => format!("{name}: {error}"),
            },
            field: blamed.clone(),
        });
        let field = blamed?;
        table.remove(&field);
        removed.push(field);
    }
}

/// What the types allow and no run can do.
fn check(scenario: &Scenario, misfits: &mut Vec<Misfit>) {
    let mut misfit = |section, field: &str, message: &str| {
        misfits.push(Misfit {
            section,
            field: Some(field.to_owned()),
            message: format!("{section}.{field}: {message}"),
        });
    };
    let rate = |per_s: f64| per_s.is_finite() && per_s > 0.0;
    let rate_wrong = "has to be more than 0 messages a second";
    match &scenario.arrivals {
        Arrivals::Window { messages: 0 } => {
            misfit("arrivals", "messages", "a window of 0 lets nothing through")
        }
        Arrivals::Constant { per_s } | Arrivals::Poisson { per_s } | Arrivals::Bursts { per_s, .. }
            if !rate(*per_s) =>
        {
            misfit("arrivals", "per_s", rate_wrong);
        }
        Arrivals::Bursts { burst: 0, .. } => misfit("arrivals", "burst", "a burst of 0 sends nothing"),
        Arrivals::Ramp { from_per_s, to_per_s } if !(rate(*from_per_s) && rate(*to_per_s)) => {
            misfit("arrivals", "to_per_s", rate_wrong);
        }
        Arrivals::Steps { per_s } if per_s.is_empty() || !per_s.iter().all(|per_s| rate(*per_s)) => {
            misfit(
                "arrivals",
                "per_s",
                "a list of rates, each more than 0 a second, belongs here",
            );
        }
        _ => {}
    }
    match scenario.workload {
        Workload::Store { topics, publishers } if topics == 0 || publishers == 0 => {
            misfit("workload", "publishers", "nobody would publish");
        }
        Workload::Replay { events: 0, .. } => misfit("workload", "events", "nothing would be stored"),
        Workload::Replay { subscribers: 0, .. } => misfit("workload", "subscribers", "nobody would come"),
        Workload::Replay { .. } if !matches!(scenario.arrivals, Arrivals::Window { .. }) => {
            misfit(
                "arrivals",
                "kind",
                "what is replayed is stored as fast as it is acknowledged: leave the arrivals out, or give a window",
            );
        }
        _ => {}
    }
    let least = crate::stamp::PAYLOAD_BYTES_MIN;
    let too_small = format!("the smallest payload has {least} bytes, since it carries a stamp");
    match &scenario.payload {
        Payload::Fixed { bytes } if *bytes < least => misfit("payload", "bytes", &too_small),
        Payload::Distribution { sizes }
            if sizes.is_empty() || sizes.iter().any(|(bytes, _)| *bytes < least) =>
        {
            misfit("payload", "sizes", &too_small);
        }
        Payload::Distribution { sizes } if sizes.iter().any(|(_, weight)| !rate(*weight)) => {
            misfit("payload", "sizes", "weights have to be more than 0");
        }
        _ => {}
    }
    if let Workload::Stream {
        direction,
        window_bytes,
        chunks,
        stops,
        ..
    } = scenario.workload
    {
        let mut misfit = |field: &str, message: String| {
            misfits.push(Misfit {
                section: "workload",
                field: Some(field.to_owned()),
                message: format!("workload.{field}: {message}"),
            });
        };
        if chunks == Some(0) {
            misfit("chunks", "a stream without chunks shows nothing".into());
        }
        if stops == Stops::Reading && direction != Direction::Down {
            let why = "a service has streams of others too: only clients can stop reading, where services alone send";
            misfit("stops", why.into());
        }
        let largest = match &scenario.payload {
            Payload::Fixed { bytes } => *bytes,
            Payload::Distribution { sizes } => sizes.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0),
            // Known when it is read.
            Payload::File { .. } => 0,
        };
        if (window_bytes as usize) < 2 * largest {
            misfit(
                "window_bytes",
                format!(
                    "too small for chunks of {largest} bytes: take at least {}",
                    2 * largest
                ),
            );
        }
    }
    if scenario.duration_ms == 0 {
        misfits.push(Misfit {
            section: "duration_ms",
            field: None,
            message: "duration_ms: nothing can be measured in 0 ms".into(),
        });
    }
}

/// All choices of a sweep, the last field changing fastest.
pub(super) fn choices(sweep: &[(String, Vec<Value>)]) -> Vec<Vec<(&str, &Value)>> {
    let mut choices = vec![Vec::new()];
    for (field, values) in sweep {
        choices = choices
            .into_iter()
            .flat_map(|choice| {
                values.iter().map(move |value| {
                    let mut choice: Vec<(&str, &Value)> = choice.clone();
                    choice.push((field, value));
                    choice
                })
            })
            .take(POINTS_MAX + 1)
            .collect();
    }
    choices
}

/// The scenario at one choice.
pub(super) fn point(sections: &Table, choice: &[(&str, &Value)]) -> Result<Point, Vec<Misfit>> {
    let mut sections = sections.clone();
    let mut at = BTreeMap::new();
    for (path, value) in choice {
        set(&mut sections, path, value);
        at.insert(
            (*path).to_owned(),
            serde_json::to_value(value).unwrap_or_default(),
        );
    }
    scenario(&sections).map(|scenario| Point { at, scenario })
}

/// Writes one field by its path: `workload.subscribers`, `duration_ms`.
fn set(sections: &mut Table, path: &str, value: &Value) {
    match path.split_once('.') {
        Some((section, field)) => {
            let section = sections
                .entry(section)
                .or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(section) = section {
                section.insert(field.to_owned(), value.clone());
            }
        }
        None => {
            sections.insert(path.to_owned(), value.clone());
        }
    }
}
