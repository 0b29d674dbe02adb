//! Why a run came to nothing, and what to do about it.

use std::fmt;
use std::io;

use crate::payload::PayloadError;
use crate::protocol::Ability;

/// See the module.
#[derive(Debug)]
pub enum RunError {
    /// The target's URL is no address, or its name has none.
    Address {
        /// As it was written.
        url: String,
        /// What is wrong.
        fault: String,
    },
    /// The protocol cannot do what the workload asks for.
    Unable {
        /// The target's protocol.
        protocol: &'static str,
        /// What it cannot do.
        ability: Ability,
    },
    /// The scenario makes no sense.
    Scenario(String),
    /// See there.
    Payload(PayloadError),
    /// No connection could be made.
    Connect {
        /// To where.
        address: String,
        /// Why.
        error: io::Error,
    },
    /// Services could not listen where they are to.
    Listen(String),
    /// The server has not connected to the services that listen.
    Unattached {
        /// Where they listen.
        address: String,
        /// Connections that came.
        attached: u64,
        /// Of so many.
        of: u64,
    },
    /// All local ports are taken.
    Ports {
        /// To where.
        address: String,
        /// Connections that the run makes.
        connections: usize,
        /// Source addresses that it had.
        sources: usize,
    },
    /// More connections than the process may have descriptors.
    Descriptors {
        /// How many the run takes.
        needed: u64,
        /// How many there may be.
        limit: u64,
    },
    /// The server, or the session with it, broke off, or it refused what the workload needs.
    Refused {
        /// Who: which connection of what kind.
        who: String,
        /// The server's words.
        words: String,
    },
    /// Nothing was heard from the server while connections were being prepared.
    Silent {
        /// Connections that were greeted and accepted.
        prepared: u64,
        /// Of so many.
        of: u64,
    },
    /// Events were to be stored before they are replayed, and the server stopped acknowledging.
    Unsettled {
        /// Publishes that it acknowledged.
        settled: u64,
        /// Of so many.
        of: u64,
    },
    /// The server's process cannot be looked at.
    Process {
        /// Which.
        pids: Vec<u32>,
        /// Why.
        error: io::Error,
    },
    /// A generator thread could not be started, its ring failed, or it broke down.
    System(io::Error),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Address { url, fault } => write!(f, "target {url:?}: {fault}"),
            RunError::Unable { protocol, ability } => {
                let ability = match ability {
                    Ability::PubSub => "publish and subscribe",
                    Ability::AcknowledgedPublish => "acknowledge publishes (which takes qos = 1)",
                    Ability::Replay => "deliver what was stored before (which takes qos = 1)",
                    Ability::Calls => "carry calls and their answers",
                    Ability::Streams => "carry streams",
                    Ability::Listening => "connect to services that listen",
                };
                write!(
                    f,
                    "{protocol} cannot {ability}: take another workload for this target"
                )
            }
            RunError::Scenario(fault) => write!(f, "scenario: {fault}"),
            RunError::Payload(error) => write!(f, "{error}"),
            RunError::Listen(fault) => write!(f, "services: {fault}"),
            RunError::Unattached {
                address,
                attached,
                of,
            } => write!(
                f,
                "services listen on {address}, and the server has made {attached} of {of} connections to them; does its \
                 configuration have an upstream with that address, and as many connections?"
            ),
            RunError::Connect { address, error } => {
                write!(f, "cannot connect to {address}: {error}")?;
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    f.write_str("; is the server running, and does it listen there?")?;
                }
                Ok(())
            }
            RunError::Ports {
                address,
                connections,
                sources,
            } => write!(
                f,
                "out of local ports towards {address}: {connections} connections from {sources} source address(es); \
                 each has about 28,000 ports, some of them still waiting after earlier runs. Give more source \
                 addresses (on loopback 127.0.0.2, 127.0.0.3, …), or wait a minute"
            ),
            RunError::Descriptors { needed, limit } => write!(
                f,
                "the run takes about {needed} descriptors, and this process may have {limit}: raise the hard limit \
                 (`ulimit -Hn`, or LimitNOFILE= of the service), or take fewer connections"
            ),
            RunError::Refused { who, words } => write!(f, "{who}: the server broke off or refused: {words}"),
            RunError::Silent { prepared, of } => write!(
                f,
                "only {prepared} of {of} connections were accepted by the server, and for 10 s nothing happened: does it \
                 speak this protocol on this port, and is it alive?"
            ),
            RunError::Unsettled { settled, of } => write!(
                f,
                "the server acknowledged {settled} of {of} events that were to be stored, and then nothing for 10 s: is its \
                 disk full?"
            ),
            RunError::Process { pids, error } => write!(
                f,
                "the server's process {pids:?} cannot be looked at: {error}; give the pid of a process that runs and \
                 belongs to you"
            ),
            RunError::System(error) => write!(f, "the generator failed: {error}"),
        }
    }
}

impl std::error::Error for RunError {}

impl From<PayloadError> for RunError {
    fn from(error: PayloadError) -> RunError {
        RunError::Payload(error)
    }
}
