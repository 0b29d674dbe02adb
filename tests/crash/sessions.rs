//! Clients as programs have them, by the Rust SDK, behind the proxy: one asks for calls and streams, one serves them, one
//! stores events, one hears these and plain ones. Their counterparts are connected directly. As long as sessions are resumed
//! they see of a cut nothing but a pause, with two exceptions that are so by design: what is served by a session that is
//! away is unavailable, and plain events pass it by. Nobody ever sees a wrong answer, a gap or a repeat.

use std::collections::{BTreeMap, HashMap};
use std::future::IntoFuture;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fluxar::{Client, Code, Error, ItemSink, Message, Peer, Request, State};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::report::line;

/// Items of one stream: enough for it to live through several cuts.
const ITEMS: u64 = 120;
/// Between two items, calls or events of one task.
const PACE: Duration = Duration::from_millis(3);
/// Stored events that wait for their receipts, at most.
const RECEIPTS: usize = 64;
/// What is under way when the cuts end must be done within this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is asked for from behind the proxy.
const CALL: &str = "call";
const STREAM: &str = "stream";
/// What is served from behind it.
const SERVED: &str = "served call";

/// What one direction of numbered things came to.
#[derive(Debug, Default)]
struct Count {
    last: u64,
    heard: u64,
    repeated: u64,
    reordered: u64,
}

impl Count {
    /// Numbers begin at 1.
    fn hear(&mut self, number: u64) {
        if number == self.last {
            self.repeated += 1;
        } else if number < self.last {
            self.reordered += 1;
        } else {
            self.last = number;
        }
        self.heard += 1;
    }
}

/// What happened to these clients.
#[derive(Debug, Default)]
pub(crate) struct Account {
    calls: u64,
    streams: u64,
    /// Calls of what is served behind the proxy.
    served: u64,
    /// What failed, by what and why.
    failed: BTreeMap<String, u64>,
    /// How often each call was handled.
    handled: HashMap<u64, u32>,
    plain_sent: u64,
    plain: Count,
    stored: u64,
    stored_heard: Count,
    /// Sessions that went on over a new connection.
    resumes: u64,
    /// Sessions that began anew in place of one that was lost.
    begun_anew: u64,
    longest_call_ms: u64,
    pub(crate) faults: Vec<String>,
}

impl Account {
    fn answered(&mut self, asked: u64, answer: u64, took: Duration) {
        self.calls += 1;
        self.longest_call_ms = self.longest_call_ms.max(took.as_millis() as u64);
        if answer != asked + 1 {
            self.faults
                .push(format!("the call of {asked} was answered {answer}"));
        }
    }

    /// Something failed: by a cut, or else by a fault.
    fn fail(&mut self, what: &str, error: &Error) {
        match error.code() {
            Code::Unavailable | Code::Aborted => {
                let why = format!("{what}: {:?}", error.code());
                *self.failed.entry(why).or_default() += 1;
            }
            _ => self.faults.push(format!("a {what} failed: {error}")),
        }
    }

    /// Lines of the table.
    pub(crate) fn print(&self) {
        line(
            "sessions: resumed, begun anew",
            format!("{}, {}", self.resumes, self.begun_anew),
        );
        line("calls answered", self.calls);
        line("streams whole, both directions", self.streams);
        line("calls answered from behind the proxy", self.served);
        for (why, times) in &self.failed {
            line(&format!("failed, {why}"), times);
        }
        line("ms for a call, the longest", self.longest_call_ms);
        line(
            "plain events: sent, heard",
            format!("{}, {}", self.plain_sent, self.plain.heard),
        );
        line(
            "plain events: repeated, out of order",
            format!("{}, {}", self.plain.repeated, self.plain.reordered),
        );
        line(
            "stored events: acknowledged, handled",
            format!("{}, {}", self.stored, self.stored_heard.heard),
        );
    }

    /// Whether something that was stored has not been handled.
    fn is_something_missing(&self) -> bool {
        self.stored_heard.heard < self.stored
    }

    /// Looks at what can only be known in the end.
    fn judge(&mut self) {
        let failed: u64 = [CALL, STREAM]
            .iter()
            .flat_map(|what| self.failed.iter().filter(move |(why, _)| why.starts_with(what)))
            .map(|(_, times)| times)
            .sum();
        if failed > 0 && self.begun_anew == 0 {
            self.faults.push(format!(
                "{failed} calls and streams failed, though all sessions were resumed"
            ));
        }
        let twice = self.handled.values().filter(|times| **times > 1).count();
        if twice > 0 {
            self.faults.push(format!("{twice} calls were handled twice"));
        }
        for (what, count) in [("plain", &self.plain), ("stored", &self.stored_heard)] {
            if count.repeated + count.reordered > 0 {
                let fault = format!(
                    "{what} events: {} repeated, {} out of order",
                    count.repeated, count.reordered
                );
                self.faults.push(fault);
            }
        }
        if self.is_something_missing() {
            let fault = format!(
                "{} events were stored and {} of them handled",
                self.stored, self.stored_heard.heard
            );
            self.faults.push(fault);
        }
    }
}

#[derive(Default)]
struct Shared {
    account: Mutex<Account>,
    is_ending: AtomicBool,
}

impl Shared {
    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }
}

/// See the module.
pub(crate) struct Sessions {
    runtime: Runtime,
    shared: Arc<Shared>,
    /// What ends by itself when it is asked to.
    tasks: Vec<JoinHandle<Result<(), Error>>>,
    /// Kept: a client that is dropped closes its connection.
    clients: Vec<Client>,
}

impl Sessions {
    /// Their connections through the proxy.
    pub(crate) const CONNECTIONS: usize = 4;

    /// Connects all of them; `gateway` is where one publishes from that no cut touches.
    pub(crate) fn start(gateway: &str, proxy: &str) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let shared = Arc::new(Shared::default());
        let (tasks, clients) = runtime
            .block_on(begin(&shared, gateway, proxy))
            .map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self {
            runtime,
            shared,
            tasks,
            clients,
        })
    }

    /// Lets what is under way come to its end, and tells what happened.
    pub(crate) fn finish(self) -> Account {
        self.shared.is_ending.store(true, Ordering::Relaxed);
        self.runtime.block_on(async {
            for task in self.tasks {
                let fault = match timeout(PATIENCE, task).await {
                    Ok(Ok(Ok(()))) => continue,
                    Ok(Ok(Err(error))) => format!("a client ended: {error}"),
                    Ok(Err(error)) => format!("a client ended: {error}"),
                    Err(_) => "a client was not done in time".into(),
                };
                self.shared.account().faults.push(fault);
            }
            let until = Instant::now() + PATIENCE;
            while Instant::now() < until && self.shared.account().is_something_missing() {
                sleep(PACE).await;
            }
            for client in &self.clients {
                self.shared.account().resumes += client.resumes();
                client.close().await;
            }
        });
        let mut account = std::mem::take(&mut *self.shared.account());
        account.judge();
        account
    }
}

type Task = JoinHandle<Result<(), Error>>;

async fn begin(shared: &Arc<Shared>, gateway: &str, proxy: &str) -> Result<(Vec<Task>, Vec<Client>), Error> {
    let (server, asker) = (connect(shared, proxy).await?, connect(shared, proxy).await?);
    let (writer, hearer) = (connect(shared, proxy).await?, connect(shared, proxy).await?);
    let near = Client::connect(format!("tcp://{gateway}")).build().await?;

    let account = Arc::clone(shared);
    let answer = move |request: Request| {
        let account = Arc::clone(&account);
        async move {
            let number: u64 = request.payload()?;
            *account.account().handled.entry(number).or_default() += 1;
            next(request).await
        }
    };
    near.serve("cuts.next", answer).await?;
    near.serve_stream("cuts.next.each", next_each).await?;
    server.serve("cuts.served", next).await?;
    let account = Arc::clone(shared);
    let hear = move |message: Message| {
        let account = Arc::clone(&account);
        async move {
            account.account().plain.hear(message.payload()?);
            Ok(())
        }
    };
    hearer.subscribe("cuts.plain", hear).await?;
    let account = Arc::clone(shared);
    let hear = move |message: Message| {
        let account = Arc::clone(&account);
        async move {
            account.account().stored_heard.hear(message.payload()?);
            message.ack().await
        }
    };
    hearer.subscribe("cuts.stored", hear).exactly_once("cuts").await?;

    let tasks = vec![
        tokio::spawn(call(Arc::clone(shared), asker.peer().clone())),
        tokio::spawn(stream(Arc::clone(shared), asker.peer().clone())),
        tokio::spawn(call_served(Arc::clone(shared), near.peer().clone())),
        tokio::spawn(publish(Arc::clone(shared), near.peer().clone())),
        tokio::spawn(store(Arc::clone(shared), writer.peer().clone())),
    ];
    Ok((tasks, vec![server, asker, writer, hearer, near]))
}

async fn connect(shared: &Arc<Shared>, proxy: &str) -> Result<Client, Error> {
    let client = Client::connect(format!("tcp://{proxy}"))
        .heartbeat(Duration::from_millis(700))
        .connect_timeout(Duration::from_secs(2))
        .reconnect_first(Duration::from_millis(20))
        .reconnect_max(Duration::from_millis(200))
        .build()
        .await?;
    let (mut states, shared) = (client.watch_state(), Arc::clone(shared));
    tokio::spawn(async move {
        let mut is_lost = false;
        while states.changed().await.is_ok() {
            match *states.borrow_and_update() {
                State::Reconnecting { .. } => is_lost = true,
                State::Connected => {
                    shared.account().begun_anew += u64::from(std::mem::take(&mut is_lost));
                }
                _ => {}
            }
        }
    });
    Ok(client)
}

/// A service: a number is answered by the next one.
async fn next(request: Request) -> Result<u64, Error> {
    let number: u64 = request.payload()?;
    sleep(PACE).await;
    Ok(number + 1)
}

/// A service: each number is answered by the next one.
async fn next_each(request: Request, out: ItemSink<u64>) -> Result<(), Error> {
    let mut numbers = request.items::<u64>();
    while let Some(number) = numbers.next().await {
        out.send(&(number? + 1)).await?;
    }
    Ok(())
}

async fn call(shared: Arc<Shared>, peer: Peer) -> Result<(), Error> {
    let mut number = 0;
    while !shared.is_ending() {
        number += 1;
        let asked = Instant::now();
        match peer.call::<_, u64>("cuts.next", &number).await {
            Ok(answer) => shared.account().answered(number, answer, asked.elapsed()),
            Err(error) => {
                shared.account().fail(CALL, &error);
                sleep(10 * PACE).await;
            }
        }
    }
    Ok(())
}

/// Calls what is served behind the proxy. It is unavailable as long as its server is away, and comes back with it.
async fn call_served(shared: Arc<Shared>, peer: Peer) -> Result<(), Error> {
    let (mut number, mut last) = (0, Instant::now());
    while !shared.is_ending() {
        number += 1;
        match peer.call::<_, u64>("cuts.served", &number).await {
            Ok(answer) => {
                last = Instant::now();
                let mut account = shared.account();
                account.served += 1;
                if answer != number + 1 {
                    let fault = format!("the served call of {number} was answered {answer}");
                    account.faults.push(fault);
                }
            }
            Err(error) => {
                shared.account().fail(SERVED, &error);
                if last.elapsed() > PATIENCE {
                    return Err(error);
                }
                sleep(PACE).await;
            }
        }
    }
    Ok(())
}

async fn stream(shared: Arc<Shared>, peer: Peer) -> Result<(), Error> {
    while !shared.is_ending() {
        match one_stream(&peer).await {
            Ok(None) => shared.account().streams += 1,
            Ok(Some(fault)) => shared.account().faults.push(fault),
            Err(error) => {
                shared.account().fail(STREAM, &error);
                sleep(10 * PACE).await;
            }
        }
    }
    Ok(())
}

/// Sends numbers and reads what answers them at the same time. What is wrong with the answers, if anything is.
async fn one_stream(peer: &Peer) -> Result<Option<String>, Error> {
    let (numbers, mut answers) = peer.duplex::<u64, u64>("cuts.next.each", &()).await?;
    let sending = async move {
        for number in 1..=ITEMS {
            numbers.send(&number).await?;
            sleep(PACE).await;
        }
        numbers.finish().await
    };
    let reading = async {
        let mut due = 1;
        while let Some(answer) = answers.next().await {
            let answer = answer?;
            due += 1;
            if answer != due {
                return Ok(Some(format!("a stream went on with {answer} instead of {due}")));
            }
        }
        Ok((due != ITEMS + 1).then(|| format!("a stream ended behind {} of {ITEMS} items", due - 1)))
    };
    let (sent, read) = tokio::join!(sending, reading);
    let read: Result<Option<String>, Error> = read;
    let read = read?;
    sent?;
    Ok(read)
}

/// Plain events, over a connection that is not cut: what its hearer lacks was lost on the hearer's.
async fn publish(shared: Arc<Shared>, peer: Peer) -> Result<(), Error> {
    while !shared.is_ending() {
        let number = shared.account().plain_sent + 1;
        peer.publish("cuts.plain", &number).await?;
        shared.account().plain_sent = number;
        sleep(PACE).await;
    }
    Ok(())
}

/// Stored events, each exactly once and in order.
async fn store(shared: Arc<Shared>, peer: Peer) -> Result<(), Error> {
    let mut number = 0;
    let mut receipts = std::collections::VecDeque::new();
    while !shared.is_ending() {
        number += 1;
        let event = peer.event("cuts.stored", &number).exactly_once();
        receipts.push_back(event.enqueue().await?);
        if receipts.len() >= RECEIPTS
            && let Some(receipt) = receipts.pop_front()
        {
            receipt.into_future().await?;
            shared.account().stored += 1;
        }
        sleep(PACE).await;
    }
    for receipt in receipts {
        receipt.into_future().await?;
        shared.account().stored += 1;
    }
    Ok(())
}
