//! Real crashes: a gateway is killed again and again while publishers publish at full speed at `synced`, and the end of
//! its log is cut or spoilt as a power cut may leave it. Then it is counted: what was acknowledged and is missing, what was
//! handled twice at qos 2. Prints a table; ends with 1 if a promise was broken.
//!
//! ```text
//! cargo build --release -p fluxar-gateway
//! cargo run --release -p fluxar-tests --example crash -- [--kills 200] [--seed N] [--publishers 4] [--cores 2]
//!                                                         [--gateway PATH] [--folder PATH]
//! ```
#![forbid(unsafe_code)]

mod book;
mod power;
mod publisher;
mod stage;
mod subscriber;
mod wire;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use fluxar_engine::sim::Random;

use stage::{Gateway, Setup, Stage};
use subscriber::How;

/// What is to come after the last kill must come within this time.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Args {
    kills: u32,
    seed: u64,
    publishers: u32,
    cores: usize,
    gateway: PathBuf,
    folder: Option<PathBuf>,
}

fn args() -> Result<Args, String> {
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    let beside = here
        .parent()
        .and_then(|folder| folder.parent())
        .map(|folder| folder.join("fluxar-gateway"));
    let mut args = Args {
        kills: 200,
        seed: std::time::UNIX_EPOCH
            .elapsed()
            .map_or(1, |since| since.as_secs() % 1_000_000),
        publishers: 4,
        cores: 2,
        gateway: beside.unwrap_or_default(),
        folder: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or(format!("{word} needs a value"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{word} {value}: not a number"))
        };
        match word.as_str() {
            "--kills" => args.kills = number()? as u32,
            "--seed" => args.seed = number()?,
            "--publishers" => args.publishers = number()?.max(1) as u32,
            "--cores" => args.cores = number()?.max(1) as usize,
            "--gateway" => args.gateway = value.into(),
            "--folder" => args.folder = Some(value.into()),
            _ => return Err(format!("there is no {word}")),
        }
    }
    if !args.gateway.is_file() {
        return Err(format!(
            "{} is not there: cargo build --release -p fluxar-gateway",
            args.gateway.display()
        ));
    }
    Ok(args)
}

fn main() -> ExitCode {
    let outcome = args().and_then(|args| live(&args).map_err(|error| error.to_string()));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(message) => {
            eprintln!("crash: {message}");
            ExitCode::from(2)
        }
    }
}

/// What is counted on the way.
#[derive(Default)]
struct Tally {
    kills: u32,
    cuts: u32,
    spoilt: u32,
    cut_bytes: u64,
    ready_ms: Vec<u64>,
    /// From the start of a gateway to the first acknowledgement.
    acking_ms: Vec<u64>,
}

/// Lives through it; whether all promises held.
fn live(args: &Args) -> io::Result<bool> {
    println!(
        "crash: {} kills, {} publishers at qos 2 and synced, {} cores, seed {}",
        args.kills, args.publishers, args.cores, args.seed
    );
    let temporary = tempfile::tempdir()?;
    let folder = args.folder.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&folder)?;
    let setup = Setup {
        binary: args.gateway.clone(),
        folder,
        cores: args.cores,
    };
    let stage = Arc::new(Stage::default());
    let begun = Instant::now();
    let mut tally = Tally::default();
    let mut gateway = Gateway::start(&setup)?;
    let mut started = Instant::now();
    stage.set_address(Some(gateway.address.clone()));

    let mut publishers = Vec::new();
    for publisher in 1..=args.publishers {
        let stage = Arc::clone(&stage);
        publishers.push(thread::spawn(move || publisher::run(&stage, publisher)));
    }
    let mut hearers = Vec::new();
    for (who, how) in [
        ("durable", How::Durable),
        ("returning", How::Returning),
        ("queue", How::Worker),
        ("queue", How::Worker),
    ] {
        let stage = Arc::clone(&stage);
        hearers.push(thread::spawn(move || subscriber::run(&stage, who, how)));
    }

    let mut random = Random::new(args.seed);
    while tally.kills < args.kills {
        let acked = stage.acked.load(Ordering::Relaxed);
        if !wait_until(Duration::from_secs(20), || {
            stage.acked.load(Ordering::Relaxed) > acked
        }) {
            stage
                .book
                .open()
                .fault("nothing was acknowledged for 20 s".into());
            break;
        }
        tally
            .acking_ms
            .push(started.elapsed().as_millis() as u64 + gateway.ready_ms);
        // When it is killed is what is random here: soon after its start, or in full flight.
        thread::sleep(Duration::from_millis(random.below(400)));
        stage.set_address(None);
        gateway.kill()?;
        tally.kills += 1;
        stage.wait_for_silence();
        if random.chance(0.5) {
            let cut = power::cut(
                &setup.folder.join("log"),
                &stage.book.open().told_until,
                &mut random,
            )?;
            tally.cuts += u32::from(cut.bytes > 0);
            tally.spoilt += u32::from(cut.is_spoilt);
            tally.cut_bytes += cut.bytes;
        }
        gateway = Gateway::start(&setup)?;
        started = Instant::now();
        tally.ready_ms.push(gateway.ready_ms);
        stage.set_address(Some(gateway.address.clone()));
        if tally.kills.is_multiple_of(10) {
            println!(
                "  {} kills, {} acknowledged, {:.0} s",
                tally.kills,
                stage.acked.load(Ordering::Relaxed),
                begun.elapsed().as_secs_f64()
            );
        }
        if stage.book.open().fault_count > 0 {
            break;
        }
    }
    stage.end_publishing();
    let all_acked = wait_until(PATIENCE, || {
        publishers.iter().all(thread::JoinHandle::is_finished)
    });
    // Everything that was published is acknowledged by now, so numbers are enough to look at.
    let all_heard = all_acked && wait_until(PATIENCE, || stage.book.open().is_all_handled());
    stage.end();
    for thread in publishers.into_iter().chain(hearers) {
        let _ = thread.join();
    }
    gateway.stop()?;
    Ok(report(&stage, &mut tally, all_acked, all_heard, begun.elapsed()))
}

/// Looks at a condition until it holds.
fn wait_until(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        if holds() {
            return true;
        }
        thread::sleep(Duration::from_millis(5));
    }
    holds()
}

fn report(stage: &Stage, tally: &mut Tally, all_acked: bool, all_heard: bool, took: Duration) -> bool {
    let mut book = stage.book.open();
    if !all_acked {
        book.fault("not everything was acknowledged after the last restart".into());
    }
    for (who, lacking, first) in book.missing() {
        if lacking > 0 {
            book.fault(format!(
                "{who} never got {lacking} acknowledged events, the first {first:?}"
            ));
        }
    }
    debug_assert!(all_heard || book.fault_count > 0);
    println!("\n{:<42}{:>12}", "kills", tally.kills);
    println!("{:<42}{:>12}", "ends of the log cut", tally.cuts);
    println!("{:<42}{:>12}", "of these, with rubbish behind", tally.spoilt);
    println!("{:<42}{:>12}", "bytes cut", tally.cut_bytes);
    println!("{:<42}{:>12}", "events acknowledged", book.acked.len());
    println!(
        "{:<42}{:>12}",
        "publishes refused for a moment",
        stage.refused.load(Ordering::Relaxed)
    );
    println!("{:<42}{:>12}", "handled behind a later one", book.reordered);
    for (who, account) in &book.subscribers {
        println!(
            "{:<42}{:>12}",
            format!("{who}: handled, told again"),
            format!("{}, {}", account.events.len(), account.repeats)
        );
    }
    for (what, samples) in [
        ("ms to ready, p50 / p99 / most", &mut tally.ready_ms),
        ("ms to the first acknowledgement", &mut tally.acking_ms),
    ] {
        samples.sort_unstable();
        let at = |share: f64| {
            let last = samples.len().saturating_sub(1);
            samples
                .get((last as f64 * share).round() as usize)
                .copied()
                .unwrap_or(0)
        };
        println!(
            "{what:<42}{:>12}",
            format!("{} / {} / {}", at(0.5), at(0.99), at(1.0))
        );
    }
    println!("{:<42}{:>12.0}", "seconds", took.as_secs_f64());
    for fault in &book.faults {
        println!("BROKEN: {fault}");
    }
    if book.fault_count == 0 {
        println!("all promises held");
    } else {
        println!("{} faults", book.fault_count);
    }
    book.fault_count == 0
}
