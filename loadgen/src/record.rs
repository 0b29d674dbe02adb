//! What is kept of a run: one line of `results.jsonl`, from which every table, plot and comparison is made.
//!
//! ```text
//!   Measured ─> Record ─> results.jsonl ─> read_jsonl ─> Results ─> table, compare, csv, markdown, html
//! ```
//!
//! A file holds a [`Header`] (the machine, the kernel, the commit) and behind it one [`Record`] a run, each a JSON
//! object on a line of its own, appended when the run ends: a campaign that breaks off keeps what it has. What a
//! later version writes can be read by an earlier one: unknown fields and unknown kinds of lines are passed over, and
//! settings are kept as the JSON that they were, not as types that could refuse them.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::measured::{Measured, Phase};
use crate::scenario::{Scenario, Target, Workload};

mod lines;
mod machine;
mod repeats;
mod when;

pub use lines::{JsonlWriter, RESULTS_FILE, ReadError, Results, read, read_jsonl};
pub use machine::Machine;
pub use repeats::{Point, Repeats, Warning, best, points, scenarios, target_names, warnings};
pub use when::{now_rfc3339, rfc3339};

/// Version of the lines' format; rises when the meaning of a field changes, not when one is added.
///
/// 2: rates and the CPU time a message count what arrived within the measured time, no longer what arrived behind it.
pub const FORMAT: u32 = 2;

/// Significant digits to which the recorded histogram is rounded: 1% apart, which no plot can show, and a tenth of
/// the lines' length. Percentiles are taken before.
const BUCKET_DIGITS: u8 = 2;

/// What holds for all runs of a campaign.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// See [`FORMAT`].
    pub format: u32,
    /// Its name in the campaign file.
    pub campaign: String,
    /// When it began, RFC 3339.
    pub started_at: String,
    /// On what.
    pub machine: Machine,
    /// Version of the generator.
    #[serde(default)]
    pub loadgen_version: String,
}

impl Header {
    /// A campaign begins now, on this machine.
    #[must_use]
    pub fn new(campaign: &str, machine: Machine) -> Header {
        Header {
            format: FORMAT,
            campaign: campaign.to_owned(),
            started_at: now_rfc3339(),
            machine,
            loadgen_version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// Which run it was: what the campaign knows and the run does not.
#[derive(Debug, Clone)]
pub struct RunIdentity<'a> {
    /// The campaign's name.
    pub campaign: &'a str,
    /// The scenario's name.
    pub scenario_name: &'a str,
    /// What the sweep chose, by the field's path in the scenario (`workload.subscribers` → 10). Empty without sweeps.
    pub point: BTreeMap<String, Value>,
    /// The scenario at that point.
    pub scenario: &'a Scenario,
    /// To whom.
    pub target: &'a Target,
    /// What the server says its version is.
    pub target_version: Option<String>,
    /// Counts from 1.
    pub repeat: u32,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The campaign's name.
    #[serde(default)]
    pub campaign: String,
    /// The scenario's name.
    pub scenario: String,
    /// What the sweep chose: field → value.
    #[serde(default)]
    pub point: BTreeMap<String, Value>,
    /// The target's name.
    pub target: String,
    /// What the server says its version is.
    #[serde(default)]
    pub target_version: Option<String>,
    /// Counts from 1.
    pub repeat: u32,
    /// When it ended, RFC 3339.
    pub at: String,
    /// All of it.
    pub overall: PhaseRecord,
    /// Its steps, if it had more than one.
    #[serde(default)]
    pub steps: Vec<PhaseRecord>,
    /// What the server used, if its process is known.
    #[serde(default)]
    pub server: Option<ServerRecord>,
    /// CPU time of the generator in the measured time, ns.
    pub generator_cpu_ns: u64,
    /// Busiest generator thread, 0 to 1.
    pub generator_busy: f64,
    /// What a reader of the figures has to know.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Figures that only this workload has, by name.
    #[serde(default)]
    pub extra: BTreeMap<String, f64>,
    /// The scenario in full, as [`Scenario`] writes itself.
    #[serde(default)]
    pub scenario_settings: Value,
    /// The target in full, as [`Target`] writes itself.
    #[serde(default)]
    pub target_settings: Value,
}

/// One phase of a run, or all of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseRecord {
    /// What was asked for, messages a second; absent in a closed loop, and overall if there were steps.
    #[serde(default)]
    pub asked_per_s: Option<f64>,
    /// How long it lasted, ns.
    pub elapsed_ns: u64,
    /// Messages sent.
    pub sent: u64,
    /// Messages that arrived, however late.
    pub delivered: u64,
    /// Messages that arrived within this time; what rates are made of. Absent in records of format 1.
    #[serde(default)]
    pub arrived: Option<u64>,
    /// That did not.
    pub lost: u64,
    /// Of those: that the server told of.
    #[serde(default)]
    pub told_dropped: u64,
    /// That arrived more than once.
    #[serde(default)]
    pub duplicated: u64,
    /// That arrived behind a later one.
    #[serde(default)]
    pub out_of_order: u64,
    /// Refused by the server.
    #[serde(default)]
    pub refused: u64,
    /// Messages sent a second.
    pub sent_per_s: f64,
    /// Messages that arrived a second.
    pub delivered_per_s: f64,
    /// It was a time of silence (idle connections): what was sent came behind it, so there are no rates, and these are 0.
    #[serde(default)]
    pub is_silent: bool,
    /// From due to arrival; absent if nothing arrived.
    #[serde(default)]
    pub latency: Option<LatencyRecord>,
    /// The longest time in which a subscriber that reads got nothing while something was published, µs.
    #[serde(default)]
    pub stall_us: f64,
}

/// A distribution of latencies.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencyRecord {
    /// How many were measured.
    pub count: u64,
    /// Smallest, µs.
    pub min_us: f64,
    /// Mean, µs.
    pub mean_us: f64,
    /// Half of them were below, µs.
    pub p50_us: f64,
    /// 90% were below, µs.
    pub p90_us: f64,
    /// 99% were below, µs.
    pub p99_us: f64,
    /// 99.9% were below, µs.
    pub p99_9_us: f64,
    /// 99.99% were below, µs.
    pub p99_99_us: f64,
    /// Largest, µs.
    pub max_us: f64,
    /// The whole distribution: the upper end of a bucket in ns, and how many fell into it. Rising; empty ones left out.
    #[serde(default)]
    pub buckets_ns: Vec<(u64, u64)>,
}

/// What the server's process used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerRecord {
    /// CPU time in the measured time, ns.
    pub cpu_ns: u64,
    /// The same for each message that arrived.
    #[serde(default)]
    pub ns_per_message: Option<f64>,
    /// CPU time over wall time; 2 means that two cores were busy.
    #[serde(default)]
    pub busy: f64,
    /// How near it was to its limit, 0 to 1: its busiest thread, or the processors that its threads take turns on.
    #[serde(default)]
    pub saturation: Option<f64>,
    /// Resident memory before the run's connections, bytes.
    #[serde(default)]
    pub rss_before_bytes: u64,
    /// The most that was seen, bytes.
    #[serde(default)]
    pub rss_max_bytes: u64,
    /// At the end, bytes.
    #[serde(default)]
    pub rss_after_bytes: u64,
    /// Voluntary context switches.
    #[serde(default)]
    pub switches_voluntary: u64,
    /// Involuntary ones.
    #[serde(default)]
    pub switches_involuntary: u64,
}

impl Record {
    /// A run has just ended.
    #[must_use]
    pub fn from_measured(run: RunIdentity<'_>, measured: &Measured) -> Record {
        let is_silent = matches!(run.scenario.workload, Workload::Idle { .. });
        let mut overall = overall(&measured.phases);
        if is_silent {
            overall.silence();
        }
        let server = measured.server.map(|server| ServerRecord {
            cpu_ns: server.cpu_ns,
            ns_per_message: measured.server_ns_per_message().filter(|_| !is_silent),
            busy: ratio(server.cpu_ns as f64, overall.elapsed_ns as f64),
            saturation: Some(finite(server.saturation)),
            rss_before_bytes: server.rss_before_bytes,
            rss_max_bytes: server.rss_max_bytes,
            rss_after_bytes: server.rss_after_bytes,
            switches_voluntary: server.switches_voluntary,
            switches_involuntary: server.switches_involuntary,
        });
        let steps = if measured.phases.len() > 1 {
            measured.phases.iter().map(PhaseRecord::from_phase).collect()
        } else {
            Vec::new()
        };
        Record {
            campaign: run.campaign.to_owned(),
            scenario: run.scenario_name.to_owned(),
            point: run.point,
            target: run.target.name.clone(),
            target_version: run.target_version,
            repeat: run.repeat,
            at: now_rfc3339(),
            overall,
            steps,
            server,
            generator_cpu_ns: measured.generator_cpu_ns,
            generator_busy: finite(measured.generator_busy),
            warnings: measured.warnings.clone(),
            extra: measured
                .extra
                .iter()
                .filter(|(_, figure)| figure.is_finite())
                .cloned()
                .collect(),
            scenario_settings: serde_json::to_value(run.scenario).unwrap_or_default(),
            target_settings: serde_json::to_value(run.target).unwrap_or_default(),
        }
    }

    /// Its phases: the steps, or all of it as the only one.
    #[must_use]
    pub fn phases(&self) -> &[PhaseRecord] {
        if self.steps.is_empty() {
            std::slice::from_ref(&self.overall)
        } else {
            &self.steps
        }
    }

    /// The sweep's choice in words: `subscribers=10 bytes=64`; empty without sweeps.
    #[must_use]
    pub fn point_label(&self) -> String {
        let choices: Vec<String> = self
            .point
            .iter()
            .map(|(field, value)| format!("{}={}", short_field(field), value_text(value)))
            .collect();
        choices.join(" ")
    }

    /// The scenario with its point: what a row or a plot is headed with.
    #[must_use]
    pub fn title(&self) -> String {
        let point = self.point_label();
        if point.is_empty() {
            self.scenario.clone()
        } else {
            format!("{} {point}", self.scenario)
        }
    }

    /// The server's CPU time for each message that arrived, ns.
    #[must_use]
    pub fn server_ns_per_message(&self) -> Option<f64> {
        self.server.and_then(|server| server.ns_per_message)
    }
}

impl PhaseRecord {
    /// The figures of one phase.
    #[must_use]
    pub fn from_phase(phase: &Phase) -> PhaseRecord {
        let seconds = phase.elapsed_ns as f64 / 1e9;
        PhaseRecord {
            asked_per_s: phase.asked_per_s.filter(|rate| rate.is_finite()),
            elapsed_ns: phase.elapsed_ns,
            sent: phase.sent,
            delivered: phase.delivered,
            arrived: Some(phase.arrived),
            lost: phase.lost,
            told_dropped: phase.told_dropped,
            duplicated: phase.duplicated,
            out_of_order: phase.out_of_order,
            refused: phase.refused,
            sent_per_s: ratio(phase.sent as f64, seconds),
            delivered_per_s: ratio(phase.arrived as f64, seconds),
            is_silent: false,
            latency: LatencyRecord::from_histogram(&phase.latency_ns),
            stall_us: phase.stall_ns as f64 / 1e3,
        }
    }

    /// What was sent and arrived did so when the time that was measured was over.
    fn silence(&mut self) {
        self.is_silent = true;
        self.sent_per_s = 0.0;
        self.delivered_per_s = 0.0;
    }
}

impl LatencyRecord {
    /// The figures of a histogram of ns; `None` if it is empty.
    #[must_use]
    pub fn from_histogram(histogram: &Histogram<u64>) -> Option<LatencyRecord> {
        (!histogram.is_empty()).then_some(())?;
        let at = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Some(LatencyRecord {
            count: histogram.len(),
            min_us: histogram.min() as f64 / 1e3,
            mean_us: histogram.mean() / 1e3,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            p99_99_us: at(0.9999),
            max_us: histogram.max() as f64 / 1e3,
            buckets_ns: buckets(histogram),
        })
    }
}

/// What all phases add up to. With one phase, that one.
fn overall(phases: &[Phase]) -> PhaseRecord {
    let Some((first, others)) = phases.split_first() else {
        return PhaseRecord::default();
    };
    let mut sum = first.clone();
    // Histograms of one run have one shape; should one not fit, its values are added one by one.
    sum.latency_ns.auto(true);
    for phase in others {
        sum.asked_per_s = None;
        sum.elapsed_ns += phase.elapsed_ns;
        sum.sent += phase.sent;
        sum.delivered += phase.delivered;
        sum.arrived += phase.arrived;
        sum.lost += phase.lost;
        sum.told_dropped += phase.told_dropped;
        sum.duplicated += phase.duplicated;
        sum.out_of_order += phase.out_of_order;
        sum.refused += phase.refused;
        sum.stall_ns = sum.stall_ns.max(phase.stall_ns);
        if sum.latency_ns.add(&phase.latency_ns).is_err() {
            for bucket in phase.latency_ns.iter_recorded() {
                // It grows as it must: that cannot fail.
                let _ = sum
                    .latency_ns
                    .record_n(bucket.value_iterated_to(), bucket.count_since_last_iteration());
            }
        }
    }
    PhaseRecord::from_phase(&sum)
}

/// The histogram at [`BUCKET_DIGITS`].
fn buckets(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    let Ok(mut coarse) = Histogram::<u64>::new(BUCKET_DIGITS) else {
        return Vec::new();
    };
    coarse.auto(true);
    for bucket in histogram.iter_recorded() {
        // It grows as it must: that cannot fail.
        let _ = coarse.record_n(bucket.value_iterated_to(), bucket.count_since_last_iteration());
    }
    coarse
        .iter_recorded()
        .map(|bucket| (bucket.value_iterated_to(), bucket.count_since_last_iteration()))
        .collect()
}

/// `workload.subscribers` → `subscribers`.
#[must_use]
pub fn short_field(field: &str) -> &str {
    field.rsplit('.').next().unwrap_or(field)
}

/// A sweep's value as a campaign file would say it; a rate of 10000.0 is a rate of 10000.
#[must_use]
pub fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(whole) if number.is_f64() && whole.fract() == 0.0 && whole.abs() < 1e15 => {
                format!("{whole:.0}")
            }
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

fn ratio(of: f64, to: f64) -> f64 {
    if to > 0.0 { finite(of / to) } else { 0.0 }
}

/// JSON has no infinities.
fn finite(figure: f64) -> f64 {
    if figure.is_finite() { figure } else { 0.0 }
}
