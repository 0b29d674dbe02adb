//! The page: whole, offline, safe, and with the figures in it.

use std::fs;
use std::path::Path;

use fluxar_loadgen::metric::Metric;
use fluxar_loadgen::record::{Results, points};
use fluxar_loadgen::report::{page, write_all};
use fluxar_loadgen::units;

use crate::plausible::{Random, campaign, fan_out, header, measured, record};

/// The tags of a page, without what is between them. Text of ours has no `<`, and that of others is escaped.
fn tags(html: &str) -> Vec<&str> {
    let mut tags = Vec::new();
    let mut rest = html;
    while let Some(start) = rest.find('<') {
        let tag = &rest[start + 1..];
        let end = tag.find('>').expect("a tag ends");
        tags.push(&tag[..end]);
        // Script and style are no markup.
        let closing = ["script", "style"].into_iter().find(|name| tag[..end] == **name);
        rest = match closing {
            Some(name) => &tag[tag.find(&format!("</{name}>")).expect("it is closed")..],
            None => &tag[end..],
        };
    }
    tags
}

#[test]
fn nothing_comes_from_elsewhere() {
    let html = page(&campaign(31, 3, 1.0));
    for reference in [
        "http:",
        "https:",
        "//",
        "src=",
        "href=",
        "@import",
        "@font-face",
        "<link",
        "<iframe",
        "<img",
    ] {
        // The one script has comments.
        let html = html.replace("\n// ", "\n").replace("    // ", "");
        assert!(!html.contains(reference), "{reference} in the page");
    }
    // Of url() only those that point into the page.
    assert_eq!(
        html.matches("url(").count(),
        html.matches("url(#pattern-").count()
    );
    assert!(html.contains("default-src 'none'"));
}

#[test]
fn every_element_is_closed() {
    let html = page(&campaign(32, 2, 1.0));
    let mut open: Vec<&str> = Vec::new();
    for tag in tags(&html) {
        let name = tag.split([' ', '\n']).next().unwrap_or(tag);
        let is_void = tag.ends_with('/') || ["!DOCTYPE", "meta"].contains(&name);
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name), "closed"),
            None if is_void => {}
            None => open.push(name),
        }
    }
    assert_eq!(open, [] as [&str; 0]);
}

#[test]
fn plots_hold_the_values() {
    let results = campaign(33, 5, 1.0);
    let html = page(&results);
    let drawn: Vec<&str> = html
        .split("<figure>")
        .skip(1)
        .filter_map(|part| part.split("</figure>").next())
        .collect();
    let metric = Metric::named("server_ns_per_message").expect("a metric");
    let points = points(&results.records);
    for repeats in &points[1].targets {
        let spread = repeats.spread(metric).expect("runs");
        let bar = format!(
            "<title>{}: {} (median of 5; {} to {})</title>",
            repeats.target,
            units::time(spread.median),
            units::time(spread.min),
            units::time(spread.max)
        );
        assert!(
            drawn.iter().any(|figure| figure.contains(&bar)),
            "{bar} is not drawn"
        );
        let scaling = format!(
            "<title>{}: {} at subscribers=10</title>",
            repeats.target,
            units::time(spread.median)
        );
        assert!(
            drawn.iter().any(|figure| figure.contains(&scaling)),
            "{scaling} is not drawn"
        );
    }
    // The percentile of the curve is that of the records, but for the rounding of buckets.
    let p99 = points[0].targets[0]
        .spread(Metric::named("p99").expect("a metric"))
        .expect("runs")
        .median;
    let tip = "<title>swift: p99 ";
    let shown = drawn
        .iter()
        .find_map(|figure| figure.split_once(tip))
        .map(|(_, rest)| rest);
    let shown = shown
        .and_then(|rest| rest.split_once("</title>"))
        .expect("a mark at p99")
        .0;
    let shown_ns: f64 = shown.trim_end_matches(" µs").parse::<f64>().expect("µs") * 1e3;
    assert!((shown_ns / p99 - 1.0).abs() < 0.15, "{shown} for {p99} ns");
}

#[test]
fn each_kind_of_plot_is_there() {
    let html = page(&campaign(34, 3, 1.0));
    for title in [
        "<h3>Server CPU per message</h3>",
        "<h3>Delivered</h3>",
        "<h3>p99.9 latency</h3>",
        "<h3>Latency by percentile, subscribers=100</h3>",
        "<h3>Server CPU per message by subscribers</h3>",
        "<h3>p99 latency over throughput</h3>",
        "<h3>Hellos</h3>",
        "<h3>RSS per connection</h3>",
        "<h3>Step by step</h3>",
        "<h2>At a glance</h2>",
    ] {
        assert!(html.contains(title), "{title} is missing");
    }
    assert_eq!(
        html.matches("<h3>p99 latency over throughput</h3>").count(),
        2,
        "of the sweep and of the steps"
    );
    assert!(
        html.contains("Logarithmic: equal distances are equal factors"),
        "a log scale is told"
    );
    assert!(
        html.contains("best</small>") && html.contains("×"),
        "{}",
        html.len()
    );
}

#[test]
fn warnings_and_losses_come_first() {
    let html = page(&campaign(35, 3, 1.0));
    let warnings = html.find("<section class=\"warnings\"").expect("warnings");
    assert!(warnings < html.find("At a glance").expect("the overview"));
    assert!(html.contains(
        "<li>the generator was the limit: its thread was 96% busy <span class=\"soft\">In 3 of 90 runs: fan-out \
         subscribers=100 · swift.</span>"
    ));
    assert_eq!(
        html.matches("the generator was the limit").count(),
        1,
        "of warnings that differ in numbers one"
    );
    assert!(
        html.contains("<strong>steps · slow</strong>: 3,702 lost, 3,000 told dropped in 3 runs together")
    );
    let mut quiet = campaign(35, 1, 1.0);
    quiet
        .records
        .retain(|record| record.warnings.is_empty() && record.overall.lost == 0);
    assert!(!page(&quiet).contains("<section class=\"warnings\""));
}

#[test]
fn no_name_becomes_markup() {
    let nasty = "</title></script><script>alert(1)</script>\"'&<img onerror=x>";
    let mut random = Random::new(36);
    let mut header = header();
    header.campaign = nasty.to_owned();
    header.machine.cpu = nasty.to_owned();
    header.machine.commit = nasty.to_owned();
    let mut records = Vec::new();
    for value in [1, 2] {
        let mut measured = measured(&mut random, 50.0, 20.0);
        measured.warnings.push(nasty.to_owned());
        measured.extra.push((format!("{nasty}_per_s"), 5.0));
        let point = [(nasty, value.into()), ("other", nasty.into())];
        let mut record = record(nasty, &fan_out(1), &point, nasty, 1, &measured);
        record.target_version = Some(nasty.to_owned());
        record.overall.lost = 3;
        records.push(record);
    }
    let results = Results {
        headers: vec![header],
        records,
        remarks: vec![nasty.to_owned()],
    };
    let html = page(&results);
    assert!(
        !html.contains("<script>alert") && !html.contains("<img"),
        "it is escaped"
    );
    assert_eq!(html.matches("<script>").count(), 1, "ours");
    assert_eq!(html.matches("</title></script>").count(), 0);
}

#[test]
fn odd_results_make_a_page_too() {
    assert!(page(&Results::default()).contains("Load campaign"));
    let mut results = campaign(37, 1, 1.0);
    for record in &mut results.records {
        record.server = None;
        record.overall.latency = None;
        record.overall.delivered_per_s = 0.0;
    }
    let html = page(&results);
    assert!(
        !html.contains("NaN") && !html.contains("inf"),
        "no figure that is none"
    );
}

#[test]
fn files_are_written() {
    // Where a build keeps what tests make: open report.html there to look at it.
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("report");
    let results = campaign(38, 5, 1.0);
    let files = write_all(&results, &directory).expect("files");
    let names: Vec<_> = files
        .iter()
        .filter_map(|path| path.file_name()?.to_str())
        .collect();
    assert_eq!(names, ["report.html", "results.csv", "report.md"]);
    assert_eq!(fs::read_to_string(&files[0]).expect("the page"), page(&results));
    assert!(
        fs::read_to_string(&files[2])
            .expect("the document")
            .starts_with("# made up\n")
    );
}
