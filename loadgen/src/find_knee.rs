//! `loadgen find-knee`: the search of [`crate::knee`] with real runs, for each target at each point of a campaign.

use std::fmt;

use crate::campaign::{Campaign, Point};
use crate::conduct::{Failure, Stage};
use crate::knee::{Knee, Limit, Search, Shown, search};
use crate::order::{Step, order};
use crate::progress::Progress;
use crate::record::Record;
use crate::scenario::Arrivals;
use crate::slo::{Assertion, Judged, judge};
use crate::units;

/// Publishing less than this share of what was asked for is falling behind.
const KEPT_UP: f64 = 0.97;
/// A generator thread that is busier than this has nothing to give.
const GENERATOR_FULL: f64 = 0.95;
/// A server whose busiest thread (or whose processors, if its threads take turns on them) is less busy than this was not
/// the limit.
const SERVER_IDLE: f64 = 0.85;
/// Rate that `asked_per_s` is held in.
const FIELD: &str = "arrivals.per_s";

/// The answer for one target at one point.
#[derive(Debug)]
pub struct Found {
    /// Scenario and point.
    pub title: String,
    /// The target's name.
    pub target: String,
    /// The knee; or why it could not be searched.
    pub knee: Result<Knee, String>,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} · {}: ", self.title, self.target)?;
        let knee = match &self.knee {
            Ok(knee) => knee,
            Err(why) => return write!(f, "FAILED: {why}"),
        };
        let Some(kept) = knee.kept_per_s else {
            let at = knee.broken_per_s.map(units::per_second).unwrap_or_default();
            return match knee.limit {
                Limit::Generator => write!(f, "unknown: the generator cannot send as much as {at}"),
                _ => write!(f, "it does not hold even at {at}"),
            };
        };
        let (kept, runs) = (units::per_second(kept), knee.runs);
        match (knee.limit, knee.broken_per_s) {
            (Limit::Server, Some(broken)) => {
                write!(
                    f,
                    "holds up to {kept}, breaks at {} ({runs} runs)",
                    units::per_second(broken)
                )
            }
            (Limit::Generator, _) => write!(
                f,
                "holds at least up to {kept}; beyond that the generator was the limit, give it more --cores ({runs} runs)"
            ),
            _ => write!(
                f,
                "holds at least up to {kept}, the highest rate that was tried; raise --to ({runs} runs)"
            ),
        }
    }
}

/// Searches the knee of every target at every point; each run's record is handed to `on_record`.
pub fn find_knees(
    campaign: &Campaign,
    slos: &[Assertion],
    bounds: Search,
    stage: &mut Stage<'_, '_>,
    progress: &mut Progress,
    on_record: &mut dyn FnMut(&Record),
) -> Vec<Found> {
    let (steps, skipped) = order(campaign);
    for left_out in skipped {
        progress.note(&format!("{} is left out: {}", left_out.target, left_out.why));
    }
    let mut found = Vec::new();
    for step in steps.iter().filter(|step| step.repeat == 1) {
        let mut probe = |rate: f64| {
            let point = at_rate(step.point, rate);
            let step = Step {
                point: &point,
                repeats: 1,
                ..*step
            };
            progress.step(
                &step,
                std::time::Duration::from_millis(step.point.scenario.duration_ms),
            );
            let record = stage.perform(&step, progress).map_err(|failure| match failure {
                Failure::Server(why) | Failure::Run(why) | Failure::Unable(why) => why,
            })?;
            progress.done(&record);
            on_record(&record);
            let (shown, why) = shown(&record, slos);
            progress.note(&format!("    {}: {why}", units::per_second(rate)));
            Ok(shown)
        };
        let knee = search(bounds, &mut probe);
        found.push(Found {
            title: format!("{}{}", step.scenario.name, step.point),
            target: step.plan.target.name.clone(),
            knee,
        });
    }
    progress.end();
    found
}

/// The point with another rate; how the messages are spaced stays, if they came in an open loop.
fn at_rate(point: &Point, per_s: f64) -> Point {
    let mut point = point.clone();
    point.scenario.arrivals = match point.scenario.arrivals {
        Arrivals::Poisson { .. } => Arrivals::Poisson { per_s },
        Arrivals::Bursts { burst, .. } => Arrivals::Bursts { per_s, burst },
        _ => Arrivals::Constant { per_s },
    };
    point.at.insert(FIELD.to_owned(), per_s.into());
    point
}

/// What a run says about its rate, and in words why.
fn shown(record: &Record, slos: &[Assertion]) -> (Shown, String) {
    let overall = &record.overall;
    let fell_behind = overall
        .asked_per_s
        .is_some_and(|asked| overall.sent_per_s < asked * KEPT_UP);
    let judged = judge(&record.scenario, slos, std::slice::from_ref(record));
    let broken: Vec<&Judged> = judged.iter().filter(|judged| !judged.holds()).collect();
    let mut why: Vec<String> = broken.iter().map(|judged| judged.verdict()).collect();
    // A rate is not sustained by dropping what comes at it, whatever the latency of the rest; unless an SLO says how much
    // of that is acceptable.
    let streams_failed = record.figure("streams_failed").unwrap_or(0.0) as u64;
    for (figure, words, count) in [
        ("lost", "were lost", overall.lost),
        ("refused", "were refused", overall.refused),
        ("streams_failed", "streams failed", streams_failed),
    ] {
        let is_promised = |slo: &Assertion| slo.figure == figure && slo.is_about(&record.target);
        if count > 0 && !slos.iter().any(is_promised) {
            why.push(format!("{} {words}", units::count(count as f64)));
        }
    }
    if !fell_behind && why.is_empty() {
        return (Shown::Kept, "holds".to_owned());
    }
    if fell_behind {
        why.push(format!(
            "only {} were sent",
            units::per_second(overall.sent_per_s)
        ));
    }
    let server_is_idle = record
        .server
        .is_none_or(|server| server.saturation.unwrap_or(server.busy) < SERVER_IDLE);
    if record.generator_busy > GENERATOR_FULL && server_is_idle {
        why.push("the generator was the limit".to_owned());
        return (Shown::GeneratorFull, why.join("; "));
    }
    (Shown::Broken, why.join("; "))
}
