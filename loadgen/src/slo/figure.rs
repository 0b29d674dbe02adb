//! The figures that an assertion can name: those of [`crate::metric`], those of a workload, and a few that are made of
//! others.

use crate::metric::{self, Metric, Unit};
use crate::record::{PhaseRecord, Record};

/// Figures that are made of others.
const MADE: &[&str] = &[
    "messages_per_cpu_s",
    "hellos_per_cpu_s",
    "rss_growth_bytes",
    "switches_per_message",
];

/// Figures that a workload adds; see the workloads of `docs/loadgen.md`.
const OF_WORKLOADS: &[&str] = &[
    "hellos_per_s",
    "rss_bytes_per_connection",
    "first_chunk_p50_ms",
    "first_chunk_p99_ms",
    "gap_p50_ms",
    "gap_p99_ms",
    "gap_max_ms",
    "chunk_bytes_per_s",
    "streams_opened",
    "streams_ended",
    "streams_failed",
    "streams_per_s",
    "server_ns_per_stream",
    "stopped_stream_bytes",
];

/// Whether any run may have a figure of that name. Workloads may have further ones.
#[must_use]
pub fn is_figure(name: &str) -> bool {
    metric::is_known(name) || MADE.contains(&name) || OF_WORKLOADS.contains(&name)
}

/// The names of all figures, for messages; times in ms, sizes in bytes.
#[must_use]
pub fn figures() -> Vec<String> {
    let measured = Metric::all().iter().map(|metric| match metric.unit {
        _ if metric.name.contains("_ns_") => metric.name.to_string(),
        Unit::Time => format!("{}_ms", metric.name),
        Unit::Bytes => format!("{}_bytes", metric.name),
        _ => metric.name.to_string(),
    });
    let others = MADE.iter().chain(OF_WORKLOADS).map(|name| (*name).to_owned());
    measured.chain(others).collect()
}

/// The phase of a run for which that rate was asked; all of it if none is named.
#[must_use]
pub fn phase_at(record: &Record, at_per_s: Option<f64>) -> Option<&PhaseRecord> {
    let Some(rate) = at_per_s else {
        return Some(&record.overall);
    };
    record.phases().iter().find(|phase| {
        phase
            .asked_per_s
            .is_some_and(|asked| (asked - rate).abs() <= rate * 1e-6)
    })
}

/// A figure of a run, or of one of its steps; `None` if it has none of that name. What the server used is known of
/// whole runs only.
#[must_use]
pub fn figure(record: &Record, phase: &PhaseRecord, name: &str) -> Option<f64> {
    let is_whole = record.steps.is_empty() || std::ptr::eq(phase, &raw const record.overall);
    if !is_whole {
        return phase.figure(name);
    }
    if let Some(figure) = record.figure(name) {
        return Some(figure);
    }
    let server = record.server.as_ref()?;
    match name {
        "messages_per_cpu_s" | "hellos_per_cpu_s" => {
            server.ns_per_message.filter(|ns| *ns > 0.0).map(|ns| 1e9 / ns)
        }
        "rss_growth_bytes" => Some(server.rss_max_bytes.saturating_sub(server.rss_before_bytes) as f64),
        "switches_per_message" => {
            let overall = &record.overall;
            let messages = overall.arrived.unwrap_or(overall.delivered);
            (messages > 0 && !overall.is_silent)
                .then(|| (server.switches_voluntary + server.switches_involuntary) as f64 / messages as f64)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_messages_offer_is_one() {
        for name in figures() {
            assert!(is_figure(&name), "{name}");
        }
        for name in ["p99_us", "p99_9_ns", "stall_s", "rss_max_mib"] {
            assert!(is_figure(name), "{name}");
        }
        for name in ["p98_ms", "p99", "lost_ms", "p99_m"] {
            assert!(!is_figure(name), "{name}");
        }
    }
}
