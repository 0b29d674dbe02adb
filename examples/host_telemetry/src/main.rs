//! Publishes this machine's counters ten times a second, and answers `host.info`.
//!
//! The numbers come from /proc ([`proc`] reads them) and go out as events on `host.cpu`, `host.memory`, `host.net` and
//! `host.load`. See them with `fluxar sub 'host.>'`, or in `examples/browser`.
#![forbid(unsafe_code)]

mod proc;

use std::{
    fs,
    io::{IsTerminal, Write},
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use fluxar::{Client, Request, State};
use proc::{Load, Memory, Net, Stat};
use serde::Serialize;
use tokio::time::MissedTickBehavior;

/// Ten readings a second.
const EVERY: Duration = Duration::from_millis(100);
/// How often a terminal is shown how it goes.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// How often a log is told.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Publishes this machine's counters on host.cpu, host.memory, host.net and host.load, and serves host.info.
#[derive(Debug, Parser)]
struct Args {
    /// Address of the gateway.
    #[arg(long, env = "FLUXAR_URL", default_value = "tcp://127.0.0.1:9000")]
    url: String,
}

#[derive(Debug, Serialize)]
struct Cpu<'a> {
    host: &'a str,
    at_ms: u64,
    busy_percent: f64,
    per_core_percent: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct MemoryUse<'a> {
    host: &'a str,
    at_ms: u64,
    total_bytes: u64,
    available_bytes: u64,
    used_percent: f64,
}

#[derive(Debug, Serialize)]
struct NetRate<'a> {
    host: &'a str,
    at_ms: u64,
    rx_bytes_per_s: f64,
    tx_bytes_per_s: f64,
}

#[derive(Debug, Serialize)]
struct LoadAverage<'a> {
    host: &'a str,
    at_ms: u64,
    load_1m: f64,
    load_5m: f64,
    load_15m: f64,
    tasks_running: u32,
}

#[derive(Debug, Serialize)]
struct Info {
    hostname: String,
    kernel: String,
    cpu_model: String,
    cores: usize,
    memory_bytes: u64,
    uptime_s: f64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("host_telemetry: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> fluxar::Result<()> {
    // Started before the gateway, or outliving it, this waits for it.
    eprintln!(
        "host_telemetry: publishing host.> to {}, serving host.info (Ctrl-C ends)",
        args.url
    );
    let agent = concat!("host_telemetry/", env!("CARGO_PKG_VERSION"));
    let connecting = Client::connect(&args.url).agent(agent).keep_dialing(true).build();
    let client = tokio::select! {
        client = connecting => client?,
        _ = tokio::signal::ctrl_c() => return Ok(()),
    };
    client.serve("host.info", |_: Request| async { info() }).await?;
    tokio::select! {
        published = publish(&client) => published?,
        _ = tokio::signal::ctrl_c() => {
            if std::io::stderr().is_terminal() {
                eprintln!();
            }
        }
    }
    client.close().await;
    Ok(())
}

/// A reading of the counters that only mean something compared with the one before.
struct Reading {
    at: Instant,
    stat: Stat,
    net: Net,
}

impl Reading {
    fn take() -> fluxar::Result<Self> {
        Ok(Self {
            at: Instant::now(),
            stat: read("stat", Stat::parse)?,
            net: read("net/dev", Net::parse)?,
        })
    }
}

async fn publish(client: &Client) -> fluxar::Result<()> {
    let host = hostname()?;
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut before = Reading::take()?;
    let is_terminal = std::io::stderr().is_terminal();
    let (mut published, mut status_due) = (0u64, Instant::now() + STATUS_EVERY);
    loop {
        ticks.tick().await;
        let now = Reading::take()?;
        let at_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis() as u64;
        let cores = now.stat.cores.iter().zip(&before.stat.cores);
        let cpu = Cpu {
            host: &host,
            at_ms,
            busy_percent: now.stat.all.busy_percent_since(before.stat.all),
            per_core_percent: cores
                .map(|(now, before)| now.busy_percent_since(*before))
                .collect(),
        };
        let memory = read("meminfo", Memory::parse)?;
        let used_percent = memory.used_percent();
        let Memory {
            total_bytes,
            available_bytes,
        } = memory;
        let memory = MemoryUse {
            host: &host,
            at_ms,
            total_bytes,
            available_bytes,
            used_percent,
        };
        let (rx_bytes_per_s, tx_bytes_per_s) = now.net.rates_since(before.net, now.at - before.at);
        let net = NetRate {
            host: &host,
            at_ms,
            rx_bytes_per_s,
            tx_bytes_per_s,
        };
        let Load {
            load_1m,
            load_5m,
            load_15m,
            tasks_running,
        } = read("loadavg", Load::parse)?;
        let load = LoadAverage {
            host: &host,
            at_ms,
            load_1m,
            load_5m,
            load_15m,
            tasks_running,
        };

        if client.state() == State::Connected {
            // Telemetry is worth nothing late: what finds no room is left out.
            let sent = [
                client.try_publish("host.cpu", &cpu),
                client.try_publish("host.memory", &memory),
                client.try_publish("host.net", &net),
                client.try_publish("host.load", &load),
            ];
            published += sent.iter().filter(|sent| sent.is_ok()).count() as u64;
        }
        if Instant::now() >= status_due {
            status_due = Instant::now() + if is_terminal { STATUS_EVERY } else { LOG_EVERY };
            let status = status(client, published, &cpu, &memory);
            // Nobody may be looking at it.
            drop(if is_terminal {
                write!(std::io::stderr(), "\r\x1b[2K{status}") // written over the last one
            } else {
                writeln!(std::io::stderr(), "host_telemetry: {status}")
            });
        }
        before = now;
    }
}

/// How it goes, in one line.
fn status(client: &Client, published: u64, cpu: &Cpu<'_>, memory: &MemoryUse<'_>) -> String {
    let state = match client.state() {
        State::Connected => "connected".to_owned(),
        State::Reconnecting { attempt } | State::Resuming { attempt } => {
            format!("not connected, attempt {attempt}")
        }
        _ => "closed".to_owned(),
    };
    let (busy, used) = (cpu.busy_percent, memory.used_percent);
    format!("{state} · {published} events · cpu {busy:.0} % · memory {used:.0} %")
}

fn info() -> fluxar::Result<Info> {
    let cpuinfo = read("cpuinfo", |text| Some(text.to_owned()))?;
    Ok(Info {
        hostname: hostname()?,
        kernel: read("sys/kernel/osrelease", |text| Some(text.trim().to_owned()))?,
        cpu_model: proc::cpu_model(&cpuinfo).unwrap_or("unknown").to_owned(),
        cores: read("stat", Stat::parse)?.cores.len(),
        memory_bytes: read("meminfo", Memory::parse)?.total_bytes,
        uptime_s: read("uptime", proc::uptime_s)?,
    })
}

fn hostname() -> fluxar::Result<String> {
    read("sys/kernel/hostname", |text| Some(text.trim().to_owned()))
}

/// Reads a file under /proc.
fn read<T>(name: &str, parse: impl FnOnce(&str) -> Option<T>) -> fluxar::Result<T> {
    let path = format!("/proc/{name}");
    let text = fs::read_to_string(&path)
        .map_err(|error| fluxar::Error::internal(format!("{path}: {error} (this example needs Linux)")))?;
    parse(&text).ok_or_else(|| fluxar::Error::internal(format!("{path} does not look as expected")))
}
