//! The summary in the terminal, CSV and Markdown.

use fluxar_loadgen::metric::Metric;
use fluxar_loadgen::record::Results;
use fluxar_loadgen::report::{csv, markdown, matrix, summary};
use fluxar_loadgen::statistics::median;
use fluxar_loadgen::units;

use crate::plausible::{Random, campaign, fan_out, header, measured, record};

#[test]
fn the_summary_shows_medians_and_warnings() {
    let results = campaign(21, 5, 1.0);
    let text = summary(&results.records, false);
    let of_swift: Vec<f64> = results
        .records
        .iter()
        .filter(|record| record.target == "swift" && record.title() == "fan-out subscribers=10")
        .filter_map(|record| record.figure("server_ns_per_message"))
        .collect();
    assert_eq!(of_swift.len(), 5);
    let shown = units::time(median(&of_swift).expect("five values"));
    let row = text
        .lines()
        .find(|line| line.starts_with("subscribers=10 ") && line.contains("swift"));
    assert!(
        row.is_some_and(|row| row.contains(&shown) && row.contains('±')),
        "{shown} is missing in\n{text}"
    );
    assert!(
        text.contains("warning: in 5 of 150 runs (fan-out subscribers=100 · swift): the generator was the limit: its thread was 96% busy")
    );
    assert!(text.contains("6,170 lost"), "five times 1,234: {text}");
    assert!(!text.contains('\x1b') && summary(&results.records, true).contains("\x1b[32m"));
    assert!(
        text.lines().all(|line| line == line.trim_end()),
        "no line ends in spaces"
    );
    assert_eq!(summary(&[], true), "");
}

#[test]
fn csv_has_a_line_for_each_run_and_the_same_cells_in_each() {
    let mut results = campaign(22, 2, 1.0);
    results.records[0].warnings = vec!["one, two".to_owned(), "\"three\"".to_owned()];
    let text = csv(&results.records);
    let lines: Vec<&str> = text.split_terminator("\r\n").collect();
    assert_eq!(lines.len(), results.records.len() + 1);
    let headings: Vec<&str> = lines[0].split(',').collect();
    for wanted in [
        "point.workload.subscribers",
        "point.arrivals.per_s",
        "server_ns_per_message",
        "p99_9_us",
        "extra.hellos_per_s",
    ] {
        assert!(headings.contains(&wanted), "{wanted} is missing in {}", lines[0]);
    }
    for line in &lines[2..] {
        assert_eq!(line.split(',').count(), headings.len(), "{line}");
    }
    assert!(lines[1].ends_with("\"one, two; \"\"three\"\"\""), "{}", lines[1]);
    let column = headings
        .iter()
        .position(|heading| *heading == "p99_us")
        .expect("a column");
    let cell: f64 = lines[2]
        .split(',')
        .nth(column)
        .and_then(|cell| cell.parse().ok())
        .expect("a number");
    assert_eq!(Some(cell), results.records[1].figure("p99_us"));
}

#[test]
fn markdown_tables_have_the_same_cells_in_each_row() {
    let text = markdown(&campaign(23, 3, 1.0));
    let mut tables = 0;
    for table in text.split("\n\n").filter(|block| block.starts_with('|')) {
        tables += 1;
        let cells = |line: &str| line.matches(" |").count();
        let first = table.lines().next().map_or(0, cells);
        assert!(table.lines().all(|line| cells(line) == first), "{table}");
    }
    assert_eq!(tables, 5, "a matrix and four scenarios:\n{text}");
    assert!(
        text.starts_with("## made up\n")
            && text.contains("\n### Warnings")
            && text.contains("An Invented Processor \\<9000\\>"),
        "{text}"
    );
    assert!(
        text.contains("1 publisher to 10 subscribers; open loop, 10.0 k/s at random (Poisson); 64 bytes"),
        "{text}"
    );
    assert!(text.contains("Swept subscribers: 1, 10, 100."), "{text}");
    let rows = text.split("\n\n").find(|block| block.contains("| p99 | p99.9 |"));
    let row = rows.and_then(|rows| rows.lines().find(|line| line.contains("| swift |")));
    assert!(
        row.is_some_and(|row| row.matches('±').count() == 3),
        "of CPU time, p99 and p99.9 it says how far the repeats lie apart: {row:?}"
    );
}

#[test]
fn who_is_not_ahead_in_every_repeat_is_not_the_best() {
    let mut random = Random::new(25);
    let mut records = Vec::new();
    for (target, costs) in [("x", [10.0, 20.0, 1_000.0]), ("y", [400.0, 500.0, 600.0])] {
        for (repeat, cost) in (1..).zip(costs) {
            let measured = measured(&mut random, cost, 10.0);
            records.push(record("a", &fan_out(1), &[], target, repeat, &measured));
        }
    }
    let results = Results {
        headers: vec![header()],
        records,
        remarks: Vec::new(),
    };
    let metric = Metric::named("server_ns_per_message").expect("a metric");
    assert!(!matrix(&results, metric).contains("**"), "1,000 is not below 400");
}

#[test]
fn the_matrix_has_targets_down_and_points_across() {
    let mut random = Random::new(24);
    let mut records = Vec::new();
    for (scenario, target, cost) in [("a", "x", 10.0), ("a", "y", 1_000.0), ("b", "y", 500.0)] {
        for repeat in 1..=3 {
            let measured = measured(&mut random, cost, 10.0);
            records.push(record(scenario, &fan_out(1), &[], target, repeat, &measured));
        }
    }
    let results = Results {
        headers: vec![header()],
        records,
        remarks: Vec::new(),
    };
    let text = matrix(
        &results,
        Metric::named("server_ns_per_message").expect("a metric"),
    );
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["|  | a | b |", "| --- | ---: | ---: |"]);
    assert!(
        lines[2].starts_with("| x | **") && lines[2].ends_with("| – |"),
        "{text}"
    );
    assert!(
        lines[3].starts_with("| y | ") && !lines[3].contains("**"),
        "alone is not best: {text}"
    );
    assert_eq!(
        matrix(&Results::default(), Metric::named("p99").expect("a metric")),
        ""
    );
}
