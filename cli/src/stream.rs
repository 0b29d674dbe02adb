//! `fluxar stream`: opens a stream, prints its items as they come, and sends those of a file or of stdin.

use std::{
    fs,
    io::Cursor,
    pin::Pin,
    time::{Duration, Instant},
};

use ciborium::Value;
use fluxar::{Client, ItemSink, ItemStream};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};

use crate::{
    args::{Args, Stream},
    failure::{Failure, Result},
    output::{Output, tell},
    publish::parse,
    subscribe::interrupted,
};

/// Where items to send are read, and what to call it.
struct Input {
    name: String,
    lines: Pin<Box<dyn AsyncBufRead + Send>>,
}

pub(crate) async fn run(args: &Args, command: &Stream) -> Result<()> {
    let argument = match &command.argument {
        Some(text) => parse(text, false, "the request")?,
        None => Value::Null,
    };
    let input = match &command.input {
        None => None,
        Some(path) if path.as_os_str() == "-" => Some(Input {
            name: "stdin".to_owned(),
            lines: Box::pin(BufReader::new(tokio::io::stdin())),
        }),
        Some(path) => {
            let name = path.display().to_string();
            let bytes = fs::read(path).map_err(|error| Failure::here(format!("{name}: {error}")))?;
            let lines = Box::pin(Cursor::new(bytes));
            Some(Input { name, lines })
        }
    };
    let client = args.client().build().await?;
    let done = follow(args, command, &client, &argument, input).await;
    client.close().await;
    done
}

async fn follow(
    args: &Args,
    command: &Stream,
    client: &Client,
    argument: &Value,
    input: Option<Input>,
) -> Result<()> {
    let mut open = client.request_stream(&command.method).payload(argument);
    if let Some(timeout) = args.timeout {
        open = open.timeout(timeout);
    }
    if let Some(priority) = command.routing.prio {
        open = open.priority(priority);
    }
    if let Some(key) = &command.routing.key {
        open = open.key(key);
    }
    let mut seen = Seen::new();
    let (mut items, sending): (ItemStream<()>, _) = match input {
        None => (open.open().await?, None),
        Some(input) => {
            let (sink, items) = open.duplex::<Value, ()>().await?;
            (items, Some((sink, input)))
        }
    };
    let (mut is_sending, mut is_receiving) = (sending.is_some(), true);
    let sending = async {
        match sending {
            Some((sink, input)) => send(sink, input).await,
            None => Ok(()),
        }
    };
    let stop = interrupted();
    tokio::pin!(sending, stop);
    let output = Output::items(command.diag);
    let why_early = loop {
        tokio::select! {
            sent = &mut sending, if is_sending => {
                sent?;
                is_sending = false;
            }
            item = items.next_bytes(), if is_receiving => match item {
                Some(item) => {
                    output.item(&item?)?;
                    seen.item();
                    if Some(seen.count) == command.count {
                        break "";
                    }
                }
                None => is_receiving = false,
            },
            () = &mut stop => break ", cancelled",
        }
        if !is_sending && !is_receiving {
            if args.verbose {
                tell(&seen.summary());
            }
            return Ok(());
        }
    };
    // Its end is waited for, so that the producer has been told when this returns.
    tokio::select! {
        ended = items.cancel() => if let Err(error) = ended {
            tell(&error.to_string());
        },
        () = interrupted() => {}
    }
    if args.verbose || !why_early.is_empty() {
        tell(&format!("{}{why_early}", seen.summary()));
    }
    Ok(())
}

/// Sends each line, and then the end; less if the other side wants no more.
async fn send(sink: ItemSink<Value>, Input { name, mut lines }: Input) -> Result<()> {
    let (mut line, mut number) = (String::new(), 0u64);
    loop {
        line.clear();
        tokio::select! {
            read = lines.read_line(&mut line) => if read? == 0 {
                break;
            },
            () = sink.cancelled() => return Ok(()),
        }
        number += 1;
        if line.trim().is_empty() {
            continue;
        }
        let item = parse(&line, false, &format!("line {number} of {name}"))?;
        match sink.send(&item).await {
            Ok(()) => {}
            Err(_) if sink.is_cancelled() => return Ok(()), // the reader hears why
            Err(error) => return Err(error.into()),
        }
    }
    drop(sink.finish().await); // as above
    Ok(())
}

/// What has come.
struct Seen {
    since: Instant,
    first_after: Duration,
    count: u64,
}

impl Seen {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            first_after: Duration::ZERO,
            count: 0,
        }
    }

    fn item(&mut self) {
        if self.count == 0 {
            self.first_after = self.since.elapsed();
        }
        self.count += 1;
    }

    fn summary(&self) -> String {
        let items = match self.count {
            0 => return "no items".to_owned(),
            1 => "1 item".to_owned(),
            count => format!("{count} items"),
        };
        let (first_ms, all_s) = (
            self.first_after.as_secs_f64() * 1e3,
            self.since.elapsed().as_secs_f64(),
        );
        format!("{items} in {all_s:.1} s, the first after {first_ms:.1} ms")
    }
}
