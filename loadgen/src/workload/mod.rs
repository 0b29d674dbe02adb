//! Who takes part in a workload: which connections there are, what each is for, and on which thread it lives.
//!
//! [`Cast::of`] turns a scenario into that list, the same for every protocol. What the parts do is in the files beside:
//!
//! | file | whose part |
//! |---|---|
//! | [`publishing`] | publishers: windows and schedules |
//! | [`pacing`] | what all who send have in common: schedules, and the count of what left |
//! | [`storing`] | acknowledgements of publishers whose events are stored |
//! | [`hearing`] | subscribers: ledgers, latencies, stalls |
//! | [`calling`] | callers |
//! | [`streaming`] | both ends of streams |
//! | [`visiting`] | connections that come and go: storms and churn |

pub mod calling;
pub mod hearing;
pub mod pacing;
pub mod publishing;
pub mod storing;
pub mod streaming;
pub mod visiting;

use crate::protocol::{Ability, Names};
use crate::scenario::{Arrivals, Scenario, Stops, Workload};

use streaming::Shape;

/// A slow subscriber's workload publishes at this rate where the scenario names none: enough to fill what kernels buffer.
const SLOW_PER_S: f64 = 50_000.0;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Publishes on a topic.
    Publisher {
        /// Index of its topic.
        topic: u32,
        /// Its number in stamps.
        number: u32,
    },
    /// Subscribes to a topic.
    Subscriber {
        /// Index of its topic.
        topic: u32,
        /// Whether it stops reading when the warm-up is over.
        stops: bool,
    },
    /// Calls a method.
    Caller {
        /// Index of the method.
        method: u32,
        /// Its number in stamps, behind the publishers'.
        number: u32,
    },
    /// Serves a method.
    Server {
        /// Index of the method.
        method: u32,
    },
    /// Opens streams.
    Opener {
        /// Index of the method.
        method: u32,
        /// Which of the clients it is.
        client: u32,
        /// Whether it stops reading when the warm-up is over.
        stops: bool,
    },
    /// Subscribes before anything is published, and is away from then on; see [`crate::protocol::Protocol::needs_keeper`].
    Keeper {
        /// Index of its topic.
        topic: u32,
    },
    /// Is there and says nothing, until it is spoken to.
    Silent,
    /// Comes and goes.
    Visitor,
}

impl Part {
    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Part::Publisher { .. } => "publisher",
            Part::Subscriber { .. } => "subscriber",
            Part::Caller { .. } => "caller",
            Part::Server { .. } => "service",
            Part::Opener { .. } => "client",
            Part::Keeper { .. } => "subscriber that is away",
            Part::Silent => "idle connection",
            Part::Visitor => "visitor",
        }
    }

    /// Whether it stops reading when the warm-up is over.
    #[must_use]
    pub fn stops_reading(self) -> bool {
        matches!(
            self,
            Part::Subscriber { stops: true, .. } | Part::Opener { stops: true, .. }
        )
    }

    /// Whether it connects where subscribers do.
    #[must_use]
    pub fn hears(self) -> bool {
        matches!(
            self,
            Part::Subscriber { .. }
                | Part::Server { .. }
                | Part::Keeper { .. }
                | Part::Silent
                | Part::Visitor
        )
    }
}

/// Connections that come and go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Visits {
    /// Each is greeted and leaves.
    Storm {
        /// How many.
        connections: u32,
        /// All stay until the last one is in.
        hold: bool,
    },
    /// Each subscribes, hears one event and leaves.
    Churn {
        /// How many come in a second.
        per_s: f64,
    },
}

/// How many connections a workload has at a time, at most.
#[must_use]
pub fn connections_max(workload: &Workload) -> u64 {
    let sum = |counts: &[u32]| counts.iter().map(|&count| u64::from(count)).sum::<u64>();
    match *workload {
        Workload::FanOut {
            topics,
            publishers,
            subscribers,
        } => u64::from(topics).saturating_mul(sum(&[publishers, subscribers])),
        // One more of each topic, where a server needs somebody to store for, or that shows when it can.
        Workload::Store { topics, publishers } => u64::from(topics).saturating_mul(sum(&[publishers, 1])),
        Workload::Replay { subscribers, .. } => sum(&[subscribers, 2]),
        Workload::Calls {
            clients, services, ..
        } => sum(&[clients, services]),
        Workload::Storm {
            connections,
            hold: true,
            ..
        } => u64::from(connections),
        // Those that leave are there a moment longer.
        Workload::Storm {
            connections,
            concurrency,
            ..
        } => u64::from(connections).min(4 * u64::from(concurrency)),
        Workload::Idle { connections, .. } => sum(&[connections, 1]),
        Workload::Slow { healthy, stopped } => sum(&[healthy, stopped, 1]),
        Workload::Churn {
            subscribers,
            churn_per_s,
        } => sum(&[subscribers, 1]) + churn_per_s.max(0.0) as u64,
        Workload::Stream {
            clients,
            services,
            stopped,
            ..
        } => sum(&[clients, services, stopped]),
        Workload::Mixed {
            subscribers, clients, ..
        } => sum(&[subscribers, clients, 2]),
    }
}

/// What becomes of what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// Publishes are acknowledged, and that is all.
    Kept,
    /// So many are published and acknowledged first; then subscribers come and ask for all of them.
    Replayed {
        /// How many.
        events: u64,
    },
}

/// A workload's connections and how they are paced.
#[derive(Debug, Clone)]
pub struct Cast {
    /// All that stay for the whole run.
    pub parts: Vec<Part>,
    /// Those that do not.
    pub visits: Option<Visits>,
    /// What sessions refer to by index.
    pub names: Names,
    /// How many publishers there are; a topic's are numbered one after the other.
    pub publishers: u32,
    /// Of each topic.
    pub publishers_per_topic: u32,
    /// Of each topic, that read to the end.
    pub readers_per_topic: u32,
    /// How many callers there are.
    pub callers: u32,
    /// Calls that each has open in a closed loop.
    pub in_flight: u32,
    /// When messages are due: the scenario's, or what this workload takes instead.
    pub arrivals: Arrivals,
    /// Whether `arrivals` pace the calls. (Beside publishers, calls are a closed loop.)
    pub calls_arrive: bool,
    /// What streams are like, if there are any.
    pub streams: Option<Shape>,
    /// Services that listen: so many connections come from the server. They are not among `parts`.
    pub attached: u32,
    /// What is stored, if anything is.
    pub stored: Option<Stored>,
    /// How many connect at a time.
    pub concurrency: u32,
    /// Whether silent connections are spoken to at the end.
    pub speaks: bool,
}

impl Cast {
    /// The cast of a scenario.
    #[must_use]
    pub fn of(scenario: &Scenario) -> Cast {
        let mut cast = Cast {
            parts: Vec::new(),
            visits: None,
            names: Names::default(),
            publishers: 0,
            publishers_per_topic: 0,
            readers_per_topic: 0,
            callers: 0,
            in_flight: 1,
            arrivals: scenario.arrivals.clone(),
            calls_arrive: false,
            streams: None,
            attached: 0,
            stored: None,
            concurrency: 64,
            speaks: false,
        };
        match scenario.workload {
            Workload::FanOut {
                topics,
                publishers,
                subscribers,
            } => cast.fan_out(topics, publishers, subscribers, 0),
            Workload::Store { topics, publishers } => {
                cast.fan_out(topics, publishers, 0, 0);
                cast.stored = Some(Stored::Kept);
            }
            Workload::Replay { events, subscribers } => {
                if !matches!(cast.arrivals, Arrivals::Window { .. }) {
                    cast.arrivals = Arrivals::default();
                }
                cast.fan_out(1, 1, subscribers, 0);
                cast.stored = Some(Stored::Replayed { events });
            }
            Workload::Calls {
                clients,
                in_flight,
                services,
            } => {
                cast.calls(clients, in_flight, services);
                cast.calls_arrive = !matches!(scenario.arrivals, Arrivals::Window { .. });
            }
            Workload::Storm {
                connections,
                concurrency,
                hold,
            } => {
                cast.concurrency = concurrency.max(1);
                cast.visits = Some(Visits::Storm { connections, hold });
            }
            Workload::Idle {
                connections,
                concurrency,
                speak,
            } => {
                cast.concurrency = concurrency.max(1);
                cast.speaks = speak;
                // One connection more, which publishes what is said to the others.
                cast.fan_out(1, u32::from(speak), 0, 0);
                cast.parts.extend((0..connections).map(|_| Part::Silent));
                cast.readers_per_topic = connections;
            }
            Workload::Slow { healthy, stopped } => {
                if let Arrivals::Window { .. } = cast.arrivals {
                    cast.arrivals = Arrivals::Constant { per_s: SLOW_PER_S };
                }
                cast.fan_out(1, 1, healthy, stopped);
            }
            Workload::Churn {
                subscribers,
                churn_per_s,
            } => {
                cast.fan_out(1, 1, subscribers, 0);
                cast.visits = Some(Visits::Churn { per_s: churn_per_s });
            }
            Workload::Stream {
                clients,
                streams,
                services,
                direction,
                window_bytes,
                chunks,
                stopped,
                stops,
            } => {
                cast.streams = Some(Shape {
                    clients,
                    stopped,
                    streams: streams.max(1),
                    direction,
                    window_bytes,
                    chunks,
                    chunk_bytes_max: 0,
                });
                cast.streams(services, stops);
            }
            Workload::Mixed {
                subscribers,
                clients,
                in_flight,
            } => {
                cast.fan_out(1, 1, subscribers, 0);
                cast.calls(clients, in_flight, 1);
            }
        }
        cast
    }

    fn fan_out(&mut self, topics: u32, publishers: u32, subscribers: u32, stopped: u32) {
        self.names.topics = (0..topics).map(|topic| format!("load.t{topic}")).collect();
        self.publishers = topics * publishers;
        self.publishers_per_topic = publishers;
        self.readers_per_topic = subscribers;
        for topic in 0..topics {
            let subscriber = |stops| Part::Subscriber { topic, stops };
            self.parts.extend((0..subscribers).map(|_| subscriber(false)));
            self.parts.extend((0..stopped).map(|_| subscriber(true)));
        }
        let publisher = |number| Part::Publisher {
            topic: number / publishers.max(1),
            number,
        };
        self.parts.extend((0..self.publishers).map(publisher));
    }

    /// Each service has a method of its own and the callers are dealt to them, so that all protocols do the same whatever
    /// they make of several services under one name.
    fn calls(&mut self, clients: u32, in_flight: u32, services: u32) {
        let services = self.serve(services);
        self.callers = clients;
        self.in_flight = in_flight.max(1);
        let first = self.publishers;
        self.parts.extend((0..clients).map(|client| Part::Caller {
            method: client % services,
            number: first + client,
        }));
    }

    /// Clients are dealt to services as callers are.
    fn streams(&mut self, services: u32, stops: Stops) {
        let services = self.serve(services);
        let Some(shape) = self.streams else { return };
        self.parts
            .extend((0..shape.clients + shape.stopped).map(|client| Part::Opener {
                method: client % services,
                client,
                stops: client >= shape.clients && stops == Stops::Reading,
            }));
    }

    fn serve(&mut self, services: u32) -> u32 {
        let services = services.max(1);
        self.names.methods = (0..services).map(|method| format!("load.m{method}")).collect();
        self.parts
            .extend((0..services).map(|method| Part::Server { method }));
        services
    }

    /// Services do not connect: they listen, and the server does.
    pub fn listen(&mut self) {
        let all = self.parts.len();
        self.parts.retain(|part| !matches!(part, Part::Server { .. }));
        self.attached = (all - self.parts.len()) as u32;
    }

    /// Gives topics names that no other run has: what others stored is none of ours.
    pub fn set_apart(&mut self, mark: &str) {
        let topics = 0..self.names.topics.len();
        self.names.topics = topics.map(|topic| format!("load.{mark}.t{topic}")).collect();
    }

    /// Somebody subscribes to each topic and goes away.
    pub fn add_keepers(&mut self) {
        let topics = 0..self.names.topics.len() as u32;
        self.parts.extend(topics.map(|topic| Part::Keeper { topic }));
    }

    /// Events that are stored before anybody reads them.
    #[must_use]
    pub fn replayed(&self) -> Option<u64> {
        match self.stored {
            Some(Stored::Replayed { events }) => Some(events),
            Some(Stored::Kept) | None => None,
        }
    }

    /// Arrivals that a publish should lead to.
    #[must_use]
    pub fn arrivals_per_publish(&self) -> u64 {
        match self.stored {
            // Its acknowledgement.
            Some(Stored::Kept) => 1,
            Some(Stored::Replayed { .. }) | None => u64::from(self.readers_per_topic),
        }
    }

    /// Whether anybody stops reading, or granting, when the warm-up is over.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        let is_slow = |part: &Part| matches!(part, Part::Subscriber { stops: true, .. });
        self.streams.is_some_and(|shape| shape.stopped > 0) || self.parts.iter().any(is_slow)
    }

    /// Messages that a publisher has under way in a closed loop.
    #[must_use]
    pub fn window(&self) -> u64 {
        match self.arrivals {
            Arrivals::Window { messages } => u64::from(messages),
            _ => 0,
        }
    }

    /// What a protocol has to be able to do for it.
    #[must_use]
    pub fn abilities(&self) -> Vec<Ability> {
        let mut abilities = Vec::new();
        if self.publishers > 0 {
            abilities.push(Ability::PubSub);
        }
        if self.stored.is_some() {
            abilities.push(Ability::AcknowledgedPublish);
        }
        if self.replayed().is_some() {
            abilities.push(Ability::Replay);
        }
        if self.callers > 0 {
            abilities.push(Ability::Calls);
        }
        if self.streams.is_some() {
            abilities.push(Ability::Streams);
        }
        if self.attached > 0 {
            abilities.push(Ability::Listening);
        }
        abilities
    }

    /// How many connections are made altogether, for the ports that they take.
    #[must_use]
    pub fn connections_made(&self, run_s: f64) -> usize {
        let visitors = match self.visits {
            Some(Visits::Storm { connections, .. }) => connections as usize,
            Some(Visits::Churn { per_s }) => (per_s * run_s).ceil() as usize,
            None => 0,
        };
        self.parts.len() + visitors
    }

    /// The parts that live on one of so many threads: every kind is dealt in turn, so that each thread has its share of it.
    #[must_use]
    pub fn share(&self, thread: usize, threads: usize) -> Vec<(u64, Part)> {
        let mut dealt = [0usize; 7];
        let mine = (0..).zip(&self.parts).filter_map(|(number, &part)| {
            let kind = match part {
                Part::Publisher { .. } => 0,
                Part::Subscriber { .. } => 1,
                Part::Caller { .. } => 2,
                Part::Server { .. } => 3,
                Part::Silent | Part::Visitor => 4,
                Part::Opener { .. } => 5,
                Part::Keeper { .. } => 6,
            };
            dealt[kind] += 1;
            // Publishers and subscribers of a pair meet on different threads where there are several.
            let offset = usize::from(matches!(
                part,
                Part::Publisher { .. } | Part::Caller { .. } | Part::Opener { .. }
            ));
            ((dealt[kind] - 1 + offset) % threads == thread).then_some((number, part))
        });
        mine.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Payload;

    fn cast(workload: Workload) -> Cast {
        Cast::of(&Scenario {
            workload,
            arrivals: Arrivals::default(),
            payload: Payload::default(),
            warmup_ms: 0,
            duration_ms: 1_000,
        })
    }

    #[test]
    fn topics_have_publishers_and_subscribers_of_their_own() {
        let cast = cast(Workload::FanOut {
            topics: 3,
            publishers: 2,
            subscribers: 4,
        });
        assert_eq!(cast.parts.len(), 3 * 6);
        assert_eq!((cast.publishers, cast.names.topics.len()), (6, 3));
        for topic in 0..3 {
            let publishers: Vec<_> = cast
                .parts
                .iter()
                .filter_map(|part| match part {
                    Part::Publisher { topic: of, number } if *of == topic => Some(*number),
                    _ => None,
                })
                .collect();
            assert_eq!(publishers, [topic * 2, topic * 2 + 1]);
        }
    }

    #[test]
    fn threads_share_every_part_once() {
        let cast = cast(Workload::Mixed {
            subscribers: 7,
            clients: 5,
            in_flight: 1,
        });
        let mut all: Vec<_> = (0..3).flat_map(|thread| cast.share(thread, 3)).collect();
        all.sort_by_key(|(number, _)| *number);
        assert_eq!(all.len(), cast.parts.len());
        assert!((0..).zip(&all).all(|(number, found)| found.0 == number));
        for thread in 0..3 {
            let subscribers = cast.share(thread, 3);
            let subscribers = subscribers
                .iter()
                .filter(|(_, part)| matches!(part, Part::Subscriber { .. }));
            assert!((2..=3).contains(&subscribers.count()));
        }
    }

    #[test]
    fn callers_are_numbered_behind_publishers() {
        let cast = cast(Workload::Mixed {
            subscribers: 1,
            clients: 2,
            in_flight: 3,
        });
        let numbers: Vec<_> = cast
            .parts
            .iter()
            .filter_map(|part| match part {
                Part::Publisher { number, .. } | Part::Caller { number, .. } => Some(*number),
                _ => None,
            })
            .collect();
        assert_eq!(numbers, [0, 1, 2]);
        assert_eq!(cast.abilities(), [Ability::PubSub, Ability::Calls]);
    }
}
