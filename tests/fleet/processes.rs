//! The processes: the gateway, and the services with what becomes of them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fluxar::Client;
use serde_json::Value;

use crate::SERVICES;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// How long a process may take to get ready.
const READY: Duration = Duration::from_secs(20);

/// The gateway, as a process.
pub(crate) struct Gateway {
    child: Child,
    log: PathBuf,
    pub(crate) url: String,
}

impl Gateway {
    /// Starts it, with the listening services as an upstream that serves their methods beside those that dial in.
    pub(crate) async fn start(
        binary: &Path,
        cores: usize,
        folder: &Path,
        addresses: &[String],
    ) -> Outcome<Self> {
        let config = folder.join("gateway.toml");
        let endpoints: Vec<String> = addresses
            .iter()
            .map(|address| format!("{{ url = \"tcp://{address}\", in_flight = 64 }}"))
            .collect();
        let text = format!(
            "[[upstream]]\nname = \"echo\"\nmethods = [\"echo.call\", \"echo.count\"]\nendpoints = [{}]\n",
            endpoints.join(", ")
        );
        fs::write(&config, text)?;
        let log = fs::File::create(folder.join("gateway.log"))?;
        let child = Command::new(binary)
            .args([
                "--listen",
                "tcp://127.0.0.1:0",
                "--log",
                "warn",
                "--cores",
                &cores.to_string(),
                "--no-log",
            ])
            .arg("--config")
            .arg(&config)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()?;
        // From here on it does not outlive a failure.
        let mut gateway = Self {
            child,
            log: folder.join("gateway.log"),
            url: String::new(),
        };
        let mut said = BufReader::new(gateway.child.stdout.take().ok_or("it has no output")?);
        let mut url = None;
        let mut line = String::new();
        while said.read_line(&mut line)? > 0 {
            let address = line
                .split_whitespace()
                .find(|word| word.starts_with("tcp://127.0.0.1:"));
            if url.is_none() && !addresses.iter().any(|address| line.contains(address)) {
                url = address.map(str::to_owned);
            }
            if line.starts_with("ready") {
                break;
            }
            line.clear();
        }
        gateway.url = url.ok_or_else(|| {
            format!(
                "the gateway did not start: {}",
                fs::read_to_string(folder.join("gateway.log")).unwrap_or_default()
            )
        })?;
        // It says little more; nobody must wait for it to be read.
        std::thread::spawn(move || for _ in said.lines() {});
        Ok(gateway)
    }

    /// What it logged, and whether it has ended.
    pub(crate) fn said(&mut self) -> String {
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        match self.child.try_wait() {
            Ok(Some(status)) => format!("{said}it has ended: {status}"),
            _ => format!("{said}it still runs"),
        }
    }

    /// Ends it; how much memory it had, KiB.
    pub(crate) fn stop(mut self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let _ = signal(self.child.id(), "TERM");
        let _ = self.child.wait();
        resident
            .and_then(|text| text.trim().trim_end_matches(" kB").parse().ok())
            .unwrap_or(0)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Of one that has ended and was waited for, neither does anything.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A service's place: how it is reached, and the process that is there now.
struct Place {
    log: PathBuf,
    /// Where it listens; one that dials has none.
    address: Option<String>,
    child: Option<Child>,
    incarnation: u32,
}

/// All services.
pub(crate) struct Fleet {
    places: Vec<Place>,
    gateway_url: String,
}

impl Fleet {
    pub(crate) fn new(folder: &Path) -> Outcome<Self> {
        let mut places = Vec::new();
        // All ports at once, so that none is given out twice.
        let mut held = Vec::new();
        for index in 0..SERVICES {
            let address = if index % 2 == 0 {
                None
            } else {
                // Where no connection has its own end: the port is free whenever its service starts again.
                let listener = TcpListener::bind("127.0.0.2:0")?;
                let address = listener.local_addr()?.to_string();
                held.push(listener);
                Some(address)
            };
            places.push(Place {
                log: folder.join(format!("served-{index}")),
                address,
                child: None,
                incarnation: 0,
            });
        }
        Ok(Self {
            places,
            gateway_url: String::new(),
        })
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.places
            .iter()
            .filter_map(|place| place.address.clone())
            .collect()
    }

    pub(crate) fn start(&mut self, gateway_url: &str) -> Outcome<()> {
        self.gateway_url = gateway_url.to_owned();
        (0..SERVICES).try_for_each(|index| self.spawn(index).map(|_| ()))
    }

    /// Starts the next incarnation; which one it is.
    pub(crate) fn spawn(&mut self, index: usize) -> Outcome<u32> {
        let place = &mut self.places[index];
        place.incarnation += 1;
        let (how, where_to) = match &place.address {
            Some(address) => ("listen", address.as_str()),
            None => ("dial", self.gateway_url.as_str()),
        };
        let child = Command::new(std::env::current_exe()?)
            .args(["service", &index.to_string(), &place.incarnation.to_string()])
            .arg(&place.log)
            .args([how, where_to])
            .stdout(Stdio::null())
            .spawn()?;
        place.child = Some(child);
        Ok(place.incarnation)
    }

    /// The name by which the gateway's administrator knows it.
    pub(crate) fn name(&self, index: usize) -> String {
        match &self.places[index].address {
            Some(address) => format!("tcp://{address}"),
            None => format!("echo-{index}"),
        }
    }

    pub(crate) fn dials(&self, index: usize) -> bool {
        self.places[index].address.is_none()
    }

    pub(crate) fn incarnation(&self, index: usize) -> u32 {
        self.places[index].incarnation
    }

    pub(crate) fn signal(&self, index: usize, name: &str) -> Outcome<()> {
        let child = self.places[index].child.as_ref().ok_or("it does not run")?;
        signal(child.id(), name)
    }

    /// Whether its process has ended, and been waited for.
    pub(crate) fn has_ended(&mut self, index: usize) -> Outcome<bool> {
        let place = &mut self.places[index];
        let has_ended = match &mut place.child {
            Some(child) => child.try_wait()?.is_some(),
            None => true,
        };
        if has_ended {
            place.child = None;
        }
        Ok(has_ended)
    }

    /// Kills whatever runs.
    pub(crate) fn stop(&mut self) {
        for place in &mut self.places {
            if let Some(mut child) = place.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }

    /// What all of them wrote down.
    pub(crate) fn served(&self) -> Outcome<Vec<String>> {
        let mut lines = Vec::new();
        for place in &self.places {
            let text = fs::read_to_string(&place.log).unwrap_or_default();
            lines.extend(text.lines().map(str::to_owned));
        }
        Ok(lines)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Sends a signal by the shell, which has `kill` built in.
fn signal(pid: u32, name: &str) -> Outcome<()> {
    let status = Command::new("sh")
        .args(["-c", &format!("kill -{name} {pid}")])
        .status()?;
    status
        .success()
        .then_some(())
        .ok_or_else(|| format!("kill -{name} {pid}: {status}").into())
}

/// The state of each connection to a service, by its name.
pub(crate) async fn states(administrator: &Client) -> Outcome<Vec<(String, String)>> {
    let list: Value = administrator.call("$services.list", &()).await?;
    let rows = list["services"].as_array().ok_or("the list has no services")?;
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    Ok(rows
        .iter()
        .map(|row| (text(row, "name"), text(row, "state")))
        .collect())
}

/// Waits until every service has a connection that is fit.
pub(crate) async fn until_all_serve(administrator: &Client) -> Outcome<()> {
    let deadline = Instant::now() + READY;
    loop {
        let states = states(administrator).await?;
        let mut fit: Vec<&str> = states
            .iter()
            .filter(|(_, state)| state == "fit")
            .map(|(name, _)| name.as_str())
            .collect();
        fit.sort_unstable();
        fit.dedup();
        if fit.len() == SERVICES {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("not all services came up: {states:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
