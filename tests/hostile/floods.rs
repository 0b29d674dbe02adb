//! Peers that take and do not read: subscribers, askers and servers. Their memory stays within its bound, they are
//! told what they missed, and nobody beside them notices.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fluxar_engine::listener::Address;
use fluxar_gateway::config::Config;
use fluxar_protocol::{Code, Id, Kind};
use fluxar_tests::message::{encoded, number};
use fluxar_tests::{Client, Received, Running};

use crate::neighbours::{Neighbours, until_heard, until_served};
use crate::{lean, measure, none, stop};

/// Bytes of one event's padding.
const PADDING: usize = 4_000;

/// [number, padding] as a payload, so that a torn or mixed-up event shows.
fn numbered(value: u64) -> Vec<u8> {
    let mut item = vec![0x82];
    item.extend(number(value));
    item.extend([0x59, (PADDING >> 8) as u8, PADDING as u8]);
    item.resize(item.len() + PADDING, value as u8);
    item
}

/// The number of an intact event.
#[track_caller]
fn number_of(event: &Received) -> u64 {
    assert_eq!(event.kind, Kind::Event, "{event:?}");
    let bytes = &event.payload;
    let value = match bytes[1] {
        0..=23 => u64::from(bytes[1]),
        0x18 => u64::from(bytes[2]),
        0x19 => u64::from(u16::from_be_bytes([bytes[2], bytes[3]])),
        0x1a => u64::from(u32::from_be_bytes([bytes[2], bytes[3], bytes[4], bytes[5]])),
        _ => u64::from_be_bytes(bytes[2..10].try_into().expect("eight bytes")),
    };
    assert_eq!(*bytes, numbered(value), "an event arrives intact");
    value
}

/// A subscriber that does not read while events are published.
struct Stuck {
    client: Client,
    /// Its subscriptions.
    subscriptions: Vec<Id>,
    /// What it is, for messages.
    name: String,
    /// What it knows of so far.
    found: Found,
    /// The lowest number that may come next.
    next: u64,
}

/// What a stuck subscriber finds when it reads again.
#[derive(Clone)]
struct Found {
    received: u64,
    /// The last count that each subscription was told.
    dropped: Vec<u64>,
}

impl Stuck {
    fn new(address: &Address, grouped: bool, patterns: &[&str]) -> Self {
        let mut client = Client::greeted(address);
        let subscriptions = patterns
            .iter()
            .map(|pattern| {
                let meta = if grouped {
                    none().text("group", "stuck")
                } else {
                    none()
                };
                client.subscribe(pattern, meta)
            })
            .collect();
        Self {
            client,
            subscriptions,
            name: format!("{address} {patterns:?}"),
            found: Found {
                received: 0,
                dropped: vec![0; patterns.len()],
            },
            next: 0,
        }
    }

    /// Reads until it knows of all events below `events`, received or dropped.
    fn catch_up(&mut self, events: u64) -> Found {
        let (mut found, mut next) = (self.found.clone(), self.next);
        while found
            .dropped
            .iter()
            .any(|dropped| found.received + dropped < events)
        {
            let one = self.client.expect();
            if one.kind == Kind::Subscribe {
                let of = self
                    .subscriptions
                    .iter()
                    .position(|id| one.reference == Some(*id));
                let of = of.unwrap_or_else(|| panic!("{}: a note on nothing: {one:?}", self.name));
                if let Some(dropped) = one.uint("dropped") {
                    assert!(
                        dropped > found.dropped[of],
                        "{}: a count that does not grow",
                        self.name
                    );
                    found.dropped[of] = dropped;
                } else {
                    assert!(one.run().is_some(), "{}: {one:?}", self.name);
                }
                continue;
            }
            let value = number_of(&one);
            if value == u64::MAX {
                continue; // of the warm-up
            }
            assert!(value >= next, "{}: {value} after {next}: out of order", self.name);
            next = value + 1;
            found.received += 1;
        }
        for dropped in &found.dropped {
            assert_eq!(found.received + dropped, events, "{}", self.name);
        }
        (self.found, self.next) = (found.clone(), next);
        found
    }
}

#[test]
fn a_subscriber_that_never_reads_is_bounded_and_told_and_disturbs_nobody() {
    const EVENTS: u64 = 12_000;
    let _process = measure::alone();
    let gateway = Running::start(|config| {
        lean(config);
        config.limits.queue_bytes = 256 * 1024;
        // However long it takes on a busy machine: nobody is lost for not answering pings, or for reading nothing.
        config.limits.heartbeat_ms = 3_600_000;
        config.limits.stall_ms = 3_600_000;
    });
    let mut stuck = [
        Stuck::new(gateway.tcp(), false, &["flood.all"]),
        Stuck::new(gateway.tcp(), false, &["flood.all"]),
        Stuck::new(gateway.ws(), false, &["flood.*", "flood.>"]),
        Stuck::new(gateway.unix(), true, &["flood.all"]),
    ];
    // Two on each kind of socket, so that both cores have one of each.
    let mut healthy: Vec<Client> = [gateway.tcp(), gateway.ws(), gateway.tcp(), gateway.ws()]
        .into_iter()
        .map(Client::greeted)
        .collect();
    for client in &mut healthy {
        client.subscribe("flood.all", none());
    }
    let mut publisher = gateway.client();
    // The stuck ones hear the warm-up as well; interest of their cores is known once everybody has heard.
    for (at, subscriber) in stuck.iter_mut().enumerate() {
        let begun = Instant::now();
        loop {
            publisher.publish("flood.all", &numbered(u64::MAX));
            if let Ok(Some(_)) = subscriber.client.poll(Duration::from_millis(200)) {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{at} never hears");
        }
    }
    for (at, client) in healthy.iter_mut().enumerate() {
        let begun = Instant::now();
        loop {
            publisher.publish("flood.all", &numbered(u64::MAX));
            if let Ok(Some(_)) = client.poll(Duration::from_millis(200)) {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{at} never hears");
        }
    }
    let resident = measure::resident_kib();
    let mut most = resident;
    for first in (0..EVENTS).step_by(20) {
        let mut body = Vec::new();
        for value in first..first + 20 {
            let id = publisher.id();
            body.extend(encoded(
                Kind::Event,
                id,
                None,
                Some("flood.all"),
                None,
                &numbered(value),
            ));
        }
        publisher.send(&body);
        // The healthy ones keep up, event by event.
        for client in &mut healthy {
            for expected in first..first + 20 {
                let value = loop {
                    match number_of(&client.expect()) {
                        u64::MAX if expected == 0 => {}
                        value => break value,
                    }
                };
                assert_eq!(value, expected, "lost or out of order");
            }
        }
        if first % 2_000 == 0 {
            most = most.max(measure::resident_kib());
        }
    }
    publisher.settle();
    most = most.max(measure::resident_kib());
    println!(
        "{} MB to {} stuck subscribers: {} KiB grown at most",
        EVENTS * PADDING as u64 / 1_000_000,
        stuck.len(),
        most - resident
    );
    // Four queues of 256 KiB, and the test's own.
    assert!(most - resident < 32 * 1024, "{} KiB grown", most - resident);

    let mut dropped = 0;
    for one in &mut stuck {
        let found = one.catch_up(EVENTS);
        println!(
            "{}: {} received, {:?} dropped",
            one.name, found.received, found.dropped
        );
        assert!(
            found.received > 0 && found.dropped[0] > 0,
            "{}: nothing was dropped",
            one.name
        );
        dropped += found.dropped[0];
    }
    // All of them go on as if nothing had been.
    for value in EVENTS..EVENTS + 50 {
        publisher.publish("flood.all", &numbered(value));
    }
    for one in &mut stuck {
        for expected in EVENTS..EVENTS + 50 {
            let value = loop {
                let next = one.client.expect();
                if next.kind == Kind::Event {
                    break number_of(&next);
                }
            };
            assert_eq!(value, expected, "{}", one.name);
        }
    }
    let counters = stop(gateway);
    assert_eq!(counters.dropped, dropped, "each drop was counted once and told");
}

#[test]
fn drops_are_told_again_and_again_without_waiting_for_anything_else() {
    const ROUND: u64 = 3_000;
    let _process = measure::shared();
    let gateway = Running::start(|config| {
        config.limits.queue_bytes = 64 * 1024;
        // No ping comes in between that could push a note along.
        config.limits.heartbeat_ms = 3_600_000;
        // However long the rounds take on a busy machine.
        config.limits.stall_ms = 3_600_000;
    });
    for address in &crate::transports(&gateway) {
        let mut stuck = Stuck::new(address, false, &["slow.topic"]);
        let mut control = Stuck::new(gateway.unix(), false, &["slow.topic"]);
        let mut publisher = gateway.client();
        until_heard_padded(&mut publisher, &mut stuck.client, "slow.topic");
        until_heard_padded(&mut publisher, &mut control.client, "slow.topic");
        // Each round is more than sockets and queue hold. While the control waits for its note of a round, the stuck
        // one's notes of the rounds before are put into its queue.
        for round in 1..=3 {
            for value in (round - 1) * ROUND..round * ROUND {
                publisher.publish("slow.topic", &numbered(value));
            }
            publisher.settle();
            control.catch_up(round * ROUND);
        }
        let found = stuck.catch_up(3 * ROUND);
        println!(
            "{address}: {} received, {:?} dropped",
            found.received, found.dropped
        );
        assert!(found.dropped[0] > 0, "{address}");
    }
    stop(gateway);
}

fn until_heard_padded(publisher: &mut Client, subscriber: &mut Client, topic: &str) {
    let begun = Instant::now();
    loop {
        publisher.publish(topic, &numbered(u64::MAX));
        if let Ok(Some(_)) = subscriber.poll(Duration::from_millis(200)) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "it never hears");
    }
}

/// A server on a thread that answers every call with `answer`. Ends with the connection; returns how many it served.
fn serve(address: &Address, method: &str, answer: Vec<u8>) -> std::thread::JoinHandle<u64> {
    let mut server = Client::greeted(address);
    server.serve(method);
    std::thread::spawn(move || {
        let mut served = 0;
        while let Ok(call) = server.next() {
            if call.kind == Kind::Call && call.reference.is_none() {
                let id = server.id();
                let _ = server.try_send(&encoded(Kind::Call, id, Some(call.id), None, None, &answer));
                served += 1;
            }
        }
        served
    })
}

#[test]
fn an_asker_that_reads_no_answers_is_read_no_more_and_closed() {
    let _process = measure::alone();
    let gateway = Running::start(|config| {
        lean(config);
        config.limits.queue_bytes = 128 * 1024;
        config.limits.stall_ms = 1_500;
    });
    let server = serve(gateway.tcp(), "bulk.*", numbered(7));
    let neighbours = Neighbours::start(&gateway);
    let mut fair = Client::greeted(gateway.ws());
    until_served(&mut fair, "bulk.get");
    let resident = measure::resident_kib();
    let mut fair_calls = 1_000;
    for address in [gateway.tcp(), gateway.ws(), gateway.unix()] {
        let mut asker = Client::greeted(address);
        until_served(&mut asker, "bulk.get");
        let mut sent = 0u64;
        // It ends because the gateway stops reading and closes, so that the socket fills, then fails.
        loop {
            let id = asker.id();
            if asker
                .try_send(&encoded(Kind::Call, id, None, Some("bulk.get"), None, &number(1)))
                .is_err()
            {
                break;
            }
            sent += 1;
            assert!(
                sent < 2_000_000,
                "{address}: {sent} calls were taken and no answer read"
            );
            if sent.is_multiple_of(1_000) {
                fair_calls += 1;
                let id = fair.call("bulk.get", &[]);
                assert_eq!(
                    fair.answer_to(id).code(),
                    None,
                    "{address}: another asker is served"
                );
            }
        }
        let grown = measure::resident_kib().saturating_sub(resident);
        println!("{address}: closed after {sent} unread calls; {grown} KiB grown");
        // What still arrives is in order and whole; why it ended comes last, if the socket did not lose it.
        let (rest, _) = asker.rest();
        if let Some(last) = rest.last().filter(|last| last.kind == Kind::Cancel) {
            assert_eq!(
                (last.reference, last.code()),
                (None, Some(Code::ResourceExhausted))
            );
        }
        assert!(grown < 32 * 1024, "{address}: {grown} KiB grown");
    }
    let id = fair.call("bulk.get", &[]);
    assert_eq!(fair.answer_to(id).code(), None);
    println!("{} events beside it", neighbours.finish());
    drop(fair);
    let counters = stop(gateway);
    assert!(counters.overrun >= 3, "{counters:?}");
    // What fits into the sockets and the queues on the way was asked; then reading stopped. What the askers sent after
    // their end was said was discarded.
    let served = server.join().expect("the server was not disturbed");
    println!("{served} of the calls were served");
    assert!(
        served < fair_calls + 30_000,
        "{served} served, {fair_calls} of them fair"
    );
}

#[test]
fn calls_to_a_server_that_does_not_read_are_refused_and_fail_with_it() {
    let _process = measure::alone();
    let gateway = Running::start(|config| {
        bound_calls(config);
        // Nobody looks whether it is silent: what is queued for it closes it.
        config.services.health.ping_ms = 0;
    });
    let good = serve(gateway.ws(), "good.work", number(1));
    let neighbours = Neighbours::start(&gateway);
    for address in [gateway.tcp(), gateway.ws(), gateway.unix()] {
        call_in_vain(&gateway, address);
    }
    println!("{} events beside it", neighbours.finish());
    until_served(&mut gateway.client(), "good.work");
    let counters = stop(gateway);
    assert_eq!((counters.overrun, counters.lost), (3, 0), "{counters:?}");
    good.join().expect("the good server was not disturbed");
}

#[test]
fn calls_wait_bounded_for_a_server_that_is_found_silent_and_fail_with_it() {
    let _process = measure::alone();
    let gateway = Running::start(|config| {
        bound_calls(config);
        // What is queued for it may wait: only its heartbeat tells that it is gone.
        config.limits.stall_ms = 600_000;
        config.limits.heartbeat_ms = 8_000;
    });
    let good = serve(gateway.ws(), "good.work", number(1));
    let neighbours = Neighbours::start(&gateway);
    call_in_vain(&gateway, gateway.tcp());
    println!("{} events beside it", neighbours.finish());
    until_served(&mut gateway.client(), "good.work");
    let counters = stop(gateway);
    assert_eq!((counters.overrun, counters.lost), (0, 1), "{counters:?}");
    assert!(counters.silent >= 1, "{counters:?}");
    good.join().expect("the good server was not disturbed");
}

/// Bounds that are soon reached.
fn bound_calls(config: &mut Config) {
    lean(config);
    config.limits.queue_bytes = 128 * 1024;
    config.limits.stall_ms = 1_500;
    // Those that come when it gets nothing new wait, up to this many on a core, and are refused beyond.
    config.limits.calls_queued = 200;
}

/// Calls a server that reads nothing until it is closed. Each call has one answer, which says why; others are served
/// meanwhile, and what the gateway holds stays small.
fn call_in_vain(gateway: &Running, address: &Address) {
    let mut server = Client::greeted(address);
    server.serve("deaf.work");
    // One asker on each core, if there are two.
    let mut askers = [0, 1].map(|_| InVain {
        client: gateway.client(),
        open: BTreeSet::new(),
        sent: 0,
        refused: 0,
        is_over: false,
    });
    let resident = measure::resident_kib();
    let mut most = resident;
    // In turns, so that neither is silent for long.
    while askers.iter().any(|asker| !asker.is_over) {
        for asker in &mut askers {
            asker.round(address);
        }
        most = most.max(measure::resident_kib());
    }
    for asker in &mut askers {
        println!(
            "{address}: {} of {} refused while it was stuck",
            asker.refused, asker.sent
        );
        while !asker.open.is_empty() {
            let answer = asker.client.expect();
            asker.take(&answer, address);
        }
        // Its offer went with it.
        let id = asker.client.call("deaf.work", &[]);
        assert_eq!(
            asker.client.answer_to(id).code(),
            Some(Code::Unavailable),
            "{address}"
        );
    }
    let grown = most - resident;
    println!("{address}: {grown} KiB grown");
    assert!(grown < 32 * 1024, "{address}: {grown} KiB grown");
    drop(server);
}

/// Somebody who calls a server that reads nothing.
struct InVain {
    client: Client,
    /// Its calls that have no answer yet.
    open: BTreeSet<Id>,
    sent: u64,
    /// Those for which there was no room.
    refused: u64,
    /// Calls failed after others had waited: the server is gone.
    is_over: bool,
}

impl InVain {
    /// Some calls and what is answered soon.
    fn round(&mut self, address: &Address) {
        // Not so many that they fill the queue before the kernel was offered any; then few, since refusals are counted.
        for _ in 0..if self.refused == 0 { 10 } else { 1 } {
            self.open
                .insert(self.client.call("deaf.work", &numbered(self.sent)));
            self.sent += 1;
        }
        assert!(
            self.sent < 20_000,
            "{address}: {} calls wait for a server that reads nothing",
            self.sent
        );
        let refused = self.refused;
        while let Some(answer) = self
            .client
            .poll(Duration::from_millis(5))
            .expect("an asker is not disturbed")
        {
            if answer.kind == Kind::Ping && answer.reference.is_none() {
                let id = self.client.id();
                self.client
                    .send(&encoded(Kind::Ping, id, Some(answer.id), None, None, &[]));
            } else {
                self.take(&answer, address);
            }
        }
        if refused == 0 && self.refused > 0 {
            // Others are served meanwhile.
            until_served(&mut self.client, "good.work");
        }
    }

    /// An answer to one of its calls.
    #[track_caller]
    fn take(&mut self, answer: &Received, address: &Address) {
        assert!(
            self.open.remove(&answer.reference.expect("an answer")),
            "{address}: answered once: {answer:?}"
        );
        match answer.code() {
            Some(Code::ResourceExhausted) => self.refused += 1,
            // The server is gone; before any was refused, its offer was still on its way.
            Some(Code::Unavailable) => self.is_over |= self.refused > 0,
            code => panic!("{address}: {code:?}"),
        }
    }
}

#[test]
fn one_that_publishes_to_itself_and_does_not_read_only_drops() {
    let _process = measure::shared();
    let gateway = Running::start(|config| config.limits.queue_bytes = 64 * 1024);
    let mut client = Stuck::new(gateway.unix(), false, &["self.talk"]);
    const EVENTS: u64 = 1_000;
    for value in 0..EVENTS {
        client.client.publish("self.talk", &numbered(value));
    }
    let found = client.catch_up(EVENTS);
    assert!(found.dropped[0] > 0);
    let mut other = [gateway.client()];
    other[0].subscribe("self.talk", none());
    until_heard(&mut client.client, &mut other, "self.talk", 0);
    stop(gateway);
}
