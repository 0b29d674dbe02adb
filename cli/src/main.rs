//! The `fluxar` command: publish, subscribe, call, stream, serve and ping from a terminal or a script.
//!
//! What a person types ([`args`]) is done by one of [`publish`], [`subscribe`], [`call`], [`stream`], [`serve`],
//! [`services`], [`ping`] over the SDK, or by [`log`] on the files of a gateway. Payloads are JSON at the terminal and CBOR on the wire ([`json`] maps one to the other). What goes wrong becomes
//! a line on stderr and an exit code ([`failure`]).
#![forbid(unsafe_code)]

mod args;
mod call;
mod failure;
mod json;
mod log;
mod output;
mod ping;
mod publish;
mod serve;
mod services;
mod stream;
mod subscribe;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;
use failure::Failure;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let args = Args::parse();
    let level = if args.verbose { "fluxar=debug" } else { "off" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();

    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return Failure::here(format!("cannot start: {error}")).report(),
    };
    let done = runtime.block_on(async {
        match &args.command {
            Command::Pub(command) => publish::run(&args, command).await,
            Command::Sub(command) => subscribe::run(&args, command).await,
            Command::Call(command) => call::run(&args, command).await,
            Command::Serve(command) => serve::run(&args, command).await,
            Command::Stream(command) => stream::run(&args, command).await,
            Command::Services(command) => services::run(&args, command).await,
            Command::Log(command) => log::run(command),
            Command::Ping(command) => ping::run(&args, command).await,
        }
    });
    // A thread may still wait for a line of stdin; nobody waits for that thread.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
