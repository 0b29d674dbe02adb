//! One run against a server that is already there, and what it cost: the load generator without campaigns around it.
//!
//! ```text
//! one_run [--url URL] [--subscribe URL] [--protocol NAME] [--pid PID]… [--core N]… [--json SCENARIO | WORKLOAD…]
//!
//!   one_run --pid $(pidof fluxar-gateway) --core 1 fan-out 1 100          # subscribers of one topic
//!   one_run --core 1 --rate 10000 fan-out 1 10                            # an open loop
//!   one_run calls 64 1 | storm 10000 | idle 1000 | slow | churn 100
//! ```
#![forbid(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;

use fluxar_loadgen::measured::Measured;
use fluxar_loadgen::run::{GeneratorConfig, RunOrder, run};
use fluxar_loadgen::scenario::{Arrivals, Payload, ProtocolName, Scenario, Target, Workload};

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), Box<dyn Error>> {
    let order = arguments()?;
    let measured = run(&order, &mut |snapshot| eprintln!("{snapshot:?}"))?;
    print(&measured);
    Ok(())
}

fn print(measured: &Measured) {
    for phase in &measured.phases {
        let seconds = phase.elapsed_ns as f64 / 1e9;
        println!(
            "sent {:.0}/s  delivered {:.0}/s ({})  lost {}  told {}  twice {}  out of order {}  refused {}",
            phase.sent as f64 / seconds,
            phase.delivered as f64 / seconds,
            phase.delivered,
            phase.lost,
            phase.told_dropped,
            phase.duplicated,
            phase.out_of_order,
            phase.refused,
        );
        let at = |quantile: f64| phase.latency_ns.value_at_quantile(quantile) as f64 / 1e3;
        println!(
            "latency µs: p50 {:.0}  p90 {:.0}  p99 {:.0}  p99.9 {:.0}  p99.99 {:.0}  max {:.0}   longest stall {:.1} ms",
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            at(0.9999),
            at(1.0),
            phase.stall_ns as f64 / 1e6,
        );
    }
    if let Some(server) = measured.server {
        println!(
            "server: {:.1} ns a delivered message, {:.0} ms of CPU, RSS {} → {} KiB (most {}), switches {} + {}",
            measured.server_ns_per_message().unwrap_or(f64::NAN),
            server.cpu_ns as f64 / 1e6,
            server.rss_before_bytes / 1024,
            server.rss_after_bytes / 1024,
            server.rss_max_bytes / 1024,
            server.switches_voluntary,
            server.switches_involuntary,
        );
    }
    println!(
        "generator: {:.0} ms of CPU, busiest thread {:.0} %, {:.1} ns a delivered message",
        measured.generator_cpu_ns as f64 / 1e6,
        measured.generator_busy * 100.0,
        measured.generator_cpu_ns as f64 / measured.delivered().max(1) as f64,
    );
    for (name, value) in &measured.extra {
        println!("{name}: {value:.3}");
    }
    for warning in &measured.warnings {
        println!("warning: {warning}");
    }
}

fn arguments() -> Result<RunOrder, Box<dyn Error>> {
    let mut target = Target {
        name: "one".to_owned(),
        protocol: ProtocolName::Fluxar,
        url: "tcp://127.0.0.1:9000".to_owned(),
        subscriber_url: None,
        qos: 0,
        batch: true,
    };
    let mut generator = GeneratorConfig::default();
    let mut pids = Vec::new();
    let mut scenario = Scenario {
        workload: Workload::FanOut {
            topics: 1,
            publishers: 1,
            subscribers: 1,
        },
        arrivals: Arrivals::default(),
        payload: Payload::default(),
        warmup_ms: 500,
        duration_ms: 3_000,
    };
    let mut numbers: Vec<u32> = Vec::new();
    let mut workload = String::from("fan-out");
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} takes a value"));
        match word.as_str() {
            "--url" => target.url = value()?,
            "--subscribe" => target.subscriber_url = Some(value()?),
            "--protocol" => target.protocol = serde_json::from_value(value()?.into())?,
            "--qos" => target.qos = value()?.parse()?,
            "--single" => target.batch = false,
            "--pid" => pids.push(value()?.parse()?),
            "--core" => generator.cores.push(value()?.parse()?),
            "--spin" => generator.spin = Some(value()? == "yes"),
            "--rate" => {
                scenario.arrivals = Arrivals::Constant {
                    per_s: value()?.parse()?,
                }
            }
            "--window" => {
                scenario.arrivals = Arrivals::Window {
                    messages: value()?.parse()?,
                }
            }
            "--bytes" => {
                scenario.payload = Payload::Fixed {
                    bytes: value()?.parse()?,
                }
            }
            "--warmup-ms" => scenario.warmup_ms = value()?.parse()?,
            "--ms" => scenario.duration_ms = value()?.parse()?,
            "--json" => scenario = serde_json::from_str(&value()?)?,
            number if number.starts_with(|first: char| first.is_ascii_digit()) => {
                numbers.push(number.parse()?)
            }
            name => name.clone_into(&mut workload),
        }
        let given = |at: usize, or: u32| numbers.get(at).copied().unwrap_or(or);
        scenario.workload = match workload.as_str() {
            _ if word == "--json" => scenario.workload,
            "fan-out" => Workload::FanOut {
                publishers: 1,
                topics: given(0, 1),
                subscribers: given(1, 1),
            },
            "calls" => Workload::Calls {
                clients: given(0, 1),
                in_flight: given(1, 1),
                services: given(2, 1),
            },
            "storm" => Workload::Storm {
                connections: given(0, 10_000),
                concurrency: given(1, 64),
                hold: given(2, 0) > 0,
            },
            "idle" => Workload::Idle {
                connections: given(0, 1_000),
                concurrency: 64,
                speak: given(1, 1) > 0,
            },
            "slow" => Workload::Slow {
                healthy: given(0, 2),
                stopped: given(1, 1),
            },
            "churn" => Workload::Churn {
                subscribers: given(1, 1),
                churn_per_s: f64::from(given(0, 100)),
            },
            "mixed" => Workload::Mixed {
                subscribers: given(0, 10),
                clients: given(1, 10),
                in_flight: given(2, 1),
            },
            other => return Err(format!("there is no workload {other:?}").into()),
        };
    }
    Ok(RunOrder {
        target,
        scenario,
        server: (!pids.is_empty()).then_some(pids),
        generator,
        seed: 1,
    })
}
