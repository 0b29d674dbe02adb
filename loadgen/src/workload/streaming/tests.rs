//! Clients and services in one place, without connections: what one writes, the other reads.

use std::collections::VecDeque;

use super::*;
use crate::arrivals::{Plan, Schedule};
use crate::scenario::{Arrivals, Payload, Scenario, Workload};
use crate::stamp::PAYLOAD_BYTES_MIN;

const MS: u64 = 1_000_000;
const START_NS: u64 = 1_000 * MS;
const CHUNK_BYTES: u64 = PAYLOAD_BYTES_MIN as u64;

#[derive(Debug, Clone)]
enum Said {
    Open(Stamp, bool),
    Chunk(Stamp, bool),
    End,
    Grant(u32),
}

/// What one side writes, kept for the other; and its credit, by stream.
#[derive(Default)]
struct Link {
    said: VecDeque<(u32, u32, Said)>,
    credit: Vec<u64>,
    room: Option<usize>,
    granted_bytes: u64,
}

impl Pen for Link {
    fn has_room(&mut self, _: u32) -> bool {
        self.room.is_none_or(|room| self.said.len() < room)
    }

    fn credit(&self, _: u32, stream: u32) -> u64 {
        self.credit.get(stream as usize).copied().unwrap_or(0)
    }

    fn open(&mut self, peer: u32, stream: u32, _: u32, opening: Opening, stamp: &Stamp) {
        self.said
            .push_back((peer, stream, Said::Open(*stamp, opening.ends)));
    }

    fn chunk(&mut self, peer: u32, stream: u32, stamp: &Stamp, is_last: bool) -> u64 {
        assert!(self.credit[stream as usize] >= CHUNK_BYTES, "beyond its credit");
        self.credit[stream as usize] -= CHUNK_BYTES;
        self.said.push_back((peer, stream, Said::Chunk(*stamp, is_last)));
        CHUNK_BYTES
    }

    fn end(&mut self, peer: u32, stream: u32) {
        self.said.push_back((peer, stream, Said::End));
    }

    fn grant(&mut self, peer: u32, stream: u32, bytes: u32) {
        self.granted_bytes += u64::from(bytes);
        self.said.push_back((peer, stream, Said::Grant(bytes)));
    }
}

/// One client's connection, which is also the service's: streams have the same number on both sides.
struct World {
    streaming: Streaming,
    client: u32,
    service: u32,
    link: Link,
    now_ns: u64,
    live: LiveLatency,
    /// Read in order, by stream, since it was opened.
    loses_next: bool,
}

const CLIENT: u32 = 0;
const SERVICE: u32 = 1;

fn shape(direction: Direction) -> Shape {
    Shape {
        clients: 1,
        stopped: 0,
        streams: 2,
        direction,
        window_bytes: 10 * CHUNK_BYTES as u32,
        chunks: None,
        chunk_bytes_max: CHUNK_BYTES,
    }
}

fn payload(stamp: &Stamp) -> Vec<u8> {
    let mut payload = vec![0; PAYLOAD_BYTES_MIN];
    payload[..4].copy_from_slice(&[0xa1, 0x61, b's', 0x54]);
    stamp.write(&mut payload);
    payload
}

impl World {
    fn new(shape: Shape, client: u32, schedule: Option<OpenLoop>) -> World {
        let mut streaming = Streaming::new(shape, schedule, true);
        let seats = (
            streaming.seat_client(CLIENT, client, 0),
            streaming.seat_service(SERVICE),
        );
        streaming.begin(&Timetable {
            start_ns: START_NS,
            phases: vec![(START_NS + 10 * MS, START_NS + 110 * MS)],
        });
        let mut world = World {
            streaming,
            client: seats.0,
            service: seats.1,
            link: Link::default(),
            now_ns: START_NS,
            live: LiveLatency::default(),
            loses_next: false,
        };
        // Of both sides: each end writes at most as one of them, in these tests' directions.
        world.link.credit = vec![0; shape.streams as usize];
        world
    }

    /// A turn, `ms` later: what was said is heard, then what is to be said is.
    fn turn(&mut self, ms: u64) {
        self.now_ns += ms * MS;
        self.streaming.begin_turn(self.now_ns);
        for (peer, stream, said) in std::mem::take(&mut self.link.said) {
            let to = if peer == CLIENT { self.service } else { self.client };
            match said {
                Said::Open(stamp, ends) => {
                    self.link.credit[stream as usize] = u64::from(self.streaming.shape.window_bytes);
                    self.streaming
                        .opened(to, stream, &payload(&stamp), ends, self.now_ns);
                }
                Said::Chunk(..) if std::mem::take(&mut self.loses_next) => {}
                Said::Chunk(stamp, is_last) => {
                    self.streaming
                        .chunk(to, stream, &payload(&stamp), is_last, &self.live);
                }
                Said::End => self.streaming.ended(to, stream),
                Said::Grant(bytes) => {
                    self.link.credit[stream as usize] += u64::from(bytes);
                    self.streaming.granted(to, stream);
                }
            }
        }
        self.streaming.end_turn(&self.live);
        self.streaming.pump(self.now_ns, 1_000, &mut self.link);
    }

    /// To the end, when all is over.
    fn finish(mut self) -> (Tally, Streamed) {
        while self.now_ns < START_NS + 110 * MS {
            self.turn(1);
        }
        for _ in 0..20 {
            self.turn(1);
        }
        assert!(!self.streaming.is_behind(self.now_ns), "all streams are over");
        let (sent, expected) = self.streaming.sent();
        assert!(sent >= expected);
        let (tallies, found) = self.streaming.finish();
        (tallies[0].clone(), found)
    }
}

#[test]
fn writers_go_as_far_as_credit_and_on_when_half_is_granted_again() {
    for direction in [Direction::Down, Direction::Up] {
        let mut world = World::new(shape(direction), 0, None);
        world.turn(0);
        world.turn(0);
        if direction == Direction::Up {
            // It learns of its credit with a grant; here nobody said so.
            world.streaming.granted(0, 0);
            world.streaming.granted(0, 1);
            world.turn(0);
        }
        let chunks = |world: &World| {
            let said = world.link.said.iter();
            said.filter(|(.., said)| matches!(said, Said::Chunk(..))).count()
        };
        assert_eq!(chunks(&world), 20, "both of its streams, a window each");
        world.turn(0);
        assert_eq!(world.link.granted_bytes, 2 * 10 * CHUNK_BYTES);
        let (tally, found) = world.finish();
        assert!(tally.sent > 100);
        assert_eq!(
            (tally.expected, tally.delivered, tally.lost()),
            (tally.sent, tally.sent, 0)
        );
        assert_eq!((tally.duplicated, tally.out_of_order), (0, 0));
        assert_eq!((found.opened, found.ended, found.failed), (2, 2, 0));
        assert_eq!(found.first_chunks().len(), 2);
        assert!(found.gaps.len() > 100 && found.foreign == 0);
    }
}

#[test]
fn a_stream_of_so_many_chunks_is_opened_again_when_it_is_over() {
    let mut of = shape(Direction::Down);
    of.chunks = Some(3);
    let (tally, found) = World::new(of, 0, None).finish();
    assert!(found.opened > 20, "{}", found.opened);
    assert_eq!((found.opened, found.failed), (found.ended, 0));
    assert_eq!((tally.lost(), tally.duplicated), (0, 0));
    assert_eq!(
        found.first_chunks().value_at_quantile(0.5) / MS,
        2,
        "there and back"
    );
}

#[test]
fn a_chunk_that_does_not_come_is_lost_and_nothing_else() {
    let mut world = World::new(shape(Direction::Down), 0, None);
    for _ in 0..40 {
        world.turn(1);
    }
    world.loses_next = true;
    let (tally, _) = world.finish();
    assert_eq!((tally.lost(), tally.out_of_order, tally.duplicated), (1, 0, 0));
}

#[test]
fn a_stopped_reader_grants_nothing_more_and_counts_for_nothing() {
    let mut of = shape(Direction::Down);
    (of.clients, of.stopped) = (0, 1);
    let (tally, found) = World::new(of, 0, None).finish();
    assert_eq!((tally.sent, tally.delivered, found.arrived_bytes), (0, 0, 0));
    assert!(found.stopped_written > 20);
    assert!(
        found.stopped_bytes_max <= 10 * CHUNK_BYTES,
        "{}",
        found.stopped_bytes_max
    );
    assert!(found.gaps.is_empty() && found.first_chunks().is_empty());
    assert_eq!(
        (found.opened, found.ended),
        (2, 2),
        "it ends in good order all the same"
    );
}

fn open_loop(per_s: f64, writers: u32) -> OpenLoop {
    let scenario = Scenario {
        workload: Workload::FanOut {
            topics: 1,
            publishers: 1,
            subscribers: 1,
        },
        arrivals: Arrivals::default(),
        payload: Payload::default(),
        warmup_ms: 10,
        duration_ms: 100,
    };
    let plan = Plan::constant(&scenario, per_s);
    OpenLoop::new(Schedule::new(plan, (0..writers).collect(), writers, 1))
}

#[test]
fn a_schedule_says_when_and_latency_counts_from_then() {
    let mut of = shape(Direction::Both);
    of.streams = 1;
    assert_eq!(of.scheduled(), [0, 1]);
    let mut world = World::new(of, 0, Some(open_loop(1_000.0, 2)));
    world.link.credit[0] = u64::MAX / 2;
    for _ in 0..30 {
        world.turn(1);
        world.link.credit[0] = u64::MAX / 2;
    }
    // For 40 ms nobody gets any credit; what is due then waits, and nothing else does.
    for _ in 0..40 {
        world.link.credit[0] = 0;
        world.turn(1);
    }
    assert!(world.streaming.is_behind(world.now_ns));
    world.link.credit[0] = u64::MAX / 2;
    for seat in 0..2 {
        world.streaming.granted(seat, 0);
    }
    let (tally, found) = world.finish();
    assert_eq!((tally.sent, tally.delivered, found.unsent), (100, 100, 0));
    assert!(tally.latency_ns.max() >= 39 * MS && found.late >= 30);
    assert!(tally.latency_ns.value_at_quantile(0.5) <= 3 * MS);
}

#[test]
fn a_connection_without_room_is_written_to_later() {
    let mut world = World::new(shape(Direction::Down), 0, None);
    world.link.room = Some(5);
    world.turn(0);
    world.turn(0);
    assert_eq!(world.link.said.len(), 5);
    world.turn(1);
    assert_eq!(world.link.said.len(), 5);
    assert_eq!(world.finish().0.lost(), 0);
}

#[test]
fn what_fails_is_opened_again_after_a_pause_and_what_is_gone_is_not() {
    let mut world = World::new(shape(Direction::Down), 0, None);
    world.turn(0);
    world.turn(0);
    world.link.said.clear();
    world.streaming.failed(0, 1);
    world.streaming.failed(1, 1);
    assert!(world.streaming.next_ns().is_some());
    world.turn(1);
    assert_eq!(world.streaming.found.opened, 2);
    world.turn(PAUSE_NS / MS);
    assert_eq!(
        (world.streaming.found.opened, world.streaming.found.failed),
        (3, 1)
    );
    assert!(world.streaming.gone(1), "a service is not a client");
    assert!(!world.streaming.gone(0), "no client is left");
    assert_eq!(world.streaming.found.failed, 3);
    world.turn(PAUSE_NS / MS);
    assert_eq!(world.streaming.found.opened, 3);
}

#[test]
fn what_is_not_of_this_run_is_ended_and_told() {
    let mut world = World::new(shape(Direction::Down), 0, None);
    world.streaming.opened(1, 0, b"something else", true, START_NS);
    world.turn(0);
    let ends = world.link.said.iter().filter(|(peer, ..)| *peer == SERVICE);
    assert_eq!(ends.count(), 1);
    assert_eq!(world.streaming.reading.foreign, 1);
}
