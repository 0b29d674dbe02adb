//! `fluxar pub`: an event, the same again, or each line of stdin.

use std::{fs, time::Duration};

use ciborium::Value;
use fluxar::{Client, Receipt};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::mpsc,
    task::JoinHandle,
    time::{Interval, MissedTickBehavior},
};

use crate::{
    args::{Args, Pub},
    failure::{Failure, Result},
    json,
    output::tell,
};

/// Events on their way to be stored; the SDK bounds their bytes.
const RECEIPTS: usize = 16_384;

pub(crate) async fn run(args: &Args, command: &Pub) -> Result<()> {
    let payload = match (&command.payload, &command.file) {
        (Some(dash), _) if dash == "-" => None,
        (Some(text), _) => Some(parse(text, command.raw_text, "the payload")?),
        (None, Some(path)) => {
            let name = path.display();
            let text = fs::read_to_string(path).map_err(|error| Failure::here(format!("{name}: {error}")))?;
            Some(parse(&text, command.raw_text, &name.to_string())?)
        }
        (None, None) => Some(Value::Null),
    };
    let mut way = Way::open(args, command).await?;
    let published = publish(&mut way, payload.as_ref()).await;
    // What was taken before a line that cannot be is published all the same, and waited for.
    let arrived = way.finish().await;
    match (published, arrived) {
        (Ok(()), arrived) => arrived.map(drop),
        (Err(failure), Ok(count)) => {
            if count > 0 {
                tell(&format!("{count} events before it were {}", command.verb()));
            }
            Err(failure)
        }
        (Err(failure), Err(before)) => {
            before.report();
            Err(failure)
        }
    }
}

/// Publishes this payload, or each line of stdin, until there is no use in going on.
async fn publish(way: &mut Way<'_>, payload: Option<&Value>) -> Result<()> {
    let command = way.command;
    let Some(payload) = payload else {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        let mut number = 0u64;
        while let Some(line) = lines.next_line().await? {
            number += 1;
            if line.trim().is_empty() && !command.raw_text {
                continue;
            }
            let payload = parse(&line, command.raw_text, &format!("line {number} of stdin"))?;
            if !way.publish_counted(&payload).await? {
                break;
            }
        }
        return Ok(());
    };
    way.publish_counted(payload).await.map(drop)
}

impl Pub {
    /// What becomes of an event.
    fn verb(&self) -> &'static str {
        if self.qos > 0 { "stored" } else { "published" }
    }
}

/// How the events leave.
struct Way<'a> {
    client: Client,
    command: &'a Pub,
    timeout: Option<Duration>,
    pace: Option<Interval>,
    /// Those that are not stored.
    published: u64,
    /// Stored events are tracked by a task of their own, so that many are on their way at once.
    tracked: Option<(mpsc::Sender<Receipt>, JoinHandle<Result<u64>>)>,
}

impl<'a> Way<'a> {
    async fn open(args: &Args, command: &'a Pub) -> Result<Self> {
        let is_stored = command.qos > 0;
        if !is_stored && (command.retain || command.key.is_some() || command.ttl.is_some()) {
            let what = "--key, --retain and --ttl are for events that the gateway stores: add --qos 1";
            return Err(Failure::Usage(what.to_owned()));
        }
        // What is stored is sent again on a new connection, until its time is over.
        let client = args.client().reconnect(is_stored).build().await?;
        let tracked = is_stored.then(|| {
            let (sender, receipts) = mpsc::channel(RECEIPTS);
            (sender, tokio::spawn(track(receipts, args.verbose)))
        });
        Ok(Self {
            client,
            command,
            timeout: args.timeout,
            pace: command.interval.map(pace),
            published: 0,
            tracked,
        })
    }

    /// As often as `--count` says. False: one was not stored, and there is no use in going on.
    async fn publish_counted(&mut self, payload: &Value) -> Result<bool> {
        for _ in 0..self.command.count {
            if !self.publish(payload).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn publish(&mut self, payload: &Value) -> Result<bool> {
        if let Some(pace) = &mut self.pace {
            pace.tick().await; // the first comes at once
        }
        let command = self.command;
        let Some((tracked, _)) = &self.tracked else {
            self.client.publish(&command.topic, payload).await?;
            self.published += 1;
            return Ok(true);
        };
        let mut event = self.client.event(&command.topic, payload);
        if command.qos == 2 {
            event = event.exactly_once();
        }
        if let Some(key) = &command.key {
            event = event.key(key);
        }
        if command.retain {
            event = event.retain();
        }
        if let Some(ttl) = command.ttl {
            event = event.ttl(ttl);
        }
        if let Some(timeout) = self.timeout {
            event = event.timeout(timeout);
        }
        Ok(tracked.send(event.enqueue().await?).await.is_ok())
    }

    /// Waits for what was published; how many those were.
    async fn finish(self) -> Result<u64> {
        if let Some((receipts, tracking)) = self.tracked {
            drop(receipts);
            let stored = tracking
                .await
                .unwrap_or_else(|error| Err(Failure::here(error.to_string())));
            self.client.close().await;
            return stored;
        }
        arrived(&self.client).await.map(|()| self.published)
    }
}

/// Waits for each event in turn, and counts them; the first that was not stored ends it.
async fn track(mut receipts: mpsc::Receiver<Receipt>, is_verbose: bool) -> Result<u64> {
    let mut stored = 0u64;
    while let Some(receipt) = receipts.recv().await {
        match receipt.await {
            Ok(position) => {
                stored += 1;
                if is_verbose {
                    tell(&format!("stored at {position}"));
                }
            }
            Err(error) => {
                if stored > 0 {
                    tell(&format!("{stored} events before it were stored"));
                }
                return Err(error.into());
            }
        }
    }
    Ok(stored)
}

/// Makes sure that events which are not stored have arrived.
async fn arrived(client: &Client) -> Result<()> {
    // An answer to this shows that everything before it has arrived, and what of it was refused.
    client.ping().await?;
    let (_, refused) = client.refused_publishes();
    client.close().await;
    refused.map_or(Ok(()), |error| Err(error.into()))
}

fn pace(interval: Duration) -> Interval {
    let mut pace = tokio::time::interval(interval.max(Duration::from_micros(1)));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pace
}

pub(crate) fn parse(text: &str, is_raw: bool, name: &str) -> Result<Value> {
    if is_raw {
        return Ok(Value::Text(text.to_owned()));
    }
    json::parse(text).map_err(|error| {
        let hint = "quote it for the shell ('{\"id\": 7}', '\"text\"')";
        Failure::here(format!("{name} is not JSON: {error}; {hint}"))
    })
}
