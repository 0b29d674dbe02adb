//! Real crashes and cut connections: a gateway, or a broker beside it, is killed again and again, or the connections
//! to it are cut, while clients work at full speed. Then it is counted: what was acknowledged and is missing, what was handled
//! twice, what came out of order. Prints a table; ends with 1 if the gateway broke a promise. `tests/crash/run` builds what is
//! needed and starts it.
//!
//! ```text
//!   main ─┬─▶ kills    gateway, killed; the end of its log cut          (power, syncs)
//!         ├─▶ cuts     gateway behind a proxy that cuts connections     (proxy, sessions)
//!         └─▶ trial    gateway or broker, killed: the same play for all (peer, ledger)
//!   stage, cast, publisher, subscriber, wire: the clients of kills and cuts.   book: what they were told
//! ```
#![forbid(unsafe_code)]

mod book;
mod cast;
mod cuts;
mod kills;
mod ledger;
mod peer;
mod power;
mod proxy;
mod publisher;
mod report;
mod sessions;
mod stage;
mod subscriber;
mod syncs;
mod trial;
mod wire;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use stage::Setup;

const USAGE: &str = "\
crash [--kills N] [--cuts N] [--peer NAME,… [--power yes] [--program PATH]]
      [--seed N] [--publishers 4] [--cores 2] [--gateway PATH] [--folder PATH]
  --kills N       kill the gateway so often, or each peer (200, or 20, if nothing is asked for)
  --cuts N        cut so many connections to the gateway
  --peer NAME,…   the same play for the gateway and for brokers; the gateway is judged
  --power yes     behind each kill of a peer what was not synced is cut off, as a power cut may do
  --program PATH  the program of the peer, instead of the one that is installed";

#[derive(Debug)]
struct Args {
    kills: u32,
    cuts: u32,
    seed: u64,
    publishers: u32,
    cores: usize,
    gateway: PathBuf,
    folder: Option<PathBuf>,
    peers: Vec<String>,
    has_power_cuts: bool,
    program: Option<PathBuf>,
}

fn args() -> Result<Args, String> {
    let here = std::env::current_exe().map_err(|error| error.to_string())?;
    let beside = here
        .parent()
        .and_then(|folder| folder.parent())
        .map(|folder| folder.join("fluxar-gateway"));
    let mut args = Args {
        kills: 0,
        cuts: 0,
        seed: std::time::UNIX_EPOCH
            .elapsed()
            .map_or(1, |since| since.as_secs() % 1_000_000),
        publishers: 4,
        cores: 2,
        gateway: beside.unwrap_or_default(),
        folder: None,
        peers: Vec::new(),
        has_power_cuts: false,
        program: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words
            .next()
            .ok_or_else(|| format!("{word} needs a value\n{USAGE}"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{word} {value}: not a number"))
        };
        match word.as_str() {
            "--kills" => args.kills = number()? as u32,
            "--cuts" => args.cuts = number()? as u32,
            "--seed" => args.seed = number()?,
            "--publishers" => args.publishers = number()?.max(1) as u32,
            "--cores" => args.cores = number()?.max(1) as usize,
            "--gateway" => args.gateway = value.into(),
            "--folder" => args.folder = Some(value.into()),
            "--peer" => args.peers.extend(value.split(',').map(str::to_owned)),
            "--power" => args.has_power_cuts = value == "yes",
            "--program" => args.program = Some(value.into()),
            _ => return Err(format!("there is no {word}\n{USAGE}")),
        }
    }
    if args.kills == 0 && args.cuts == 0 {
        args.kills = if args.peers.is_empty() { 200 } else { 20 };
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

/// Everything that was asked for; whether all promises held. Where one did not, the logs stay, to be looked at.
fn live(args: &Args) -> std::io::Result<bool> {
    let temporary = tempfile::tempdir()?;
    let folder = args.folder.clone().unwrap_or_else(|| temporary.path().to_owned());
    let held = live_in(&folder, args)?;
    if !held {
        if args.folder.is_none() {
            let _ = temporary.keep();
        }
        println!(
            "the logs are in {}: `fluxar log cat` prints them",
            folder.display()
        );
    }
    Ok(held)
}

/// One play after the other, each with a log of its own.
fn live_in(folder: &Path, args: &Args) -> std::io::Result<bool> {
    let setup = |play: &str| {
        let folder = folder.join(play);
        std::fs::create_dir_all(&folder)?;
        Ok::<_, std::io::Error>(Setup {
            binary: args.gateway.clone(),
            folder,
            cores: args.cores,
        })
    };
    if !args.peers.is_empty() {
        return compare(args, folder);
    }
    let mut held = true;
    if args.kills > 0 {
        held &= kills::live(args, &setup("kills")?)?;
    }
    if args.cuts > 0 {
        held &= cuts::live(args, &setup("cuts")?)?;
    }
    Ok(held)
}

/// The same play for each peer; whether all of them could be played with, and the gateway kept its promises.
fn compare(args: &Args, folder: &Path) -> std::io::Result<bool> {
    let mut rows = Vec::new();
    let mut played = true;
    for name in &args.peers {
        let Some(peer) = peer::named(name, args.program.as_deref(), &args.gateway, args.cores) else {
            let known = peer::NAMES.join(", ");
            return Err(std::io::Error::other(format!(
                "there is no peer {name}; there are {known}"
            )));
        };
        match trial::live(args, &*peer, &folder.join(name)) {
            Ok(mut outcome) => {
                if peer.is_ours() && !outcome.is_flawless() {
                    println!(
                        "BROKEN: {name} lost events, told some twice or out of order, or did not come back"
                    );
                    played = false;
                }
                rows.push(outcome.row());
            }
            Err(error) => {
                eprintln!("crash: {name}: {error}");
                played = false;
            }
        }
    }
    println!("{}\n{}", trial::TABLE, rows.join("\n"));
    Ok(played)
}
