//! `fluxar sub`: prints events as they come.

use std::time::Duration;

use fluxar::{Client, Cursor, Error, Message, State, SubscribeStream, Subscription};
use tokio::sync::{mpsc, watch};

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
    let mut cursors = Vec::new();
    for pattern in &command.patterns {
        let subscription = chosen(client.subscription(pattern), command)?.open().await?;
        let (tell_cursor, cursor) = watch::channel(subscription.cursor());
        cursors.push((pattern, cursor));
        tokio::spawn(follow(subscription, sender.clone(), tell_cursor));
    }
    drop(sender);
    let interrupted = interrupted();
    tokio::pin!(interrupted);
    if args.verbose {
        tell(&format!("subscribed at {}", client.address()));
    }
    let output = Output::new(command.style);
    let (mut printed, mut dropped) = (0u64, 0u64);
    let mut states = client.watch_state();
    let mut teller = StateTeller::default();
    // With a count a time makes sense; without one the subscription is meant to last.
    let deadline = sleep(args.timeout.filter(|_| command.count.is_some()));
    tokio::pin!(deadline);
    let done = loop {
        tokio::select! {
            said = news.recv() => match said {
                Some(News::Event(event)) => {
                    if let Err(failure) = output.event(&event) {
                        break Err(failure); // a closed pipe: what was acknowledged is told below
                    }
                    if !command.no_ack && let Err(error) = event.ack().await {
                        break Err(error.into());
                    }
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
                teller.tell(&client, state);
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
    drop(news); // nobody waits for room there any more
    client.close().await;
    if args.verbose {
        // The subscriptions tell the last they know when they have ended.
        for (pattern, mut cursor) in cursors {
            while cursor.changed().await.is_ok() {}
            if let Some(cursor) = &*cursor.borrow() {
                tell(&format!("to go on with {pattern}: --from {cursor}"));
            }
        }
    }
    done
}

/// With what the options ask for.
fn chosen(mut subscription: SubscribeStream, command: &Sub) -> Result<SubscribeStream> {
    let has_log =
        command.durable.is_some() || command.from.is_some() || command.retain || command.in_flight.is_some();
    match (command.qos, &command.durable) {
        (Some(0), _) if has_log => {
            let what = "--durable, --from, --retain and --in-flight are for stored events, not for --qos 0";
            return Err(Failure::Usage(what.to_owned()));
        }
        (Some(2), None) => {
            let what = "--qos 2 needs a name for its cursor: add --durable NAME";
            return Err(Failure::Usage(what.to_owned()));
        }
        (Some(2), Some(name)) => subscription = subscription.exactly_once(name),
        (_, Some(name)) => subscription = subscription.durable(name),
        (Some(1), None) => subscription = subscription.at_least_once(),
        (_, None) => {}
    }
    if let Some(group) = &command.group {
        subscription = subscription.group(group);
    }
    if let Some(begin) = &command.from {
        subscription = subscription.from(begin.clone());
    }
    if command.retain {
        subscription = subscription.retain();
    }
    if command.skip_damaged {
        subscription = subscription.skip_damaged();
    }
    if let Some(in_flight) = command.in_flight {
        subscription = subscription.in_flight(in_flight);
    }
    Ok(subscription)
}

/// Passes on what a subscription brings, and once a second what it has lost. At the end it tells how far it came.
async fn follow(
    mut subscription: Subscription,
    news: mpsc::Sender<News>,
    cursor: watch::Sender<Option<Cursor>>,
) {
    let mut known = 0;
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        let said = tokio::select! {
            event = subscription.next() => match event {
                Some(event) => News::Event(event),
                None => {
                    cursor.send_replace(subscription.cursor());
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
            cursor.send_replace(subscription.cursor());
            return;
        }
    }
}

/// Says on stderr that the connection went or came. A session that goes on at once is no news.
#[derive(Default)]
pub(crate) struct StateTeller {
    /// Of the client, when it was last connected.
    resumes: u64,
    /// It was said that the connection is gone.
    is_away_told: bool,
}

impl StateTeller {
    pub(crate) fn tell(&mut self, client: &Client, state: State) {
        match state {
            State::Connected => {
                let is_resumed = client.resumes() > self.resumes;
                self.resumes = client.resumes();
                let was_told = std::mem::take(&mut self.is_away_told);
                match (is_resumed, was_told) {
                    (false, _) => tell(&format!("connected again to {}", client.address())),
                    (true, true) => tell(&format!("resumed at {}", client.address())),
                    (true, false) => {}
                }
            }
            State::Resuming { attempt: 2.. } | State::Reconnecting { .. } if !self.is_away_told => {
                self.is_away_told = true;
                let cause = client
                    .lost_because()
                    .map_or_else(String::new, |cause| cause.message().to_owned());
                tell(&format!("{}: {cause}; reconnecting", client.address()));
            }
            _ => {}
        }
    }
}

/// Without a duration, for ever.
pub(crate) async fn sleep(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// Completes at the first Ctrl-C or SIGTERM since it was called, whether it was awaited by then or not. To be called before
/// anything is said that somebody could answer with a signal: until then a signal just ends the process.
pub(crate) fn interrupted() -> impl Future<Output = ()> {
    use tokio::signal::unix::{Signal, SignalKind, signal};
    async fn heard(signal: Option<Signal>) {
        match signal {
            Some(mut signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    }
    let [interrupt, terminate] =
        [SignalKind::interrupt(), SignalKind::terminate()].map(|kind| signal(kind).ok());
    async move {
        tokio::select! {
            () = heard(interrupt) => {}
            () = heard(terminate) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_counts_from_the_call_on() {
        let interrupted = interrupted();
        let command = format!("kill -TERM {}", std::process::id());
        let kill = std::process::Command::new("sh").args(["-c", &command]).status();
        assert!(kill.unwrap().success());
        tokio::time::timeout(Duration::from_secs(30), interrupted)
            .await
            .expect("it is heard, though nobody awaited it yet");
    }
}
