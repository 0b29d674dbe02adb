//! Long runs of the simulation of gateways with a log: many lives, each from its seed, or one life again.
//!
//! ```text
//! cargo run --profile test -p fluxar-tests --example sim -- [--seed 0] [--seeds 1000] [--keep-going true]
//!                                                              [--everywhere true] [--slow true] [--fault RunLost]
//! ```
//!
//! Prints a table at the end, and ends with 1 if a promise was broken. `--everywhere` lives small lives, ended once at each
//! operation of their disk; `--slow` lives with starts that take seconds; `--fault` plants a fault, which is to be found.
#![forbid(unsafe_code)]

mod logged;
mod session;
// The town's wire; a log's citizens need less of it.
#[allow(dead_code)]
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use logged::life::{Life, live_everywhere};
use logged::plan::Plan;
use logged::seam::Fault;
use logged::totals::Totals;

/// How often it is said how far it is.
const PROGRESS_PAUSE: Duration = Duration::from_secs(5);

struct Args {
    seed: u64,
    seeds: u64,
    keep_going: bool,
    everywhere: bool,
    slow: bool,
    fault: Option<Fault>,
}

impl Args {
    fn plan(&self, seed: u64) -> Plan {
        match self.slow {
            true => Plan::slow(seed),
            false => Plan::of_seed(seed),
        }
    }
}

fn args() -> Result<Args, String> {
    let mut args = Args {
        seed: 0,
        seeds: 1_000,
        keep_going: false,
        everywhere: false,
        slow: false,
        fault: None,
    };
    let mut is_alone = false;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or(format!("{word} needs a value"))?;
        let number = || {
            value
                .parse::<u64>()
                .map_err(|_| format!("{word} {value}: not a number"))
        };
        match word.as_str() {
            "--seed" => {
                args.seed = number()?;
                is_alone = true;
            }
            "--seeds" => {
                args.seeds = number()?;
                is_alone = false;
            }
            "--keep-going" => args.keep_going = value == "true",
            "--everywhere" => args.everywhere = value == "true",
            "--slow" => args.slow = value == "true",
            "--fault" => {
                let fault = Fault::ALL.into_iter().find(|fault| format!("{fault:?}") == value);
                let names = || format!("there is no fault {value}; there are {:?}", Fault::ALL);
                args.fault = Some(fault.ok_or_else(names)?);
            }
            _ => return Err(format!("there is no {word}")),
        }
    }
    if is_alone {
        args.seeds = 1;
    }
    Ok(args)
}

fn main() -> ExitCode {
    match args() {
        Ok(args) => run(&args),
        Err(message) => {
            eprintln!("sim: {message}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> ExitCode {
    let (begun, mut said) = (Instant::now(), Instant::now());
    let mut totals = Totals::default();
    if args.seeds == 1 && !args.everywhere {
        println!("{:#?}", args.plan(args.seed));
    }
    let (mut lived, mut broken) = (0u64, 0u64);
    for seed in args.seed..args.seed + args.seeds {
        let life = || match args.everywhere {
            true => live_everywhere(seed),
            false => Life::new(seed, args.plan(seed), args.fault)
                .live()
                .map(|(totals, _)| totals),
        };
        match catch_unwind(AssertUnwindSafe(life)) {
            Ok(Ok(of_life)) => totals.add(&of_life),
            Ok(Err(why)) => {
                broken += 1;
                if args.seeds == 1 || !args.keep_going {
                    println!("seed {seed}: BROKEN: {why}");
                } else {
                    println!("seed {seed}: BROKEN: {}", why.promise);
                }
            }
            Err(_) => {
                broken += 1;
                println!("seed {seed}: BROKEN: the gateway panicked");
            }
        }
        lived += 1;
        if broken > 0 && !args.keep_going {
            break;
        }
        if said.elapsed() > PROGRESS_PAUSE {
            said = Instant::now();
            println!(
                "  {lived} lives, {broken} broken, {:.0} s",
                begun.elapsed().as_secs_f64()
            );
        }
    }
    if args.seeds == 1 && broken > 0 {
        return ExitCode::from(1);
    }
    println!("\n{:<32}{lived:>12}", "lives");
    for (name, value) in totals.rows() {
        println!("{name:<32}{value:>12}");
    }
    println!("{:<32}{:>12.1}", "seconds", begun.elapsed().as_secs_f64());
    if broken == 0 {
        println!("all promises held");
        ExitCode::SUCCESS
    } else {
        println!("{broken} lives in which a promise was broken");
        ExitCode::from(1)
    }
}
