//! `fluxar pub`: an event, the same again, or each line of stdin.

use std::{fs, time::Duration};

use ciborium::Value;
use fluxar::Client;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time::{Interval, MissedTickBehavior},
};

use crate::{
    args::{Args, Pub},
    failure::{Failure, Result},
    json,
};

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
    let client = args.client().build().await?;
    let mut pace = command.interval.map(pace);
    match payload {
        Some(payload) => {
            for _ in 0..command.count {
                publish(&client, &command.topic, &payload, &mut pace).await?;
            }
        }
        None => {
            let mut lines = BufReader::new(tokio::io::stdin()).lines();
            let mut number = 0u64;
            while let Some(line) = lines.next_line().await? {
                number += 1;
                if line.trim().is_empty() && !command.raw_text {
                    continue;
                }
                let payload = parse(&line, command.raw_text, &format!("line {number} of stdin"))?;
                for _ in 0..command.count {
                    publish(&client, &command.topic, &payload, &mut pace).await?;
                }
            }
        }
    }
    // An answer to this shows that everything before it has arrived, and what of it was refused.
    client.ping().await?;
    let (_, refused) = client.refused_publishes();
    client.close().await;
    refused.map_or(Ok(()), |error| Err(error.into()))
}

async fn publish(client: &Client, topic: &str, payload: &Value, pace: &mut Option<Interval>) -> Result<()> {
    if let Some(pace) = pace {
        pace.tick().await; // the first comes at once
    }
    Ok(client.publish(topic, payload).await?)
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
