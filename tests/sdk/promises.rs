//! What calls of the SDK may rely on behind a gateway: deadlines, repeats, limits, and peers that leave in good order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fluxar::{Client, Code, ItemSink, Request, Result};
use fluxar_tests::{Running, client::PATIENCE};
use tokio::sync::{Semaphore, watch};

use crate::{connect, until, urls};

#[tokio::test]
async fn a_peer_that_leaves_in_good_order_fails_no_call() {
    let gateway = Running::start(|_| {});
    let [tcp, ws, unix] = urls(&gateway);
    let caller = connect(&tcp).await;
    let work = |_| async {
        tokio::time::sleep(Duration::from_millis(2)).await;
        Ok(1)
    };
    let steady = connect(&ws).await;
    steady.serve("work", work).await.unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let callers = (0..16).map(|_| {
        let (peer, is_over) = (caller.peer().clone(), is_over.clone());
        tokio::spawn(async move {
            let mut calls = 0;
            while !is_over.load(Ordering::SeqCst) {
                calls += peer.call::<_, usize>("work", &()).await.expect("no call fails");
            }
            calls
        })
    });
    let callers: Vec<_> = callers.collect();
    for _ in 0..5 {
        let brief = connect(&unix).await;
        let served = Arc::new(AtomicUsize::new(0));
        let count = served.clone();
        let offer = brief
            .serve("work", move |req| {
                count.fetch_add(1, Ordering::SeqCst);
                work(req)
            })
            .await
            .unwrap();
        until(async || served.load(Ordering::SeqCst) > 20).await;
        tokio::time::timeout(PATIENCE, offer.leave())
            .await
            .unwrap()
            .unwrap();
        let last = served.load(Ordering::SeqCst);
        brief.ping().await.unwrap();
        assert_eq!(
            served.load(Ordering::SeqCst),
            last,
            "no call comes after it has left"
        );
        brief.close().await;
    }
    is_over.store(true, Ordering::SeqCst);
    for caller in callers {
        assert!(caller.await.unwrap() > 0);
    }
    gateway.stop();
}

#[tokio::test]
async fn leaving_waits_for_streams() {
    let gateway = Running::start(|_| {});
    let [tcp, ws, _] = urls(&gateway);
    let (server, opener) = (connect(&ws).await, connect(&tcp).await);
    let (gate, opened) = watch::channel(false);
    let offer = server
        .serve_stream("slow", move |_, out: ItemSink<u8>| {
            let mut opened = opened.clone();
            async move {
                out.send(&1).await?;
                opened.wait_for(|opened| *opened).await.unwrap();
                out.send(&2).await
            }
        })
        .await
        .unwrap();
    let mut items = opener.stream::<u8>("slow", &()).await.unwrap();
    assert_eq!(items.next().await.unwrap().unwrap(), 1);
    let leaving = tokio::spawn(offer.leave());
    // No new ones come, and the one that runs goes on.
    until(async || {
        let next = opener.stream::<u8>("slow", &()).await.unwrap().next().await;
        next.unwrap()
            .is_err_and(|error| error.code() == Code::Unavailable)
    })
    .await;
    assert!(!leaving.is_finished());
    gate.send_replace(true);
    leaving.await.unwrap().unwrap();
    server.close().await;
    assert_eq!(items.next().await.unwrap().unwrap(), 2);
    assert!(items.next().await.is_none());
    gateway.stop();
}

#[tokio::test]
async fn calls_beyond_what_a_peer_takes_wait_by_their_priority() {
    let gateway = Running::start(|_| {});
    let [tcp, ws, _] = urls(&gateway);
    let (server, caller) = (connect(&ws).await, connect(&tcp).await);
    let (running, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let served = Arc::new(std::sync::Mutex::new(Vec::new()));
    let shared = (running.clone(), gate.clone(), served.clone());
    server
        .serve("one", move |req: Request| {
            let (running, gate, served) = shared.clone();
            async move {
                assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
                served.lock().unwrap().push(req.payload::<u8>()?);
                gate.acquire().await.unwrap().forget();
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }
        })
        .max_in_flight(1)
        .await
        .unwrap();
    let call = |priority: u8| {
        let peer = caller.peer().clone();
        tokio::spawn(async move {
            let call = peer.request("one").priority(priority).payload(&priority);
            call.send::<()>().await
        })
    };
    let mut calls = vec![call(0)];
    until(async || running.load(Ordering::SeqCst) == 1).await;
    for priority in [1, 7, 4] {
        calls.push(call(priority));
        tokio::task::yield_now().await;
    }
    // They are sent before the ping, and so they wait at the gateway when it is answered.
    caller.ping().await.unwrap();
    gate.add_permits(4);
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(*served.lock().unwrap(), [0, 7, 4, 1]);
    gateway.stop();
}

/// Serves "work" by a handler that answers when it may, and counts.
async fn worker(url: &str, may_answer: bool) -> (Client, Arc<AtomicUsize>) {
    let client = connect(url).await;
    let begun = Arc::new(AtomicUsize::new(0));
    let count = begun.clone();
    client
        .serve("work", move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            async move {
                if !may_answer {
                    std::future::pending::<()>().await;
                }
                Ok("done".to_owned())
            }
        })
        .await
        .unwrap();
    (client, begun)
}

#[tokio::test]
async fn only_idempotent_calls_are_given_to_another_peer() {
    let gateway = Running::start(|_| {});
    let [tcp, ws, _] = urls(&gateway);
    let caller = connect(&tcp).await;
    for is_idempotent in [true, false] {
        let (lost, begun) = worker(&ws, false).await;
        let call = {
            let peer = caller.peer().clone();
            tokio::spawn(async move {
                let call = peer.request("work").idempotent(is_idempotent);
                call.send::<String>().await
            })
        };
        until(async || begun.load(Ordering::SeqCst) == 1).await;
        let (other, served) = worker(&ws, true).await;
        lost.close().await;
        let answer: Result<String> = call.await.unwrap();
        if is_idempotent {
            assert_eq!(answer.unwrap(), "done");
        } else {
            assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
        }
        assert_eq!(served.load(Ordering::SeqCst), usize::from(is_idempotent));
        other.close().await;
    }
    gateway.stop();
}

#[tokio::test]
async fn a_hedged_call_is_answered_by_whoever_is_first() {
    let gateway = Running::start(|_| {});
    let [tcp, ws, _] = urls(&gateway);
    let caller = connect(&tcp).await;
    let (_stuck, begun) = worker(&ws, false).await;
    let call = {
        let peer = caller.peer().clone();
        tokio::spawn(async move {
            let call = peer.request("work").idempotent(true);
            call.hedge_after(Duration::from_secs(2)).send::<String>().await
        })
    };
    until(async || begun.load(Ordering::SeqCst) == 1).await;
    let (_quick, served) = worker(&ws, true).await;
    assert_eq!(call.await.unwrap().unwrap(), "done");
    assert_eq!(served.load(Ordering::SeqCst), 1);
    gateway.stop();
}

#[tokio::test]
async fn a_deadline_is_passed_on_and_kept() {
    let gateway = Running::start(|_| {});
    let [tcp, ws, _] = urls(&gateway);
    let (server, caller) = (connect(&ws).await, connect(&tcp).await);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    server
        .serve("inner", move |req: Request| {
            tell.send(req.timeout().unwrap()).unwrap();
            std::future::pending::<Result<()>>()
        })
        .await
        .unwrap();
    server
        .serve("outer", |req: Request| async move {
            let inner = req.peer().request("inner").deadline(req.deadline());
            inner.send::<()>().await
        })
        .await
        .unwrap();
    let limit = Duration::from_secs(1);
    let error = caller
        .request("outer")
        .timeout(limit)
        .send::<()>()
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    let inner = tokio::time::timeout(PATIENCE, told.recv())
        .await
        .unwrap()
        .unwrap();
    assert!(inner <= limit, "{inner:?} of {limit:?}");
    gateway.stop();
}
