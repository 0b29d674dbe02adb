//! Readers of streams that grant without end and do not read: their writers stop, the gateway's memory is bounded by
//! their windows, and who shares a connection with them goes on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fluxar_protocol::meta::MetaWriter;
use fluxar_protocol::{Code, Id, Kind};
use fluxar_tests::message::{encoded, number};
use fluxar_tests::{Client, Received, Running};

use crate::{lean, measure, none, stop};

const STREAMS: usize = 16;
const WINDOW: u64 = 64 * 1024;
/// What may be in kernel buffers between the gateway and a reader that does not read, and a margin for the allocator.
const SLACK_KIB: u64 = 12 * 1024;

fn part(id: Id, stream: Id, meta: MetaWriter, payload: &[u8]) -> Vec<u8> {
    encoded(
        Kind::Stream,
        id,
        Some(stream),
        None,
        meta.finish().as_deref(),
        payload,
    )
}

/// A server that writes on every stream as much as it is granted.
struct Writer {
    client: Client,
    credit: BTreeMap<Id, u64>,
    chunk: Vec<u8>,
    sent_bytes: u64,
}

/// A gateway whose windows and queues are soon full.
fn narrow() -> Running {
    Running::start(|config| {
        lean(config);
        config.limits.stream_window_bytes = WINDOW as u32;
        config.limits.queue_bytes = 512 * 1024;
    })
}

impl Writer {
    /// It serves `flood.out`, in chunks of a thousand bytes.
    fn serving(gateway: &Running) -> Self {
        let mut client = gateway.client();
        client.serve("flood.out");
        Self {
            client,
            credit: BTreeMap::new(),
            chunk: [&[0x59, 0x03, 0xe8][..], &[0x55; 1_000]].concat(),
            sent_bytes: 0,
        }
    }

    fn write(&mut self) {
        for (stream, credit) in &mut self.credit {
            let mut body = Vec::new();
            while *credit >= self.chunk.len() as u64 && body.len() < 32 * 1024 {
                *credit -= self.chunk.len() as u64;
                self.sent_bytes += self.chunk.len() as u64;
                let id = self.client.id();
                body.extend(part(id, *stream, none(), &self.chunk));
            }
            if !body.is_empty() {
                self.client.send(&body);
            }
        }
    }

    /// A reader opens a stream that it grants without end, once its offer is known everywhere.
    fn opened(&mut self, reader: &mut Client) -> Id {
        let meta = MetaWriter::new()
            .uint("credit", u64::MAX)
            .flag("end", true)
            .finish();
        let open = self.credit.len();
        for _ in 0..100 {
            let id = reader.id();
            let target = Some("flood.out");
            reader.send(&encoded(
                Kind::Stream,
                id,
                None,
                target,
                meta.as_deref(),
                &number(0),
            ));
            if let Some(opened) = reader.reaches(id, &mut self.client) {
                self.take(&opened);
                if self.credit.len() > open {
                    return id;
                }
            }
        }
        panic!("nobody ever serves it");
    }

    /// Takes what was granted with the open of a stream, or on one.
    fn take(&mut self, part: &Received) {
        // Of the offer, and of streams whose reader has gone, there is nothing to take.
        if part.kind == Kind::Stream {
            let credit = part.uint("credit").expect("an open, or a grant");
            let stream = part.reference.unwrap_or(part.id);
            *self.credit.entry(stream).or_default() += credit;
        }
    }

    /// Takes the next part that comes within `wait`; whether one did. Pings are answered on the way.
    fn hear(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.client.poll(left) {
                Ok(Some(received)) if received.kind == Kind::Stream => {
                    self.take(&received);
                    return true;
                }
                Ok(Some(ping)) if ping.kind == Kind::Ping => {
                    let id = self.client.id();
                    let pong = encoded(Kind::Ping, id, Some(ping.id), None, None, &[]);
                    self.client.send(&pong);
                }
                // Of the offer, and of streams whose reader has gone.
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(end) => panic!("the writer's connection ended: {end:?}"),
            }
            if left.is_zero() {
                return false;
            }
        }
    }
}

#[test]
fn a_reader_that_grants_without_end_and_does_not_read_stops_its_writers() {
    let _process = measure::alone();
    let gateway = narrow();
    let mut writer = Writer::serving(&gateway);
    let mut reader = gateway.client();
    writer.opened(&mut reader);
    let resident = measure::resident_kib();
    for _ in 1..STREAMS {
        writer.opened(&mut reader);
    }
    // Until nothing is granted any more.
    writer.write();
    while writer.hear(Duration::from_millis(1_500)) {
        writer.write();
        assert!(writer.sent_bytes < 256 << 20, "its writer never stops");
    }
    let grown = measure::resident_kib().saturating_sub(resident);
    println!(
        "stopped after {} KiB; {grown} KiB grown",
        writer.sent_bytes / 1024
    );
    let bound = 512 + STREAMS as u64 * WINDOW / 1024 + SLACK_KIB;
    assert!(grown < bound, "{grown} KiB of {bound}");

    // The writer's connection is free for another reader.
    let mut other = gateway.client();
    let stream = writer.opened(&mut other);
    let mut heard_bytes = 0;
    while heard_bytes < 4 << 20 {
        writer.hear(Duration::from_millis(5));
        writer.write();
        while let Ok(Some(received)) = other.poll(Duration::from_millis(1)) {
            assert_eq!(received.reference, Some(stream));
            heard_bytes += received.payload.len();
        }
    }
    // It reads again, and everything that was sent arrives.
    let mut rest = 0;
    let mut all = 0;
    while all < 8 << 20 {
        writer.hear(Duration::from_millis(1));
        writer.write();
        while let Ok(Some(received)) = reader.poll(Duration::from_millis(1)) {
            all += received.payload.len();
            rest += 1;
        }
    }
    assert!(rest > 0);
    drop(reader);
    drop(other);
    drop(writer);
    stop(gateway);
}

#[test]
fn one_that_opens_and_does_not_read_opens_no_more_when_its_queue_is_full() {
    let _process = measure::alone();
    let gateway = narrow();
    let mut writer = Writer::serving(&gateway);
    let mut reader = gateway.client();
    let mut stream = Some(writer.opened(&mut reader));
    let open = MetaWriter::new()
        .uint("credit", WINDOW)
        .flag("end", true)
        .finish();
    let mut last = Id([0; 16]);
    // Each is written as much as it granted, and ended: nothing of it is left but what waits to be read.
    while stream.is_some() {
        while let Some(credit) = writer.credit.values_mut().next() {
            *credit = (*credit).min(WINDOW);
            writer.write();
            let (id, &stream) = (writer.client.id(), writer.credit.keys().next().expect("a stream"));
            let end = MetaWriter::new().flag("end", true);
            writer.client.send(&part(id, stream, end, &[]));
            writer.credit.remove(&stream);
        }
        assert!(writer.sent_bytes < 64 << 20, "it opens without end");
        last = reader.id();
        let target = Some("flood.out");
        reader.send(&encoded(
            Kind::Stream,
            last,
            None,
            target,
            open.as_deref(),
            &number(0),
        ));
        // That it was refused is known by nothing coming: its reader does not read.
        writer.hear(Duration::from_millis(5_000));
        stream = writer.credit.keys().next().copied();
    }
    println!("refused after {} KiB", writer.sent_bytes / 1024);
    assert_eq!(reader.answer_to(last).code(), Some(Code::ResourceExhausted));
    // It has read everything now, and may open again.
    writer.opened(&mut reader);
    drop(reader);
    drop(writer);
    stop(gateway);
}
