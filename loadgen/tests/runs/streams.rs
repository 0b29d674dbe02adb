//! Streams, and services that listen: with nobody between client and service, and through a gateway.

use std::net::TcpListener;

use fluxar_gateway::config::{Config, Cores, LogDir};
use fluxar_gateway::gateway::Gateway;
use fluxar_loadgen::measured::Measured;
use fluxar_loadgen::run::{RunError, RunOrder, run};
use fluxar_loadgen::scenario::{Arrivals, Direction, Payload, Stops, Workload};
use tempfile::TempDir;

use super::{Running, done, extra, order, whole};

const WINDOW_BYTES: u32 = 16 * 1024;

fn stream(clients: u32, streams: u32, services: u32, direction: Direction) -> Workload {
    Workload::Stream {
        clients,
        streams,
        services,
        direction,
        window_bytes: WINDOW_BYTES,
        chunks: None,
        stopped: 0,
        stops: Stops::Granting,
    }
}

/// Nobody between: clients connect to where the services listen.
fn direct(url: String, clients: u32, streams: u32, direction: Direction) -> RunOrder {
    let mut order = order(url.clone(), stream(clients, streams, clients, direction));
    order.target.service_url = Some(url);
    order
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    socket.local_addr().expect("an address").port()
}

/// All streams were opened, ended in good order, and brought all that was sent, in order.
fn in_good_order(measured: &Measured, streams: f64) {
    whole(measured, 1);
    assert!(
        extra(measured, "streams_opened") >= streams,
        "{:?}",
        measured.extra
    );
    assert_eq!(
        extra(measured, "streams_opened"),
        extra(measured, "streams_ended"),
        "{:?}",
        measured.warnings
    );
    assert_eq!(extra(measured, "streams_failed"), 0.0);
    assert!(extra(measured, "chunk_bytes_per_s") > 0.0);
    assert!(extra(measured, "first_chunk_p99_ms") > 0.0 && extra(measured, "gap_max_ms") > 0.0);
}

#[test]
fn streams_between_ourselves_are_whole_on_every_transport_and_in_every_direction() {
    let folder = tempfile::tempdir().expect("a folder");
    for (number, direction) in [Direction::Down, Direction::Up, Direction::Both]
        .into_iter()
        .enumerate()
    {
        for url in [
            format!("unix://{}/{number}.sock", folder.path().display()),
            format!("tcp://127.0.0.1:{}", free_port()),
            format!("ws://127.0.0.1:{}/", free_port()),
        ] {
            in_good_order(&done(&direct(url, 3, 7, direction)), 21.0);
        }
    }
}

#[test]
fn calls_between_ourselves_are_answered() {
    let url = format!("tcp://127.0.0.1:{}", free_port());
    let workload = Workload::Calls {
        clients: 2,
        in_flight: 8,
        services: 2,
    };
    let mut order = order(url.clone(), workload);
    order.target.service_url = Some(url);
    whole(&done(&order), 1);
}

/// A gateway whose configuration has an upstream of loadgen's services.
struct Dialling {
    gateway: Option<Gateway>,
    service_url: String,
}

impl Dialling {
    fn start(service_url: String, connections: u32) -> Dialling {
        let text = format!(
            "listen = [\"tcp://127.0.0.1:0\"]\n[[upstream]]\nname = \"load\"\nendpoints = [\"{service_url}\"]\n\
             methods = [\"load.>\"]\nconnections = {connections}\n"
        );
        let mut config = Config::default();
        let mut faults = Vec::new();
        config.read_toml("this test", &text, &mut faults);
        assert!(faults.is_empty(), "{faults:?}");
        config.cores = Cores::Count(1);
        config.log.dir = LogDir::Nowhere;
        config.engine.spin_us = 0;
        let gateway = Gateway::start(&config).unwrap_or_else(|error| panic!("{error}"));
        Dialling {
            gateway: Some(gateway),
            service_url,
        }
    }

    fn order(&self, workload: Workload) -> RunOrder {
        let url = self.gateway.as_ref().expect("it runs").addresses()[0].to_string();
        let mut order = order(url, workload);
        order.target.service_url = Some(self.service_url.clone());
        order
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.stop();
        }
    }
}

/// Where services can listen, on every transport.
fn service_urls(folder: &TempDir) -> [String; 3] {
    [
        format!("unix://{}/service.sock", folder.path().display()),
        format!("tcp://127.0.0.1:{}", free_port()),
        format!("ws://127.0.0.1:{}/", free_port()),
    ]
}

#[test]
fn calls_to_services_that_a_gateway_connects_to_are_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    for service_url in service_urls(&folder) {
        let dialling = Dialling::start(service_url, 2);
        let workload = Workload::Calls {
            clients: 5,
            in_flight: 7,
            services: 2,
        };
        let mut order = dialling.order(workload);
        whole(&done(&order), 1);
        order.scenario.arrivals = Arrivals::Constant { per_s: 2_000.0 };
        let measured = done(&order);
        whole(&measured, 1);
        assert_eq!(measured.phases[0].sent, 400);
    }
}

#[test]
fn streams_of_a_gateway_are_whole_on_every_transport_and_in_every_direction() {
    let running = Running::start();
    for direction in [Direction::Down, Direction::Up, Direction::Both] {
        for (url, subscriber_url) in [
            (running.tcp(), None),
            (running.unix(), None),
            (running.ws(), None),
            (running.tcp(), Some(running.ws())),
        ] {
            let mut order = order(url, stream(3, 7, 2, direction));
            order.target.subscriber_url = subscriber_url;
            in_good_order(&done(&order), 21.0);
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    for service_url in service_urls(&folder) {
        let dialling = Dialling::start(service_url, 2);
        in_good_order(&done(&dialling.order(stream(3, 7, 2, Direction::Both))), 21.0);
    }
}

#[test]
fn streams_are_opened_again_and_again_and_at_a_schedule_latency_counts_from_what_was_due() {
    let running = Running::start();
    let mut of = stream(2, 5, 1, Direction::Both);
    if let Workload::Stream { chunks, .. } = &mut of {
        *chunks = Some(10);
    }
    let mut order = order(running.tcp(), of);
    order.scenario.duration_ms = 1_000;
    let measured = done(&order);
    in_good_order(&measured, 100.0);
    assert!(extra(&measured, "streams_per_s") > 100.0);

    order.scenario.workload = stream(2, 5, 1, Direction::Down);
    order.scenario.duration_ms = 200;
    order.scenario.arrivals = Arrivals::Constant { per_s: 5_000.0 };
    let measured = done(&order);
    in_good_order(&measured, 10.0);
    assert_eq!(measured.phases[0].sent, 1_000);
    order.scenario.payload = Payload::Distribution {
        sizes: vec![(64, 3.0), (4_000, 1.0)],
    };
    order.scenario.arrivals = Arrivals::Poisson { per_s: 2_000.0 };
    in_good_order(&done(&order), 10.0);
}

#[test]
fn stopped_readers_stop_their_writers_and_nobody_else() {
    let running = Running::start();
    for (direction, stops_how) in [
        (Direction::Down, Stops::Granting),
        (Direction::Down, Stops::Reading),
        (Direction::Up, Stops::Granting),
        (Direction::Both, Stops::Granting),
    ] {
        let mut of = stream(2, 4, 1, direction);
        if let Workload::Stream { stopped, stops, .. } = &mut of {
            (*stopped, *stops) = (1, stops_how);
        }
        let mut order = order(running.tcp(), of);
        order.server = Some(vec![std::process::id()]);
        let measured = done(&order);
        whole(&measured, 1);
        assert_eq!(extra(&measured, "streams_failed"), 0.0);
        let most = extra(&measured, "stopped_stream_bytes");
        assert!(most <= f64::from(WINDOW_BYTES), "{most}");
        assert!(extra(&measured, "rss_growth_bytes").is_finite());
    }
}

#[test]
fn two_threads_share_streams() {
    let running = Running::start();
    let processors = rustix::thread::sched_getaffinity(None).expect("own processors");
    let core = (0..1024).find(|&core| processors.is_set(core)).expect("one");
    let mut order = order(running.tcp(), stream(4, 3, 3, Direction::Both));
    order.generator.cores = vec![core, core];
    in_good_order(&done(&order), 12.0);
    order.scenario.arrivals = Arrivals::Constant { per_s: 3_000.0 };
    in_good_order(&done(&order), 12.0);
}

#[test]
fn what_cannot_be_is_told_before_anything_is_opened() {
    let running = Running::start();
    let mut order = order(running.tcp(), stream(1, 1, 1, Direction::Down));
    order.scenario.payload = Payload::Fixed { bytes: 9_000 };
    let error = run(&order, &mut |_| {}).expect_err("half a window is less");
    assert!(matches!(error, RunError::Scenario(_)), "{error}");
    order.scenario.payload = Payload::default();
    order.target.service_url = Some(running.tcp());
    let error = run(&order, &mut |_| {}).expect_err("the gateway listens there");
    assert!(matches!(error, RunError::Listen(_)), "{error}");
}
