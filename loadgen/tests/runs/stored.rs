//! What is stored: by a gateway in this process, and by the servers beside it.

use std::path::Path;

use fluxar_loadgen::campaign::{Campaign, ServerPlan};
use fluxar_loadgen::protocol::Ability;
use fluxar_loadgen::run::{RunError, RunOrder, RunStage, run};
use fluxar_loadgen::scenario::{Arrivals, ProtocolName, Workload};
use fluxar_loadgen::server::Server;

use super::{Running, done, extra, fan_out, order, whole};

/// A million would take long on a machine that tests share.
const EVENTS: u64 = 20_000;

fn stored(url: String, workload: Workload) -> RunOrder {
    let mut order = order(url, workload);
    order.target.qos = 1;
    // A disk that is busy with others takes its time to sync, and nothing is sent before what fills the window is stored.
    order.scenario.duration_ms = 2_000;
    order
}

fn store() -> Workload {
    Workload::Store {
        topics: 2,
        publishers: 2,
    }
}

fn replay(subscribers: u32) -> Workload {
    Workload::Replay {
        events: EVENTS,
        subscribers,
    }
}

/// All of them, each once and in order, to each.
fn replayed(order: &RunOrder, subscribers: u64) {
    let measured = done(order);
    let [phase] = &measured.phases[..] else {
        panic!("one phase")
    };
    assert_eq!((phase.sent, phase.arrived), (EVENTS, EVENTS * subscribers));
    assert_eq!(phase.delivered, EVENTS * subscribers, "{:?}", measured.warnings);
    let odd = (phase.lost, phase.duplicated, phase.out_of_order, phase.refused);
    assert_eq!(odd, (0, 0, 0, 0), "{:?}", measured.warnings);
    // From when they were stored: nothing that anybody wants to know.
    assert!(phase.latency_ns.is_empty() && phase.stall_ns == 0);
    assert_eq!(extra(&measured, "acknowledged") as u64, EVENTS);
}

#[test]
fn a_fan_out_of_logged_events_arrives_whole() {
    let running = Running::with(true);
    for (url, subscriber_url) in [(running.tcp(), None), (running.tcp(), Some(running.ws()))] {
        let mut order = stored(url, fan_out(2, 2, 3));
        order.target.subscriber_url = subscriber_url;
        let measured = done(&order);
        whole(&measured, 3);
        assert!(extra(&measured, "acknowledged") >= measured.phases[0].sent as f64);
    }
}

#[test]
fn publishes_are_counted_when_they_are_acknowledged() {
    let running = Running::with(true);
    let mut order = stored(running.tcp(), store());
    whole(&done(&order), 1);
    order.scenario.duration_ms = 500;
    order.scenario.arrivals = Arrivals::Constant { per_s: 2_000.0 };
    let measured = done(&order);
    whole(&measured, 1);
    assert_eq!(measured.phases[0].sent, 1_000);
    // Two threads, each with its publishers.
    let processors = rustix::thread::sched_getaffinity(None).expect("own processors");
    let core = (0..1024).find(|&core| processors.is_set(core)).expect("one");
    order.scenario.duration_ms = 2_000;
    order.scenario.arrivals = Arrivals::Window { messages: 50 };
    order.generator.cores = vec![core, core];
    whole(&done(&order), 1);
}

#[test]
fn those_who_come_late_have_all_of_it() {
    let running = Running::with(true);
    let mut stages = Vec::new();
    let mut order = stored(running.tcp(), replay(2));
    order.server = Some(vec![std::process::id()]);
    replayed(&order, 2);
    let measured = run(&order, &mut |snapshot| stages.push(snapshot.stage));
    let measured = measured.unwrap_or_else(|error| panic!("{error}"));
    assert!(measured.server.is_some()); // so little is replayed that the kernel may count no time for it
    let of = stages.iter().find_map(|stage| match stage {
        RunStage::Storing { of, .. } => Some(*of),
        _ => None,
    });
    assert!(of.is_none_or(|of| of == EVENTS), "{stages:?}");
    // Readers and the publisher on different threads.
    let processors = rustix::thread::sched_getaffinity(None).expect("own processors");
    let core = (0..1024).find(|&core| processors.is_set(core)).expect("one");
    order.generator.cores = vec![core, core];
    order.target.subscriber_url = Some(running.ws());
    replayed(&order, 2);
}

#[test]
fn what_is_not_stored_says_so() {
    let running = Running::start();
    let fails = |order: &RunOrder| run(order, &mut |_| {}).expect_err("an error");
    let unable = |order: &RunOrder, is: Ability| match fails(order) {
        RunError::Unable { ability, .. } => assert_eq!(ability, is),
        other => panic!("{other}"),
    };
    // At qos 0 nothing is acknowledged.
    unable(&order(running.tcp(), store()), Ability::AcknowledgedPublish);
    let mut mqtt = stored(running.tcp(), replay(1));
    mqtt.target.protocol = ProtocolName::Mqtt5;
    unable(&mqtt, Ability::Replay);
    // A gateway without a log.
    let error = fails(&stored(running.tcp(), replay(1)));
    assert!(error.to_string().contains("failed_precondition"), "{error}");
}

/// Debian's servers, which `tests/run` installs.
const PEERS: &str = r#"
[[target]]
name = "jetstream"
protocol = "nats"
qos = 1
url = "tcp://127.0.0.1:{port}"
command = ["nats-server", "-js", "--store_dir", "{dir}", "--addr", "127.0.0.1", "--port", "{port}"]

[[target]]
name = "redis"
protocol = "redis"
qos = 1
url = "tcp://127.0.0.1:{port}"
command = ["redis-server", "--bind", "127.0.0.1", "--port", "{port}", "--dir", "{dir}", "--appendonly", "yes"]

[[target]]
name = "mosquitto"
protocol = "mqtt5"
qos = 1
url = "tcp://127.0.0.1:{port}"
command = ["mosquitto", "-c", "{dir}/mosquitto.conf"]
[target.files]
"mosquitto.conf" = """
listener {port} 127.0.0.1
allow_anonymous true
max_queued_messages 0
"""

[[scenario]]
name = "store"
workload = { kind = "store" }
"#;

#[test]
fn peers_store_and_replay() {
    let campaign = Campaign::parse("peers", PEERS, Path::new(""));
    let campaign = campaign.unwrap_or_else(|faults| panic!("{faults:?}"));
    for plan in &campaign.targets {
        let ServerPlan::Start(start) = &plan.server else {
            panic!("it is started")
        };
        let server = Server::start(&plan.target, start, Path::new(""));
        let server = server.unwrap_or_else(|error| panic!("{error}"));
        let mut stored = order(String::new(), store());
        stored.target = server.target().clone();
        stored.server = Some(server.pids());
        stored.scenario.duration_ms = 2_000;
        whole(&done(&stored), 1);
        if plan.target.protocol != ProtocolName::Mqtt5 {
            stored.scenario.workload = replay(2);
            replayed(&stored, 2);
            stored.scenario.workload = fan_out(1, 2, 2);
            whole(&done(&stored), 2);
        }
        server.stop();
    }
}
