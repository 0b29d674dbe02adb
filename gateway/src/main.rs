//! `fluxar-gateway`: reads its configuration, looks at the kernel, starts the cores, says what it listens on, reads its
//! configuration again on SIGHUP, and drains on SIGTERM.
#![forbid(unsafe_code)]

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use fluxar_engine::probe::{explain, probe};
use fluxar_gateway::args::Args;
use fluxar_gateway::config::{Config, ConfigFault, Remark};
use fluxar_gateway::counters::Counters;
use fluxar_gateway::gateway::{CoreEnd, Gateway, StartError};
use fluxar_gateway::reload::{self, Changes};
use fluxar_gateway::stderr::Lines;
use fluxar_gateway::threads;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The configuration is wrong.
const EXIT_CONFIG: u8 = 2;
/// At its end the process waits for what it has said to be read, as long as some of it is within this time.
const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(2);
/// The same for a thread that panics. It may be the process's end, too.
const PANIC_PATIENCE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let args = Args::parse();
    let config = match args.configuration(std::env::vars()) {
        Ok(config) => config,
        Err(faults) => {
            for fault in &faults {
                eprintln!("{fault}");
            }
            let s = if faults.len() == 1 { "" } else { "s" };
            eprintln!(
                "{} fault{s} in the configuration; nothing was started",
                faults.len()
            );
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if args.print_config {
        return say(&config.to_toml());
    }
    if args.check {
        for Remark { is_warning, message } in config.remarks() {
            eprintln!("{}: {message}", if is_warning { "warning" } else { "note" });
        }
        return say("the configuration is good\n");
    }
    let lines = match Lines::start() {
        Ok(lines) => lines,
        Err(error) => {
            eprintln!("no thread can be had: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = match run(&args, config, &lines) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            lines.insist(&message);
            ExitCode::FAILURE
        }
    };
    lines.flush(LAST_WORDS_PATIENCE);
    code
}

/// Writes to standard output, which may be a full disk.
fn say(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("standard output cannot be written: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args, mut config: Config, lines: &Arc<Lines>) -> Result<(), String> {
    let started = Instant::now();
    let set_log_level = start_log(&config.log_level, lines);
    let said_on = Arc::clone(lines);
    threads::say_panics(move |panic| {
        // Not through what may have panicked.
        said_on.insist_on_error(panic);
        said_on.flush(PANIC_PATIENCE);
    });

    let cores = config.cores.pick()?.len();
    let report = probe(cores, &config.engine.uring());
    if !report.fatal.is_empty() {
        let lines: Vec<String> = report.fatal.iter().map(ToString::to_string).collect();
        return Err(format!("this gateway cannot run here:\n{}", lines.join("\n")));
    }
    for missing in &report.missing {
        tracing::warn!("{missing}");
    }
    let (_, descriptors) = fluxar_engine::rlimit::raise_descriptor_limit()
        .map_err(|error| format!("the limit on open files cannot be read: {error}"))?;

    // A first signal drains, a second ends at once.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .map_err(|error| format!("signals cannot be handled: {error}"))?;
    }
    let reread = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGHUP, Arc::clone(&reread))
        .map_err(|error| format!("signals cannot be handled: {error}"))?;

    let gateway = Gateway::start(&config).map_err(|error| match error {
        StartError::Core { core, error } => {
            format!(
                "core {core} could not be started: {}",
                explain(&error, cores, &config.engine.uring())
            )
        }
        other => other.to_string(),
    })?;
    announce(&gateway, &config, descriptors, started)
        .map_err(|error| format!("standard output cannot be written: {error}"))?;
    log_remarks(&config);
    loop {
        let is_told = || stop.load(Ordering::Relaxed) || reread.load(Ordering::Relaxed);
        if let Some(failure) = gateway.wait(is_told) {
            tracing::error!("{failure}; the gateway stops: goodbye to all clients, then exit code 1");
            // What else fails meanwhile is said beside it.
            return report_ends(gateway.stop()).and_then(|()| Err(failure.to_string()));
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // Taken down first: a signal that comes while the files are read has them read once more.
        if reread.swap(false, Ordering::Relaxed) {
            reload(
                args.configuration(std::env::vars()),
                &mut config,
                &gateway,
                &set_log_level,
            );
        }
    }
    tracing::info!("draining: no new connections, goodbye to all clients");
    report_ends(gateway.stop())
}

/// Starts the log on standard error; what comes back changes its level.
fn start_log(level: &str, lines: &Arc<Lines>) -> impl Fn(&str) + use<> {
    let log = tracing_subscriber::fmt()
        .with_writer(Arc::clone(lines))
        .with_target(false)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_env_filter(EnvFilter::new(level))
        .with_filter_reloading();
    let filter = log.reload_handle();
    log.init();
    move |level| {
        if let Err(error) = filter.reload(EnvFilter::new(level)) {
            tracing::error!("log.level cannot be changed: {error}");
        }
    }
}

/// Takes over what was read again, or says what is wrong with it and changes nothing.
fn reload(
    read: Result<Config, Vec<ConfigFault>>,
    running: &mut Config,
    gateway: &Gateway,
    set_log_level: &impl Fn(&str),
) {
    let read = match read {
        Ok(read) => read,
        Err(faults) => {
            for fault in &faults {
                tracing::error!("{fault}");
            }
            let s = if faults.len() == 1 { "" } else { "s" };
            let count = faults.len();
            tracing::error!(
                "not reloaded: {count} fault{s} in the configuration; the one before stays in force"
            );
            return;
        }
    };
    let changes = Changes::between(running, &read);
    for key in &changes.later {
        tracing::warn!("{key} changed: takes effect at the next start");
    }
    reload::take_over(running, read);
    set_log_level(&running.log_level);
    gateway.set_services(&Arc::new(running.services()));
    tracing::info!("reloaded: {changes}");
    log_remarks(running);
}

fn log_remarks(config: &Config) {
    for Remark { is_warning, message } in config.remarks() {
        if is_warning {
            tracing::warn!("{message}");
        } else {
            tracing::info!("{message}");
        }
    }
}

/// Says what runs where. Scripts may wait for the last line.
fn announce(gateway: &Gateway, config: &Config, descriptors: u64, started: Instant) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let processors: Vec<String> = gateway.processors().iter().map(usize::to_string).collect();
    let s = if processors.len() == 1 { "" } else { "s" };
    writeln!(out, "Fluxar Gateway {}", env!("CARGO_PKG_VERSION"))?;
    writeln!(
        out,
        "  cores    {} on processor{s} {}",
        processors.len(),
        processors.join(", ")
    )?;
    for (at, address) in gateway.addresses().iter().enumerate() {
        writeln!(
            out,
            "  {}{address}",
            if at == 0 { "listens  " } else { "         " }
        )?;
    }
    match gateway.log() {
        Some(log) => {
            let (partitions, path) = (log.settings().partitions, log.path().display());
            let s = if partitions == 1 { "" } else { "s" };
            let state = match log.held_bytes() >> 20 {
                _ if log.is_new() => "new".to_owned(),
                0 => "less than 1 MiB".to_owned(),
                mib => format!("{mib} MiB"),
            };
            writeln!(out, "  log      {path}: {partitions} partition{s}, {state}")?;
        }
        None => writeln!(out, "  log      none: events at qos 1 and 2 are refused")?,
    }
    for (at, upstream) in config.services.upstreams.iter().enumerate() {
        let dials = if at == 0 { "dials    " } else { "         " };
        let first = &upstream.endpoints[0].text;
        match upstream.endpoints.len() - 1 {
            0 => writeln!(out, "  {dials}{}: {first}", upstream.name)?,
            more => writeln!(out, "  {dials}{}: {first} and {more} more", upstream.name)?,
        }
    }
    writeln!(
        out,
        "  bounds   {} connections ({descriptors} open files), {} KiB queued a connection",
        (u64::from(config.limits.connections) * gateway.processors().len() as u64).min(descriptors),
        config.limits.queue_bytes / 1024
    )?;
    writeln!(
        out,
        "ready in {} ms; stop with Ctrl-C",
        started.elapsed().as_millis()
    )?;
    out.flush()
}

fn report_ends(ends: Vec<io::Result<CoreEnd>>) -> Result<(), String> {
    let mut faults = Vec::new();
    for (core, end) in ends.into_iter().enumerate() {
        match end {
            Ok(CoreEnd {
                counters,
                cut_off,
                held,
                ..
            }) => {
                if held.log_gaps > 0 {
                    tracing::error!(
                        core,
                        gaps = held.log_gaps,
                        "this core missed what others said of the log, and read it from there: a fault of the gateway, please report it"
                    );
                }
                let Counters {
                    opened,
                    dialled,
                    received,
                    delivered,
                    dropped,
                    calls,
                    rejected,
                    refused,
                    runs,
                    logged,
                    unlogged,
                    acknowledged,
                    given_up,
                    lost,
                    timed_out,
                    overrun,
                    late_answers,
                    ..
                } = counters;
                tracing::info!(
                    core,
                    connections = opened - dialled,
                    dialled,
                    received,
                    delivered,
                    runs,
                    dropped,
                    logged,
                    unlogged,
                    acknowledged,
                    given_up,
                    calls,
                    late_answers,
                    rejected,
                    refused,
                    lost,
                    timed_out,
                    overrun,
                    cut_off,
                    "stopped"
                );
            }
            Err(error) => faults.push(format!("core {core} failed: {error}")),
        }
    }
    if faults.is_empty() {
        Ok(())
    } else {
        Err(faults.join("\n"))
    }
}
