//! Orders that must not be lost: placed into the gateway's log, billed once each, and packed by whoever has time.
//!
//! `orders place` publishes to `orders.placed`, each order under an id that is made from its number: placed again by
//! another process, it is stored once. `orders bill` writes each into a ledger together with where it is in the log, goes on
//! behind the last of these, and knows an order that comes again by its number. `orders pack` is one of many members of a
//! group: a work queue, in which the orders of a packer that is lost go to another. Any of them, and the gateway, can be
//! killed at any moment.
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
use fluxar::{Begin, Client, Code, Cursor, Error, Message, State};
use serde::{Deserialize, Serialize};

const PLACED: &str = "orders.placed";
/// What could not be begun is begun again after so long, if the gateway does not say.
const ASK_AGAIN: Duration = Duration::from_millis(100);

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
        /// The number of the first one.
        #[arg(long, default_value_t = 1, value_name = "NUMBER")]
        first: u64,
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
        Role::Place { count, first } => place(&client, *first, *count).await?,
        Role::Bill { ledger } => bill(&client, ledger).await?,
        Role::Pack { name, pack_ms } => pack(&client, name, Duration::from_millis(*pack_ms)).await?,
    }
    client.close().await;
    Ok(())
}

impl Order {
    /// The id of its event: whoever places this order, however often, means the same.
    fn event_id(&self) -> [u8; 16] {
        let mut id = *b"orders/1........";
        id[8..].copy_from_slice(&self.id.to_be_bytes());
        id
    }
}

/// All of them are on their way at once; each is sent again until the gateway says where it is stored.
async fn place(client: &Client, first: u64, count: u64) -> fluxar::Result<()> {
    let mut receipts = Vec::new();
    for id in first..first + count {
        let order = Order {
            id,
            cents: 100 + id * 7 % 900,
        };
        let event = client.event(PLACED, &order).id(order.event_id());
        receipts.push(event.exactly_once().enqueue().await?);
    }
    for receipt in receipts {
        receipt.await?;
    }
    println!("{count} orders are stored");
    Ok(())
}

/// Goes on behind the last order in the ledger. If the log is another one, or does not hold what comes next any more, it begins
/// at the first that is held: what it has billed already it knows by the orders' numbers. A subscription that has begun outlives
/// the gateway; one that had not is asked for again once the gateway is back.
async fn bill(client: &Client, path: &Path) -> fluxar::Result<()> {
    let mut ledger = Ledger::open(path).map_err(Error::internal)?;
    let ended = told_to_end();
    tokio::pin!(ended);
    loop {
        let begin = ledger.last.clone().map_or(Begin::All, Begin::Behind);
        let is_first_held = begin == Begin::All;
        let outcome = tokio::select! {
            outcome = bill_from(client, begin, &mut ledger) => outcome,
            () = &mut ended => return Ok(()),
        };
        match outcome {
            Err(error) if error.code() == Code::OutOfRange && !is_first_held => {
                eprintln!("orders: {error}; going on with the first order that is held");
                ledger.last = None;
            }
            Err(error) if error.code() == Code::Unavailable => {
                eprintln!("orders: {error}; asking again once the gateway is there");
                let mut states = client.watch_state();
                tokio::select! {
                    connected = states.wait_for(|state| *state == State::Connected) => drop(connected),
                    () = &mut ended => return Ok(()),
                }
                tokio::time::sleep(error.retry_after_hint().unwrap_or(ASK_AGAIN)).await;
            }
            outcome => return outcome,
        }
    }
}

/// An order is done when it stands in the ledger; then it is acknowledged. The ledger says where to begin; the durable name
/// sees to it that there is one biller: a second one takes it over, and the first is ended.
async fn bill_from(client: &Client, begin: Begin, ledger: &mut Ledger) -> fluxar::Result<()> {
    let asking = client.subscription(PLACED).exactly_once("billing");
    let mut orders = asking.from(begin).open().await?;
    while let Some(msg) = orders.next().await {
        let order: Order = msg.payload()?;
        if let (Some(cursor), Some(at)) = (orders.cursor(), msg.position()) {
            let epoch = cursor.epoch; // tells this log from another
            let cursor = Cursor { epoch, at: vec![at] };
            ledger.bill(&order, cursor).map_err(Error::internal)?;
        }
        msg.ack().await?;
    }
    orders.end().map_or(Ok(()), Err)
}

/// What is billed: a line for each order, on the disk before the order is acknowledged.
struct Ledger {
    file: File,
    billed: HashSet<u64>,
    /// Where the order of the last line is in the log.
    last: Option<Cursor>,
}

impl Ledger {
    /// A last line that was cut off counts as not written.
    fn open(path: &Path) -> std::io::Result<Self> {
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .open(path)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        if !text.is_empty() && !text.ends_with('\n') {
            writeln!(file)?;
        }
        let mut ledger = Self {
            file,
            billed: HashSet::new(),
            last: None,
        };
        for (cursor, order) in text.lines().filter_map(read_line) {
            ledger.billed.insert(order);
            ledger.last = Some(cursor);
        }
        Ok(ledger)
    }

    /// Writes it down, unless it is there.
    fn bill(&mut self, order: &Order, at: Cursor) -> std::io::Result<()> {
        let Order { id, cents } = order;
        if self.billed.contains(id) {
            return Ok(());
        }
        writeln!(self.file, "{at} order {id}: {cents} cents")?;
        self.file.sync_data()?;
        self.billed.insert(*id);
        self.last = Some(at);
        Ok(())
    }
}

/// Where the order of a line is in the log, and its number.
fn read_line(line: &str) -> Option<(Cursor, u64)> {
    let (at, rest) = line.strip_suffix(" cents")?.split_once(" order ")?;
    let (order, _) = rest.split_once(": ")?;
    Some((at.parse().ok()?, order.parse().ok()?))
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
