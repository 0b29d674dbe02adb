//! Campaign files: what they mean, and that what is wrong with them is said, all of it, with its line.

use std::path::Path;

use fluxar_loadgen::campaign::{Campaign, Restart, ServerPlan};
use fluxar_loadgen::scenario::{Arrivals, Direction, Payload, ProtocolName, Stops, Workload};

fn parse(text: &str) -> Result<Campaign, Vec<String>> {
    Campaign::parse("c.toml", text, Path::new("there"))
        .map_err(|faults| faults.iter().map(ToString::to_string).collect())
}

fn good(text: &str) -> Campaign {
    parse(text).unwrap_or_else(|faults| panic!("{faults:#?}"))
}

fn faults(text: &str) -> Vec<String> {
    parse(text).expect_err("faults")
}

const TARGET: &str = "[[target]]\nname = \"a\"\nprotocol = \"fluxar\"\nurl = \"tcp://127.0.0.1:9000\"\n";

#[test]
fn the_least_that_a_campaign_needs() {
    let campaign = good(&format!(
        "{TARGET}[[scenario]]\nname = \"s\"\nworkload = {{ kind = \"fan-out\" }}\n"
    ));
    assert_eq!(campaign.name, "c");
    assert_eq!(campaign.repeats, 3);
    assert_eq!(campaign.targets[0].server, ServerPlan::Elsewhere);
    assert!(campaign.targets[0].target.batch);
    let [point] = &campaign.scenarios[0].points[..] else {
        panic!("one point")
    };
    assert!(point.at.is_empty());
    assert_eq!(point.scenario.arrivals, Arrivals::Window { messages: 1_000 });
    assert_eq!(point.scenario.payload, Payload::Fixed { bytes: 64 });
    assert_eq!(
        (point.scenario.warmup_ms, point.scenario.duration_ms),
        (500, 3_000)
    );
    assert!(!campaign.generator_cores().is_empty());
}

#[test]
fn everything_that_a_campaign_can_say() {
    let campaign = good(
        r#"
[campaign]
name = "all"
repeats = 5
warmup_ms = 100
duration_ms = 2000
pause_ms = 50
seed = 7

[[target]]
name = "fluxar"
protocol = "fluxar"
url = "tcp://127.0.0.1:{port}"
subscriber_url = "ws://127.0.0.1:{port2}"
command = ["fluxar-gateway", "--listen", "tcp://127.0.0.1:{port}"]
cores = [0]
env = { A = "{dir}" }
files = { "a.conf" = "listener {port}\n" }
restart = "campaign"
ready_ms = 1000
stop_ms = 100
version = ["fluxar-gateway", "--version"]

[[target]]
name = "nats"
protocol = "nats"
url = "tcp://127.0.0.1:4222"
pid = 5
qos = 0
optional = true

[[scenario]]
name = "fan"
repeats = 2
targets = ["fluxar"]
duration_ms = 500
workload = { kind = "fan-out", topics = 2 }
arrivals = { kind = "constant", per_s = 100 }
payload = { kind = "distribution", sizes = [[64, 9], [1024, 1]] }
sweep = { "workload.subscribers" = [1, 10], "arrivals.per_s" = [50, 100.5] }
assert = ["p99_ms < 5 at 50/s", "fluxar: lost == 0 when subscribers = 10"]

[[scenario]]
name = "docs"
[scenario.workload]
kind = "calls"
clients = 3
[scenario.payload]
kind = "file"
path = "docs.json"
"#,
    );
    assert_eq!(campaign.name, "all");
    let fluxar = &campaign.targets[0];
    let ServerPlan::Start(start) = &fluxar.server else {
        panic!("started")
    };
    assert_eq!(start.restart, Restart::Campaign);
    assert_eq!((start.ready_ms, start.stop_ms), (1_000, 100));
    assert_eq!(start.files["a.conf"], "listener {port}\n");
    assert_eq!(campaign.targets[1].server, ServerPlan::Pid(5));
    assert_eq!(campaign.targets[1].target.protocol, ProtocolName::Nats);
    assert!(campaign.targets[1].optional);

    let fan = &campaign.scenarios[0];
    let points: Vec<(u64, f64)> = fan
        .points
        .iter()
        .map(|point| {
            let Workload::FanOut {
                topics: 2,
                publishers: 1,
                subscribers,
            } = point.scenario.workload
            else {
                panic!("{:?}", point.scenario.workload)
            };
            let Arrivals::Constant { per_s } = point.scenario.arrivals else {
                panic!("{:?}", point.scenario.arrivals)
            };
            assert_eq!(point.at["workload.subscribers"], subscribers);
            (u64::from(subscribers), per_s)
        })
        .collect();
    assert_eq!(points, [(1, 50.0), (1, 100.5), (10, 50.0), (10, 100.5)]);
    assert_eq!(fan.points[0].scenario.duration_ms, 500);
    assert_eq!(fan.points[0].scenario.warmup_ms, 100);
    assert_eq!(fan.assertions.len(), 2);
    assert_eq!(fan.repeats, Some(2));

    let documents = &campaign.scenarios[1].points[0].scenario;
    assert_eq!(
        documents.workload,
        Workload::Calls {
            clients: 3,
            in_flight: 1,
            services: 1
        }
    );
    assert_eq!(
        documents.payload,
        Payload::File {
            path: "there/docs.json".into()
        }
    );
}

#[test]
fn all_faults_are_told_at_once_with_their_lines() {
    let faults = faults(
        r#"[campaign]
repeat = 3
duration_ms = 0
[[target]]
name = "a b"
protocol = "natz"
url = "http://127.0.0.1:1"
pid = 0
cores = [0]
[[target]]
name = "b"
url = "tcp://127.0.0.1:{port}"
[[scenario]]
name = "s"
targets = ["c"]
workload = { kind = "fan-out", subscriber = 1, topics = "two" }
arrivals = { kind = "constant", per_s = 0 }
payload = 64
sweep = { "workload.subscribers" = 10, "colour" = [1] }
assert = ["p99_ms <", "d: lost == 0", "lost == 0 when topics = 3"]
extra = 1
"#,
    );
    let expected = [
        (2, "did you mean `repeats`"),
        (3, "0 is outside 1"),
        (5, "letters, digits"),
        (6, "there are fluxar, nats"),
        (7, "http"),
        (8, "0 is outside"),
        (9, "give its `command`"),
        (10, "protocol is missing"),
        (12, "placeholders"),
        (15, "there is no target \"c\""),
        (16, "workload.subscriber: unknown field `subscriber`"),
        (16, "workload.topics: invalid type: string"),
        (18, "integer where a table belongs"),
        (19, "a list of values"),
        (19, "there is no field `colour`"),
        (20, "right side"),
        (20, "there is no target \"d\""),
        (21, "there is no field `extra`"),
    ];
    for (line, words) in expected {
        assert!(
            faults
                .iter()
                .any(|fault| fault.starts_with(&format!("c.toml:{line}: ")) && fault.contains(words)),
            "line {line}, {words}: {faults:#?}"
        );
    }
    assert_eq!(faults.len(), expected.len(), "{faults:#?}");
}

#[test]
fn what_cannot_be_run_is_refused() {
    let scenario = |rest: &str| faults(&format!("{TARGET}[[scenario]]\nname = \"s\"\n{rest}"));
    let fan_out = "workload = { kind = \"fan-out\" }\n";
    for (rest, line, words) in [
        ("", 5, "workload is missing"),
        ("workload = { kind = \"fan-in\" }", 7, "unknown variant `fan-in`"),
        (
            &format!("{fan_out}arrivals = {{ kind = \"constant\", per_s = -1 }}"),
            8,
            "more than 0",
        ),
        (
            &format!("{fan_out}payload = {{ kind = \"fixed\", bytes = 8 }}"),
            8,
            "carries a stamp",
        ),
        (
            &format!("{fan_out}\nsweep = {{ \"payload.bytes\" = [64, 2] }}"),
            9,
            "payload.bytes = 2",
        ),
        (
            &format!("{fan_out}\nsweep = {{ \"arrivals.per_s\" = [64] }}"),
            9,
            "unknown field `per_s`",
        ),
        (
            &format!("{fan_out}assert = [\"p99_ms < 5 at 10/s\"]"),
            8,
            "no arrivals of this scenario",
        ),
        (
            &format!("{fan_out}assert = [\"lost == 0 when subscribers = 1\"]"),
            8,
            "no point of the sweep",
        ),
    ] {
        let faults = scenario(rest);
        assert_eq!(faults.len(), 1, "{rest}: {faults:#?}");
        assert!(
            faults[0].starts_with(&format!("c.toml:{line}: ")),
            "{rest}: {faults:#?}"
        );
        assert!(faults[0].contains(words), "{rest}: {faults:#?}");
    }
    assert!(faults("")[0].contains("no [[target]]"));
    assert!(faults("x = [\n")[0].starts_with("c.toml:"));
    assert!(
        faults(&format!("{TARGET}{TARGET}[[scenario]]\nname = \"s\"\n{fan_out}"))[0]
            .contains("two targets of the name")
    );
}

#[test]
fn names_choose_targets_and_scenarios() {
    let text = format!(
        "{TARGET}{}[[scenario]]\nname = \"s\"\nworkload = {{ kind = \"fan-out\" }}\n\
         [[scenario]]\nname = \"t\"\nworkload = {{ kind = \"calls\" }}\n",
        TARGET.replace("\"a\"", "\"b\"")
    );
    let mut campaign = good(&text);
    campaign.keep_only(&["b".into()]).expect("a target");
    assert_eq!((campaign.targets.len(), campaign.scenarios.len()), (1, 2));
    campaign.keep_only(&["b".into(), "t".into()]).expect("both");
    assert_eq!(campaign.scenarios[0].name, "t");
    let wrong = campaign.keep_only(&["x".into()]).expect_err("nobody");
    assert!(wrong.contains("targets: b; scenarios: t"), "{wrong}");
}

#[test]
fn streams_and_where_services_listen_can_be_said() {
    let campaign = good(
        r#"
[[target]]
name = "up"
protocol = "fluxar"
url = "tcp://127.0.0.1:{port}"
service_url = "tcp://127.0.0.1:{port2}"
command = ["fluxar-gateway", "--config", "{dir}/g.toml"]
files = { "g.toml" = "port = {port2}" }
[[scenario]]
name = "s"
workload = { kind = "stream", clients = 2, chunks = 5, stopped = 1, stops = "reading" }
sweep = { "workload.direction" = ["down"], "workload.streams" = [1, 10] }
assert = ["streams_failed == 0", "first_chunk_p99_ms < 5 when streams = 10", "server_ns_per_message <= 150"]
"#,
    );
    let target = &campaign.targets[0].target;
    assert_eq!(target.service_url.as_deref(), Some("tcp://127.0.0.1:{port2}"));
    let expected = Workload::Stream {
        clients: 2,
        streams: 10,
        services: 1,
        direction: Direction::Down,
        window_bytes: 65_536,
        chunks: Some(5),
        stopped: 1,
        stops: Stops::Reading,
    };
    assert_eq!(campaign.scenarios[0].points[1].scenario.workload, expected);
    assert_eq!(campaign.scenarios[0].assertions.len(), 3);
}

#[test]
fn streams_that_cannot_be_are_faults_of_their_line() {
    for (scenario, fault) in [
        (
            "workload = { kind = \"stream\", window_bytes = 1000 }\npayload = { kind = \"fixed\", bytes = 600 }",
            "workload.window_bytes: too small for chunks of 600 bytes: take at least 1200",
        ),
        (
            "workload = { kind = \"stream\", direction = \"up\", stopped = 1, stops = \"reading\" }",
            "workload.stops:",
        ),
        ("workload = { kind = \"stream\", chunks = 0 }", "workload.chunks:"),
        (
            "workload = { kind = \"stream\", direction = \"sideways\" }",
            "workload.direction:",
        ),
    ] {
        let faults = faults(&format!("{TARGET}[[scenario]]\nname = \"s\"\n{scenario}\n"));
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(
            faults[0].contains(fault) && faults[0].contains(":7:"),
            "{faults:?}"
        );
    }
    let faults = faults(
        "[[target]]\nname = \"a\"\nprotocol = \"fluxar\"\nurl = \"tcp://127.0.0.1:1\"\n\
         service_url = \"tcp://127.0.0.1:{port}\"\n[[scenario]]\nname = \"s\"\nworkload = { kind = \"calls\" }\n",
    );
    assert!(faults[0].contains("service_url: placeholders"), "{faults:?}");
}

#[test]
fn what_is_stored_can_be_said_and_what_cannot_be_is_a_fault_of_its_line() {
    let scenario = |name: &str, rest: &str| format!("[[scenario]]\nname = \"{name}\"\n{rest}\n");
    let campaign = good(&format!(
        "{TARGET}{}{}",
        scenario(
            "store",
            "workload = { kind = \"store\", publishers = 8 }\narrivals = { kind = \"poisson\", per_s = 5 }"
        ),
        scenario("replay", "workload = { kind = \"replay\", events = 5 }"),
    ));
    let workload = |at: usize| campaign.scenarios[at].points[0].scenario.workload.clone();
    let store = Workload::Store {
        topics: 1,
        publishers: 8,
    };
    let replay = Workload::Replay {
        events: 5,
        subscribers: 1,
    };
    assert_eq!((workload(0), workload(1)), (store, replay));

    let wrong = faults(&format!(
        "{TARGET}{}{}{}",
        scenario("a", "workload = { kind = \"store\", topics = 0 }"),
        scenario("b", "workload = { kind = \"replay\", events = 0 }"),
        scenario(
            "c",
            "workload = { kind = \"replay\" }\narrivals = { kind = \"constant\", per_s = 5 }"
        ),
    ));
    let words = [
        "nobody would publish",
        "nothing would be stored",
        "leave the arrivals out",
    ];
    assert_eq!(wrong.len(), words.len(), "{wrong:#?}");
    for ((fault, line), words) in wrong.iter().zip([7, 10, 14]).zip(words) {
        assert!(
            fault.starts_with(&format!("c.toml:{line}: ")) && fault.contains(words),
            "{fault}"
        );
    }
}

#[test]
fn targets_can_be_shared_by_campaigns() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(
        directory.path().join("servers.toml"),
        format!("{TARGET}{}", TARGET.replace("\"a\"", "\"b\"")),
    )
    .expect("a file");
    let parse = |text: &str| Campaign::parse("c.toml", text, directory.path());
    let scenario = "[[scenario]]\nname = \"s\"\nworkload = { kind = \"fan-out\" }\n";
    let campaign = parse(&format!(
        "[campaign]\ntargets_from = \"servers.toml\"\ntargets = [\"b\"]\n{scenario}"
    ))
    .expect("a campaign");
    assert_eq!(campaign.targets.len(), 2);
    assert_eq!(campaign.scenarios[0].targets, ["b"]);

    std::fs::write(
        directory.path().join("broken.toml"),
        "[[target]]\nname = 5\n[scenario]\n",
    )
    .expect("a file");
    let faults =
        parse(&format!("[campaign]\ntargets_from = \"broken.toml\"\n{scenario}")).expect_err("faults");
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert!(
        faults.iter().any(|fault| fault.contains("broken.toml:2: ")),
        "{faults:#?}"
    );
    assert!(
        faults.iter().any(|fault| fault.contains("broken.toml:3: ")),
        "{faults:#?}"
    );
    let faults = parse(&format!("[campaign]\ntargets_from = \"gone.toml\"\n{scenario}")).expect_err("faults");
    assert!(
        faults
            .iter()
            .any(|fault| fault.to_string().starts_with("c.toml:2: ")),
        "{faults:#?}"
    );
}

#[test]
fn the_campaigns_of_this_repository_are_sound() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench/campaigns");
    let mut read = 0;
    for entry in std::fs::read_dir(&folder).expect("campaigns") {
        let path = entry.expect("an entry").path();
        if path.ends_with("servers.toml") || path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        read += 1;
        if let Err(mut faults) = Campaign::read(&path) {
            // This machine may have fewer processors than they were written for.
            faults.retain(|fault| !fault.message.contains("is not among those"));
            assert!(faults.is_empty(), "{faults:#?}");
        }
    }
    assert!(read >= 9, "{read} campaigns in {}", folder.display());
}
