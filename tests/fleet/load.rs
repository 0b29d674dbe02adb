//! Those who call the fleet, by the SDK: at a steady rate, whatever comes back, and streams one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fluxar::Client;

use crate::book::{Book, Kind, Random};

/// Connections that the calls are spread over.
const CALLERS: usize = 6;

/// The load, until it is stopped.
pub(crate) struct Load {
    is_over: Arc<AtomicBool>,
}

impl Load {
    /// Nothing new is asked from now on.
    pub(crate) fn stop(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

pub(crate) async fn begin(
    url: &str,
    rate: u64,
    streams: usize,
    seed: u64,
    book: &Arc<Book>,
) -> fluxar::Result<Load> {
    let is_over = Arc::new(AtomicBool::new(false));
    for caller in 0..CALLERS {
        let client = Client::connect(url)
            .agent(format!("caller-{caller}"))
            .build()
            .await?;
        let every = Duration::from_micros(1_000_000 * CALLERS as u64 / rate);
        let random = Random(seed ^ (caller as u64 + 1) << 40);
        tokio::spawn(call_on(
            client,
            every,
            random,
            Arc::clone(book),
            Arc::clone(&is_over),
        ));
    }
    for streamer in 0..streams {
        let client = Client::connect(url)
            .agent(format!("streamer-{streamer}"))
            .build()
            .await?;
        let random = Random(seed ^ (streamer as u64 + 1) << 50);
        tokio::spawn(stream_on(client, random, Arc::clone(book), Arc::clone(&is_over)));
    }
    tokio::spawn(watch_machine(Arc::clone(book), Arc::clone(&is_over)));
    Ok(Load { is_over })
}

/// Writes down when this process, which does little, was itself held up: the machine has other things to do as well, and
/// the fleet cannot be quicker than that.
async fn watch_machine(book: Arc<Book>, is_over: Arc<AtomicBool>) {
    const EVERY: Duration = Duration::from_millis(5);
    while !is_over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        tokio::time::sleep(EVERY).await;
        book.is_held_up(begun.elapsed().saturating_sub(EVERY));
    }
}

/// A call each time it is due, and none waits for another.
async fn call_on(
    client: Client,
    every: Duration,
    mut random: Random,
    book: Arc<Book>,
    is_over: Arc<AtomicBool>,
) {
    let mut due = tokio::time::interval(every);
    while !is_over.load(Ordering::Relaxed) {
        due.tick().await;
        let idempotent = random.below(10) < 4;
        let timeout_ms = 1_000 + random.below(1_500);
        let hedge_ms = (idempotent && random.below(3) == 0).then(|| 20 + random.below(80));
        let prio = random.below(8) as u8;
        let client = client.clone();
        let book = Arc::clone(&book);
        tokio::spawn(async move {
            let number = book.asks(Kind::Call {
                idempotent,
                timeout_ms,
            });
            let mut call = client
                .request("echo.call")
                .payload(&number)
                .timeout(Duration::from_millis(timeout_ms))
                .priority(prio)
                .idempotent(idempotent);
            if let Some(hedge_ms) = hedge_ms {
                call = call.hedge_after(Duration::from_millis(hedge_ms));
            }
            let answer = call.send::<u64>().await;
            book.ends(number, answer.map(|answer| answer == number));
        });
    }
}

async fn stream_on(client: Client, mut random: Random, book: Arc<Book>, is_over: Arc<AtomicBool>) {
    while !is_over.load(Ordering::Relaxed) {
        let number = book.asks(Kind::Stream);
        let items = 20 + random.below(150);
        let outcome = read_all(&client, number, items).await;
        book.ends(number, outcome);
        // One that is refused at once must not spin.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether all items came, in order, and the end behind them.
async fn read_all(client: &Client, number: u64, items: u64) -> fluxar::Result<bool> {
    let mut stream = client.stream::<u64>("echo.count", &(number, items)).await?;
    let mut next = 0;
    while let Some(item) = stream.next().await {
        if item? != next {
            return Ok(false);
        }
        next += 1;
    }
    Ok(next == items)
}
