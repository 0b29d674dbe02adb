//! Upstreams on real sockets, with services made of the Rust SDK, and a raw one that can fall silent.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use fluxar::{Client, Code, ItemSink, Request, Server};
use fluxar_engine::listener::Address;
use fluxar_protocol::frame::{Deframer, prefix};
use fluxar_protocol::hello::{Caps, Welcome};
use fluxar_protocol::{Batch, Id, Kind};
use fluxar_tests::Running;
use fluxar_tests::client::PATIENCE;
use fluxar_tests::message::{Received, encoded, number};
use tokio::task::JoinHandle;

use crate::users;

fn address(url: &str) -> Address {
    Address::parse(url).expect("an address")
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait)
        .await
        .expect("the condition comes to hold");
}

/// A service that tells its name.
struct Service {
    server: Server,
    running: JoinHandle<()>,
    /// Connections that it has had.
    greeted: Arc<AtomicU32>,
}

impl Service {
    async fn start(url: &str, name: &'static str) -> Self {
        let server = Server::bind(url).build().await.expect("a server");
        let greeted = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&greeted);
        server.on_connect(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            async {}
        });
        server
            .handle("users.name", move |_: Request| async move { Ok(name) })
            .expect("a pattern");
        server
            .handle("users.slow", move |request: Request| async move {
                tokio::time::sleep(Duration::from_millis(request.payload()?)).await;
                Ok(name)
            })
            .expect("a pattern");
        server
            .handle_stream("users.count", |request: Request, out: ItemSink<u32>| async move {
                for item in 0..request.payload()? {
                    out.send(&item).await?;
                }
                Ok(())
            })
            .expect("a pattern");
        let run = server.clone();
        let running = tokio::spawn(async move { run.run().await.expect("it runs") });
        Self {
            server,
            running,
            greeted,
        }
    }

    fn address(&self) -> Address {
        address(self.server.url())
    }

    async fn stop(self) {
        self.server.close().await;
        self.running.await.expect("it ends");
    }
}

async fn connect(gateway: &Running) -> Client {
    Client::connect(gateway.tcp().to_string())
        .build()
        .await
        .expect("a client")
}

async fn name(client: &Client) -> Result<String, Code> {
    client.call("users.name", &()).await.map_err(|error| error.code())
}

/// Clients on every core, whichever one the kernel gives them.
async fn everywhere(gateway: &Running) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(connect(gateway).await);
    }
    clients
}

/// Waits until every core of the gateway has a connection to it. That clients hear it does not say so: the kernel may have
/// given all of them to one core.
async fn greeted_by_all(service: &Service, gateway: &Running) -> u32 {
    let cores = gateway.cores() as u32;
    until(async || service.greeted.load(Ordering::SeqCst) == cores).await;
    cores
}

/// Waits until each of the clients hears every one of these names, and none else.
async fn hear(clients: &[Client], names: &[&str]) {
    for client in clients {
        let mut heard = BTreeSet::new();
        until(async || {
            if let Ok(name) = name(client).await {
                heard.insert(name);
            }
            names.iter().all(|name| heard.contains(*name))
        })
        .await;
    }
}

#[tokio::test]
async fn calls_flow_to_upstreams_of_every_transport_and_again_when_they_come_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = format!("unix://{}", folder.path().join("users.sock").display());
    // Addresses at which nobody else listens: the ports stay free while the service is away.
    for url in ["tcp://127.0.0.11:0", "ws://127.0.0.12:0", &socket] {
        let gateway = Running::start(|_| {});
        let clients = everywhere(&gateway).await;
        assert_eq!(name(&clients[0]).await, Err(Code::Unavailable));
        let mut service = Service::start(url, "first").await;
        let at = service.address();
        gateway.set_services(users(std::slice::from_ref(&at), |_| {}));
        hear(&clients, &["first"]).await;
        for again in ["second", "third"] {
            service.stop().await;
            until(async || name(&clients[0]).await == Err(Code::Unavailable)).await;
            service = Service::start(&at.to_string(), again).await;
            hear(&clients, &[again]).await;
        }
        service.stop().await;
        gateway.stop();
    }
}

#[tokio::test]
async fn streams_flow_to_upstreams_with_their_credit() {
    // More than any window on the way holds.
    const ITEMS: u32 = 200_000;
    for url in ["tcp://127.0.0.1:0", "ws://127.0.0.1:0"] {
        let gateway = Running::start(|_| {});
        let clients = everywhere(&gateway).await;
        let service = Service::start(url, "counts").await;
        gateway.set_services(users(&[service.address()], |_| {}));
        hear(&clients, &["counts"]).await;
        for client in &clients[..2] {
            let mut items = client
                .stream::<u32>("users.count", &ITEMS)
                .await
                .expect("a stream");
            let mut next = 0;
            while let Some(item) = items.next().await {
                assert_eq!(item.expect("an item"), next);
                next += 1;
            }
            assert_eq!(next, ITEMS);
        }
        gateway.stop();
    }
}

#[tokio::test]
async fn a_name_is_dialled_where_it_leads_and_calls_are_spread_over_all_endpoints() {
    let gateway = Running::start(|_| {});
    let clients = everywhere(&gateway).await;
    let one = Service::start("tcp://127.0.0.1:0", "one").await;
    let two = Service::start("tcp://127.0.0.2:0", "two").await;
    let three = Service::start("ws://127.0.0.1:0", "three").await;
    let Address::Tcp { port, .. } = one.address() else {
        panic!("{}", one.address())
    };
    let named = address(&format!("tcp://localhost:{port}"));
    gateway.set_services(users(&[named, two.address(), three.address()], |services| {
        services.upstreams[0].connections = 2;
    }));
    hear(&clients, &["one", "two", "three"]).await;
    gateway.stop();
}

#[tokio::test]
async fn a_reload_drops_no_connection_that_it_keeps_and_no_call() {
    let gateway = Running::start(|_| {});
    let clients = everywhere(&gateway).await;
    let kept = Service::start("tcp://127.0.0.1:0", "kept").await;
    let other = Service::start("tcp://127.0.0.1:0", "other").await;
    gateway.set_services(users(&[kept.address(), other.address()], |_| {}));
    hear(&clients, &["kept", "other"]).await;
    let greeted = greeted_by_all(&kept, &gateway).await;
    greeted_by_all(&other, &gateway).await;
    // Callers who never see any of it.
    let over = Arc::new(AtomicBool::new(false));
    let callers: Vec<JoinHandle<u32>> = clients
        .iter()
        .map(|client| {
            let (client, over) = (client.clone(), Arc::clone(&over));
            tokio::spawn(async move {
                let mut calls = 0;
                while !over.load(Ordering::SeqCst) {
                    let answer: Result<String, _> = client.call("users.slow", &(calls % 20)).await;
                    answer.unwrap_or_else(|error| panic!("call {calls}: {error}"));
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    for round in 1..=10 {
        gateway.set_services(users(&[kept.address()], |services| {
            services.upstreams[0].endpoints[0].weight = round;
        }));
        until(async || other.server.peers().is_empty()).await;
        let connections = other.greeted.load(Ordering::SeqCst);
        gateway.set_services(users(&[kept.address(), other.address()], |_| {}));
        until(async || other.greeted.load(Ordering::SeqCst) == connections + greeted).await;
    }
    over.store(true, Ordering::SeqCst);
    for caller in callers {
        assert!(caller.await.expect("no call failed") > 0);
    }
    assert_eq!(
        kept.greeted.load(Ordering::SeqCst),
        greeted,
        "its connections lived on"
    );
    gateway.stop();
}

/// A service that reads, and can stop saying anything.
struct Raw {
    address: Address,
    is_mute: Arc<AtomicBool>,
    /// Calls that it was given.
    calls: Arc<AtomicU32>,
    over: Arc<AtomicBool>,
}

impl Raw {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let raw = Self {
            address: address(&format!("tcp://{}", listener.local_addr().expect("bound"))),
            is_mute: Arc::default(),
            calls: Arc::default(),
            over: Arc::default(),
        };
        let (is_mute, calls, over) = (
            Arc::clone(&raw.is_mute),
            Arc::clone(&raw.calls),
            Arc::clone(&raw.over),
        );
        thread::spawn(move || {
            while let Ok((socket, _)) = listener.accept() {
                let (is_mute, calls, over) = (Arc::clone(&is_mute), Arc::clone(&calls), Arc::clone(&over));
                thread::spawn(move || serve_raw(socket, &is_mute, &calls, &over));
            }
        });
        raw
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

fn serve_raw(mut socket: TcpStream, is_mute: &AtomicBool, calls: &AtomicU32, over: &AtomicBool) {
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .expect("an option");
    let mut deframer = Deframer::new();
    let mut ids = 0_u128;
    // What was not answered yet, for it is said when the service speaks again.
    let mut unanswered: Vec<Received> = Vec::new();
    let mut buffer = [0; 4096];
    while !over.load(Ordering::SeqCst) {
        match socket.read(&mut buffer) {
            Ok(0) => return,
            Ok(bytes) => {
                let mut unread = &buffer[..bytes];
                while let Some(body) = deframer.next(&mut unread, 1 << 20).expect("frames") {
                    for decoded in Batch::new(body) {
                        let message = Received::from_decoded(&decoded.expect("an envelope"));
                        if message.reference.is_none() {
                            calls.fetch_add(u32::from(message.kind == Kind::Call), Ordering::SeqCst);
                            unanswered.push(message);
                        }
                    }
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
        if is_mute.load(Ordering::SeqCst) {
            continue;
        }
        for message in unanswered.drain(..) {
            let payload = match message.kind {
                Kind::Hello => welcome(),
                Kind::Call => minicbor::to_vec("raw").expect("a Vec takes all"),
                Kind::Ping => number(0),
                _ => continue,
            };
            ids += 1;
            let id = Id(ids.to_be_bytes());
            let answer = encoded(message.kind, id, Some(message.id), None, None, &payload);
            let bytes = [&prefix(answer.len())[..], &answer].concat();
            if socket.write_all(&bytes).is_err() {
                return;
            }
        }
    }
}

fn welcome() -> Vec<u8> {
    let mut payload = Vec::new();
    Welcome {
        v: 0,
        session: Id([9; 16]),
        token: None,
        caps: Caps::default(),
        max_frame: 1 << 20,
        heartbeat_ms: 15_000,
        credit: 65_536,
        resumed: false,
        recv: 0,
        limits: None,
        agent: "raw/1",
    }
    .encode(&mut payload);
    payload
}

/// How many of the connections that serve `users` are in this state, over all cores.
async fn in_state(client: &Client, state: &str) -> usize {
    let listed: serde_json::Value = client
        .call("$services.list", &())
        .await
        .expect("the list of services");
    let rows = listed["services"].as_array().expect("rows");
    rows.iter().filter(|row| row["state"] == state).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_answer_pings_gets_nothing_new_until_it_speaks() {
    let gateway = Running::start(|_| {});
    let clients = everywhere(&gateway).await;
    let raw = Raw::start();
    let sound = Service::start("tcp://127.0.0.1:0", "sound").await;
    gateway.set_services(users(&[raw.address.clone(), sound.address()], |services| {
        services.health.ping_ms = 100;
        services.health.silent_ms = 2_000; // in which the sound one answers, however busy the machine is
    }));
    hear(&clients, &["raw", "sound"]).await;
    let cores = greeted_by_all(&sound, &gateway).await as usize;
    until(async || in_state(&clients[0], "fit").await == 2 * cores).await;
    raw.is_mute.store(true, Ordering::SeqCst);
    until(async || in_state(&clients[0], "silent").await == cores).await;
    let calls = raw.calls.load(Ordering::SeqCst);
    for _ in 0..50 {
        for client in &clients {
            assert_eq!(name(client).await.as_deref(), Ok("sound"));
        }
    }
    assert_eq!(raw.calls.load(Ordering::SeqCst), calls, "it got nothing new");
    raw.is_mute.store(false, Ordering::SeqCst);
    hear(&clients, &["raw", "sound"]).await;
    gateway.stop();
}
