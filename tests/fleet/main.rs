//! A fleet of eight echo services, each a process of its own, behind a gateway, under load, while they are killed,
//! stopped, restarted and drained at random. What was promised is looked at from outside: by what the callers got and
//! by what the services wrote down before they answered. Prints a table; ends with 1 if a promise was broken.
//!
//! ```text
//! cargo build --release -p fluxar-gateway
//! cargo run --release -p fluxar-tests --example fleet -- [--seconds 60] [--seed N] [--rate 300] [--streams 4]
//!                                                         [--gateway PATH] [--cores N]
//! ```
//!
//! Half of the services dial in, the gateway dials the other half. The program starts itself again as each of them.
#![forbid(unsafe_code)]

mod book;
mod load;
mod processes;
mod service;
mod trouble;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use book::Book;
use processes::{Fleet, Gateway};

/// How many services there are.
const SERVICES: usize = 8;
/// What is open at the end has this long to end. Longer than every deadline and every pause.
const PATIENCE: Duration = Duration::from_secs(15);

/// What the command line says.
#[derive(Debug, Clone)]
struct Args {
    seconds: u64,
    seed: u64,
    /// Calls a second, of all callers together.
    rate: u64,
    streams: usize,
    gateway: PathBuf,
    cores: usize,
}

fn args() -> Result<Args, String> {
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    // target/release/examples/fleet: the gateway is one folder up.
    let beside = here
        .parent()
        .and_then(|folder| folder.parent())
        .map(|folder| folder.join("fluxar-gateway"));
    let mut args = Args {
        seconds: 60,
        seed: std::time::UNIX_EPOCH
            .elapsed()
            .map_or(1, |since| since.as_secs() % 1_000_000),
        rate: 300,
        streams: 4,
        gateway: beside.unwrap_or_default(),
        cores: 2,
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
            "--seconds" => args.seconds = number()?,
            "--seed" => args.seed = number()?,
            "--rate" => args.rate = number()?.max(1),
            "--streams" => args.streams = number()? as usize,
            "--cores" => args.cores = number()? as usize,
            "--gateway" => args.gateway = value.into(),
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
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error.to_string()),
    };
    if std::env::args().nth(1).as_deref() == Some("service") {
        return match runtime.block_on(service::run()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&error.to_string()),
        };
    }
    let args = match args() {
        Ok(args) => args,
        Err(message) => return complain(&message),
    };
    match runtime.block_on(live(&args)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => complain(&error.to_string()),
    }
}

fn complain(message: &str) -> ExitCode {
    eprintln!("fleet: {message}");
    ExitCode::from(2)
}

/// Lives through it; whether all promises held.
async fn live(args: &Args) -> Result<bool, Box<dyn std::error::Error>> {
    println!(
        "fleet: {SERVICES} services, {} calls/s, {} streams at a time, {} s, seed {} (--seed {} plays the same misfortunes)",
        args.rate, args.streams, args.seconds, args.seed, args.seed
    );
    let folder = tempfile::tempdir()?;
    let mut fleet = Fleet::new(folder.path())?;
    let mut gateway = Gateway::start(&args.gateway, args.cores, folder.path(), &fleet.addresses()).await?;
    fleet.start(&gateway.url)?;
    let book = Arc::new(Book::new());
    let administrator = fluxar::Client::connect(gateway.url.as_str())
        .agent("administrator")
        .build()
        .await?;
    processes::until_all_serve(&administrator).await?;

    let load = load::begin(&gateway.url, args.rate, args.streams, args.seed, &book).await?;
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let played = trouble::go_on(until, args.seed, &mut fleet, &administrator, &book).await;
    load.stop();
    if let Err(error) = played {
        eprintln!("fleet: what the gateway said:\n{}", gateway.said());
        return Err(error);
    }
    let patience = Instant::now() + PATIENCE;
    while book.open() > 0 && Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    administrator.close().await;
    fleet.stop();
    let resident_kib = gateway.stop();
    let served = fleet.served()?;
    Ok(book.judge(&served, resident_kib))
}
