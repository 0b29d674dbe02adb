//! Puts together what the threads and the conductor found out, and says what a reader of the figures has to know.

use hdrhistogram::Histogram;

use crate::measured::{Measured, Phase};
use crate::payload::Payloads;
use crate::tally::Tally;
use crate::worker::Outcome;
use crate::workload::pacing::LATE_NS;
use crate::workload::streaming::{Shape, Streamed};
use crate::workload::{Cast, Part, Visits};

use super::RunOrder;
use super::conduct::Observed;

/// A generator thread that is busier than this is the limit, or about to be.
const BUSY: f64 = 0.95;
/// A server whose busiest thread (or whose processors, if its threads take turns on them) is less busy than this was
/// waiting for the generator.
const SERVER_BUSY: f64 = 0.9;
/// More late or unsent publishes than this share of all are told of.
const LATE_SHARE: f64 = 0.01;
/// Waiting for a processor for more than this share of the time is told of.
const WAITED: f64 = 0.05;
const NS_PER_MS: f64 = 1e6;
/// What is told of times that only some workload has.
const P50_P99: [(&str, f64); 2] = [("p50", 0.5), ("p99", 0.99)];

/// All threads together.
#[derive(Default)]
struct Whole {
    /// By phase: publishes and what became of them; calls; chunks of streams; visitors.
    events: Vec<Tally>,
    calls: Vec<Tally>,
    chunks: Vec<Tally>,
    visits: Vec<Tally>,
    spoken: Tally,
    outcome: Outcome,
}

pub(super) fn conclude(
    order: &RunOrder,
    cast: &Cast,
    payloads: &Payloads,
    outcomes: Vec<Outcome>,
    observed: Observed,
) -> Measured {
    let whole = gather(outcomes, observed.windows.len().max(1));
    let is_storm = matches!(cast.visits, Some(Visits::Storm { .. }));
    // Its measured time is what it took.
    let is_replay = cast.replayed().is_some();
    let mut phases = Vec::new();
    for (index, window) in observed.windows.iter().enumerate() {
        let mut tally = whole.events[index].clone();
        let calls = &whole.calls[index];
        tally.add(&whole.chunks[index]);
        if cast.publishers > 0 {
            // Beside events, calls count and have latencies of their own.
            let latency_ns = tally.latency_ns.clone();
            tally.add(calls);
            tally.latency_ns = latency_ns;
        } else {
            tally.add(calls);
        }
        if is_storm {
            tally.add(&whole.visits[index]);
        }
        if index == 0 {
            tally.add(&whole.spoken);
        }
        if is_replay {
            // From when it was stored: that says nothing.
            tally.latency_ns.reset();
        }
        let stalls_ns = &whole.outcome.of_subscribers.stalls_ns;
        let stall_ns = stalls_ns.get(index).copied().filter(|_| !is_replay);
        phases.push(Phase {
            asked_per_s: window.asked_per_s.filter(|_| !is_storm && !is_replay),
            elapsed_ns: if is_storm || is_replay {
                observed.measured_ns
            } else {
                window.to_ns - window.from_ns
            },
            sent: tally.sent,
            delivered: tally.delivered,
            arrived: tally.arrived,
            lost: tally.lost(),
            told_dropped: tally.told_dropped,
            duplicated: tally.duplicated,
            out_of_order: tally.out_of_order,
            refused: tally.refused,
            latency_ns: tally.latency_ns,
            stall_ns: stall_ns.unwrap_or(0),
        });
    }
    let mut measured = Measured {
        phases,
        server: observed.server,
        generator_cpu_ns: observed.generator_cpu_ns,
        generator_busy: observed.generator_busy,
        warnings: Vec::new(),
        extra: Vec::new(),
    };
    measured.extra = extra(cast, payloads, &whole, &observed, &measured);
    measured.warnings = warnings(order, cast, &whole, &observed, &measured);
    measured
}

fn gather(outcomes: Vec<Outcome>, phases: usize) -> Whole {
    let none = || vec![Tally::default(); phases];
    let mut whole = Whole {
        events: none(),
        calls: none(),
        chunks: none(),
        visits: none(),
        ..Whole::default()
    };
    let add = |to: &mut Vec<Tally>, from: &[Tally]| {
        for (to, from) in to.iter_mut().zip(from) {
            to.add(from);
        }
    };
    for outcome in outcomes {
        add(&mut whole.events, &outcome.published);
        add(&mut whole.events, &outcome.stored);
        add(&mut whole.events, &outcome.heard);
        add(&mut whole.calls, &outcome.called);
        add(&mut whole.chunks, &outcome.streamed);
        add(&mut whole.visits, &outcome.visited);
        whole.spoken.add(&outcome.spoken);
        let sum = &mut whole.outcome;
        sum.of_publishers.late += outcome.of_publishers.late;
        sum.of_publishers.unsent += outcome.of_publishers.unsent;
        sum.of_publishers.windows_lost += outcome.of_publishers.windows_lost;
        let stalls_ns = &mut sum.of_subscribers.stalls_ns;
        stalls_ns.resize(phases, 0);
        for (longest_ns, stall_ns) in stalls_ns.iter_mut().zip(outcome.of_subscribers.stalls_ns) {
            *longest_ns = stall_ns.max(*longest_ns);
        }
        sum.of_subscribers.foreign += outcome.of_subscribers.foreign;
        sum.of_subscribers.heard_by_stopped += outcome.of_subscribers.heard_by_stopped;
        sum.of_streams.add(&outcome.of_streams);
        sum.of_callers.late += outcome.of_callers.late;
        sum.of_callers.unsent += outcome.of_callers.unsent;
        sum.of_callers.overdue += outcome.of_callers.overdue;
        sum.of_callers.foreign += outcome.of_callers.foreign;
        sum.acknowledged += outcome.acknowledged;
        sum.served += outcome.served;
        sum.told_stopped = sum.told_stopped.saturating_add(outcome.told_stopped);
        sum.cuts_count += outcome.cuts_count;
        sum.cuts.extend(outcome.cuts);
        sum.refusal = sum.refusal.take().or(outcome.refusal);
        sum.visit_fault = sum.visit_fault.take().or(outcome.visit_fault);
    }
    whole
}

fn latencies(name: &str, tallies: &[Tally], extra: &mut Vec<(String, f64)>) {
    let mut all = Tally::default();
    for tally in tallies {
        all.add(tally);
    }
    quantiles(
        name,
        &all.latency_ns,
        &[("p50", 0.5), ("p99", 0.99), ("p999", 0.999)],
        extra,
    );
}

fn quantiles(name: &str, times_ns: &Histogram<u64>, which: &[(&str, f64)], extra: &mut Vec<(String, f64)>) {
    for (quantile, value) in which {
        // The shortest that a histogram knows stands for none.
        let time_ns = Some(times_ns.value_at_quantile(*value)).filter(|&time_ns| time_ns > 1);
        extra.push((
            format!("{name}_{quantile}_ms"),
            time_ns.unwrap_or(0) as f64 / NS_PER_MS,
        ));
    }
}

/// Figures of streams.
fn of_streams(
    shape: &Shape,
    found: &Streamed,
    observed: &Observed,
    measured: &Measured,
    extra: &mut Vec<(String, f64)>,
) {
    let measured_s = observed.measured_ns as f64 / 1e9;
    let mut push = |name: &str, figure: f64| extra.push((name.to_owned(), figure));
    push("chunk_bytes_per_s", found.arrived_bytes as f64 / measured_s);
    push("streams_opened", found.opened as f64);
    push("streams_ended", found.ended as f64);
    push("streams_failed", found.failed as f64);
    if shape.chunks.is_some() {
        push("streams_per_s", found.ended_measured as f64 / measured_s);
        if let Some(server) = measured.server
            && found.ended_measured > 0
        {
            let ns = server.cpu_ns as f64 / found.ended_measured as f64;
            push("server_ns_per_stream", ns);
        }
    }
    if shape.stopped > 0 {
        push("stopped_heard", found.stopped_chunks as f64);
        push("stopped_stream_bytes", found.stopped_bytes_max as f64);
    }
    if !found.first_chunks().is_empty() {
        quantiles("first_chunk", found.first_chunks(), &P50_P99, extra);
    }
    if !found.gaps.is_empty() {
        quantiles("gap", &found.gaps, &P50_P99, extra);
        extra.push(("gap_max_ms".to_owned(), found.gaps.max() as f64 / NS_PER_MS));
    }
}

/// Figures that only this workload has.
fn extra(
    cast: &Cast,
    payloads: &Payloads,
    whole: &Whole,
    observed: &Observed,
    measured: &Measured,
) -> Vec<(String, f64)> {
    let mut extra = Vec::new();
    let measured_s = observed.measured_ns as f64 / 1e9;
    let sum = |tallies: &[Tally], figure: fn(&Tally) -> u64| tallies.iter().map(figure).sum::<u64>() as f64;
    if cast.publishers > 0 || cast.callers > 0 || cast.streams.is_some() {
        extra.push(("payload_bytes".to_owned(), payloads.mean_bytes()));
    }
    if whole.outcome.acknowledged > 0 {
        extra.push(("acknowledged".to_owned(), whole.outcome.acknowledged as f64));
    }
    match cast.visits {
        Some(Visits::Storm { .. }) => {
            let accepted = measured.arrived() as f64;
            extra.push(("hellos_per_s".to_owned(), accepted / measured_s));
            if let Some(server) = measured.server.filter(|server| server.cpu_ns > 0) {
                let per_cpu_s = accepted / (server.cpu_ns as f64 / 1e9);
                extra.push(("hellos_per_cpu_s".to_owned(), per_cpu_s));
            }
        }
        Some(Visits::Churn { .. }) => {
            extra.push(("churned".to_owned(), sum(&whole.visits, |tally| tally.delivered)));
            let failed = sum(&whole.visits, |tally| tally.lost() + tally.refused);
            extra.push(("churn_failed".to_owned(), failed));
            latencies("churn", &whole.visits, &mut extra);
        }
        None => {}
    }
    if cast.publishers > 0 && cast.callers > 0 {
        let answered = sum(&whole.calls, |tally| tally.arrived);
        extra.push(("calls_per_s".to_owned(), answered / measured_s));
        latencies("call", &whole.calls, &mut extra);
    }
    if let Some(shape) = &cast.streams {
        of_streams(shape, &whole.outcome.of_streams, observed, measured, &mut extra);
    }
    if let (Some(server), Some(quiet_bytes)) = (measured.server, observed.rss_quiet_bytes) {
        let grown_bytes = quiet_bytes as f64 - server.rss_before_bytes as f64;
        let connections = cast.parts.len().max(1) as f64;
        extra.push(("rss_bytes_per_connection".to_owned(), grown_bytes / connections));
    }
    let stopped = cast
        .parts
        .iter()
        .filter(|part| matches!(part, Part::Subscriber { stops: true, .. }))
        .count();
    if cast.has_stopped()
        && let (Some(server), Some(begun_bytes)) = (measured.server, observed.rss_begun_bytes)
    {
        let grown_bytes = server.rss_max_bytes.saturating_sub(begun_bytes);
        extra.push(("rss_growth_bytes".to_owned(), grown_bytes as f64));
    }
    if stopped > 0 {
        let (cut, after_ns) = observed.closed_by_server.unwrap_or_default();
        extra.push(("stopped_cut".to_owned(), cut as f64));
        if cut > 0 {
            extra.push(("stopped_cut_after_ms".to_owned(), after_ns as f64 / NS_PER_MS));
        }
        let heard = whole.outcome.of_subscribers.heard_by_stopped;
        extra.push(("stopped_heard".to_owned(), heard as f64));
        extra.push((
            "stopped_told_dropped".to_owned(),
            whole.outcome.told_stopped as f64,
        ));
    }
    extra
}

/// What a reader of the figures has to know.
fn warnings(
    order: &RunOrder,
    cast: &Cast,
    whole: &Whole,
    observed: &Observed,
    measured: &Measured,
) -> Vec<String> {
    let mut warnings = Vec::new();
    let outcome = &whole.outcome;
    let is_open = observed.windows.iter().any(|window| window.asked_per_s.is_some());
    let sent: u64 = measured.phases.iter().map(|phase| phase.sent).sum();
    let late = outcome.of_publishers.late + outcome.of_callers.late + outcome.of_streams.late;
    let unsent = outcome.of_publishers.unsent + outcome.of_callers.unsent + outcome.of_streams.unsent;
    let fell_behind = is_open && (late + unsent) as f64 > LATE_SHARE * (sent + unsent) as f64;
    let busy = measured.generator_busy;
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    if fell_behind {
        let why = if observed.generator_waited > WAITED {
            "other programs kept the generator from its cores: give it cores of its own".to_owned()
        } else if busy > BUSY {
            format!(
                "the generator was the limit (its busiest thread worked {} of the time): give it more cores, or ask for less",
                percent(busy)
            )
        } else {
            "the server did not read them fast enough: it is past its limit at this rate".to_owned()
        };
        warnings.push(format!(
            "{late} of {} messages left more than {} ms after they were due and {unsent} never did; {why}. Latencies count \
             from when a message was due",
            sent + unsent,
            LATE_NS / 1_000_000,
        ));
    } else if is_open && busy > BUSY {
        warnings.push(format!(
            "the generator's busiest thread worked {} of the time: a little more and it is the limit",
            percent(busy)
        ));
    }
    let server_share = measured.server.map(|server| server.saturation);
    if !is_open && busy > BUSY && server_share.is_none_or(|share| share < SERVER_BUSY) {
        let server = server_share.map_or_else(String::new, |share| {
            format!(" while the server was at {} of its limit", percent(share))
        });
        warnings.push(format!(
            "the generator was the limit: its busiest thread worked {} of the time{server}. The server can do more than \
             the rates here say (its CPU time a message is right); give the generator more cores",
            percent(busy)
        ));
    }
    for (who, waited) in [
        ("the generator", Some(observed.generator_waited)),
        ("the server", observed.server_waited),
    ] {
        if let Some(waited) = waited.filter(|&waited| waited > WAITED) {
            warnings.push(format!(
                "{who} could have run and waited for a processor {} of the time: something else runs on its cores, and rates \
                 and latencies suffer (CPU time a message hardly)",
                percent(waited)
            ));
        }
    }
    if let Some(why) = &observed.server_unknown {
        warnings.push(format!(
            "the server's process could not be looked at during the run ({why}): nothing is known of its CPU time and memory"
        ));
    }
    if observed.server_in_ticks {
        warnings.push(
            "threads of the server ended in the measured time; its CPU time is that of the kernel's ticks, exact to a few \
             of them"
                .to_owned(),
        );
    }
    if outcome.of_publishers.windows_lost > 0 {
        warnings.push(format!(
            "{} times nothing arrived for {} s although the window was full; what was under way was given up",
            outcome.of_publishers.windows_lost,
            if cast.stored.is_some() { 10 } else { 1 }
        ));
    }
    if outcome.of_callers.overdue > 0 {
        warnings.push(format!(
            "{} answers came after more than 5 s and count as lost",
            outcome.of_callers.overdue
        ));
    }
    let foreign = outcome.of_subscribers.foreign + outcome.of_callers.foreign + outcome.of_streams.foreign;
    if foreign > 0 {
        let names = cast.names.topics.first().or(cast.names.methods.first());
        warnings.push(format!(
            "{foreign} arrivals were not of this run and are not counted: somebody else publishes on {:?}",
            names.map_or("", String::as_str)
        ));
    }
    if let Some(words) = &outcome.refusal {
        warnings.push(format!("the server refused some: {words}"));
    }
    if outcome.of_streams.failed > 0 {
        warnings.push(format!(
            "{} of {} streams failed, were refused, or were lost",
            outcome.of_streams.failed, outcome.of_streams.opened
        ));
    }
    if let Some(words) = &outcome.visit_fault {
        warnings.push(format!(
            "not every visitor of {} got in: {words}",
            order.target.name
        ));
    }
    for cut in &outcome.cuts {
        let reading = match cut.part {
            part if part.stops_reading() => " (one that had stopped reading)",
            _ => "",
        };
        warnings.push(format!(
            "{} {}{reading} was cut off, which showed {:.1} s into the run: {}",
            cut.part.name(),
            cut.number,
            cut.after_ns as f64 / 1e9,
            cut.words
        ));
    }
    if outcome.cuts_count > outcome.cuts.len() as u64 {
        warnings.push(format!(
            "{} connections were cut off altogether",
            outcome.cuts_count
        ));
    }
    warnings
}
