//! One page with everything, that opens offline: no script, font, style or picture comes from elsewhere, and the page
//! forbids itself to fetch any.

use super::figures::{Figure, figures};
use super::plot::{STYLES, escaped, pattern_definitions, series_rules};
use super::{leader, wording};
use crate::metric::Metric;
use crate::record::{self, Header, Point, Results, best, points, scenarios, target_names};
use crate::statistics::Spread;
use crate::units;

mod tables;

const STYLE: &str = include_str!("html/style.css");
const SCRIPT: &str = include_str!("html/page.js");

/// Draws the page.
#[must_use]
pub fn page(results: &Results) -> String {
    let points = points(&results.records);
    let order = target_names(&results.records);
    let title = title(results);
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n\
         <style>\n{STYLE}{}</style>\n</head>\n<body>\n{}",
        escaped(&title),
        series_rules(),
        pattern_definitions()
    );
    html.push_str(&head(results, &title, &points));
    html.push_str(&warnings(results, &points));
    html.push_str(&overview(&points, &order));
    let scenarios = scenarios(&points);
    html.push_str(&chooser(&scenarios));
    for (index, (name, points)) in scenarios.iter().enumerate() {
        html.push_str(&section(index, name, points, &order));
    }
    html.push_str(NOTES);
    html.push_str(&format!("<script>\n{SCRIPT}</script>\n</body>\n</html>\n"));
    html
}

fn title(results: &Results) -> String {
    let mut names: Vec<&str> = Vec::new();
    let of_headers = results.headers.iter().map(|header| header.campaign.as_str());
    for name in of_headers.chain(results.records.iter().map(|record| record.campaign.as_str())) {
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    if names.is_empty() {
        "Load campaign".to_owned()
    } else {
        names.join(", ")
    }
}

/// When, on what, against which versions.
fn head(results: &Results, title: &str, points: &[Point<'_>]) -> String {
    let mut facts: Vec<(&str, String)> = Vec::new();
    for header in &results.headers {
        facts.extend(header_facts(header));
    }
    if let (Some(first), Some(last)) = (results.records.first(), results.records.last()) {
        facts.push((
            "runs",
            format!("{}, from {} to {}", results.records.len(), first.at, last.at),
        ));
    }
    let mut versions: Vec<String> = Vec::new();
    for repeats in points.iter().flat_map(|point| &point.targets) {
        if let Some(version) = repeats.version() {
            let words = format!("{}: {version}", repeats.target);
            if !versions.contains(&words) {
                versions.push(words);
            }
        }
    }
    if !versions.is_empty() {
        facts.push(("versions", versions.join("; ")));
    }
    let mut html = format!("<header>\n<h1>{}</h1>\n<dl class=\"facts\">\n", escaped(title));
    for (name, fact) in facts {
        html.push_str(&format!(
            "<dt>{}</dt><dd>{}</dd>\n",
            escaped(name),
            escaped(&fact)
        ));
    }
    html.push_str("</dl>\n</header>\n");
    html
}

fn header_facts(header: &Header) -> Vec<(&'static str, String)> {
    let machine = &header.machine;
    let commit = if machine.commit.is_empty() {
        "unknown"
    } else {
        &machine.commit
    };
    vec![
        ("started", header.started_at.clone()),
        (
            "machine",
            format!(
                "{}; {} cores; {} of memory",
                machine.cpu,
                machine.cores,
                units::bytes(machine.memory_bytes as f64)
            ),
        ),
        ("kernel", machine.kernel.clone()),
        ("commit", format!("{commit}; loadgen {}", header.loadgen_version)),
    ]
}

/// What a reader has to know before the figures. Nothing if there is nothing.
fn warnings(results: &Results, points: &[Point<'_>]) -> String {
    let mut items: Vec<String> = results.remarks.iter().map(|remark| escaped(remark)).collect();
    for warning in record::warnings(&results.records) {
        items.push(format!(
            "{} <span class=\"soft\">In {} of {} runs: {}.</span>",
            escaped(&warning.text),
            warning.runs,
            results.records.len(),
            escaped(&warning.places.join("; "))
        ));
    }
    for point in points {
        for repeats in &point.targets {
            let faults = repeats.faults();
            if !faults.is_empty() {
                items.push(format!(
                    "<strong>{} · {}</strong>: {} in {} runs together",
                    escaped(&point.title()),
                    escaped(repeats.target),
                    escaped(&faults),
                    repeats.records.len()
                ));
            }
        }
    }
    if items.is_empty() {
        return String::new();
    }
    let mut html = String::from(
        "<section class=\"warnings\" aria-label=\"Warnings\">\n<h2>⚠ Before you trust a figure</h2>\n<ul>\n",
    );
    for item in items {
        html.push_str(&format!("<li>{item}</li>\n"));
    }
    html.push_str("</ul>\n</section>\n");
    html
}

/// All points and targets by the figure that judges; nothing if there is only one of either.
fn overview(points: &[Point<'_>], order: &[&str]) -> String {
    let has = |metric: &Metric| {
        points.iter().any(|point| {
            point
                .targets
                .iter()
                .any(|repeats| repeats.spread(metric).is_some())
        })
    };
    let judged_by = ["server_ns_per_message", "delivered_per_s"]
        .iter()
        .filter_map(|name| Metric::named(name));
    let Some(metric) = judged_by.into_iter().find(|metric| has(metric)) else {
        return String::new();
    };
    if points.len() < 2 || order.len() < 2 {
        return String::new();
    }
    let about = match &*metric.name {
        "server_ns_per_message" => "Server CPU time for each message that was delivered",
        _ => "Messages delivered a second",
    };
    let mut html = format!(
        "<section>\n<h2>At a glance</h2>\n<div class=\"scroll\">\n<table>\n<caption>{about}: medians, and how many \
         times the best of the row.</caption>\n<thead><tr><th class=\"word\">scenario</th>"
    );
    for (index, target) in order.iter().enumerate() {
        html.push_str(&format!("<th>{}{}</th>", swatch(index), escaped(target)));
    }
    html.push_str("</tr></thead>\n<tbody>\n");
    for point in points {
        let spreads: Vec<Option<Spread>> = order
            .iter()
            .map(|target| point.target(target)?.spread(metric))
            .collect();
        let medians: Vec<Option<f64>> = spreads
            .iter()
            .map(|spread| spread.map(|spread| spread.median))
            .collect();
        // What the others are told as a multiple of, and whether it is called the best.
        let best = best(metric, &medians);
        let leader = leader(metric, &spreads);
        html.push_str(&format!("<tr><th>{}</th>", escaped(&point.title())));
        for (index, median) in medians.iter().enumerate() {
            html.push_str(&match median {
                None => "<td class=\"soft\">–</td>".to_owned(),
                Some(median) if leader == Some(index) => {
                    format!(
                        "<td class=\"best\">{}<small>best</small></td>",
                        units::figure(metric.unit, *median)
                    )
                }
                Some(median) => {
                    let ratio = best.and_then(|best| medians[best]).filter(|best| *best > 0.0);
                    let ratio = ratio.map(|best| units::ratio(median / best)).unwrap_or_default();
                    format!(
                        "<td>{}<small>{ratio}</small></td>",
                        units::figure(metric.unit, *median)
                    )
                }
            });
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody>\n</table>\n</div>\n</section>\n");
    html
}

/// Hidden until the script that makes it work shows it.
fn chooser(scenarios: &[(&str, Vec<&Point<'_>>)]) -> String {
    let mut html = String::from(
        "<p class=\"chooser\" hidden><label>Show <select>\n<option value=\"\">all scenarios</option>\n",
    );
    for (index, (name, _)) in scenarios.iter().enumerate() {
        html.push_str(&format!(
            "<option value=\"scenario-{index}\">{}</option>\n",
            escaped(name)
        ));
    }
    html.push_str("</select></label></p>\n");
    html
}

fn section(index: usize, name: &str, points: &[&Point<'_>], order: &[&str]) -> String {
    let mut html = format!(
        "<section class=\"scenario\" id=\"scenario-{index}\">\n<h2>{}</h2>\n",
        escaped(name)
    );
    if let Some(settings) = points.first().and_then(|point| point.settings()) {
        let sweep = wording::sweep(points);
        let swept = if sweep.is_empty() {
            String::new()
        } else {
            format!(" Swept {}.", escaped(&sweep))
        };
        let first = if sweep.is_empty() { "" } else { "First point: " };
        html.push_str(&format!(
            "<p class=\"soft\">{first}{}.{swept}</p>\n",
            escaped(&wording::scenario(&settings))
        ));
    }
    html.push_str("<div class=\"figures\">\n");
    for Figure { title, note, svg } in figures(points, order) {
        html.push_str(&format!(
            "<figure>\n<h3>{}</h3>\n{svg}<figcaption>{}</figcaption>\n</figure>\n",
            escaped(&title),
            escaped(&note)
        ));
    }
    html.push_str("</div>\n");
    html.push_str(&tables::runs(points, order));
    html.push_str(&tables::steps(points, order));
    html.push_str("</section>\n");
    html
}

/// The colour and pattern of a target's bars.
fn swatch(index: usize) -> String {
    let style = index % STYLES;
    format!(
        "<svg class=\"swatch\" viewBox=\"0 0 16 12\" aria-hidden=\"true\"><rect class=\"bar line-{style}\" \
         fill=\"url(#pattern-{style})\" width=\"16\" height=\"12\"/></svg>"
    )
}

const NOTES: &str = "<section>\n<h2>How to read this</h2>\n\
<p>Latency runs from the moment a message was <em>due</em> by the plan to the moment its receiver had it. In an open \
loop a server that stalls is charged with every message that waited, sent or not; in a closed loop (a window) the \
generator waits for the server, so that latency tells of the window as much as of the server: judge a closed loop by \
CPU and throughput.</p>\n\
<p>Server CPU is the time that all threads of the server's process spent on a processor in the measured time, over the \
messages that were delivered. Medians are those of the repeats; ± is half the distance from smallest to largest, as a \
part of the median. ⚠ marks runs with a warning, above all those where the generator and not the server was the \
limit.</p>\n</section>\n";
