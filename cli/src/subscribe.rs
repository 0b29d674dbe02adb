//! `fluxar sub`: prints events as they come.

use std::time::Duration;

use fluxar::{Client, Error, Message, State, Subscription};
use tokio::sync::mpsc;

use crate::{
    args::{Args, Sub},
    failure::{Failure, Result},
    output::{Output, tell},
};

/// Events of all patterns that wait to be printed; each subscription has its own queue behind it.
const MERGED_EVENTS: usize = 256;

/// What the subscriptions have to say.
enum News {
    Event(Message),
    /// One has lost so many more.
    Dropped(u64),
    Ended(Option<Error>),
}

pub(crate) async fn run(args: &Args, command: &Sub) -> Result<()> {
    let client = args.client().reconnect(true).build().await?;
    let (sender, mut news) = mpsc::channel(MERGED_EVENTS);
    for pattern in &command.patterns {
        let mut subscription = client.subscription(pattern);
        if let Some(group) = &command.group {
            subscription = subscription.group(group);
        }
        tokio::spawn(follow(subscription.open().await?, sender.clone()));
    }
    drop(sender);
    if args.verbose {
        tell(&format!("subscribed at {}", client.address()));
    }
    let output = Output::new(command.style);
    let (mut printed, mut dropped) = (0u64, 0u64);
    let mut states = client.watch_state();
    // With a count a time makes sense; without one the subscription is meant to last.
    let deadline = sleep(args.timeout.filter(|_| command.count.is_some()));
    tokio::pin!(deadline);
    let interrupted = interrupted();
    tokio::pin!(interrupted);
    let done = loop {
        tokio::select! {
            said = news.recv() => match said {
                Some(News::Event(event)) => {
                    output.event(event.topic(), event.payload_bytes())?;
                    printed += 1;
                    if Some(printed) == command.count {
                        break Ok(());
                    }
                }
                Some(News::Dropped(more)) => {
                    dropped += more;
                    tell(&format!("{more} events were dropped ({dropped} in all): this side is too slow"));
                }
                Some(News::Ended(Some(error))) => break Err(error.into()),
                Some(News::Ended(None)) | None => {
                    break Err(client.lost_because().map_or(Failure::here("the subscription has ended"), Failure::from));
                }
            },
            Ok(()) = states.changed() => {
                let state = *states.borrow_and_update();
                tell_state(&client, state);
            }
            () = &mut deadline => {
                let wanted = command.count.unwrap_or_default();
                break Err(Failure::Timeout(format!(
                    "{}: {printed} of {wanted} events came in time",
                    client.address()
                )));
            }
            () = &mut interrupted => {
                tell(&format!("{printed} events, {dropped} dropped"));
                break Ok(());
            }
        }
    };
    client.close().await;
    done
}

/// Passes on what a subscription brings, and once a second what it has lost.
async fn follow(mut subscription: Subscription, news: mpsc::Sender<News>) {
    let mut known = 0;
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        let said = tokio::select! {
            event = subscription.next() => match event {
                Some(event) => News::Event(event),
                None => {
                    drop(news.send(News::Ended(subscription.end())).await);
                    return;
                }
            },
            _ = ticks.tick() => {
                let total = subscription.dropped();
                let more = total - known;
                known = total;
                if more == 0 {
                    continue;
                }
                News::Dropped(more)
            }
        };
        if news.send(said).await.is_err() {
            return;
        }
    }
}

/// Says on stderr that the connection went or came.
pub(crate) fn tell_state(client: &Client, state: State) {
    match state {
        State::Connected => tell(&format!("connected again to {}", client.address())),
        State::Reconnecting { attempt: 1 } => {
            let cause = client
                .lost_because()
                .map_or_else(String::new, |cause| cause.message().to_owned());
            tell(&format!("{}: {cause}; reconnecting", client.address()));
        }
        _ => {}
    }
}

/// Without a duration, for ever.
pub(crate) async fn sleep(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// Completes at Ctrl-C or SIGTERM.
pub(crate) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminated) => tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated.recv() => {}
        },
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}
