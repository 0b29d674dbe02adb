//! How a campaign is carried out: servers start and end, runs fail and others go on, results are on disk. The servers are
//! real (redis-server), the runs are not: what they would have found out is given.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Mutex};

use fluxar_loadgen::campaign::Campaign;
use fluxar_loadgen::conduct::{ConductError, Conducted, Stage, conduct};
use fluxar_loadgen::find_knee::find_knees;
use fluxar_loadgen::knee::{Limit, Search};
use fluxar_loadgen::measured::{Measured, Phase, ServerUse};
use fluxar_loadgen::progress::Progress;
use fluxar_loadgen::record::{RESULTS_FILE, read};
use fluxar_loadgen::run::{RunError, RunOrder, Snapshot};
use fluxar_loadgen::scenario::Arrivals;
use fluxar_loadgen::server::find_program;
use hdrhistogram::Histogram;

fn need_redis() {
    assert!(
        find_program("redis-server", Path::new("")).is_some(),
        "these tests start redis-server: install the Debian package redis-server"
    );
}

const REDIS: &str = r#"
[[target]]
name = "redis"
protocol = "redis"
url = "tcp://127.0.0.1:{port}"
command = ["redis-server", "--bind", "127.0.0.1", "--port", "{port}", "--dir", "{dir}", "--save", "", "--include", "{dir}/extra.conf"]
version = ["redis-server", "--version"]
files = { "extra.conf" = "appendonly no\n" }
"#;

const FAN_OUT: &str = r#"
[[scenario]]
name = "s"
workload = { kind = "fan-out" }
"#;

fn campaign(text: &str) -> Campaign {
    Campaign::parse("c.toml", text, Path::new("")).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

fn measured(delivered: u64, server: bool) -> Measured {
    let mut latency_ns = Histogram::new(3).expect("a histogram");
    latency_ns.record_n(1_000_000, delivered).expect("recorded");
    Measured {
        phases: vec![Phase {
            asked_per_s: None,
            elapsed_ns: 1_000_000_000,
            sent: delivered,
            delivered,
            arrived: delivered,
            lost: 0,
            told_dropped: 0,
            duplicated: 0,
            out_of_order: 0,
            refused: 0,
            latency_ns,
            stall_ns: 0,
        }],
        server: server.then(|| ServerUse {
            cpu_ns: delivered * 100,
            ..ServerUse::default()
        }),
        generator_cpu_ns: 1,
        generator_busy: 0.5,
        warnings: Vec::new(),
        extra: Vec::new(),
    }
}

fn go(
    campaign: &Campaign,
    out: Option<&Path>,
    mut run: impl FnMut(&RunOrder) -> Result<Measured, RunError>,
) -> Result<Conducted, ConductError> {
    let mut progress = Progress::new(Box::new(Vec::new()), None, false);
    conduct(campaign, out, &mut progress, &mut |order, _| run(order))
}

fn connects(url: &str) -> bool {
    TcpStream::connect(url.strip_prefix("tcp://").expect("a TCP address")).is_ok()
}

fn is_running(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn each_run_has_a_fresh_server_that_is_gone_afterwards() {
    need_redis();
    let directory = tempfile::tempdir().expect("a directory");
    let campaign = campaign(&format!(
        "campaign.repeats = 3\ncampaign.pause_ms = 0\n{REDIS}cores = [0]\n{FAN_OUT}assert = [\"server_ns_per_message <= 100\"]\n"
    ));
    let mut seen: Vec<(String, u32)> = Vec::new();
    let conducted = go(&campaign, Some(directory.path()), |order| {
        assert!(connects(&order.target.url), "{}", order.target.url);
        let [pid] = order.server.as_deref().expect("its process") else {
            panic!("one process: {:?}", order.server)
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
        let allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        assert_eq!(allowed.map(str::trim), Some("0"), "pinned");
        for (url, pid) in &seen {
            assert!(!connects(url) && !is_running(*pid), "the one before has ended");
        }
        seen.push((order.target.url.clone(), *pid));
        Ok(measured(10, true))
    })
    .expect("conducted");
    assert_eq!(seen.len(), 3);
    assert!(!is_running(seen[2].1), "the last one as well");
    assert_eq!(conducted.records.len(), 3);
    assert_eq!(conducted.records[2].repeat, 3);
    assert!(
        conducted.records[0]
            .target_version
            .as_deref()
            .is_some_and(|version| version.contains('.'))
    );
    assert!(conducted.judged.iter().all(fluxar_loadgen::slo::Judged::holds));
    let results = read(&directory.path().join(RESULTS_FILE)).expect("on disk");
    assert_eq!(results.records.len(), 3);
    assert_eq!(results.headers[0].campaign, "c");
}

#[test]
fn a_server_may_stay_for_the_whole_campaign() {
    need_redis();
    let campaign = campaign(&format!(
        "campaign.repeats = 3\ncampaign.pause_ms = 0\n{REDIS}restart = \"campaign\"\n{FAN_OUT}"
    ));
    let mut pids = Vec::new();
    go(&campaign, None, |order| {
        pids.extend(order.server.clone().unwrap_or_default());
        Ok(measured(1, false))
    })
    .expect("conducted");
    assert_eq!(pids.len(), 3);
    assert!(pids.iter().all(|pid| *pid == pids[0]));
    assert!(!is_running(pids[0]), "and is gone in the end");
}

#[test]
fn a_run_that_fails_is_told_and_the_others_go_on() {
    need_redis();
    let campaign = campaign(&format!(
        "campaign.repeats = 2\ncampaign.pause_ms = 0\n{REDIS}{}\n{FAN_OUT}assert = [\"redis: p99_us < other\"]\n",
        REDIS
            .replace("\"redis\"\n", "\"other\"\n")
            .replace("protocol = \"other\"", "protocol = \"redis\"")
    ));
    let mut runs = 0;
    let conducted = go(&campaign, None, |order| {
        runs += 1;
        if order.target.name == "other" {
            return Err(RunError::Scenario("made up".into()));
        }
        Ok(measured(1, false))
    })
    .expect("conducted");
    assert_eq!(conducted.records.len(), 2);
    assert_eq!(runs, 3, "what failed at a point is not tried again there");
    assert_eq!(conducted.failures.len(), 1);
    assert!(
        conducted.failures[0].contains("other · repeat 1: scenario: made up"),
        "{:?}",
        conducted.failures
    );
    assert!(
        !conducted.judged[0].holds(),
        "nothing to compare with is not taken for kept"
    );
}

#[test]
fn a_server_that_does_not_start_is_told_with_what_it_said() {
    let target = r#"
        [[target]]
        name = "broken"
        protocol = "nats"
        url = "tcp://127.0.0.1:{port}"
        command = ["sh", "-c", "echo no such option; exit 3"]
        [[target]]
        name = "deaf"
        protocol = "nats"
        url = "tcp://127.0.0.1:{port}"
        command = ["sleep", "60"]
        ready_ms = 100
    "#;
    let campaign = campaign(&format!("campaign.pause_ms = 0\n{target}{FAN_OUT}"));
    let conducted = go(&campaign, None, |_| panic!("nothing to run against")).expect("conducted");
    assert_eq!(conducted.failures.len(), 2, "{:#?}", conducted.failures);
    let broken = &conducted.failures[0];
    assert!(
        broken.contains("exit status: 3") && broken.contains("no such option"),
        "{broken}"
    );
    assert!(
        conducted.failures[1].contains("after 100 ms"),
        "{}",
        conducted.failures[1]
    );
}

#[test]
fn a_server_that_falls_during_a_run_is_blamed() {
    need_redis();
    let campaign = campaign(&format!("campaign.repeats = 1\n{REDIS}{FAN_OUT}"));
    let conducted = go(&campaign, None, |order| {
        let pid = order.server.as_ref().expect("its process")[0];
        let killed = std::process::Command::new("kill")
            .args(["-9", &pid.to_string()])
            .status();
        assert!(killed.expect("kill").success());
        Err(RunError::Scenario("it went away".into()))
    })
    .expect("conducted");
    assert!(
        conducted.failures[0].contains("ended by itself"),
        "{:?}",
        conducted.failures
    );
}

#[test]
fn programs_that_are_not_here_are_told_before_anything_runs() {
    let absent = |optional: &str| {
        format!(
            "[[target]]\nname = \"gone\"\nprotocol = \"nats\"\nurl = \"tcp://127.0.0.1:{{port}}\"\n\
             command = [\"no-such-server\"]\n{optional}\n"
        )
    };
    let running = "[[target]]\nname = \"there\"\nprotocol = \"nats\"\nurl = \"tcp://127.0.0.1:1\"\n";
    let needed = campaign(&format!("{}{running}{FAN_OUT}", absent("")));
    let error = go(&needed, None, |_| panic!("nothing runs")).expect_err("absent");
    assert!(
        error.to_string().contains("no program \"no-such-server\""),
        "{error}"
    );

    let ran = Arc::new(Mutex::new(Vec::new()));
    let optional = campaign(&format!(
        "campaign.repeats = 1\n{}{running}{FAN_OUT}assert = [\"there: p99_us <= gone\", \"there: p99_ms <= 2\"]\n",
        absent("optional = true")
    ));
    let conducted = go(&optional, None, |order| {
        ran.lock().expect("a list").push(order.target.name.clone());
        Ok(measured(1, false))
    })
    .expect("conducted");
    assert_eq!(*ran.lock().expect("a list"), ["there"]);
    assert_eq!(conducted.unjudged.len(), 1, "{:?}", conducted.unjudged);
    assert_eq!(conducted.judged.len(), 1);
}

#[test]
fn an_assertion_that_nothing_was_held_against_is_not_taken_for_kept() {
    let plan = campaign(&format!(
        "campaign.repeats = 1\n[[target]]\nname = \"a\"\nprotocol = \"nats\"\nurl = \"tcp://127.0.0.1:1\"\n\
         [[target]]\nname = \"b\"\nprotocol = \"nats\"\nurl = \"tcp://127.0.0.1:2\"\n\
         {FAN_OUT}assert = [\"a: p99_ms < 5\", \"b: p99_ms < 5\"]\n"
    ));
    let failing = |order: &RunOrder| match order.target.name.as_str() {
        "a" => Err(RunError::Scenario("made up".into())),
        _ => Ok(measured(1, false)),
    };
    let conducted = go(&plan, None, failing).expect("conducted");
    let judged: Vec<(&str, bool)> = conducted
        .judged
        .iter()
        .map(|judged| (judged.target.as_str(), judged.holds()))
        .collect();
    assert_eq!(judged, [("b", true), ("a", false)]);

    let mut only_b = plan;
    only_b.keep_only(&["b".to_owned()]).expect("it is there");
    let conducted = go(&only_b, None, failing).expect("conducted");
    assert!(conducted.judged.iter().all(fluxar_loadgen::slo::Judged::holds));
    assert_eq!(conducted.unjudged, ["s: a: p99_ms < 5 (without a)"]);
}

/// A run at the rate that was asked for, of a server that is overrun above 5,000 a second.
fn overrun_above_5000(order: &RunOrder, generator_busy: f64) -> Measured {
    let Arrivals::Constant { per_s } = order.scenario.arrivals else {
        panic!("an open loop: {:?}", order.scenario.arrivals)
    };
    let mut measured = measured(per_s as u64, false);
    let phase = &mut measured.phases[0];
    phase.asked_per_s = Some(per_s);
    if per_s > 5_000.0 {
        phase.latency_ns.clear();
        phase.latency_ns.record_n(80_000_000, 100).expect("recorded");
        measured.generator_busy = generator_busy;
    }
    measured
}

#[test]
fn the_knee_of_a_server_is_found_and_the_generators_is_told_from_it() {
    let campaign = campaign(&format!(
        "[[target]]\nname = \"t\"\nprotocol = \"nats\"\nurl = \"tcp://127.0.0.1:1\"\n{FAN_OUT}"
    ));
    let slos = ["p99_ms < 5".parse().expect("an assertion")];
    let bounds = Search {
        from_per_s: 1_000.0,
        to_per_s: 1e6,
        precision: 0.05,
    };
    for (generator_busy, limit, words) in [
        (0.5, Limit::Server, "holds up to"),
        (0.99, Limit::Generator, "the generator was the limit"),
    ] {
        let mut run =
            |order: &RunOrder, _: &mut dyn FnMut(&Snapshot)| Ok(overrun_above_5000(order, generator_busy));
        let mut stage = Stage::new(&campaign, &mut run);
        let mut progress = Progress::new(Box::new(Vec::new()), None, false);
        let mut records = 0;
        let found = find_knees(&campaign, &slos, bounds, &mut stage, &mut progress, &mut |_| {
            records += 1
        });
        let [found] = &found[..] else {
            panic!("one target: {found:?}")
        };
        let knee = found.knee.as_ref().expect("a knee");
        let kept_per_s = knee.kept_per_s.expect("a rate");
        assert!((4_700.0..=5_000.0).contains(&kept_per_s), "{knee:?}");
        assert_eq!((knee.limit, knee.runs), (limit, records));
        assert!(found.to_string().contains(words), "{found}");
    }
}

#[test]
fn a_rate_at_which_messages_are_lost_is_broken() {
    let campaign = campaign(&format!(
        "[[target]]\nname = \"t\"\nprotocol = \"nats\"\nurl = \"tcp://127.0.0.1:1\"\n{FAN_OUT}"
    ));
    let bounds = Search {
        from_per_s: 1_000.0,
        to_per_s: 64_000.0,
        precision: 0.05,
    };
    for (slos, limit) in [
        (&["p99_ms < 5"][..], Limit::Server),
        (&["p99_ms < 5", "lost < 100"], Limit::Asked),
    ] {
        let slos: Vec<_> = slos
            .iter()
            .map(|slo| slo.parse().expect("an assertion"))
            .collect();
        let mut run = |order: &RunOrder, _: &mut dyn FnMut(&Snapshot)| {
            let Arrivals::Constant { per_s } = order.scenario.arrivals else {
                panic!("an open loop: {:?}", order.scenario.arrivals)
            };
            let mut measured = measured(per_s as u64, false);
            measured.phases[0].asked_per_s = Some(per_s);
            measured.phases[0].lost = if per_s > 5_000.0 { 7 } else { 0 };
            Ok(measured)
        };
        let mut stage = Stage::new(&campaign, &mut run);
        let mut progress = Progress::new(Box::new(Vec::new()), None, false);
        let found = find_knees(&campaign, &slos, bounds, &mut stage, &mut progress, &mut |_| {});
        let knee = found[0].knee.as_ref().expect("a knee");
        assert_eq!(knee.limit, limit, "{knee:?}");
        if limit == Limit::Server {
            let kept_per_s = knee.kept_per_s.expect("a rate");
            assert!((4_700.0..=5_000.0).contains(&kept_per_s), "{knee:?}");
        }
    }
}
