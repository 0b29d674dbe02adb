//! The items of `fluxar serve --stream`.

use std::time::Duration;

use ciborium::Value;
use fluxar::{ItemSink, Request};
use tokio::time::MissedTickBehavior;

use super::{Answer, argument, command, read};
use crate::json;

pub(super) async fn give(
    answer: &Answer,
    request: &Request,
    out: &ItemSink<Value>,
    interval: Option<Duration>,
) -> fluxar::Result<()> {
    let mut items = request.items::<Value>();
    match answer {
        Answer::Echo => {
            while let Some(item) = items.next_bytes().await {
                out.send(&read(&item?, "an item")?).await?;
            }
            Ok(())
        }
        Answer::Fixed(value) => {
            let mut pace =
                interval.map(|interval| tokio::time::interval(interval.max(Duration::from_micros(1))));
            if let Some(pace) = &mut pace {
                pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            }
            for item in value.as_array().into_iter().flatten() {
                if let Some(pace) = &mut pace {
                    pace.tick().await; // the first comes at once
                }
                out.send(item).await?;
            }
            Ok(())
        }
        Answer::Command(words) => {
            let request_line = json::compact(&argument(request)?);
            command::stream(words, request.method(), &request_line, items, out).await
        }
    }
}
