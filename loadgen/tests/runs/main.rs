//! Whole runs: every workload against a gateway in this process, and the counts against a server that loses, repeats,
//! swaps and stalls.

mod faulty;
mod stored;
mod streams;

use std::io::Write;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use fluxar_engine::listener::Address;
use fluxar_gateway::config::{Config, Cores, LogDir};
use fluxar_gateway::gateway::Gateway;
use fluxar_loadgen::measured::Measured;
use fluxar_loadgen::protocol::Ability;
use fluxar_loadgen::record::PhaseRecord;
use fluxar_loadgen::run::{GeneratorConfig, RunError, RunOrder, RunStage, run};
use fluxar_loadgen::scenario::{Arrivals, Payload, ProtocolName, Scenario, Target, Workload};
use tempfile::TempDir;

struct Running {
    gateway: Option<Gateway>,
    _folder: TempDir,
}

impl Running {
    fn start() -> Running {
        Running::with(false)
    }

    /// Keeps a log, or does not.
    fn with(log: bool) -> Running {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = Config {
            cores: Cores::Count(1),
            listen: vec![
                "tcp://127.0.0.1:0".into(),
                "ws://127.0.0.1:0".into(),
                format!("unix://{}", folder.path().join("fluxar.sock").display()),
            ],
            ..Config::default()
        };
        config.log.dir = match log {
            true => LogDir::At(folder.path().join("log")),
            false => LogDir::Nowhere,
        };
        // Tests share the machine with each other.
        config.engine.spin_us = 0;
        let gateway = Gateway::start(&config).unwrap_or_else(|error| panic!("{error}"));
        Running {
            gateway: Some(gateway),
            _folder: folder,
        }
    }

    fn url(&self, is: fn(&Address) -> bool) -> String {
        let addresses = self.gateway.as_ref().expect("it runs").addresses();
        let address = addresses.iter().find(|address| is(address));
        address.expect("such a listener").to_string()
    }

    fn tcp(&self) -> String {
        self.url(|address| matches!(address, Address::Tcp { .. }))
    }

    fn ws(&self) -> String {
        self.url(|address| matches!(address, Address::WebSocket { .. }))
    }

    fn unix(&self) -> String {
        self.url(|address| matches!(address, Address::Unix { .. }))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.stop();
        }
    }
}

fn order(url: String, workload: Workload) -> RunOrder {
    RunOrder {
        target: Target {
            name: "tested".into(),
            protocol: ProtocolName::Fluxar,
            url,
            subscriber_url: None,
            service_url: None,
            qos: 0,
            batch: true,
        },
        scenario: Scenario {
            workload,
            arrivals: Arrivals::Window { messages: 100 },
            payload: Payload::default(),
            warmup_ms: 50,
            duration_ms: 200,
        },
        server: None,
        // Spinning threads would take the processor from the server that is tested beside them.
        generator: GeneratorConfig {
            spin: Some(false),
            ..GeneratorConfig::default()
        },
        seed: 1,
    }
}

fn fan_out(topics: u32, publishers: u32, subscribers: u32) -> Workload {
    Workload::FanOut {
        topics,
        publishers,
        subscribers,
    }
}

fn done(order: &RunOrder) -> Measured {
    run(order, &mut |_| {}).unwrap_or_else(|error| panic!("{error}"))
}

fn extra(measured: &Measured, name: &str) -> f64 {
    let found = measured.extra.iter().find(|(of, _)| of == name);
    found
        .unwrap_or_else(|| panic!("no {name} in {:?}", measured.extra))
        .1
}

/// Everything arrived, once and in order, and has a latency.
fn whole(measured: &Measured, fan_out: u64) {
    for phase in &measured.phases {
        assert!(phase.sent > 0);
        assert_eq!(phase.delivered, phase.sent * fan_out, "{:?}", measured.warnings);
        let odd = (phase.lost, phase.duplicated, phase.out_of_order, phase.refused);
        assert_eq!(odd, (0, 0, 0, 0), "{:?}", measured.warnings);
        assert_eq!(phase.latency_ns.len(), phase.delivered);
    }
}

#[test]
fn a_fan_out_arrives_whole_on_every_transport() {
    let running = Running::start();
    for (url, subscriber_url) in [
        (running.tcp(), None),
        (running.unix(), None),
        (running.tcp(), Some(running.ws())),
        (running.ws(), None),
    ] {
        let mut order = order(url, fan_out(3, 2, 4));
        order.target.subscriber_url = subscriber_url;
        let measured = done(&order);
        whole(&measured, 4);
        assert_eq!(measured.phases.len(), 1);
    }
}

#[test]
fn two_threads_share_a_fan_out() {
    let running = Running::start();
    let processors = rustix::thread::sched_getaffinity(None).expect("own processors");
    let core = (0..1024).find(|&core| processors.is_set(core)).expect("one");
    let mut order = order(running.tcp(), fan_out(2, 2, 3));
    order.generator.cores = vec![core, core];
    whole(&done(&order), 3);
}

#[test]
fn an_open_loop_sends_exactly_what_is_due() {
    let running = Running::start();
    let mut order = order(running.tcp(), fan_out(2, 1, 2));
    order.scenario.arrivals = Arrivals::Constant { per_s: 5_000.0 };
    let measured = done(&order);
    whole(&measured, 2);
    assert_eq!(measured.phases[0].sent, 1_000);
    assert_eq!(measured.phases[0].asked_per_s, Some(5_000.0));

    order.generator.spin = Some(true);
    order.scenario.arrivals = Arrivals::Steps {
        per_s: vec![1_000.0, 3_000.0],
    };
    let measured = done(&order);
    whole(&measured, 2);
    let sent: Vec<_> = measured.phases.iter().map(|phase| phase.sent).collect();
    assert_eq!(sent, [100, 300]);
}

#[test]
fn payloads_of_all_kinds_arrive() {
    let running = Running::start();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("documents.jsonl");
    std::fs::write(&path, "{\"a\": [1, 2.5]}\n{\"b\": null}\n").expect("a file");
    for payload in [
        Payload::Fixed { bytes: 24 },
        Payload::Fixed { bytes: 40_000 },
        Payload::Distribution {
            sizes: vec![(64, 1.0), (3_000, 1.0)],
        },
        Payload::File { path },
    ] {
        let mut order = order(running.tcp(), fan_out(1, 1, 2));
        order.scenario.arrivals = Arrivals::Window { messages: 5 };
        order.scenario.payload = payload;
        whole(&done(&order), 2);
    }
}

#[test]
fn calls_are_answered_in_both_loops() {
    let running = Running::start();
    let workload = Workload::Calls {
        clients: 5,
        in_flight: 7,
        services: 2,
    };
    let mut order = order(running.tcp(), workload);
    whole(&done(&order), 1);
    order.scenario.arrivals = Arrivals::Poisson { per_s: 2_000.0 };
    let measured = done(&order);
    whole(&measured, 1);
    assert!((200..=600).contains(&measured.phases[0].sent));
}

#[test]
fn a_storm_greets_everybody() {
    let running = Running::start();
    for hold in [false, true] {
        let workload = Workload::Storm {
            connections: 300,
            concurrency: 20,
            hold,
        };
        let mut order = order(running.tcp(), workload);
        order.server = Some(vec![std::process::id()]);
        let measured = done(&order);
        whole(&measured, 1);
        assert_eq!(measured.phases[0].delivered, 300);
        assert!(extra(&measured, "hellos_per_s") > 0.0);
        assert!(extra(&measured, "hellos_per_cpu_s") > 0.0);
    }
}

#[test]
fn idle_connections_are_weighed_and_spoken_to() {
    let running = Running::start();
    let workload = Workload::Idle {
        connections: 400,
        concurrency: 32,
        speak: true,
    };
    let mut order = order(running.tcp(), workload);
    order.server = Some(vec![std::process::id()]);
    let measured = done(&order);
    let phase = &measured.phases[0];
    // One event, and a ping from each; each has the event and an answer.
    assert_eq!((phase.sent, phase.delivered, phase.lost), (401, 800, 0));
    // The process that is watched is this one, in which other tests run: the figure is there, its value says nothing.
    assert!(extra(&measured, "rss_bytes_per_connection").is_finite());
    assert_eq!((phase.arrived, measured.server_ns_per_message()), (0, None));
    assert!(measured.server.expect("it is watched").cpu_ns > 0);
}

#[test]
fn healthy_subscribers_lose_nothing_beside_a_stopped_one() {
    let running = Running::start();
    let workload = Workload::Slow {
        healthy: 2,
        stopped: 1,
    };
    let mut order = order(running.tcp(), workload);
    // 8 MB a second: what a machine that stands still for a moment leaves behind fits into the healthy ones' queues.
    order.scenario.arrivals = Arrivals::Constant { per_s: 2_000.0 };
    order.scenario.payload = Payload::Fixed { bytes: 4_000 };
    order.scenario.duration_ms = 5_000;
    order.server = Some(vec![std::process::id()]);
    let measured = done(&order);
    let phase = &measured.phases[0];
    assert_eq!((phase.sent, phase.delivered, phase.lost), (10_000, 20_000, 0));
    // 40 MB are more than a queue and two kernels' buffers hold.
    assert!(extra(&measured, "stopped_told_dropped") > 0.0, "{measured:?}");
    assert!(extra(&measured, "stopped_heard") > 0.0);
}

#[test]
fn visitors_come_and_go_beside_a_fan_out() {
    let running = Running::start();
    let workload = Workload::Churn {
        subscribers: 2,
        churn_per_s: 100.0,
    };
    let mut order = order(running.tcp(), workload);
    order.scenario.duration_ms = 400;
    let measured = done(&order);
    whole(&measured, 2);
    assert_eq!(extra(&measured, "churn_failed"), 0.0, "{:?}", measured.warnings);
    assert!(extra(&measured, "churned") > 0.0);
}

#[test]
fn events_and_calls_go_together() {
    let running = Running::start();
    let workload = Workload::Mixed {
        subscribers: 3,
        clients: 4,
        in_flight: 2,
    };
    let measured = done(&order(running.tcp(), workload));
    let phase = &measured.phases[0];
    assert_eq!((phase.lost, phase.duplicated), (0, 0));
    assert!(extra(&measured, "calls_per_s") > 0.0);
    // Latencies are those of events; calls have theirs apart.
    assert!(phase.latency_ns.len() < phase.delivered);
}

#[test]
fn progress_is_told_in_order() {
    let running = Running::start();
    let mut order = order(running.tcp(), fan_out(1, 1, 1));
    order.scenario.warmup_ms = 600;
    order.scenario.duration_ms = 900;
    order.server = Some(vec![std::process::id()]);
    let mut stages = Vec::new();
    let mut delivered = 0.0;
    run(&order, &mut |snapshot| {
        stages.push(snapshot.stage);
        delivered += snapshot.delivered_per_s;
    })
    .unwrap_or_else(|error| panic!("{error}"));
    let rank = |stage: &RunStage| match stage {
        RunStage::Connecting { .. } => 0,
        RunStage::Storing { .. } => 1,
        RunStage::WarmingUp => 2,
        RunStage::Measuring => 3,
        RunStage::Draining => 4,
    };
    assert!(stages.is_sorted_by_key(rank), "{stages:?}");
    assert!(stages.contains(&RunStage::WarmingUp) && stages.contains(&RunStage::Measuring));
    assert!(delivered > 0.0);
}

fn against(fault: faulty::Fault, arrivals: Arrivals, duration_ms: u64) -> Measured {
    let address = faulty::start(fault);
    let mut order = order(format!("tcp://{address}"), fan_out(1, 1, 2));
    order.target.protocol = ProtocolName::Redis;
    order.scenario.arrivals = arrivals;
    order.scenario.warmup_ms = 0;
    order.scenario.duration_ms = duration_ms;
    done(&order)
}

#[test]
fn loss_repetition_and_disorder_are_counted_truly() {
    let mut kept = None;
    let fault = move |number: u64, payload: Vec<u8>| {
        let mut out = match number % 100 {
            // Lost; repeated; swapped with the one behind it.
            10 | 20 | 21 => vec![],
            30 => vec![payload.clone(), payload],
            40 => {
                kept = Some(payload);
                return vec![];
            }
            _ => vec![payload],
        };
        out.extend(kept.take());
        out
    };
    let measured = against(Box::new(fault), Arrivals::Constant { per_s: 2_000.0 }, 1_000);
    let phase = &measured.phases[0];
    assert_eq!(phase.sent, 2_000);
    assert_eq!(phase.lost, 2 * 60);
    assert_eq!(phase.delivered, 2 * 1_940);
    assert_eq!(phase.duplicated, 2 * 20);
    assert_eq!(phase.out_of_order, 2 * 20);
}

#[test]
fn a_closed_loop_goes_on_when_the_server_drops_a_window() {
    let fault = |number: u64, payload: Vec<u8>| match number {
        500..600 => vec![],
        _ => vec![payload],
    };
    let measured = against(Box::new(fault), Arrivals::Window { messages: 50 }, 3_500);
    let phase = &measured.phases[0];
    assert_eq!(phase.lost, 2 * 100);
    assert!(phase.sent > 600, "{}", phase.sent);
    assert!(
        measured
            .warnings
            .iter()
            .any(|warning| warning.contains("window was full")),
        "{:?}",
        measured.warnings
    );
}

#[test]
fn a_stall_counts_for_all_that_waited_behind_it() {
    let fault = |number: u64, payload: Vec<u8>| {
        if number == 1_000 {
            thread::sleep(Duration::from_millis(200));
        }
        vec![payload]
    };
    let measured = against(Box::new(fault), Arrivals::Constant { per_s: 2_000.0 }, 1_000);
    let phase = &measured.phases[0];
    assert_eq!((phase.sent, phase.lost), (2_000, 0));
    // 400 of 2,000 were due while it stalled: a tenth of all waited for 100 ms and more, not only the one.
    assert!(phase.latency_ns.value_at_quantile(0.95) >= 100_000_000);
    assert!(phase.latency_ns.max() >= 195_000_000);
    assert!(phase.stall_ns >= 150_000_000);
}

#[test]
fn an_overloaded_server_is_not_credited_with_what_was_asked_of_it() {
    let fault = |_: u64, payload: Vec<u8>| {
        thread::sleep(Duration::from_millis(2));
        vec![payload]
    };
    let measured = against(Box::new(fault), Arrivals::Constant { per_s: 2_000.0 }, 500);
    let phase = &measured.phases[0];
    // It can do 500 a second, two arrivals each; the rest comes when the time is over.
    let record = PhaseRecord::from_phase(phase);
    assert!((1..=2 * 251).contains(&phase.arrived), "{}", phase.arrived);
    assert!(
        record.delivered_per_s <= 2.0 * 502.0,
        "{}",
        record.delivered_per_s
    );
    assert!(phase.delivered > phase.arrived, "{measured:?}");
}

#[test]
fn what_cannot_work_says_why() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("tcp://{}", free.local_addr().expect("an address"));
    drop(free);
    let fails = |order: &RunOrder| run(order, &mut |_| {}).expect_err("an error");

    let nobody = fails(&order(url.clone(), fan_out(1, 1, 1)));
    assert!(matches!(&nobody, RunError::Connect { .. }), "{nobody}");
    assert!(nobody.to_string().contains("is the server running"));

    let calls = Workload::Calls {
        clients: 1,
        in_flight: 1,
        services: 1,
    };
    let mut unable = order(url.clone(), calls);
    unable.target.protocol = ProtocolName::Redis;
    let error = fails(&unable);
    assert!(
        matches!(
            error,
            RunError::Unable {
                ability: Ability::Calls,
                ..
            }
        ),
        "{error}"
    );

    let mut acknowledged = order(url.clone(), fan_out(1, 1, 1));
    acknowledged.target.protocol = ProtocolName::Relay;
    acknowledged.target.qos = 1;
    assert!(matches!(fails(&acknowledged), RunError::Unable { .. }));

    let mut watched = order(url.clone(), fan_out(1, 1, 1));
    watched.server = Some(vec![u32::MAX - 1]);
    assert!(matches!(fails(&watched), RunError::Process { .. }));

    let many = Workload::Idle {
        connections: 4_000_000_000,
        concurrency: 1,
        speak: false,
    };
    let many = fails(&order(url, many));
    assert!(
        matches!(
            &many,
            RunError::Descriptors {
                needed: 4_000_000_001..,
                ..
            }
        ),
        "{many}"
    );

    let no_address = fails(&order("nonsense".into(), fan_out(1, 1, 1)));
    assert!(matches!(&no_address, RunError::Address { .. }), "{no_address}");
}

#[test]
fn a_server_that_breaks_off_is_quoted() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let answering = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        stream
            .write_all(b"-NOAUTH Authentication required.\r\n")
            .expect("an answer");
        // Until the other side has left.
        let _ = std::io::Read::read_to_end(&mut stream, &mut Vec::new());
    });
    let mut order = order(format!("tcp://{address}"), fan_out(1, 1, 1));
    order.target.protocol = ProtocolName::Redis;
    let error = run(&order, &mut |_| {}).expect_err("an error");
    assert!(matches!(&error, RunError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("NOAUTH"), "{error}");
    answering.join().expect("it ended");
}
