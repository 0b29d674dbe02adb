//! What kind of life it is: everything follows from the seed.

use fluxar_engine::sim::{DiskFaults, Faults, Random};
use fluxar_gateway::limits::Limits;
use fluxar_protocol::session::AWAY_MS_DEFAULT;
use fluxar_shard::log::Settings;
use fluxar_shard::log::class::{Level, TopicRule};

use super::auditor::{DEAD_TOPIC, Strength};
use super::follower::How;
use super::house::CORES_MOST;
use super::publisher::{Again, Manner, Topic};

/// The topics of the town.
const STREAMS: &[Topic] = &[
    ("a.1", Strength::Synced, false),
    ("a.2", Strength::Synced, false),
    ("b.1", Strength::Synced, false),
    ("b.2.x", Strength::Synced, false),
    ("c", Strength::Synced, false),
];
/// Those whose acknowledgements promise less.
const WEAK: &[Topic] = &[
    ("w.written", Strength::Written, false),
    ("w.memory", Strength::Memory, false),
];
/// Tables.
const TABLES: &[Topic] = &[("t.1", Strength::Synced, true), ("t.2", Strength::Synced, true)];
const PATTERNS: &[&str] = &["a.*", "a.1", "b.>", ">", "*.1", "c"];

/// What happens between two acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upheaval {
    /// The process ends.
    Kill,
    /// The power goes.
    PowerCut,
    /// It is stopped in good order, and perhaps killed before that is done.
    Stop,
    /// The disk has no space, for an act.
    Full,
    /// The disk fails now and then, for an act.
    Errors,
    /// Bits of sealed segments flip.
    Flip,
    /// Nothing.
    None,
}

/// Where a life is ended once, to be gone on with by another start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crash {
    /// When the cores have asked for so many operations of the disk.
    pub(crate) at_operation: u64,
    pub(crate) is_power_cut: bool,
}

/// How much of the log is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Retains {
    /// So many segments of a core.
    Segments(u64),
    /// So many events of a partition.
    Events(u64),
}

/// How starts take seconds, and cores stand still.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SlowStarts {
    /// The log takes so long to be read: about as long as this, at least and at most.
    pub(crate) start_ms: (u64, u64),
    /// A core does nothing else for up to so long.
    pub(crate) stall_ms: u64,
    /// How likely it does so every few milliseconds, beside half of the times when it gets its share of the log.
    pub(crate) stalls: f64,
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) cores: usize,
    /// Another start may have another number of cores.
    pub(crate) cores_change: bool,
    pub(crate) network: Faults,
    pub(crate) disk: DiskFaults,
    pub(crate) partitions: u16,
    pub(crate) segment_bytes: u64,
    /// What is kept, if not all.
    pub(crate) retains: Option<Retains>,
    pub(crate) unacked_events: u32,
    pub(crate) publish_unacked_bytes: usize,
    /// Starts take their time, and those who hear nothing for two seconds connect anew.
    pub(crate) slow: Option<SlowStarts>,
    /// How publishers go about it.
    pub(crate) manner: Manner,
    pub(crate) act_ms: u64,
    pub(crate) upheavals: Vec<Upheaval>,
    /// Chance that somebody's connection is lost, every few milliseconds.
    pub(crate) deaths: f64,
    /// One publisher each: the topics, and whether at qos 2.
    pub(crate) publishers: Vec<(bool, Vec<Topic>)>,
    pub(crate) followers: Vec<(&'static str, How)>,
    /// The first follower with a durable cursor has a rival, who takes its name over and over.
    pub(crate) has_rival: bool,
    /// Members of each queue: its pattern, and how many.
    pub(crate) queues: Vec<(&'static str, usize)>,
    /// How likely it is that a member never comes to be done with an event.
    pub(crate) fails: f64,
    /// After so many times an event is set aside.
    pub(crate) deliveries_max: Option<u32>,
    /// Some events are worth nothing after a while.
    pub(crate) expires: bool,
    /// How large a part of the citizens comes back with a token, and for how long it is good, ms.
    pub(crate) resumes: f64,
    pub(crate) resume_ms: u32,
    pub(crate) crash: Option<Crash>,
}

impl Plan {
    /// A short life with a little of everything.
    pub(crate) fn of_seed(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x706c_616e);
        let random = &mut random;
        let kinds = [
            Upheaval::Kill,
            Upheaval::Kill,
            Upheaval::PowerCut,
            Upheaval::PowerCut,
            Upheaval::PowerCut,
            Upheaval::Stop,
            Upheaval::Full,
            Upheaval::Errors,
            Upheaval::Flip,
            Upheaval::None,
        ];
        let mut upheavals: Vec<Upheaval> = (0..2 + random.index(4))
            .map(|_| kinds[random.index(kinds.len())])
            .collect();
        if random.chance(0.6) {
            upheavals.retain(|upheaval| *upheaval != Upheaval::Flip);
        }
        let flips = upheavals.contains(&Upheaval::Flip);
        let retains = (!flips && random.chance(0.2)).then(|| match random.chance(0.5) {
            true => Retains::Segments(1 + random.below(4)),
            false => Retains::Events(1 + random.below(60)),
        });
        let is_weak = !flips && retains.is_none() && random.chance(0.25);
        let mut topics: Vec<Topic> = STREAMS.to_vec();
        if is_weak {
            topics.extend(WEAK);
        }
        let mut publishers = vec![(true, topics.clone()), (false, topics.clone())];
        if random.chance(0.3) {
            publishers.push((random.chance(0.5), topics));
        }
        let has_table = !flips && random.chance(0.4);
        if has_table {
            publishers.push((random.chance(0.7), TABLES.to_vec()));
        }
        let mut followers = vec![(PATTERNS[random.index(PATTERNS.len())], How::Once)];
        for _ in 0..random.index(3) {
            let how = [How::Once, How::Durable, How::Returning, How::FromAll][random.index(4)];
            // What was given and then lost with the power cannot be gone back to by its position.
            let how = if is_weak && how == How::Returning {
                How::Durable
            } else {
                how
            };
            followers.push((PATTERNS[random.index(PATTERNS.len())], how));
        }
        if random.chance(0.4) {
            followers.push((PATTERNS[random.index(PATTERNS.len())], How::Plain));
        }
        if has_table {
            followers.push((["t.*", "t.1"][random.index(2)], How::Table));
        }
        let mut queues = Vec::new();
        if random.chance(0.5) {
            queues.push((["b.>", ">", "a.1"][random.index(3)], 1 + random.index(3)));
        }
        // What is set aside is held to be there in the end.
        let sets_aside = !queues.is_empty() && !flips && retains.is_none() && random.chance(0.5);
        let is_wild = random.chance(0.5);
        Self {
            cores: 1 + random.index(CORES_MOST),
            cores_change: random.chance(0.3),
            network: Faults {
                reset: if random.chance(0.2) { 0.002 } else { 0.0 },
                ..if is_wild { Faults::wild() } else { Faults::none() }
            },
            disk: if random.chance(0.5) {
                slow()
            } else {
                DiskFaults::none()
            },
            partitions: 1 + random.below(6) as u16,
            segment_bytes: [8, 16, 64][random.index(3)] * 1024,
            retains,
            unacked_events: [4, 40, 4_096][random.index(3)],
            publish_unacked_bytes: 4 * 1024,
            slow: None,
            manner: Manner::default(),
            act_ms: 40 + random.below(160),
            upheavals,
            deaths: [0.0, 0.04, 0.1][random.index(3)],
            publishers,
            followers,
            has_rival: random.chance(0.15),
            queues,
            fails: if sets_aside { 0.3 } else { 0.08 },
            deliveries_max: sets_aside.then(|| 1 + random.below(3) as u32),
            expires: retains.is_none() && random.chance(0.25),
            resumes: [0.0, 0.6, 1.0][random.index(3)],
            resume_ms: if random.chance(0.8) { AWAY_MS_DEFAULT } else { 40 },
            crash: None,
        }
    }

    /// A life in which a start takes seconds, cores stand still, and publishers have many events under way: of all kinds, or of
    /// one in which nothing else happens.
    pub(crate) fn slow(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x736c_6f77);
        let random = &mut random;
        let base = Self::of_seed(seed);
        let base = Self {
            network: Faults {
                socket_buffer_bytes: 64 * 1024,
                buffers: 64,
                buffer_bytes: 16 * 1024,
                ..base.network
            },
            publish_unacked_bytes: [4, 1_024][random.index(2)] * 1024,
            slow: Some(SlowStarts {
                start_ms: (500, 8_000),
                stall_ms: [0, 3_000, 6_000][random.index(3)],
                stalls: [0.0, 0.0005, 0.003][random.index(3)],
            }),
            manner: Manner {
                window: [48, 128, 256][random.index(3)],
                pause_ms: 10 + random.below(40),
                again: [Again::ByTopic, Again::ByEvent, Again::AtOnce, Again::AtOnce][random.index(4)],
                as_refused: random.chance(0.5),
            },
            act_ms: 200 + random.below(3_000),
            deaths: base.deaths / 20.0,
            // Who holds that they came in time knows nothing of cores that stand still.
            expires: false,
            ..base
        };
        if seed.is_multiple_of(4) {
            return base;
        }
        let kinds = [Upheaval::Kill, Upheaval::Kill, Upheaval::PowerCut, Upheaval::Stop];
        let publishers = (0..2 + random.index(2)).map(|_| {
            let first = random.index(STREAMS.len());
            let topics = (0..1 + random.index(4)).map(|at| STREAMS[(first + at) % STREAMS.len()]);
            (random.chance(0.8), topics.collect())
        });
        Self {
            publishers: publishers.collect(),
            partitions: 1 + random.below(4) as u16,
            segment_bytes: [16, 64][random.index(2)] * 1024,
            retains: None,
            unacked_events: 4_096,
            upheavals: (0..1 + random.index(3))
                .map(|_| kinds[random.index(kinds.len())])
                .collect(),
            deaths: [0.0, 0.0, 0.002][random.index(3)],
            followers: vec![(">", How::Once)],
            has_rival: false,
            queues: Vec::new(),
            deliveries_max: None,
            resumes: [0.0, 0.5][random.index(2)],
            resume_ms: AWAY_MS_DEFAULT,
            ..base
        }
    }

    /// So small a life that it can be ended at each of its operations.
    pub(crate) fn small(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x736d_616c);
        Self {
            cores: 1 + random.index(2),
            cores_change: random.chance(0.3),
            network: Faults::none(),
            disk: DiskFaults::none(),
            partitions: 2,
            segment_bytes: 4 * 1024,
            retains: None,
            unacked_events: 4_096,
            publish_unacked_bytes: 4 * 1024,
            slow: None,
            manner: Manner::default(),
            act_ms: 25,
            upheavals: vec![Upheaval::None, Upheaval::Stop],
            deaths: 0.0,
            publishers: vec![(true, STREAMS[..3].to_vec()), (true, TABLES[..1].to_vec())],
            followers: vec![(">", How::Once), ("t.*", How::Table)],
            has_rival: false,
            queues: vec![("a.*", 1)],
            fails: 0.08,
            deliveries_max: None,
            expires: false,
            resumes: 0.0,
            resume_ms: AWAY_MS_DEFAULT,
            crash: None,
        }
    }

    /// Whether a session waits for as long as anybody stays away.
    pub(crate) fn sessions_last(&self) -> bool {
        self.resume_ms == AWAY_MS_DEFAULT
    }

    pub(crate) fn settings(&self) -> Settings {
        let rule = |pattern: &str, level| TopicRule {
            pattern: pattern.into(),
            level,
            always: None,
            deliveries_max: None,
            dead_letter: None,
        };
        let mut topics = vec![
            rule("w.written", Some(Level::Written)),
            rule("w.memory", Some(Level::Memory)),
        ];
        for pattern in ["a.*", "b.>"] {
            topics.push(TopicRule {
                deliveries_max: self.deliveries_max,
                dead_letter: self.deliveries_max.map(|_| DEAD_TOPIC.into()),
                ..rule(pattern, None)
            });
        }
        let (retain_bytes, retain_events) = match self.retains {
            None => (0, 0),
            Some(Retains::Segments(segments)) => (segments * self.segment_bytes, 0),
            Some(Retains::Events(events)) => (0, events),
        };
        Settings {
            partitions: self.partitions,
            segment_bytes: self.segment_bytes,
            unsynced_bytes_max: 64 * 1024,
            // Small, so that who is behind reads from segments.
            tail_bytes: 4 * 1024,
            sync_ms: 100,
            ack_ms: 300,
            retain_bytes,
            retain_events,
            // What is kept for its ids is kept whatever else is said.
            once_ms: if self.retains.is_some() { 50 } else { 300_000 },
            topics,
            ..Settings::default()
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            heartbeat_ms: 1_000,
            drain_ms: 200,
            unacked_events: self.unacked_events,
            publish_unacked_bytes: self.publish_unacked_bytes,
            resume_ms: self.resume_ms,
            ..Limits::default()
        }
    }
}

/// A disk without faults that takes its time.
pub(crate) fn slow() -> DiskFaults {
    DiskFaults {
        latency_ns: (1_000, 4_000_000),
        ..DiskFaults::none()
    }
}

/// A disk that fails now and then: at writing, and perhaps at reading.
pub(crate) fn failing(at_reading: bool) -> DiskFaults {
    DiskFaults {
        open_error: 0.05,
        write_error: 0.1,
        write_full: 0.1,
        sync_error: 0.1,
        read_error: if at_reading { 0.05 } else { 0.0 },
        ..slow()
    }
}
