//! The figures of a run by name: what assertions, comparisons, tables and plots speak of.
//!
//! A name ends in its unit where it has one, and a time or a size may be asked for in another: `p99_ms`, `p99_us`,
//! `rss_max_mib`. Which way is better belongs to the metric, and is known for each.

use std::borrow::Cow;

use crate::record::{PhaseRecord, Record};

/// What a figure counts; its base unit, in which [`Metric::of`] gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Time, ns.
    Time,
    /// Memory, bytes.
    Bytes,
    /// Something a second.
    PerSecond,
    /// A number of things.
    Count,
    /// A part of one, or of one core.
    Share,
    /// Whatever the name says.
    Plain,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Less.
    Lower,
    /// More.
    Higher,
    /// It tells something, but not whether it is good.
    Neither,
}

/// One figure of every run.
#[derive(Debug, Clone)]
pub struct Metric {
    /// Its name without a unit that can be chosen: `p99`, `server_ns_per_message`.
    pub name: Cow<'static, str>,
    /// How a table or a plot heads it.
    pub heading: Cow<'static, str>,
    /// What it counts.
    pub unit: Unit,
    /// Which way is better.
    pub better: Better,
    source: Source,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    /// A phase has it.
    Phase(fn(&PhaseRecord) -> Option<f64>),
    /// Only the whole run has it.
    Run(fn(&Record) -> Option<f64>),
    /// One of [`Record::extra`].
    Extra,
}

impl Metric {
    const fn new(
        name: &'static str,
        heading: &'static str,
        unit: Unit,
        better: Better,
        source: Source,
    ) -> Metric {
        Metric {
            name: Cow::Borrowed(name),
            heading: Cow::Borrowed(heading),
            unit,
            better,
            source,
        }
    }

    /// All metrics that every workload has, in the order of their weight.
    #[must_use]
    pub fn all() -> &'static [Metric] {
        &METRICS
    }

    /// The metric of that very name (no unit to choose), of those that every workload has.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Metric> {
        METRICS.iter().find(|metric| metric.name == name)
    }

    /// A figure that only some workload has. Its name's end tells its unit, and the unit which way is better: rates
    /// up, times and sizes down.
    #[must_use]
    pub fn extra(name: &str) -> Metric {
        let (unit, better) = match split_unit(name) {
            _ if is_rate(name) => (Unit::PerSecond, Better::Higher),
            // What was sent, not what it cost.
            _ if name.starts_with("payload_") => (Unit::Bytes, Better::Neither),
            _ if name.contains("bytes_per_") => (Unit::Bytes, Better::Lower),
            _ if name.contains("_ns_per_") => (Unit::Time, Better::Lower),
            _ if name.ends_with("_failed") => (Unit::Count, Better::Lower),
            Some((_, unit, _)) => (unit, Better::Lower),
            None => (Unit::Plain, Better::Neither),
        };
        Metric {
            heading: Cow::Owned(heading_of(name)),
            name: Cow::Owned(name.to_owned()),
            unit,
            better,
            source: Source::Extra,
        }
    }

    /// Its value in that run, in base units.
    #[must_use]
    pub fn of(&self, record: &Record) -> Option<f64> {
        match self.source {
            Source::Phase(read) => read(&record.overall),
            Source::Run(read) => read(record),
            Source::Extra => {
                let factor = split_unit(&self.name).map_or(1.0, |(_, _, factor)| factor);
                record.extra.get(&*self.name).map(|figure| figure * factor)
            }
        }
    }

    /// Its value in one phase, in base units; `None` if only whole runs have it.
    #[must_use]
    pub fn of_phase(&self, phase: &PhaseRecord) -> Option<f64> {
        match self.source {
            Source::Phase(read) => read(phase),
            Source::Run(_) | Source::Extra => None,
        }
    }
}

impl Record {
    /// The figure of that name in the unit that the name ends in; extra figures as well. `None` if there is no such
    /// figure, or this run has none.
    #[must_use]
    pub fn figure(&self, name: &str) -> Option<f64> {
        if let Some(figure) = self.extra.get(name) {
            return Some(*figure);
        }
        let (metric, factor) = resolve(name)?;
        metric.of(self).map(|figure| figure / factor)
    }
}

impl PhaseRecord {
    /// As [`Record::figure`], for one phase.
    #[must_use]
    pub fn figure(&self, name: &str) -> Option<f64> {
        let (metric, factor) = resolve(name)?;
        metric.of_phase(self).map(|figure| figure / factor)
    }
}

/// Whether every workload has a figure of that name (with a unit, where one can be chosen).
#[must_use]
pub fn is_known(name: &str) -> bool {
    resolve(name).is_some()
}

/// The metric, and how many of its base unit make the unit that was asked for.
fn resolve(name: &str) -> Option<(&'static Metric, f64)> {
    // A reader of a table writes p99.9, a TOML key has no dot.
    let name = name.replace('.', "_");
    if let Some(metric) = METRICS.iter().find(|metric| metric.name == name) {
        // A time or a size without its unit is an invitation to mistakes.
        let has_unit = metric.name.contains("_ns_") || !matches!(metric.unit, Unit::Time | Unit::Bytes);
        return has_unit.then_some((metric, 1.0));
    }
    let (base, unit, factor) = split_unit(&name)?;
    let metric = METRICS
        .iter()
        .find(|metric| metric.name == base && metric.unit == unit)?;
    Some((metric, factor))
}

/// Whether a name ends in a second that something is counted by: `hellos_per_s`, `hellos_per_cpu_s`.
fn is_rate(name: &str) -> bool {
    name.ends_with("_per_s") || name.ends_with("_per_cpu_s")
}

/// A name without the unit at its end, the unit, and how many base units make one of it.
fn split_unit(name: &str) -> Option<(&str, Unit, f64)> {
    let (base, suffix) = name.rsplit_once('_')?;
    let (unit, factor) = match suffix {
        "ns" => (Unit::Time, 1.0),
        "us" => (Unit::Time, 1e3),
        "ms" => (Unit::Time, 1e6),
        "s" if !is_rate(name) => (Unit::Time, 1e9),
        "bytes" => (Unit::Bytes, 1.0),
        "kib" => (Unit::Bytes, 1024.0),
        "mib" => (Unit::Bytes, 1024.0 * 1024.0),
        _ => return None,
    };
    Some((base, unit, factor))
}

/// `rss_bytes_per_connection` → `RSS per connection`; a unit at the end goes, since the value shows its own.
fn heading_of(name: &str) -> String {
    let base = split_unit(name).map_or(name, |(base, _, _)| base);
    let base = base.strip_suffix("_per_s").unwrap_or(base);
    base.replace("server_ns_per", "server_CPU_per")
        .replace("rss_bytes", "rss")
        .replace('_', " ")
        .replace("rss", "RSS")
}

fn us_to_ns(us: f64) -> f64 {
    us * 1e3
}

macro_rules! latency {
    ($field:ident) => {
        Source::Phase(|phase| phase.latency.as_ref().map(|latency| us_to_ns(latency.$field)))
    };
}

macro_rules! count {
    ($field:ident) => {
        Source::Phase(|phase| Some(phase.$field as f64))
    };
}

macro_rules! rate {
    ($field:ident) => {
        Source::Phase(|phase| (!phase.is_silent).then_some(phase.$field))
    };
}

macro_rules! server {
    ($field:ident) => {
        Source::Run(|record| record.server.map(|server| server.$field as f64))
    };
}

static METRICS: [Metric; 24] = {
    use Better::{Higher, Lower, Neither};
    use Unit::{Bytes, Count, PerSecond, Share, Time};
    [
        Metric::new(
            "server_ns_per_message",
            "server CPU per message",
            Time,
            Lower,
            Source::Run(Record::server_ns_per_message),
        ),
        Metric::new(
            "delivered_per_s",
            "delivered",
            PerSecond,
            Higher,
            rate!(delivered_per_s),
        ),
        Metric::new("p50", "p50", Time, Lower, latency!(p50_us)),
        Metric::new("p90", "p90", Time, Lower, latency!(p90_us)),
        Metric::new("p99", "p99", Time, Lower, latency!(p99_us)),
        Metric::new("p99_9", "p99.9", Time, Lower, latency!(p99_9_us)),
        Metric::new("p99_99", "p99.99", Time, Lower, latency!(p99_99_us)),
        Metric::new("max", "max", Time, Lower, latency!(max_us)),
        Metric::new("mean", "mean", Time, Lower, latency!(mean_us)),
        Metric::new("min", "min", Time, Lower, latency!(min_us)),
        Metric::new(
            "stall",
            "longest stall",
            Time,
            Lower,
            Source::Phase(|phase| Some(us_to_ns(phase.stall_us))),
        ),
        Metric::new("lost", "lost", Count, Lower, count!(lost)),
        Metric::new(
            "told_dropped",
            "told dropped",
            Count,
            Neither,
            count!(told_dropped),
        ),
        Metric::new("duplicated", "duplicated", Count, Lower, count!(duplicated)),
        Metric::new("out_of_order", "out of order", Count, Lower, count!(out_of_order)),
        Metric::new("refused", "refused", Count, Lower, count!(refused)),
        Metric::new("sent_per_s", "sent", PerSecond, Higher, rate!(sent_per_s)),
        Metric::new("server_busy", "server busy", Share, Neither, server!(busy)),
        Metric::new(
            "rss_before",
            "RSS before",
            Bytes,
            Lower,
            server!(rss_before_bytes),
        ),
        Metric::new("rss_max", "RSS max", Bytes, Lower, server!(rss_max_bytes)),
        Metric::new("rss_after", "RSS after", Bytes, Lower, server!(rss_after_bytes)),
        Metric::new(
            "switches_voluntary",
            "voluntary switches",
            Count,
            Neither,
            server!(switches_voluntary),
        ),
        Metric::new(
            "switches_involuntary",
            "involuntary switches",
            Count,
            Neither,
            server!(switches_involuntary),
        ),
        Metric::new(
            "generator_busy",
            "generator busy",
            Share,
            Neither,
            Source::Run(|record| Some(record.generator_busy)),
        ),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{LatencyRecord, ServerRecord};

    fn record() -> Record {
        serde_json::from_value(serde_json::json!({
            "scenario": "s", "target": "t", "repeat": 1, "at": "", "generator_cpu_ns": 1, "generator_busy": 0.5,
            "overall": {
                "elapsed_ns": 1, "sent": 1, "delivered": 9, "lost": 1, "sent_per_s": 1.0, "delivered_per_s": 50.0
            },
        }))
        .expect("a record")
    }

    #[test]
    fn names_carry_their_unit() {
        let mut record = record();
        record.overall.latency = Some(LatencyRecord {
            p99_us: 2_500.0,
            p99_9_us: 9_000.0,
            ..LatencyRecord::default()
        });
        record.server = Some(ServerRecord {
            ns_per_message: Some(42.0),
            rss_max_bytes: 3 << 20,
            ..ServerRecord::default()
        });
        record.extra.insert("cut_after_ms".into(), 7.0);
        assert_eq!(record.figure("p99_ms"), Some(2.5));
        assert_eq!(record.figure("p99_us"), Some(2_500.0));
        assert_eq!(record.figure("p99.9_ms"), Some(9.0));
        assert_eq!(record.figure("p99_9_s"), Some(0.009));
        assert_eq!(record.figure("p99"), None, "no unit");
        assert_eq!(record.figure("p99_mib"), None, "not a size");
        assert_eq!(record.figure("server_ns_per_message"), Some(42.0));
        assert_eq!(record.figure("rss_max_mib"), Some(3.0));
        assert_eq!(record.figure("delivered_per_s"), Some(50.0));
        record.overall.is_silent = true;
        assert_eq!(
            record.figure("delivered_per_s"),
            None,
            "idle connections have no rate"
        );
        assert_eq!(record.figure("lost"), Some(1.0));
        assert_eq!(record.figure("cut_after_ms"), Some(7.0));
        assert_eq!(Metric::extra("cut_after_ms").of(&record), Some(7e6));
        assert_eq!(record.overall.figure("p99_ms"), Some(2.5));
        assert_eq!(record.overall.figure("server_ns_per_message"), None);
        assert!(is_known("max_ms") && !is_known("pp99_ms") && !is_known("delivered_per_s_ms"));
    }

    #[test]
    fn an_extra_figure_tells_by_its_name_what_it_is() {
        let kind = |name| {
            let metric = Metric::extra(name);
            (metric.unit, metric.better)
        };
        assert_eq!(kind("hellos_per_s"), (Unit::PerSecond, Better::Higher));
        assert_eq!(kind("hellos_per_cpu_s"), (Unit::PerSecond, Better::Higher));
        assert_eq!(kind("rss_bytes_per_connection"), (Unit::Bytes, Better::Lower));
        assert_eq!(kind("rss_growth_bytes"), (Unit::Bytes, Better::Lower));
        assert_eq!(kind("cut_after_ms"), (Unit::Time, Better::Lower));
        assert_eq!(kind("server_ns_per_stream"), (Unit::Time, Better::Lower));
        assert_eq!(kind("streams_failed"), (Unit::Count, Better::Lower));
        assert_eq!(kind("chunk_bytes_per_s"), (Unit::PerSecond, Better::Higher));
        assert_eq!(kind("stopped_closed"), (Unit::Plain, Better::Neither));
        assert_eq!(
            Metric::extra("rss_bytes_per_connection").heading,
            "RSS per connection"
        );
        assert_eq!(Metric::extra("hellos_per_s").heading, "hellos");
        assert_eq!(
            Metric::extra("server_ns_per_stream").heading,
            "server CPU per stream"
        );
        assert_eq!(Metric::extra("first_chunk_p99_ms").heading, "first chunk p99");
    }

    #[test]
    fn no_two_metrics_share_a_name() {
        for (index, metric) in METRICS.iter().enumerate() {
            assert!(
                METRICS[index + 1..].iter().all(|other| other.name != metric.name),
                "{}",
                metric.name
            );
        }
    }
}
