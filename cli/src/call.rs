//! `fluxar call`: a question, its answer.

use std::time::Duration;

use ciborium::Value;
use tokio::io::AsyncReadExt;

use crate::{
    args::{Args, Call},
    failure::{Failure, Result},
    output::Output,
    publish::parse,
};

pub(crate) async fn run(args: &Args, command: &Call) -> Result<()> {
    let argument = match command.argument.as_deref() {
        Some("-") => {
            let mut text = String::new();
            tokio::io::stdin().read_to_string(&mut text).await?;
            parse(&text, false, "stdin")?
        }
        Some(text) => parse(text, false, "the argument")?,
        None => Value::Null,
    };
    let client = args.client().build().await?;
    let mut call = client
        .request(&command.method)
        .payload(&argument)
        .idempotent(command.idempotent);
    if let Some(hedge_ms) = command.hedge_ms {
        call = call.hedge_after(Duration::from_millis(hedge_ms));
    }
    if let Some(priority) = command.routing.prio {
        call = call.priority(priority);
    }
    if let Some(key) = &command.routing.key {
        call = call.key(key);
    }
    let answer = call.send_for_bytes().await;
    client.close().await;
    Output::new(command.style).answer(&answer.map_err(Failure::from)?)
}
