//! `compare`: what changed is found, what is noise is called noise, what cannot be told is not told.

use fluxar_loadgen::compare::{Comparison, Options, Verdict, compare};
use fluxar_loadgen::record::Results;

use crate::plausible::campaign;

fn verdict(comparison: &Comparison, title: &str, target: &str, metric: &str) -> Verdict {
    let found = comparison
        .compared
        .iter()
        .find(|row| row.title == title && row.target == target && row.metric.name == metric);
    found
        .unwrap_or_else(|| panic!("{title} {target} {metric} is not compared"))
        .verdict
}

fn compared(factor: f64, repeats: u32) -> Comparison {
    compare(
        &campaign(11, repeats, 1.0),
        &campaign(12, repeats, factor),
        Options::default(),
    )
}

#[test]
fn a_third_more_cpu_is_worse_and_a_third_less_is_better() {
    let title = "fan-out subscribers=10";
    let worse = compared(1.33, 6);
    assert_eq!(
        verdict(&worse, title, "swift", "server_ns_per_message"),
        Verdict::Worse
    );
    assert_eq!(
        verdict(&worse, title, "swift", "delivered_per_s"),
        Verdict::Worse,
        "less of it"
    );
    assert!(worse.has_worse());
    let better = compared(0.75, 6);
    assert_eq!(
        verdict(&better, title, "swift", "server_ns_per_message"),
        Verdict::Better
    );
    assert_eq!(
        verdict(&better, title, "swift", "delivered_per_s"),
        Verdict::Better,
        "more of it"
    );
    let row = better
        .compared
        .iter()
        .find(|row| row.title == title && row.target == "swift" && row.metric.name == "server_ns_per_message")
        .expect("compared above");
    let (low, high) = row.interval.expect("an interval");
    let ratio = row.ratio.expect("a ratio");
    assert!(
        low <= ratio && ratio <= high && high < 1.0,
        "{low} {ratio} {high}"
    );
}

#[test]
fn the_same_is_the_same() {
    let results = campaign(11, 6, 1.0);
    let same = compare(&results, &results, Options::default());
    assert_eq!(same.count(Verdict::NoDifference), same.compared.len());
    assert!(!same.has_worse());
    assert!(same.render(false).contains("0 better, 0 worse"));
}

#[test]
fn three_repeats_cannot_tell() {
    let few = compared(3.0, 3);
    assert_eq!(few.count(Verdict::TooFew), few.compared.len());
    assert!(!few.has_worse());
    let text = few.render(false);
    assert!(
        text.contains("too few repeats") && text.contains("5 on each side can"),
        "{text}"
    );
}

#[test]
fn a_difference_that_does_not_matter_is_none() {
    let coarse = Options {
        change_min: 0.5,
        ..Options::default()
    };
    let comparison = compare(&campaign(11, 6, 1.0), &campaign(12, 6, 1.33), coarse);
    let title = "fan-out subscribers=10";
    assert_eq!(
        verdict(&comparison, title, "swift", "server_ns_per_message"),
        Verdict::NoDifference
    );
}

#[test]
fn new_losses_are_worse_although_there_is_no_ratio() {
    let (a, mut b) = (campaign(11, 6, 1.0), campaign(12, 6, 1.0));
    for record in b
        .records
        .iter_mut()
        .filter(|record| record.scenario == "storm" && record.target == "swift")
    {
        record.overall.lost = 5;
    }
    let comparison = compare(&a, &b, Options::default());
    assert_eq!(verdict(&comparison, "storm", "swift", "lost"), Verdict::Worse);
    let row = comparison
        .compared
        .iter()
        .find(|row| row.metric.name == "lost" && row.title == "storm");
    assert_eq!(row.expect("found above").ratio, None);
    assert!(
        comparison
            .compared
            .iter()
            .all(|row| row.metric.name != "duplicated"),
        "what never happened is not spoken of"
    );
}

#[test]
fn an_open_loop_is_not_judged_by_what_it_was_asked_for() {
    let comparison = compared(1.0, 4);
    assert!(
        comparison
            .compared
            .iter()
            .any(|row| row.title.starts_with("open loop") && row.metric.name == "p99")
    );
    assert!(comparison.compared.iter().all(|row| {
        !(row.title.starts_with("open loop") || row.title == "steps") || row.metric.name != "delivered_per_s"
    }));
}

#[test]
fn what_makes_figures_incomparable_is_said() {
    let (a, mut b) = (campaign(11, 4, 1.0), campaign(12, 4, 1.0));
    b.headers[0].machine.kernel = "Linux 7.0".to_owned();
    b.records.retain(|record| record.scenario != "steps");
    for record in &mut b.records {
        if record.target == "sturdy" {
            record.target_version = Some("sturdy 2.0".to_owned());
        }
        if record.scenario == "storm" {
            record.scenario_settings["duration_ms"] = 1.into();
        }
        // Ports are others in every run.
        record.target_settings["url"] = "tcp://127.0.0.1:45678".into();
        if record.target == "steady" {
            record.target_settings["qos"] = 1.into();
            record.target_settings["batch"] = false.into();
            record.target_settings["subscriber_url"] = "ws://127.0.0.1:45679/".into();
        }
        record.target_settings["unheard_of"] = 7.into();
    }
    b.headers[0].machine.commit = "v0.1-9-g1234567".to_owned();
    let text = compare(&a, &b, Options::default()).render(false);
    for said in [
        "kernel was Linux 6.99 in A and is Linux 7.0 in B",
        "steps, slow: only in A",
        "version sturdy 1.2.3 in A, sturdy 2.0 in B",
        "storm, swift: the scenario's settings differ",
        "in 4 runs of B: the generator was the limit",
        "steady: the target's qos is 0 in A and 1 in B",
        "steady: the target's batch is true in A and false in B",
        "steady: the target's subscriber_url is none in A and ws://127.0.0.1 in B",
        ", commit v0.1-7-gabcdef0\nB: made up of ",
        ", commit v0.1-9-g1234567\n",
    ] {
        assert!(text.contains(said), "{said} is missing in\n{text}");
    }
    assert_eq!(
        text.matches("target's qos").count(),
        1,
        "once for all points: {text}"
    );
    assert!(
        !text.contains("target's url") && !text.contains("unheard_of"),
        "{text}"
    );
    let nothing = compare(&a, &Results::default(), Options::default());
    assert!(nothing.compared.is_empty() && nothing.render(false).contains("nothing can be compared"));
}

#[test]
fn the_table_names_figures_and_verdicts() {
    let text = compared(1.33, 6).render(false);
    assert!(
        text.contains("fan-out subscribers=1 · swift  (6 and 6 runs)"),
        "{text}"
    );
    assert!(
        text.contains("WORSE") && text.contains("×1.3") && text.contains("no difference"),
        "{text}"
    );
    assert!(!text.contains('\x1b'));
    assert!(compared(1.33, 6).render(true).contains("\x1b[1;31mWORSE"));
    assert!(
        text.contains("by chance alone"),
        "so many comparisons have false alarms: {text}"
    );
}
