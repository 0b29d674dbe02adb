//! Orders that must not be lost: placed into the gateway's log, billed once each, and packed by whoever has time.
//!
//! `orders place` publishes to `orders.placed`, exactly once. `orders bill` reads them with a durable cursor, and writes
//! each into a ledger together with its position, so that not even a crash between the two bills an order twice.
//! `orders pack` is one of many members of a group: a work queue, in which the orders of a packer that is lost go to
//! another. Any of them, and the gateway, can be killed at any moment.
#![forbid(unsafe_code)]

use std::{
    collections::HashSet,
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand};
use fluxar::{Begin, Client, Error, Message, Position};
use serde::{Deserialize, Serialize};

const PLACED: &str = "orders.placed";

/// Orders that are stored: billed once each, and packed by whoever has time.
#[derive(Debug, Parser)]
struct Args {
    /// Address of the gateway.
    #[arg(
        long,
        global = true,
        env = "FLUXAR_URL",
        default_value = "tcp://127.0.0.1:9000"
    )]
    url: String,

    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Place orders, and wait until all are stored.
    Place {
        #[arg(long, default_value_t = 10, value_name = "N")]
        count: u64,
    },
    /// Write each order into a ledger, once.
    Bill {
        #[arg(long, value_name = "FILE")]
        ledger: PathBuf,
    },
    /// Pack what the gateway gives to this packer.
    Pack {
        #[arg(long)]
        name: String,
        /// How long one takes.
        #[arg(long, default_value_t = 10, value_name = "MS")]
        pack_ms: u64,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    id: u64,
    cents: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("orders: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> fluxar::Result<()> {
    let agent = concat!("orders/", env!("CARGO_PKG_VERSION"));
    let client = Client::connect(&args.url)
        .agent(agent)
        .keep_dialing(true)
        .build()
        .await?;
    match &args.role {
        Role::Place { count } => place(&client, *count).await?,
        Role::Bill { ledger } => bill(&client, ledger).await?,
        Role::Pack { name, pack_ms } => pack(&client, name, Duration::from_millis(*pack_ms)).await?,
    }
    client.close().await;
    Ok(())
}

/// All of them are on their way at once; each is sent again until the gateway says where it is stored.
async fn place(client: &Client, count: u64) -> fluxar::Result<()> {
    let mut receipts = Vec::new();
    for id in 1..=count {
        let order = Order {
            id,
            cents: 100 + id * 7 % 900,
        };
        receipts.push(client.event(PLACED, &order).exactly_once().enqueue().await?);
    }
    for receipt in receipts {
        receipt.await?;
    }
    println!("{count} orders are stored");
    Ok(())
}

/// The order is done when it stands in the ledger; then it is acknowledged. Who ends in between is given it again, and
/// finds its position there.
async fn bill(client: &Client, ledger: &Path) -> fluxar::Result<()> {
    let (mut billed, mut file) = open(ledger).map_err(Error::internal)?;
    let mut asking = client.subscription(PLACED).exactly_once("billing");
    if billed.is_empty() {
        asking = asking.from(Begin::All); // those too that were placed before there was a ledger
    }
    let mut orders = asking.open().await?;
    let ended = told_to_end();
    tokio::pin!(ended);
    loop {
        let order = tokio::select! {
            order = orders.next() => order,
            () = &mut ended => break,
        };
        let Some(msg) = order else {
            return orders.end().map_or(Ok(()), Err);
        };
        let (Order { id, cents }, Some(at)) = (msg.payload()?, msg.position()) else {
            continue;
        };
        if billed.insert(at) {
            writeln!(file, "{at} order {id}: {cents} cents").map_err(Error::internal)?;
            file.sync_data().map_err(Error::internal)?;
        }
        msg.ack().await?;
    }
    Ok(())
}

/// The ledger, and the positions that stand in it. A last line that was cut off counts as not written.
fn open(ledger: &Path) -> std::io::Result<(HashSet<Position>, File)> {
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .append(true)
        .open(ledger)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    if !text.is_empty() && !text.ends_with('\n') {
        writeln!(file)?;
    }
    let position = |line: &str| line.strip_suffix(" cents")?.split(' ').next()?.parse().ok();
    Ok((text.lines().filter_map(position).collect(), file))
}

/// The handler's `Ok` acknowledges. An order whose packer is lost, or that is not acknowledged within 30 s, goes to another.
async fn pack(client: &Client, name: &str, time: Duration) -> fluxar::Result<()> {
    let packer = name.to_owned();
    let packing = client
        .subscribe(PLACED, move |msg: Message| {
            let packer = packer.clone();
            async move {
                let Order { id, .. } = msg.payload()?;
                tokio::time::sleep(time).await;
                let again = if msg.dup() > 0 {
                    ", which somebody had before"
                } else {
                    ""
                };
                println!("{packer} packed order {id}{again}");
                Ok(())
            }
        })
        .group("packers")
        .at_least_once()
        .in_flight(8)
        .await?;
    eprintln!("orders: {name} packs (Ctrl-C ends)");
    tokio::select! {
        () = told_to_end() => packing.cancel().await,
        Some(why) = packing.ended() => Err(why),
    }
}

/// Completes at Ctrl-C or SIGTERM.
async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminated) => tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated.recv() => {}
        },
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}
