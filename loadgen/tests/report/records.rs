//! Records: what is kept of a run, and that it comes back from the disk.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use fluxar_loadgen::record::{JsonlWriter, RESULTS_FILE, ReadError, Results, points, read, read_jsonl};
use fluxar_loadgen::scenario::Scenario;
use serde_json::{Value, json};

use crate::plausible::{Random, campaign, fan_out, header, measured, phase, record, with_server};

fn write(results: &Results, directory: &Path) {
    let mut writer = JsonlWriter::append(&directory.join(RESULTS_FILE)).expect("the file is made");
    for header in &results.headers {
        writer.header(header).expect("written");
    }
    for record in &results.records {
        writer.record(record).expect("written");
    }
}

/// With the last digits of figures as JSON keeps them.
fn through_json(mut results: Results) -> Results {
    for record in &mut results.records {
        let line = serde_json::to_string(record).expect("JSON");
        *record = serde_json::from_str(&line).expect("it is read");
    }
    results
}

#[test]
fn what_is_written_is_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let results = campaign(1, 2, 1.0);
    write(&results, &directory.path().join("made"));
    let back = read(&directory.path().join("made")).expect("a directory is read");
    let results = through_json(results);
    assert_eq!(back, results);
    assert_eq!(
        read(&directory.path().join("made").join(RESULTS_FILE)).expect("a file is read"),
        results
    );
}

#[test]
fn a_record_has_the_figures_of_its_run() {
    let mut random = Random::new(2);
    let measured = measured(&mut random, 100.0, 50.0);
    let record = record(
        "s",
        &fan_out(10),
        &[("workload.subscribers", json!(10))],
        "t",
        3,
        &measured,
    );
    let histogram = &measured.phases[0].latency_ns;
    let latency = record.overall.latency.as_ref().expect("latencies");
    assert_eq!(latency.p99_us, histogram.value_at_quantile(0.99) as f64 / 1e3);
    assert_eq!(latency.p99_9_us, histogram.value_at_quantile(0.999) as f64 / 1e3);
    assert_eq!(latency.max_us, histogram.max() as f64 / 1e3);
    assert_eq!(
        record.figure("server_ns_per_message"),
        measured.server_ns_per_message()
    );
    assert_eq!(
        record.overall.delivered_per_s,
        measured.phases[0].delivered as f64 / 3.0
    );
    assert_eq!((record.title().as_str(), record.repeat), ("s subscribers=10", 3));
    assert!(record.steps.is_empty(), "one phase is no step");
    let settings: Scenario =
        serde_json::from_value(record.scenario_settings.clone()).expect("settings are kept");
    assert_eq!(settings, fan_out(10));
}

#[test]
fn the_recorded_distribution_is_the_measured_one() {
    let mut random = Random::new(3);
    let measured = measured(&mut random, 100.0, 50.0);
    let record = record("s", &fan_out(1), &[], "t", 1, &measured);
    let histogram = &measured.phases[0].latency_ns;
    let buckets = &record.overall.latency.as_ref().expect("latencies").buckets_ns;
    assert_eq!(
        buckets.iter().map(|(_, count)| count).sum::<u64>(),
        histogram.len()
    );
    assert!(
        buckets.is_sorted_by(|left, right| left.0 < right.0),
        "rising, none twice"
    );
    for quantile in [0.5, 0.9, 0.99, 0.999, 1.0] {
        let wanted = (quantile * histogram.len() as f64).ceil() as u64;
        let mut below = 0;
        let upper = buckets.iter().find(|(_, count)| {
            below += count;
            below >= wanted
        });
        let (from_buckets, exact) = (
            upper.expect("a bucket").0 as f64,
            histogram.value_at_quantile(quantile) as f64,
        );
        assert!(
            (from_buckets / exact - 1.0).abs() < 0.012,
            "{quantile}: {from_buckets} for {exact}"
        );
    }
    let line = serde_json::to_string(&record).expect("JSON");
    assert!(line.len() < 20_000, "{} bytes a run", line.len());
}

#[test]
fn steps_add_up() {
    let mut random = Random::new(4);
    let mut phases = vec![
        phase(&mut random, Some(1_000.0), 1_000.0, 10.0),
        phase(&mut random, Some(2_000.0), 1_900.0, 40.0),
    ];
    phases[1].lost = 300;
    phases[1].stall_ns = 7_000_000;
    let record = record(
        "s",
        &fan_out(1),
        &[],
        "t",
        1,
        &with_server(&mut random, phases, 50.0),
    );
    assert_eq!(record.steps.len(), 2);
    assert_eq!(
        (record.overall.delivered, record.overall.lost),
        (3_000 + 5_700, 300)
    );
    assert_eq!(
        (record.overall.elapsed_ns, record.overall.stall_us),
        (6_000_000_000, 7_000.0)
    );
    assert_eq!(
        (record.overall.asked_per_s, record.steps[1].asked_per_s),
        (None, Some(2_000.0))
    );
    assert_eq!(record.overall.delivered_per_s, 8_700.0 / 6.0);
    let count = |phase: usize| {
        record.steps[phase]
            .latency
            .as_ref()
            .map_or(0, |latency| latency.count)
    };
    assert_eq!(
        record.overall.latency.as_ref().expect("latencies").count,
        count(0) + count(1)
    );
    assert_eq!(record.phases().len(), 2);
}

#[test]
fn a_run_without_anything_has_a_record() {
    let mut random = Random::new(5);
    let mut measured = measured(&mut random, 100.0, 50.0);
    measured.phases.clear();
    measured.server = None;
    measured.extra = vec![("fine".to_owned(), 1.0), ("broken".to_owned(), f64::NAN)];
    measured.generator_busy = f64::INFINITY;
    let record = record("s", &fan_out(1), &[], "t", 1, &measured);
    assert_eq!(
        (record.figure("p99_ms"), record.figure("server_ns_per_message")),
        (None, None)
    );
    assert_eq!(
        (record.figure("fine"), record.figure("broken")),
        (Some(1.0), None)
    );
    let line = serde_json::to_string(&record).expect("JSON");
    assert_eq!(
        serde_json::from_str::<fluxar_loadgen::record::Record>(&line).expect("it is read"),
        record
    );
}

#[test]
fn what_a_later_version_adds_is_passed_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let results = campaign(6, 1, 1.0);
    write(&results, directory.path());
    let text = fs::read_to_string(directory.path().join(RESULTS_FILE)).expect("the file");
    let mut changed = String::from("{\"record\":\"weather\",\"sun\":true}\n\n");
    for line in text.lines() {
        let mut value: Value = serde_json::from_str(line).expect("JSON");
        value["a_new_field"] = json!({"of": "any", "kind": [1, 2]});
        if value["record"] == "run" {
            value["overall"]["another"] = json!(null);
            value["scenario_settings"]["workload"] = json!({"kind": "not-yet-invented"});
        }
        changed.push_str(&format!("{value}\n"));
    }
    let back = read_jsonl(changed.as_bytes(), Path::new("later")).expect("it is read");
    assert_eq!(back.records.len(), results.records.len());
    assert_eq!(
        back.records[0].figure("p99_us"),
        results.records[0].figure("p99_us")
    );
    assert_eq!(
        back.records[0].overall.delivered,
        results.records[0].overall.delivered
    );
    assert!(
        points(&back.records)[0].settings().is_none(),
        "unknown settings are none"
    );
}

#[test]
fn a_broken_line_is_named() {
    let text = "{\"record\":\"run\",\"scenario\":\"s\"}\n";
    match read_jsonl(format!("\n{text}").as_bytes(), Path::new("a/file")) {
        Err(error @ ReadError::Line { line: 2, .. }) => {
            let said = error.to_string();
            assert!(
                said.starts_with("a/file:2: ") && said.contains("missing field"),
                "{said}"
            );
        }
        other => panic!("{other:?}"),
    }
    let directory = tempfile::tempdir().expect("a directory");
    assert!(matches!(read(directory.path()), Err(ReadError::Io { .. })));
    fs::write(directory.path().join(RESULTS_FILE), "").expect("written");
    assert!(matches!(read(directory.path()), Err(ReadError::Empty { .. })));
}

#[test]
fn a_campaign_that_broke_off_keeps_what_it_has_and_can_go_on() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join(RESULTS_FILE);
    let results = campaign(7, 1, 1.0);
    write(&results, directory.path());
    let mut file = fs::OpenOptions::new().append(true).open(&path).expect("the file");
    file.write_all(b"{\"record\":\"run\",\"scen").expect("written");
    let broken = read(&path).expect("it is read");
    assert_eq!(broken.records, through_json(results.clone()).records);
    assert_eq!(broken.remarks.len(), 1, "{:?}", broken.remarks);

    let mut writer = JsonlWriter::append(&path).expect("it goes on");
    writer.header(&header()).expect("written");
    writer.record(&results.records[0]).expect("written");
    let whole = read(&path).expect("it is read");
    assert_eq!(
        (whole.headers.len(), whole.records.len()),
        (2, results.records.len() + 1)
    );
    assert!(whole.remarks.is_empty());
}

#[test]
fn repeats_come_together_in_the_order_of_the_file() {
    let mut results = campaign(8, 3, 1.0);
    // The order is rotated from repeat to repeat; that of the first counts.
    results.records[4..12].reverse();
    let points = points(&results.records);
    let titles: Vec<String> = points.iter().map(|point| point.title()).collect();
    assert_eq!(
        titles[..3],
        [
            "fan-out subscribers=1",
            "fan-out subscribers=10",
            "fan-out subscribers=100"
        ]
    );
    assert_eq!(titles.len(), 3 + 3 + 1 + 1);
    let targets: Vec<&str> = points[0].targets.iter().map(|repeats| repeats.target).collect();
    assert_eq!(targets, ["swift", "steady", "sturdy", "slow"]);
    assert!(points[0].targets.iter().all(|repeats| repeats.records.len() == 3));
    assert!(!points[0].is_open_loop() && points[3].is_open_loop() && points[6].is_open_loop());
}
