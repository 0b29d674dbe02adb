//! Looks the host names of endpoints up, on a thread of its own: a resolver may take seconds, a turn may not.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fluxar_engine::listener::Address;

use super::{Endpoint, Resolved, Services};

/// Addresses that are taken of a name; more are left out.
pub const ADDRESSES_MAX: usize = 64;
/// How soon a lookup that failed is tried again, at first.
const RETRY_MS_LEAST: u64 = 500;
/// The shortest time between two lookups of a name, whatever the configuration says.
const RESOLVE_MS_LEAST: u64 = 100;

/// Looks a host name up. The system's resolver, or a test's.
pub type Lookup = Box<dyn FnMut(&str, u16) -> io::Result<Vec<SocketAddr>> + Send>;

/// The thread's other end. Dropping it ends the thread after the lookup under way.
#[derive(Debug)]
pub struct Resolver {
    services: mpsc::Sender<Arc<Services>>,
}

impl Resolver {
    /// Starts the thread. It gives what names stand for to `post` whenever that changes, and ends when `post` says
    /// `false`.
    ///
    /// # Errors
    /// No thread could be had.
    pub fn start(
        mut lookup: Lookup,
        mut post: impl FnMut(Arc<Resolved>) -> bool + Send + 'static,
    ) -> io::Result<Self> {
        let (services, updates) = mpsc::channel::<Arc<Services>>();
        thread::Builder::new().name("resolver".into()).spawn(move || {
            let mut names: Vec<Name> = Vec::new();
            loop {
                let next = names.iter().map(|name| name.due).min();
                let update = match next {
                    Some(due) => updates.recv_timeout(due.saturating_duration_since(Instant::now())),
                    None => updates.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                };
                match update {
                    Ok(services) => names = renew(names, &services),
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                }
                // One a round: a reload is heard between two lookups.
                let now = Instant::now();
                if let Some(name) = names
                    .iter_mut()
                    .filter(|name| name.due <= now)
                    .min_by_key(|name| name.due)
                    && let Some(resolved) = name.look_up(&mut lookup)
                    && !post(resolved)
                {
                    return;
                }
            }
        })?;
        Ok(Self { services })
    }

    /// The names of these are looked up from now on.
    pub fn set_services(&self, services: Arc<Services>) {
        // A thread that is gone belongs to a gateway that has ended.
        let _ = self.services.send(services);
    }
}

/// Asks the system.
#[must_use]
pub fn system() -> Lookup {
    Box::new(|host, port| Ok((host, port).to_socket_addrs()?.collect()))
}

/// A name that is looked up now and then.
struct Name {
    upstream: Arc<str>,
    endpoint: Endpoint,
    resolve_ms: u64,
    due: Instant,
    addresses: Vec<Address>,
    failures: u32,
}

/// The names of `services`: those that are known stay as they are, and nothing is looked up before its time.
fn renew(known: Vec<Name>, services: &Services) -> Vec<Name> {
    let mut known: Vec<Option<Name>> = known.into_iter().map(Some).collect();
    let mut names = Vec::new();
    for upstream in &services.upstreams {
        for endpoint in upstream.endpoints.iter().filter(|endpoint| endpoint.is_named()) {
            let resolve_ms = u64::from(upstream.resolve_ms).max(RESOLVE_MS_LEAST);
            let found = known.iter_mut().find_map(|place| {
                place.take_if(|name| {
                    name.upstream == upstream.name
                        && name.endpoint.text == endpoint.text
                        && name.endpoint.address == endpoint.address
                })
            });
            let mut name = found.unwrap_or_else(|| Name {
                upstream: Arc::clone(&upstream.name),
                endpoint: endpoint.clone(),
                resolve_ms,
                due: Instant::now(),
                addresses: Vec::new(),
                failures: 0,
            });
            name.due = name.due.min(Instant::now() + Duration::from_millis(resolve_ms));
            name.resolve_ms = resolve_ms;
            names.push(name);
        }
    }
    names
}

impl Name {
    /// What it stands for, if that has changed. While it cannot be looked up, what was known before holds.
    fn look_up(&mut self, lookup: &mut Lookup) -> Option<Arc<Resolved>> {
        let (host, port) = match &self.endpoint.address {
            Address::Tcp { host, port } | Address::WebSocket { host, port, .. } => (host, *port),
            Address::Unix { .. } => return None,
        };
        let found = lookup(host, port).and_then(|found| {
            if found.is_empty() {
                Err(io::Error::new(io::ErrorKind::NotFound, "it has no address"))
            } else {
                Ok(found)
            }
        });
        let now = Instant::now();
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                if self.failures == 0 {
                    tracing::warn!(
                        "upstream {}: {host:?} cannot be looked up: {error}; {}",
                        self.upstream,
                        if self.addresses.is_empty() {
                            "it is tried again"
                        } else {
                            "its addresses stay what they were"
                        }
                    );
                }
                let pause_ms =
                    (RETRY_MS_LEAST << self.failures.min(10)).min(self.resolve_ms.max(RETRY_MS_LEAST));
                self.failures = self.failures.saturating_add(1);
                self.due = now + Duration::from_millis(pause_ms);
                return None;
            }
        };
        self.failures = 0;
        self.due = now + Duration::from_millis(self.resolve_ms);
        let mut addresses: Vec<Address> = found.into_iter().map(|found| self.at(found)).collect();
        // Resolvers answer in another order each time.
        addresses.sort_by_key(ToString::to_string);
        addresses.dedup();
        addresses.truncate(ADDRESSES_MAX);
        if addresses == self.addresses {
            return None;
        }
        self.addresses.clone_from(&addresses);
        Some(Arc::new(Resolved {
            upstream: Arc::clone(&self.upstream),
            endpoint: Arc::clone(&self.endpoint.text),
            addresses,
        }))
    }

    fn at(&self, found: SocketAddr) -> Address {
        let host = found.ip().to_string();
        match &self.endpoint.address {
            Address::WebSocket { path, .. } => Address::WebSocket {
                host,
                port: found.port(),
                path: path.clone(),
            },
            _ => Address::Tcp {
                host,
                port: found.port(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::upstreams::Upstream;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn services(url: &str) -> Arc<Services> {
        Arc::new(Services {
            upstreams: vec![Upstream {
                name: "users".into(),
                endpoints: ["tcp://127.0.0.1:1", url, "unix:///run/users.sock"]
                    .iter()
                    .map(|url| Endpoint {
                        address: Address::parse(url).expect("an address"),
                        text: (*url).into(),
                        weight: 1,
                        zone: None,
                        in_flight_max: u32::MAX,
                        drain: false,
                    })
                    .collect(),
                methods: Vec::new(),
                connections: 1,
                resolve_ms: 1,
                connect_ms: 1_000,
            }],
            ..Services::default()
        })
    }

    /// A resolver that gives these answers one after the other, and the last one from then on.
    fn start(answers: &[Option<&[&str]>]) -> (Resolver, mpsc::Receiver<(String, Vec<String>)>) {
        let mut answers: VecDeque<Option<Vec<SocketAddr>>> = answers
            .iter()
            .map(|answer| {
                let parse = |ip: &&str| SocketAddr::new(ip.parse().expect("an IP address"), 9000);
                answer.map(|answer| answer.iter().map(parse).collect())
            })
            .collect();
        let (post, posted) = mpsc::channel();
        let lookup: Lookup = Box::new(move |host, port| {
            assert_eq!((host, port), ("users.internal", 9000));
            let answer = if answers.len() > 1 {
                answers.pop_front().flatten()
            } else {
                answers[0].clone()
            };
            answer.ok_or_else(|| io::Error::other("no answer"))
        });
        let resolver = Resolver::start(lookup, move |resolved| {
            let addresses = resolved.addresses.iter().map(ToString::to_string).collect();
            post.send((resolved.endpoint.to_string(), addresses)).is_ok()
        });
        (resolver.expect("a thread"), posted)
    }

    #[test]
    fn names_are_looked_up_again_and_only_changes_are_told() {
        const URL: &str = "ws://users.internal:9000/chat";
        let (resolver, posted) = start(&[
            None,
            Some(&["10.0.0.2", "10.0.0.1", "10.0.0.2"]),
            Some(&["10.0.0.1", "10.0.0.2"]),
            Some(&[]),
            None,
            Some(&["10.0.0.2", "::1"]),
        ]);
        resolver.set_services(services(URL));
        for expected in [
            ["ws://10.0.0.1:9000/chat", "ws://10.0.0.2:9000/chat"],
            ["ws://10.0.0.2:9000/chat", "ws://[::1]:9000/chat"],
        ] {
            let (endpoint, addresses) = posted.recv_timeout(PATIENCE).expect("an answer");
            assert_eq!(endpoint, URL);
            assert_eq!(addresses, expected);
        }
        // A reload that keeps the name asks for nothing anew, and one that drops it ends the questions.
        resolver.set_services(services(URL));
        resolver.set_services(services("tcp://127.0.0.1:2"));
        drop(resolver);
        assert_eq!(
            posted.recv_timeout(PATIENCE),
            Err(mpsc::RecvTimeoutError::Disconnected),
            "nothing more is told, and the thread ends"
        );
    }
}
