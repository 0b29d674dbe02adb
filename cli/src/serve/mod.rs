//! `fluxar serve`: answers calls, or streams, with what came, with what was given, or with what a command says.

mod command;
mod items;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ciborium::Value;
use fluxar::{Client, Code, Error, ItemSink, Offer, Request};

use crate::{
    args::{Args, Serve},
    failure::{Failure, Result},
    json,
    output::tell,
    publish::parse,
    subscribe::{StateTeller, interrupted, sleep},
};

/// How long an offer may still take to be accepted when Ctrl-C comes first: then it is left in good order as well.
const ACCEPTANCE: Duration = Duration::from_secs(2);
/// Leaving that takes longer is explained.
const LEAVE_QUIETLY: Duration = Duration::from_millis(500);

/// How a call or a stream is answered.
enum Answer {
    Echo,
    Fixed(Value),
    Command(Vec<String>),
}

pub(crate) async fn run(args: &Args, command: &Serve) -> Result<()> {
    let done = serve(args, command).await;
    command::kill_all();
    done
}

async fn serve(args: &Args, command: &Serve) -> Result<()> {
    let answer = match &command.reply {
        _ if command.echo => Answer::Echo,
        Some(text) => Answer::Fixed(parse(text, false, "--reply")?),
        None => Answer::Command(command.command.clone()),
    };
    if let (true, Answer::Fixed(value)) = (command.stream, &answer)
        && !value.is_array()
    {
        return Err(Failure::here(
            "--reply: a stream needs an array, whose elements are its items",
        ));
    }
    let client = args.client().reconnect(true).build().await?;
    let served = Arc::new(AtomicU64::new(0));
    let (interrupted, early) = (interrupted(), interrupted());
    tokio::pin!(interrupted);
    let offer = tokio::select! {
        biased;
        offer = offer(&client, args, command, answer, served.clone()) => offer?,
        () = async { early.await; sleep(Some(ACCEPTANCE)).await } => {
            client.close().await;
            return Ok(());
        }
    };
    tell(&format!(
        "serving {} at {} (Ctrl-C ends)",
        command.method,
        client.address()
    ));
    let mut states = client.watch_state();
    let mut teller = StateTeller::default();
    loop {
        tokio::select! {
            Ok(()) = states.changed() => {
                let state = *states.borrow_and_update();
                teller.tell(&client, state);
            }
            why = offer.ended() => {
                let why = why.unwrap_or_else(|| Error::new(Code::Cancelled, "it gave no reason"));
                tell(&format!("the offer of {} has ended", command.method));
                return Err(why.into());
            }
            () = &mut interrupted => break,
        }
    }
    leave(offer, args.timeout).await;
    let what = if command.stream { "streams" } else { "calls" };
    tell(&format!("{} {what}", served.load(Ordering::Relaxed)));
    client.close().await;
    Ok(())
}

/// Offers the method, and answers whoever comes.
async fn offer(
    client: &Client,
    args: &Args,
    command: &Serve,
    answer: Answer,
    served: Arc<AtomicU64>,
) -> Result<Offer> {
    let (answer, is_verbose) = (Arc::new(answer), args.verbose);
    let mut offer = if command.stream {
        let interval = command.interval;
        client.serve_stream(&command.method, move |request: Request, out: ItemSink<Value>| {
            let answer = answer.clone();
            served.fetch_add(1, Ordering::Relaxed);
            async move {
                let ended = items::give(&answer, &request, &out, interval).await;
                if is_verbose {
                    let how = ended
                        .as_ref()
                        .map_or_else(Error::to_string, |()| "done".to_owned());
                    tell(&format!("{}: {how}", request.method()));
                }
                ended
            }
        })
    } else {
        client.serve(&command.method, move |request: Request| {
            let answer = answer.clone();
            served.fetch_add(1, Ordering::Relaxed);
            async move {
                let answered = give(&answer, &request).await;
                if is_verbose {
                    let how = answered.as_ref().map_or_else(Error::to_string, json::compact);
                    tell(&format!("{}: {how}", request.method()));
                }
                answered
            }
        })
    };
    if let Some(weight) = command.weight {
        offer = offer.weight(weight);
    }
    if let Some(most) = command.max_in_flight {
        offer = offer.max_in_flight(most as usize);
    }
    if let Some(zone) = &command.zone {
        offer = offer.zone(zone);
    }
    if let Some(fleet) = &command.fleet {
        offer = offer.fleet(fleet);
    }
    Ok(offer.await?)
}

/// Takes no new calls, and finishes those that are open; for no longer than `patience`, and not after another Ctrl-C.
async fn leave(offer: Offer, patience: Option<Duration>) {
    let leaving = offer.leave();
    let (quietly, patience) = (sleep(Some(LEAVE_QUIETLY)), sleep(patience));
    let interrupted = interrupted();
    tokio::pin!(leaving, quietly, patience, interrupted);
    let mut is_quiet = true;
    loop {
        tokio::select! {
            left = &mut leaving => {
                if let Err(error) = left {
                    tell(&format!("leaving: {error}"));
                }
                return;
            }
            () = &mut quietly, if is_quiet => {
                is_quiet = false;
                tell("leaving: no new calls are taken, those that are open go on (Ctrl-C again ends them)");
            }
            () = &mut interrupted => return,
            () = &mut patience => {
                tell("leaving: --timeout is over, what is still open is given up");
                return;
            }
        }
    }
}

async fn give(answer: &Answer, request: &Request) -> fluxar::Result<Value> {
    match answer {
        Answer::Echo => argument(request),
        Answer::Fixed(value) => Ok(value.clone()),
        Answer::Command(words) => {
            command::answer(words, request.method(), &json::compact(&argument(request)?)).await
        }
    }
}

/// The argument with its tags and byte strings.
fn argument(request: &Request) -> fluxar::Result<Value> {
    read(request.payload_bytes(), "the argument")
}

fn read(payload: &[u8], what: &str) -> fluxar::Result<Value> {
    ciborium::from_reader(payload)
        .map_err(|error| Error::new(Code::InvalidArgument, format!("{what} cannot be read: {error}")))
}
