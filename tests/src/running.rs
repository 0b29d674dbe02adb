//! A gateway in this process, on ephemeral ports and a Unix socket in a temporary folder.

use std::sync::Arc;

use fluxar_engine::listener::Address;
use fluxar_gateway::config::{Config, Cores, LogDir};
use fluxar_gateway::gateway::{CoreEnd, Gateway};
use fluxar_gateway::upstreams::Services;
use tempfile::TempDir;

use crate::client::Client;

/// A gateway that runs until it is stopped.
pub struct Running {
    gateway: Gateway,
    _folder: TempDir,
}

impl Running {
    /// On two cores (or as many as there are), with the settings that `change` makes.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut config = Config {
            cores: Cores::All,
            listen: vec![
                "tcp://127.0.0.1:0".into(),
                "ws://127.0.0.1:0".into(),
                format!("unix://{}", folder.path().join("fluxar.sock").display()),
            ],
            ..Config::default()
        };
        // Not the user's own.
        config.log.dir = LogDir::Nowhere;
        // Tests share the machine with each other.
        config.engine.spin_us = 0;
        change(&mut config);
        let gateway = Gateway::start(&config).unwrap_or_else(|error| panic!("{error}"));
        Self {
            gateway,
            _folder: folder,
        }
    }

    /// Where its TCP clients connect.
    ///
    /// # Panics
    /// If it has no such listener. The others likewise.
    #[must_use]
    pub fn tcp(&self) -> &Address {
        self.find(|address| matches!(address, Address::Tcp { .. }))
    }

    /// Where its WebSocket clients connect.
    #[must_use]
    pub fn ws(&self) -> &Address {
        self.find(|address| matches!(address, Address::WebSocket { .. }))
    }

    /// Where its Unix clients connect.
    #[must_use]
    pub fn unix(&self) -> &Address {
        self.find(|address| matches!(address, Address::Unix { .. }))
    }

    /// How many cores it has.
    #[must_use]
    pub fn cores(&self) -> usize {
        self.gateway.processors().len()
    }

    /// Replaces the rules and upstreams, as a reload does.
    pub fn set_services(&self, services: Services) {
        self.gateway.set_services(&Arc::new(services));
    }

    /// A greeted client on TCP.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::greeted(self.tcp())
    }

    /// Stops it and returns how each core ended.
    ///
    /// # Panics
    /// If a core failed.
    pub fn stop(self) -> Vec<CoreEnd> {
        self.gateway
            .stop()
            .into_iter()
            .map(|end| end.expect("a core ended well"))
            .collect()
    }

    fn find(&self, is: impl Fn(&Address) -> bool) -> &Address {
        self.gateway
            .addresses()
            .iter()
            .find(|address| is(address))
            .expect("such a listener")
    }
}
