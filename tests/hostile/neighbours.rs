//! Peers who behave, beside those who do not: numbered events from one publisher to subscribers on both kinds of
//! sockets and (there being two) on both cores. None may be lost or come out of order, whatever others do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use fluxar_protocol::Kind;
use fluxar_tests::message::{encoded, number};
use fluxar_tests::{Client, Running};

use crate::none;

/// What the subscribers are woken by before counting begins.
const WARM: u64 = u64::MAX - 1;
/// Ends the subscribers.
const LAST: u64 = u64::MAX;
/// How far the publisher may be ahead of the slowest subscriber: far below what a queue holds.
const AHEAD: u64 = 2_000;

/// A publisher and its subscribers, each on a thread.
pub(crate) struct Neighbours {
    stop: Arc<AtomicBool>,
    publisher: JoinHandle<u64>,
    subscribers: Vec<JoinHandle<u64>>,
}

impl Neighbours {
    /// Starts them; returns when all of them hear.
    pub(crate) fn start(gateway: &Running) -> Self {
        let addresses = [gateway.tcp(), gateway.ws(), gateway.tcp(), gateway.ws()];
        let mut clients: Vec<Client> = addresses.into_iter().map(Client::greeted).collect();
        let mut publisher = gateway.client();
        for client in &mut clients {
            client.subscribe("neighbours.talk", none());
        }
        until_heard(&mut publisher, &mut clients, "neighbours.talk", WARM);

        let stop = Arc::new(AtomicBool::new(false));
        let mut heard = Vec::new();
        let subscribers = clients
            .into_iter()
            .map(|mut client| {
                let progress = Arc::new(AtomicU64::new(0));
                heard.push(Arc::clone(&progress));
                std::thread::spawn(move || {
                    let mut expected = 0;
                    loop {
                        let event = client.expect();
                        assert_eq!(event.kind, Kind::Event, "{event:?}");
                        match event.number() {
                            WARM if expected == 0 => continue,
                            LAST => return expected,
                            value => assert_eq!(value, expected, "lost or out of order"),
                        }
                        expected += 1;
                        progress.store(expected, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let asked = Arc::clone(&stop);
        let publisher = std::thread::spawn(move || {
            let mut sent = 0;
            while !asked.load(Ordering::Relaxed) {
                let slowest = heard.iter().map(|one| one.load(Ordering::Relaxed)).min();
                if sent > slowest.unwrap_or(0) + AHEAD {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                let mut body = Vec::new();
                for value in sent..sent + 20 {
                    let id = publisher.id();
                    body.extend(encoded(
                        Kind::Event,
                        id,
                        None,
                        Some("neighbours.talk"),
                        None,
                        &number(value),
                    ));
                }
                sent += 20;
                publisher.send(&body);
                publisher.settle();
            }
            publisher.publish("neighbours.talk", &number(LAST));
            publisher.settle();
            sent
        });
        Self {
            stop,
            publisher,
            subscribers,
        }
    }

    /// Ends them. Each must have got everything; returns how many events that were.
    pub(crate) fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.publisher.join().expect("the publisher was served");
        for subscriber in self.subscribers {
            let heard = subscriber.join().expect("a subscriber was not disturbed");
            assert_eq!(heard, sent);
        }
        sent
    }
}

/// Publishes until every subscriber has heard, since interest reaches other cores after the acceptance. More of these
/// events may be under way when it returns.
pub(crate) fn until_heard(publisher: &mut Client, subscribers: &mut [Client], topic: &str, value: u64) {
    for (at, subscriber) in subscribers.iter_mut().enumerate() {
        let mut tries = 0;
        loop {
            publisher.publish(topic, &number(value));
            if let Ok(Some(_)) = subscriber.poll(Duration::from_millis(200)) {
                break;
            }
            tries += 1;
            assert!(tries < 100, "subscriber {at} never hears {topic}");
        }
    }
}

/// Calls until somebody serves.
pub(crate) fn until_served(asker: &mut Client, method: &str) {
    for _ in 0..1_000 {
        let id = asker.call(method, &number(0));
        if asker.answer_to(id).code().is_none() {
            return;
        }
    }
    panic!("nobody ever serves {method}");
}

/// The same with a server at hand that serves nothing by itself.
pub(crate) fn until_served_by(asker: &mut Client, server: &mut Client, method: &str) {
    for _ in 0..100 {
        let id = asker.call(method, &number(0));
        if let Some(call) = asker.reaches(id, server) {
            server.answer(&call, &number(0));
            assert_eq!(asker.answer_to(id).code(), None);
            return;
        }
    }
    panic!("{method} is never served");
}
