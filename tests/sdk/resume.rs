//! Sessions that outlive their connections, through a gateway in this process and a proxy that breaks connections: the
//! program sees pauses, and nothing is lost or comes twice.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use fluxar::{Client, Code, ItemSink, Request, State};
use fluxar_tests::{Running, client::PATIENCE};
use tokio::task::JoinHandle;

use super::{
    connect,
    cutter::{Cut, Cutter},
    logged, next, until,
};

const CUTS: u64 = 120;
/// Chunks under way on the stream.
const WINDOW: u64 = 32;

/// Through the proxy; a silent connection is given up soon.
async fn traveller(cutter: &Cutter) -> Client {
    let client = Client::connect(cutter.url())
        .heartbeat(Duration::from_millis(150))
        .reconnect_first(Duration::from_millis(4))
        .reconnect_max(Duration::from_millis(20))
        .build();
    client.await.unwrap()
}

fn authority(gateway: &Running) -> String {
    let url = gateway.tcp().to_string();
    url.strip_prefix("tcp://").unwrap().to_owned()
}

/// Answers calls and streams with what comes, and counts the calls by their number.
async fn serve_echo(home: &Client) -> Arc<Mutex<BTreeMap<u64, u32>>> {
    let handled = Arc::new(Mutex::new(BTreeMap::new()));
    let handled_there = handled.clone();
    let answer = move |request: Request| {
        let handled = handled_there.clone();
        async move {
            let number = request.payload::<u64>()?;
            *handled.lock().unwrap().entry(number).or_insert(0) += 1;
            Ok(number)
        }
    };
    home.serve("echo.call", answer).await.unwrap();
    let echo = |request: Request, out: ItemSink<u64>| async move {
        let mut items = request.items::<u64>();
        while let Some(item) = items.next().await {
            out.send(&item?).await?;
        }
        Ok(())
    };
    home.serve_stream("echo.stream", echo).await.unwrap();
    handled
}

/// Work that goes on until it is told to come to its end. How much was done so far, and in all.
struct Work {
    done: Arc<AtomicU64>,
    task: JoinHandle<u64>,
}

impl Work {
    fn begin<F: Future<Output = u64> + Send + 'static>(work: impl FnOnce(Arc<AtomicU64>) -> F) -> Self {
        let done = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(work(done.clone()));
        Self { done, task }
    }

    async fn end(self) -> u64 {
        tokio::time::timeout(3 * PATIENCE, self.task)
            .await
            .expect("it comes to its end")
            .unwrap()
    }
}

fn calls(client: Client, stop: Arc<AtomicBool>, first: u64) -> Work {
    Work::begin(async move |done| {
        let mut number = first;
        while !stop.load(Ordering::Relaxed) {
            let call = client.request("echo.call").timeout(PATIENCE).payload(&number);
            assert_eq!(call.send::<u64>().await.expect("no call fails"), number);
            number += 1;
            done.store(number - first, Ordering::Relaxed);
        }
        number - first
    })
}

fn stream(client: Client, stop: Arc<AtomicBool>) -> Work {
    Work::begin(async move |done| {
        let opened = client.duplex::<u64, u64>("echo.stream", &()).await;
        let (sink, mut items) = opened.unwrap();
        let (mut sent, mut came) = (0, 0);
        while !stop.load(Ordering::Relaxed) || came < sent {
            while sent < came + WINDOW && !stop.load(Ordering::Relaxed) {
                sink.send(&sent).await.expect("the stream lives");
                sent += 1;
            }
            if came < sent {
                let item = items
                    .next()
                    .await
                    .expect("the stream goes on")
                    .expect("no item fails");
                assert_eq!(item, came, "in order, each once");
                came += 1;
                done.store(came, Ordering::Relaxed);
            }
        }
        sink.finish().await.expect("a good end");
        assert!(items.next().await.is_none());
        came
    })
}

/// Publishes stored events, exactly once, so that what comes twice would be the gateway's fault or the SDK's.
fn publish(client: Client, stop: Arc<AtomicBool>, topic: &'static str) -> Work {
    Work::begin(async move |done| {
        let mut number = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            let mut receipts = Vec::new();
            for _ in 0..8 {
                let event = client.event(topic, &number).exactly_once().timeout(PATIENCE);
                receipts.push(event.enqueue().await.expect("it is taken"));
                number += 1;
            }
            for receipt in receipts {
                receipt.await.expect("it is stored");
            }
            done.store(number, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        number
    })
}

/// Takes stored events, and acknowledges them. Ends with the subscription.
async fn take(client: &Client, topic: &'static str) -> Work {
    let mut events = client.subscription(topic).at_least_once().open().await.unwrap();
    Work::begin(async move |done| {
        let mut expected = 0_u64;
        while let Some(event) = events.next().await {
            let number = event.payload::<u64>().unwrap();
            if number == u64::MAX {
                return expected;
            }
            assert_eq!(number, expected, "in order, each once, at {:?}", event.position());
            expected += 1;
            event.ack().await.unwrap();
            done.store(expected, Ordering::Relaxed);
        }
        panic!("the subscription ended: {:?}", events.end());
    })
}

/// The last event of a topic.
async fn say_last(client: &Client, topic: &'static str) {
    let last = client.event(topic, &u64::MAX).exactly_once();
    last.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_comes_twice_over_many_cuts() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = logged::start(folder.path());
    let home = connect(&gateway.tcp().to_string()).await;
    let handled = serve_echo(&home).await;
    let cutter = Cutter::before(authority(&gateway)).await;
    let traveller = traveller(&cutter).await;
    until(async || traveller.call::<_, u64>("echo.call", &u64::MAX).await.is_ok()).await;
    handled.lock().unwrap().clear();

    let mut passing = traveller.subscription("passing").open().await.unwrap();
    let out = take(&home, "stored.out").await;
    let back = take(&traveller, "stored.back").await;
    let stop = Arc::new(AtomicBool::new(false));
    let callers = [0, 1 << 32].map(|first| calls(traveller.clone(), stop.clone(), first));
    let stream = stream(traveller.clone(), stop.clone());
    let publishing = [
        publish(traveller.clone(), stop.clone(), "stored.out"),
        publish(home.clone(), stop.clone(), "stored.back"),
    ];

    let works = [&callers[0], &callers[1], &stream, &out, &back];
    for cut in 0..CUTS {
        // Everything goes on before the next cut.
        let before = works.map(|work| work.done.load(Ordering::Relaxed));
        until(async || {
            let now = works.map(|work| work.done.load(Ordering::Relaxed));
            now.iter().zip(before).all(|(now, before)| *now > before)
        })
        .await;
        home.publish("passing", &cut).await.unwrap();
        let resumes = traveller.resumes();
        cutter.cut(match cut % 16 {
            0 => Cut::BlackHole,
            1 | 5 | 9 => Cut::Unnoticed,
            even if even % 2 == 0 => Cut::Reset,
            _ => Cut::Close,
        });
        until(async || traveller.resumes() > resumes && traveller.state() == State::Connected).await;
    }

    stop.store(true, Ordering::Relaxed);
    let mut made = 0;
    for caller in callers {
        made += caller.end().await;
    }
    let came = stream.end().await;
    for (publishing, (client, topic, taking)) in publishing
        .into_iter()
        .zip([(&traveller, "stored.out", out), (&home, "stored.back", back)])
    {
        let published = publishing.end().await;
        say_last(client, topic).await;
        assert_eq!(taking.end().await, published, "{topic}");
    }
    let handled = handled.lock().unwrap().clone();
    assert_eq!(handled.len() as u64, made);
    assert!(
        handled.values().all(|times| *times == 1),
        "a call was carried out twice"
    );
    assert!(made >= CUTS && came >= CUTS && traveller.resumes() >= CUTS);

    // The plain subscription was never asked for again, and stands; what passed came at most once, in order.
    home.publish("passing", &CUTS).await.unwrap();
    let mut last = None;
    while last != Some(CUTS) {
        let number = next(&mut passing).await.payload::<u64>().unwrap();
        assert!(last.is_none_or(|last| last < number), "{number} behind {last:?}");
        last = Some(number);
    }
    traveller.close().await;
    home.close().await;
    gateway.stop();
}

#[tokio::test]
async fn what_it_serves_goes_to_others_meanwhile_and_comes_back() {
    let gateway = Running::start(|_| {});
    let caller = connect(&gateway.tcp().to_string()).await;
    let cutter = Cutter::before(authority(&gateway)).await;
    let server = traveller(&cutter).await;
    let is_running = Arc::new(AtomicBool::new(false));
    let running = is_running.clone();
    let slow = move |_: Request| {
        let running = running.clone();
        async move {
            running.store(true, Ordering::Relaxed);
            let _end = OnDrop(running);
            std::future::pending::<fluxar::Result<()>>().await
        }
    };
    server.serve("slow", slow).await.unwrap();
    server
        .serve("quick", |_: Request| async { Ok(()) })
        .await
        .unwrap();
    until(async || caller.call::<_, ()>("quick", &()).await.is_ok()).await;
    let calling = {
        let caller = caller.clone();
        tokio::spawn(async move { caller.call::<_, ()>("slow", &()).await })
    };
    until(async || is_running.load(Ordering::Relaxed)).await;
    let resumes = server.resumes();
    cutter.cut(Cut::Reset);
    let error = tokio::time::timeout(PATIENCE, calling)
        .await
        .expect("its caller is told")
        .unwrap()
        .unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    until(async || server.resumes() > resumes).await;
    // It finds the cancel, and its offers stand.
    until(async || !is_running.load(Ordering::Relaxed)).await;
    until(async || caller.call::<_, ()>("quick", &()).await.is_ok()).await;
    server.close().await;
    gateway.stop();
}

struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_gateway_that_stops_says_goodbye_and_everything_is_asked_for_again() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = logged::start(folder.path());
    let url = gateway.unix().to_string();
    let client = Client::connect(&url)
        .reconnect_first(Duration::from_millis(5))
        .reconnect_max(Duration::from_millis(50));
    let client = client.build().await.unwrap();
    let mut events = client.subscription("a.b").open().await.unwrap();
    gateway.stop();
    let gateway = logged::start(folder.path());
    until(async || client.lost_because().is_some() && client.state() == State::Connected).await;
    client.publish("a.b", &1).await.unwrap();
    assert_eq!(next(&mut events).await.payload::<u8>().unwrap(), 1);
    assert_eq!(client.resumes(), 0);
    client.close().await;
    gateway.stop();
}
