//! A simulated machine with a gateway on its cores.

use std::sync::Arc;

use fluxar_engine::listener::ListenerId;
use fluxar_engine::mail::{self, Control};
use fluxar_engine::reactor::{Board, Parcel, Reactor, ReactorConfig, Transport};
use fluxar_engine::sim::{Faults, Random, SimDriver, SimSocket, World};
use fluxar_engine::ws::WsConfig;
use fluxar_gateway::front::Front;
use fluxar_gateway::limits::Limits;
use fluxar_gateway::mail::Mail;
use fluxar_gateway::outbox::Framing;
use fluxar_gateway::worker::Worker;

/// The world, and the gateway in it.
pub(crate) struct Machine {
    pub(crate) world: World,
    /// One a core; `None` once it has stopped.
    pub(crate) workers: Vec<Option<Worker<SimDriver>>>,
    pub(crate) control: Control<Parcel<SimSocket, Mail>>,
    /// For byte streams, and for WebSocket.
    pub(crate) listeners: [ListenerId; 2],
}

impl Machine {
    pub(crate) fn new(
        seed: u64,
        cores: usize,
        faults: Faults,
        mailbox_letters: usize,
        limits: &Limits,
    ) -> Self {
        let mut world = World::new(seed, cores, faults);
        let listeners = [world.listen(), world.listen()];
        let (mut control, endpoints) = mail::mesh(cores, mailbox_letters);
        let board = Board::new(cores);
        let websocket = Arc::new(WsConfig {
            subprotocol: Some("fluxar.v0".into()),
            max_message_bytes: 16 * 1024,
            ..WsConfig::default()
        });
        let workers = endpoints
            .into_iter()
            .enumerate()
            .map(|(core, endpoint)| {
                let transports = vec![
                    (listeners[0], Transport::Stream),
                    (listeners[1], Transport::WebSocket(Arc::clone(&websocket))),
                ];
                let config = ReactorConfig {
                    spin_us: 0,
                    ..ReactorConfig::default()
                };
                let reactor = Reactor::new(world.driver(core), endpoint, board.clone(), transports, config);
                let mut entropy = Random::new(seed ^ (core as u64 + 1) << 32);
                let front = Front::new(
                    core as u16,
                    cores as u16,
                    limits.clone(),
                    vec![Framing::Prefixed, Framing::Message],
                    seed,
                    Box::new(move |bytes| bytes.iter_mut().for_each(|byte| *byte = entropy.next() as u8)),
                );
                control.attach(core, world.waker(core));
                Some(Worker::new(reactor, front))
            })
            .collect();
        Self {
            world,
            workers,
            control,
            listeners,
        }
    }
}
