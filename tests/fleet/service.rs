//! One of the fleet, as a process: it writes down what it serves before it serves it, so that this is known whatever
//! becomes of it.
//!
//! `fleet service INDEX INCARNATION LOG dial URL`, or `… listen ADDRESS`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use fluxar::{Client, Error, ItemSink, Request, Server};
use tokio::signal::unix::{SignalKind, signal};

use crate::book;

/// Calls and streams that one takes at a time.
const IN_FLIGHT_MAX: usize = 64;

struct Service {
    log: File,
    line: String,
}

impl Service {
    /// Writes one line, in one write, to a file that is only ever appended to: it is there even if this process is killed
    /// right behind it.
    fn write_down(&self, what: char, number: u64) -> Result<(), Error> {
        let line = format!("{what} {number} {} {}\n", self.line, book::now_us());
        (&self.log)
            .write_all(line.as_bytes())
            .map_err(|error| Error::new(fluxar::Code::Internal, error.to_string()))
    }

    /// Answers a call with its number, some milliseconds later.
    async fn call(&self, request: Request) -> Result<u64, Error> {
        let number: u64 = request.payload()?;
        self.write_down('C', number)?;
        tokio::time::sleep(Duration::from_micros(
            5_000 + number.wrapping_mul(0x9e37_79b9) % 35_000,
        ))
        .await;
        Ok(number)
    }

    /// Counts, an item every few milliseconds.
    async fn count(&self, request: Request, out: ItemSink<u64>) -> Result<(), Error> {
        let (number, items): (u64, u64) = request.payload()?;
        self.write_down('S', number)?;
        for item in 0..items {
            out.send(&item).await?;
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        Ok(())
    }
}

pub(crate) async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(2).collect();
    let [index, incarnation, log, how, place] = &words[..] else {
        return Err("fleet service INDEX INCARNATION LOG dial|listen PLACE".into());
    };
    let service = Arc::new(Service {
        log: OpenOptions::new().create(true).append(true).open(log)?,
        line: format!("{index} {incarnation}"),
    });
    let agent = format!("echo-{index}");
    let mut terminate = signal(SignalKind::terminate())?;
    let (calls, streams) = (Arc::clone(&service), service);
    let call = move |request| {
        let service = Arc::clone(&calls);
        async move { service.call(request).await }
    };
    let count = move |request, out| {
        let service = Arc::clone(&streams);
        async move { service.count(request, out).await }
    };
    if how == "listen" {
        let server = Server::bind(format!("tcp://{place}"))
            .agent(agent)
            .build()
            .await?;
        server.handle("echo.call", call)?;
        server.handle_stream("echo.count", count)?;
        tokio::select! {
            ended = server.run() => ended?,
            // The operator has drained it: it has nothing open.
            _ = terminate.recv() => server.close().await,
        }
        return Ok(());
    }
    let client = Client::connect(place.as_str())
        .agent(agent)
        .keep_dialing(true)
        .build()
        .await?;
    let calls = client
        .serve("echo.call", call)
        .max_in_flight(IN_FLIGHT_MAX)
        .await?;
    let streams = client
        .serve_stream("echo.count", count)
        .max_in_flight(IN_FLIGHT_MAX)
        .await?;
    terminate.recv().await;
    // In good order: no new ones, and the open ones to their end.
    let (calls, streams) = tokio::join!(calls.leave(), streams.leave());
    calls.and(streams)?;
    client.close().await;
    Ok(())
}
