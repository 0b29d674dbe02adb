//! `loadgen compare A B`: what changed between two campaigns, and whether it is more than noise.
//!
//! Runs of the same scenario, point and target stand against each other, metric by metric. Two samples differ if the
//! exact rank test says so ([`crate::statistics`]) *and* the medians are further apart than a change worth speaking
//! of. With too few repeats no arrangement could ever say so; then that is the verdict, not "no difference".
//!
//! What no test can see: two campaigns ran at two times, and a machine can be slower for an hour. Interleave what is to
//! be compared in one campaign where that is possible.

use serde_json::Value;

use crate::metric::{Better, Metric, Unit};
use crate::record::{Machine, Point, Record, Repeats, Results, points, value_text, warnings};
use crate::statistics::{Spread, mann_whitney_p, ratio_interval, smallest_p};
use crate::table::{Align, Table, TableCell, Tone, painted};
use crate::units;

/// What counts as a change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// How probable a difference may be by chance alone and still count as one. A campaign has a hundred comparisons:
    /// one in twenty, the custom elsewhere, would cry wolf each time.
    pub chance_max: f64,
    /// How far apart the medians have to be, as a part of A's.
    pub change_min: f64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            chance_max: 0.01,
            change_min: 0.02,
        }
    }
}

/// What is to be said of one metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// B is better.
    Better,
    /// B is worse.
    Worse,
    /// B is different, and the metric does not say which is better.
    Different,
    /// No difference that is more than noise, or none that matters.
    NoDifference,
    /// So few repeats cannot tell.
    TooFew,
}

impl Verdict {
    fn words(self) -> &'static str {
        match self {
            Verdict::Better => "better",
            Verdict::Worse => "WORSE",
            Verdict::Different => "different",
            Verdict::NoDifference => "no difference",
            Verdict::TooFew => "too few repeats",
        }
    }

    fn tone(self) -> Tone {
        match self {
            Verdict::Better => Tone::Good,
            Verdict::Worse => Tone::Bad,
            Verdict::Different => Tone::Strong,
            Verdict::NoDifference | Verdict::TooFew => Tone::Faint,
        }
    }
}

/// One metric of one scenario, point and target in both campaigns.
#[derive(Debug, Clone)]
pub struct Compared {
    /// Scenario and point.
    pub title: String,
    /// The target's name.
    pub target: String,
    /// Which figure.
    pub metric: Metric,
    /// In A.
    pub a: Spread,
    /// In B.
    pub b: Spread,
    /// B's median to A's; `None` if A's is 0.
    pub ratio: Option<f64>,
    /// In which that ratio lies, by resampling.
    pub interval: Option<(f64, f64)>,
    /// How probable such a difference is by chance alone.
    pub chance: f64,
    /// What follows.
    pub verdict: Verdict,
}

/// Everything that two campaigns have in common, and what they have not.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// What A and B are: campaign, when, which commit.
    pub sides: [String; 2],
    /// In the order of A's file.
    pub compared: Vec<Compared>,
    /// What a reader has to know first: other machines, other versions, other settings, runs without a counterpart.
    pub remarks: Vec<String>,
    options: Options,
}

/// Compares B with A.
#[must_use]
pub fn compare(a: &Results, b: &Results, options: Options) -> Comparison {
    let mut compared = Vec::new();
    let mut remarks: Vec<String> = a.remarks.iter().chain(&b.remarks).cloned().collect();
    remarks.extend(machine_remarks(a, b));
    let (points_a, points_b) = (points(&a.records), points(&b.records));
    for point_a in &points_a {
        let same_point =
            |point: &&Point<'_>| point.scenario == point_a.scenario && point.choices == point_a.choices;
        let point_b = points_b.iter().find(same_point);
        for in_a in &point_a.targets {
            let title = point_a.title();
            let Some(in_b) = point_b.and_then(|point| point.target(in_a.target)) else {
                remarks.push(format!("{title}, {}: only in A", in_a.target));
                continue;
            };
            remarks.extend(run_remarks(&title, in_a, in_b));
            // Said once, not at every point.
            for remark in target_remarks(in_a, in_b) {
                if !remarks.contains(&remark) {
                    remarks.push(remark);
                }
            }
            for metric in metrics(point_a) {
                compared.extend(compare_one(&title, in_a, in_b, metric, options));
            }
        }
    }
    for point_b in &points_b {
        let point_a = points_a
            .iter()
            .find(|point| point.scenario == point_b.scenario && point.choices == point_b.choices);
        for in_b in &point_b.targets {
            if point_a.and_then(|point| point.target(in_b.target)).is_none() {
                remarks.push(format!("{}, {}: only in B", point_b.title(), in_b.target));
            }
        }
    }
    for (side, results) in [("A", a), ("B", b)] {
        for warning in warnings(&results.records) {
            remarks.push(format!("in {} runs of {side}: {}", warning.runs, warning.text));
        }
    }
    Comparison {
        sides: [side("A", a), side("B", b)],
        compared,
        remarks,
        options,
    }
}

/// `A: peers of 2026-11-22T03:42:10Z, commit b12f9cf`
fn side(name: &str, results: &Results) -> String {
    let Some(header) = results.headers.last() else {
        return format!("{name}: a file without its header, commit unknown");
    };
    let commit = match header.machine.commit.as_str() {
        "" => "unknown",
        commit => commit,
    };
    format!(
        "{name}: {} of {}, commit {commit}",
        header.campaign, header.started_at
    )
}

/// What is compared: what was delivered only where the server, and not a plan, decides how much that is.
fn metrics(point: &Point<'_>) -> Vec<Metric> {
    const NAMES: [&str; 10] = [
        "server_ns_per_message",
        "delivered_per_s",
        "p50",
        "p99",
        "p99_9",
        "lost",
        "duplicated",
        "out_of_order",
        "refused",
        "rss_max",
    ];
    let is_open_loop = point.is_open_loop();
    NAMES
        .iter()
        .filter(|&&name| !(is_open_loop && name == "delivered_per_s"))
        .filter_map(|name| Metric::named(name).cloned())
        .chain(point.extras())
        .collect()
}

/// `None` if a side has no such figure, or if it is a count of faults and there were none.
fn compare_one(
    title: &str,
    in_a: &Repeats<'_>,
    in_b: &Repeats<'_>,
    metric: Metric,
    options: Options,
) -> Option<Compared> {
    let (values_a, values_b) = (in_a.values(&metric), in_b.values(&metric));
    let (a, b) = (Spread::of(&values_a)?, Spread::of(&values_b)?);
    if metric.unit == Unit::Count && a.max == 0.0 && b.max == 0.0 {
        return None;
    }
    let chance = mann_whitney_p(&values_a, &values_b);
    let matters = (b.median - a.median).abs() > options.change_min * a.median.abs();
    let verdict = if smallest_p(values_a.len(), values_b.len()) > options.chance_max {
        Verdict::TooFew
    } else if chance > options.chance_max || !matters {
        Verdict::NoDifference
    } else {
        match metric.better {
            Better::Neither => Verdict::Different,
            Better::Lower if b.median < a.median => Verdict::Better,
            Better::Higher if b.median > a.median => Verdict::Better,
            Better::Lower | Better::Higher => Verdict::Worse,
        }
    };
    Some(Compared {
        title: title.to_owned(),
        target: in_a.target.to_owned(),
        metric,
        a,
        b,
        ratio: (a.median != 0.0).then(|| b.median / a.median),
        interval: ratio_interval(&values_a, &values_b),
        chance,
        verdict,
    })
}

fn machine_remarks(a: &Results, b: &Results) -> Vec<String> {
    let (Some(machine_a), Some(machine_b)) = (machine(a), machine(b)) else {
        return vec![
            "a file without its header: whether both ran on the same machine is not known".to_owned(),
        ];
    };
    let memory = |machine: &Machine| units::bytes(machine.memory_bytes as f64);
    let facts = [
        ("processor", machine_a.cpu.clone(), machine_b.cpu.clone()),
        (
            "number of cores",
            machine_a.cores.to_string(),
            machine_b.cores.to_string(),
        ),
        ("memory", memory(machine_a), memory(machine_b)),
        ("kernel", machine_a.kernel.clone(), machine_b.kernel.clone()),
    ];
    facts
        .into_iter()
        .filter(|(_, in_a, in_b)| in_a != in_b)
        .map(|(fact, in_a, in_b)| format!("not the same machine: {fact} was {in_a} in A and is {in_b} in B"))
        .collect()
}

fn machine(results: &Results) -> Option<&Machine> {
    results.headers.last().map(|header| &header.machine)
}

/// What makes two sets of runs less comparable than they look.
fn run_remarks(title: &str, in_a: &Repeats<'_>, in_b: &Repeats<'_>) -> Vec<String> {
    let mut remarks = Vec::new();
    let settings = |repeats: &Repeats<'_>, read: fn(&Record) -> &Value| {
        repeats.records.last().map(|record| read(record).clone())
    };
    if settings(in_a, |record| &record.scenario_settings)
        != settings(in_b, |record| &record.scenario_settings)
    {
        remarks.push(format!(
            "{title}, {}: the scenario's settings differ between A and B",
            in_a.target
        ));
    }
    if let (Some(version_a), Some(version_b)) = (in_a.version(), in_b.version())
        && version_a != version_b
    {
        remarks.push(format!(
            "{title}, {}: version {version_a} in A, {version_b} in B",
            in_a.target
        ));
    }
    remarks
}

/// How the two were spoken to, where that differs.
fn target_remarks(in_a: &Repeats<'_>, in_b: &Repeats<'_>) -> Vec<String> {
    let settings = |repeats: &Repeats<'_>| -> Option<serde_json::Map<String, Value>> {
        Some(repeats.records.last()?.target_settings.as_object()?.clone())
    };
    let (Some(settings_a), Some(settings_b)) = (settings(in_a), settings(in_b)) else {
        return Vec::new();
    };
    // A setting that only one of them knows is one of another version of this program, and says nothing.
    let both = settings_a.iter().filter_map(|(field, value)| {
        Some((
            field,
            setting(field, value),
            setting(field, settings_b.get(field)?),
        ))
    });
    both.filter(|(_, value_a, value_b)| value_a != value_b)
        .map(|(field, value_a, value_b)| {
            format!(
                "{}: the target's {field} is {value_a} in A and {value_b} in B",
                in_a.target
            )
        })
        .collect()
}

/// A target's setting as it is compared: of an address not its port, nor the path of a socket, which are other ones in
/// each run.
fn setting(field: &str, value: &Value) -> String {
    let address = match value.as_str() {
        Some(text) if field.ends_with("url") => text.split_once("://"),
        _ => None,
    };
    match address {
        Some(("unix", _)) => "unix".to_owned(),
        Some((transport, rest)) => {
            let host = rest.split('/').next().unwrap_or(rest);
            let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
            format!("{transport}://{host}")
        }
        None if value.is_null() => "none".to_owned(),
        None => value_text(value),
    }
}

impl Comparison {
    /// How many figures got that verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.compared
            .iter()
            .filter(|compared| compared.verdict == verdict)
            .count()
    }

    /// Whether anything is worse: what `--fail-on-worse` asks.
    #[must_use]
    pub fn has_worse(&self) -> bool {
        self.count(Verdict::Worse) > 0
    }

    /// As a table for the terminal: which is which, remarks, the table, a summary.
    #[must_use]
    pub fn render(&self, colours: bool) -> String {
        let mut text = String::new();
        for side in &self.sides {
            text.push_str(&painted(side, Tone::Plain, colours));
            text.push('\n');
        }
        for remark in &self.remarks {
            text.push_str(&painted(&format!("note: {remark}"), Tone::Warning, colours));
            text.push('\n');
        }
        if self.compared.is_empty() {
            text.push_str("A and B have no scenario and target in common: nothing can be compared.\n");
            return text;
        }
        text.push('\n');
        text.push_str(&self.table().render(colours));
        text.push('\n');
        text.push_str(&self.summary());
        text
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&[
            ("metric", Align::Left),
            ("A", Align::Right),
            ("", Align::Left),
            ("B", Align::Right),
            ("", Align::Left),
            ("B/A", Align::Right),
            ("95% interval", Align::Right),
            ("by chance", Align::Right),
            ("verdict", Align::Left),
        ]);
        let mut under = String::new();
        for row in &self.compared {
            let heading = format!("{} · {}", row.title, row.target);
            if heading != under {
                table.title(&format!("{heading}  ({} and {} runs)", row.a.count, row.b.count));
                under = heading;
            }
            let tone = row.verdict.tone();
            let median = |spread: &Spread| units::figure(row.metric.unit, spread.median);
            let range = |spread: &Spread| match spread.relative() {
                _ if spread.count < 2 => String::new(),
                relative => units::spread(relative),
            };
            let interval = row
                .interval
                .map(|(low, high)| format!("{low:.2} – {high:.2}"))
                .unwrap_or_default();
            table.row([
                row.metric.heading.as_ref().into(),
                median(&row.a).into(),
                TableCell::new(&range(&row.a), Tone::Faint),
                TableCell::new(&median(&row.b), tone),
                TableCell::new(&range(&row.b), Tone::Faint),
                TableCell::new(&row.ratio.map(units::ratio).unwrap_or_default(), tone),
                TableCell::new(&interval, Tone::Faint),
                TableCell::new(&chance_text(row.chance), Tone::Faint),
                TableCell::new(row.verdict.words(), tone),
            ]);
        }
        table
    }

    fn summary(&self) -> String {
        let total = self.compared.len();
        let mut text = format!(
            "{} better, {} worse, {} without a difference that is more than noise",
            self.count(Verdict::Better),
            self.count(Verdict::Worse),
            self.count(Verdict::NoDifference),
        );
        let different = self.count(Verdict::Different);
        if different > 0 {
            text.push_str(&format!(", {different} different"));
        }
        text.push_str(&format!(", of {total}.\n"));
        let too_few = self.count(Verdict::TooFew);
        if too_few > 0 {
            let needed = (1..).find(|&repeats| smallest_p(repeats, repeats) <= self.options.chance_max);
            text.push_str(&format!(
                "{too_few} had too few repeats to say: {} on each side can, more are better.\n",
                needed.unwrap_or(4)
            ));
        }
        // Only where there are enough tests for a false alarm to be likely.
        let by_chance = (total - too_few) as f64 * self.options.chance_max;
        if by_chance >= 1.0 {
            text.push_str(&format!(
                "Of so many comparisons up to {by_chance:.0} can look different by chance alone: run again what stands alone.\n"
            ));
        }
        text
    }
}

fn chance_text(chance: f64) -> String {
    if chance < 0.001 {
        "<0.001".to_owned()
    } else {
        format!("{chance:.3}")
    }
}
