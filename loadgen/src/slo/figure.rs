//! The figures that an assertion can name, taken from a record.

use crate::record::{PhaseRecord, Record};

/// The figures that every run has, or every run whose server's process is known. Latencies can be asked for in `_ns`,
/// `_us`, `_ms` and `_s`; a workload adds its own.
pub const FIGURES: &[&str] = &[
    "p50_ms",
    "p90_ms",
    "p99_ms",
    "p99_9_ms",
    "p99_99_ms",
    "max_ms",
    "mean_ms",
    "stall_ms",
    "sent",
    "delivered",
    "lost",
    "told_dropped",
    "duplicated",
    "out_of_order",
    "refused",
    "sent_per_s",
    "delivered_per_s",
    "server_ns_per_message",
    "server_busy",
    "messages_per_cpu_s",
    "rss_before_bytes",
    "rss_max_bytes",
    "rss_after_bytes",
    "rss_growth_bytes",
    "switches_per_message",
    "generator_busy",
    "hellos_per_s",
    "hellos_per_cpu_s",
    "rss_bytes_per_connection",
];

/// Whether a run may have a figure of that name. Workloads may add further ones, by which nobody can be sure; those
/// end in a unit.
#[must_use]
pub fn is_figure(name: &str) -> bool {
    let with = |unit: &str| name.rsplit_once('_').map(|(stem, _)| format!("{stem}_{unit}"));
    FIGURES.contains(&name)
        || with("ms").is_some_and(|in_ms| {
            FIGURES.contains(&in_ms.as_str()) && ["_ns", "_us", "_s"].iter().any(|unit| name.ends_with(unit))
        })
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

/// A figure of a run, or of one of its phases; `None` if the run has none of that name. What the server used is known
/// of whole runs only.
#[must_use]
pub fn figure(record: &Record, phase: &PhaseRecord, name: &str) -> Option<f64> {
    if let Some(us) = duration_us(phase, name) {
        return Some(us);
    }
    match name {
        "sent" => return Some(phase.sent as f64),
        "delivered" => return Some(phase.delivered as f64),
        "lost" => return Some(phase.lost as f64),
        "told_dropped" => return Some(phase.told_dropped as f64),
        "duplicated" => return Some(phase.duplicated as f64),
        "out_of_order" => return Some(phase.out_of_order as f64),
        "refused" => return Some(phase.refused as f64),
        "sent_per_s" => return Some(phase.sent_per_s),
        "delivered_per_s" => return Some(phase.delivered_per_s),
        "generator_busy" => return Some(record.generator_busy),
        _ => {}
    }
    if let Some(extra) = record.extra.get(name) {
        return Some(*extra);
    }
    let is_whole = record.steps.is_empty() || std::ptr::eq(phase, &raw const record.overall);
    let server = record.server.as_ref().filter(|_| is_whole)?;
    match name {
        "server_ns_per_message" => server.ns_per_message,
        "server_busy" => Some(server.busy),
        "messages_per_cpu_s" | "hellos_per_cpu_s" => {
            server.ns_per_message.filter(|ns| *ns > 0.0).map(|ns| 1e9 / ns)
        }
        "rss_before_bytes" => Some(server.rss_before_bytes as f64),
        "rss_max_bytes" => Some(server.rss_max_bytes as f64),
        "rss_after_bytes" => Some(server.rss_after_bytes as f64),
        "rss_growth_bytes" => Some(server.rss_max_bytes.saturating_sub(server.rss_before_bytes) as f64),
        "switches_per_message" => (record.overall.delivered > 0).then(|| {
            (server.switches_voluntary + server.switches_involuntary) as f64 / record.overall.delivered as f64
        }),
        _ => None,
    }
}

/// Figures with a unit of time at the end of their name.
fn duration_us(phase: &PhaseRecord, name: &str) -> Option<f64> {
    let (stem, unit) = name.rsplit_once('_')?;
    let per_us = match unit {
        "ns" => 1e3,
        "us" => 1.0,
        "ms" => 1e-3,
        "s" => 1e-6,
        _ => return None,
    };
    let latency = phase.latency.as_ref();
    let us = match stem {
        "p50" => latency?.p50_us,
        "p90" => latency?.p90_us,
        "p99" => latency?.p99_us,
        "p99_9" => latency?.p99_9_us,
        "p99_99" => latency?.p99_99_us,
        "max" => latency?.max_us,
        "mean" => latency?.mean_us,
        "stall" => phase.stall_us,
        _ => return None,
    };
    Some(us * per_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_have_every_unit_of_time() {
        for name in [
            "p99_ms",
            "p99_us",
            "p99_9_ns",
            "stall_s",
            "lost",
            "server_ns_per_message",
        ] {
            assert!(is_figure(name), "{name}");
        }
        for name in ["p98_ms", "p99", "lost_ms", "lost_us", "p99_m"] {
            assert!(!is_figure(name), "{name}");
        }
    }
}
