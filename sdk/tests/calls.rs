//! Calls between a server and a client that are connected directly, over each transport.

mod raw;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use fluxar::{Auth, Client, Code, Error, Origin, Request, Server, Transport};
use raw::until;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct User {
    id: u64,
    name: String,
    tags: Vec<String>,
    score: Option<f64>,
}

async fn start(builder: fluxar::ServerBuilder) -> Server {
    let server = builder.build().await.unwrap();
    let running = server.clone();
    tokio::spawn(async move { running.run().await.unwrap() });
    server
}

async fn tcp() -> (Server, Client) {
    let server = start(Server::bind("127.0.0.1:0")).await;
    let client = Client::connect(server.url()).build().await.unwrap();
    (server, client)
}

/// A server and a client over each transport, and the named form.
async fn everywhere() -> Vec<(Server, Client, tempfile::TempDir)> {
    let mut pairs = Vec::new();
    for (transport, named) in [
        (Transport::Tcp, false),
        (Transport::Tcp, true),
        (Transport::Unix, false),
        (Transport::WebSocket, false),
        (Transport::WebSocket, true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let address = match transport {
            Transport::Unix => folder.path().join("socket").to_str().unwrap().to_owned(),
            _ => "127.0.0.1:0".to_owned(),
        };
        let server = start(Server::bind(address).transport(transport)).await;
        let client = Client::connect(server.url()).named(named).build().await.unwrap();
        pairs.push((server, client, folder));
    }
    pairs
}

#[tokio::test]
async fn typed_values_travel_over_every_transport_in_both_forms() {
    for (server, client, _folder) in everywhere().await {
        server
            .handle("users.get", |req: Request| async move {
                let id: u64 = req.payload()?;
                Ok(User {
                    id,
                    name: "Ada ✓".into(),
                    tags: vec!["x".into()],
                    score: Some(1.5),
                })
            })
            .unwrap();
        let user: User = client.call("users.get", &7).await.unwrap();
        assert_eq!(
            user,
            User {
                id: 7,
                name: "Ada ✓".into(),
                tags: vec!["x".into()],
                score: Some(1.5)
            }
        );

        let error = client.call::<_, User>("users.get", "seven").await.unwrap_err();
        assert_eq!(
            (error.code(), error.origin()),
            (Code::InvalidArgument, Origin::Answer),
            "{error}"
        );
        let error = client.call::<_, ()>("users.get", &7).await.unwrap_err();
        assert_eq!(
            error.origin(),
            Origin::Payload,
            "an answer that is something else: {error}"
        );
        let error = client.call::<_, ()>("nobody.there", &()).await.unwrap_err();
        assert_eq!(
            (error.code(), error.is_retryable()),
            (Code::Unavailable, true),
            "{error}"
        );
        assert_eq!(error.address(), Some(server.url()));
        client.close().await;
        server.close().await;
    }
}

#[tokio::test]
async fn a_thousand_calls_at_once_are_answered_in_any_order() {
    for (server, client, _folder) in everywhere().await {
        // No call is answered before all have arrived, and then the last one first.
        let gates: Arc<Vec<_>> = Arc::new((0..1000).map(|_| Semaphore::new(0)).collect());
        let arrived = Arc::new(AtomicUsize::new(0));
        server
            .handle("turn", {
                let (gates, arrived) = (gates.clone(), arrived.clone());
                move |req: Request| {
                    let (gates, arrived) = (gates.clone(), arrived.clone());
                    async move {
                        let at: usize = req.payload()?;
                        if arrived.fetch_add(1, Ordering::SeqCst) == 999 {
                            gates[999].add_permits(1);
                        }
                        gates[at].acquire().await.unwrap().forget();
                        if at > 0 {
                            gates[at - 1].add_permits(1);
                        }
                        Ok(at * 2)
                    }
                }
            })
            .unwrap();
        let calls = (0..1000usize).map(|at| {
            let peer = client.peer().clone();
            tokio::spawn(async move { (at, peer.call::<_, usize>("turn", &at).await) })
        });
        for call in calls.collect::<Vec<_>>() {
            let (at, answer) = call.await.unwrap();
            assert_eq!(answer.unwrap(), at * 2);
        }
    }
}

#[tokio::test]
async fn the_server_calls_the_client_within_a_call() {
    for (server, client, _folder) in everywhere().await {
        client.handle("name", |_| async { Ok("a client") }).unwrap();
        server
            .handle("greet", |req: Request| async move {
                let name: String = req.peer().call("name", &()).await?;
                Ok(format!("hello, {name}"))
            })
            .unwrap();
        assert_eq!(
            client.call::<_, String>("greet", &()).await.unwrap(),
            "hello, a client"
        );
        until(|| server.peers().len() == 1).await;
        assert_eq!(
            server.peers()[0].call::<_, String>("name", &()).await.unwrap(),
            "a client"
        );
    }
}

#[tokio::test]
async fn methods_are_served_by_pattern_and_the_exact_one_comes_first() {
    let (server, client) = tcp().await;
    server
        .handle("a.*", |req: Request| async move {
            Ok(format!("pattern {}", req.method()))
        })
        .unwrap();
    server.handle("a.b", |_| async { Ok("exact") }).unwrap();
    assert_eq!(client.call::<_, String>("a.b", &()).await.unwrap(), "exact");
    assert_eq!(client.call::<_, String>("a.c", &()).await.unwrap(), "pattern a.c");
    let refused = server.handle("a..b", |_| async { Ok(()) }).unwrap_err();
    assert_eq!(
        (refused.code(), refused.origin()),
        (Code::InvalidArgument, Origin::Input)
    );
}

#[tokio::test]
async fn errors_travel_with_everything_that_they_say() {
    let (server, client) = tcp().await;
    server
        .handle("fail", |_| async {
            let error = Error::new(Code::Aborted, "not now").with_details(&("row", 7));
            Err::<(), _>(error.retry_after(Duration::from_millis(250)))
        })
        .unwrap();
    let error = client.call::<_, ()>("fail", &()).await.unwrap_err();
    assert_eq!(
        (error.code(), error.message(), error.origin()),
        (Code::Aborted, "not now", Origin::Answer)
    );
    assert_eq!(error.details::<(String, u8)>(), Some(("row".to_owned(), 7)));
    assert_eq!(error.retry_after_hint(), Some(Duration::from_millis(250)));
    assert!(error.is_retryable());
}

#[tokio::test]
async fn a_panic_is_answered_internal_and_the_next_call_is_served() {
    let (server, client) = tcp().await;
    server
        .handle("panic", |req: Request| {
            assert_ne!(req.payload::<u8>().unwrap(), 1, "before there is a future");
            async move {
                assert_ne!(req.payload::<u8>()?, 2, "within the future");
                Ok("fine")
            }
        })
        .unwrap();
    for bad in [1, 2] {
        let error = client.call::<_, String>("panic", &bad).await.unwrap_err();
        assert_eq!(
            (error.code(), error.message()),
            (Code::Internal, "the handler panicked")
        );
    }
    assert_eq!(client.call::<_, String>("panic", &3).await.unwrap(), "fine");
}

/// Says when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A handler that never answers; says that it runs, and that it was dropped.
fn serve_forever(server: &Server) -> (Arc<AtomicUsize>, Arc<AtomicBool>) {
    let (running, is_dropped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let flags = (running.clone(), is_dropped.clone());
    server
        .handle("forever", move |_| {
            let (running, is_dropped) = flags.clone();
            async move {
                let _dropped = Dropped(is_dropped);
                running.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<()>().await;
                Ok(())
            }
        })
        .unwrap();
    (running, is_dropped)
}

#[tokio::test]
async fn dropping_a_call_drops_its_handler() {
    let (server, client) = tcp().await;
    let (running, is_dropped) = serve_forever(&server);
    let peer = client.peer().clone();
    let call = tokio::spawn(async move { peer.call::<_, ()>("forever", &()).await });
    until(|| running.load(Ordering::SeqCst) == 1).await;
    assert!(!is_dropped.load(Ordering::SeqCst));
    call.abort();
    until(|| is_dropped.load(Ordering::SeqCst)).await;
    client.ping().await.expect("the connection lives");
}

#[tokio::test]
async fn a_call_that_takes_too_long_fails_and_its_handler_is_dropped() {
    let (server, client) = tcp().await;
    let (_, is_dropped) = serve_forever(&server);
    let error = client
        .request("forever")
        .timeout(Duration::from_secs(1)) // in which the handler begins
        .send::<()>()
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
    until(|| is_dropped.load(Ordering::SeqCst)).await;
}

#[tokio::test]
async fn what_is_open_fails_when_the_other_side_closes() {
    let (server, client) = tcp().await;
    let (running, is_dropped) = serve_forever(&server);
    let peer = client.peer().clone();
    let call = tokio::spawn(async move { peer.call::<_, ()>("forever", &()).await });
    until(|| running.load(Ordering::SeqCst) == 1).await;
    server.close().await;
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(
        (error.code(), error.origin()),
        (Code::Unavailable, Origin::Connection),
        "{error}"
    );
    assert!(error.to_string().contains(server.url()), "{error}");
    until(|| is_dropped.load(Ordering::SeqCst)).await;
}

#[tokio::test]
async fn handlers_beyond_the_bound_are_refused_and_those_below_it_are_not() {
    let server = start(Server::bind("127.0.0.1:0").handlers_max(2)).await;
    let (running, _) = serve_forever(&server);
    server.handle("quick", |_| async { Ok(1) }).unwrap();
    let client = Client::connect(server.url()).build().await.unwrap();
    let forever = || {
        let peer = client.peer().clone();
        tokio::spawn(async move { peer.call::<_, ()>("forever", &()).await })
    };
    let first = forever();
    until(|| running.load(Ordering::SeqCst) == 1).await;
    for _ in 0..100 {
        assert_eq!(
            client.call::<_, u8>("quick", &()).await.unwrap(),
            1,
            "its place is free once it is answered"
        );
    }
    let calls = [first, forever()];
    until(|| running.load(Ordering::SeqCst) == 2).await;
    assert_eq!(
        client.call::<_, u8>("quick", &()).await.unwrap_err().code(),
        Code::ResourceExhausted
    );
    calls.iter().for_each(tokio::task::JoinHandle::abort);
    let served = async { while client.call::<_, u8>("quick", &()).await.is_err() {} };
    tokio::time::timeout(raw::PATIENCE, served)
        .await
        .expect("there is room again");
}

#[tokio::test]
async fn own_calls_beyond_the_bound_fail_at_once() {
    let server = start(Server::bind("127.0.0.1:0")).await;
    let (running, _) = serve_forever(&server);
    let client = Client::connect(server.url())
        .open_calls_max(1)
        .build()
        .await
        .unwrap();
    let peer = client.peer().clone();
    let _open = tokio::spawn(async move { peer.call::<_, ()>("forever", &()).await });
    until(|| running.load(Ordering::SeqCst) == 1).await;
    let error = client.call::<_, ()>("forever", &()).await.unwrap_err();
    assert!(
        error.is_full() && error.code() == Code::ResourceExhausted,
        "{error}"
    );
}

#[tokio::test]
async fn a_server_asks_for_credentials() {
    let server = start(Server::bind("127.0.0.1:0").authenticate(|auth| match auth {
        Some(auth) if (auth.scheme(), auth.token()) == ("bearer", Some("right")) => Ok(()),
        _ => Err(Error::new(Code::Unauthenticated, "a bearer token is needed")),
    }))
    .await;
    for auth in [None, Some(Auth::bearer("wrong"))] {
        let mut builder = Client::connect(server.url()).keep_dialing(true); // of no use here, so it is not done
        if let Some(auth) = auth {
            builder = builder.auth(auth);
        }
        let error = builder.build().await.unwrap_err();
        assert_eq!(
            (error.code(), error.origin()),
            (Code::Unauthenticated, Origin::Connect),
            "{error}"
        );
        assert!(error.message().contains("a bearer token is needed"), "{error}");
    }
    let client = Client::connect(server.url())
        .auth(Auth::bearer("right"))
        .build()
        .await
        .unwrap();
    client.ping().await.unwrap();
    assert!(!format!("{:?}", Auth::bearer("hidden")).contains("hidden"));
}

#[tokio::test]
async fn what_is_larger_than_the_other_side_takes_is_refused_before_it_is_sent() {
    let server = start(Server::bind("127.0.0.1:0").max_frame_bytes(64 * 1024)).await;
    server
        .handle(
            "len",
            |req: Request| async move { Ok(req.payload::<String>()?.len()) },
        )
        .unwrap();
    server
        .handle("fill", |req: Request| async move {
            Ok("x".repeat(req.payload::<usize>()?))
        })
        .unwrap();
    let client = Client::connect(server.url())
        .max_frame_bytes(64 * 1024)
        .build()
        .await
        .unwrap();
    assert_eq!(
        client.call::<_, usize>("len", &"x".repeat(60_000)).await.unwrap(),
        60_000
    );
    let error = client
        .call::<_, usize>("len", &"x".repeat(64_500))
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.origin()),
        (Code::ResourceExhausted, Origin::Payload),
        "{error}"
    );
    let error = client.call::<_, String>("fill", &64_500).await.unwrap_err();
    assert_eq!(
        (error.code(), error.origin()),
        (Code::ResourceExhausted, Origin::Answer),
        "{error}"
    );
    assert_eq!(
        client.call::<_, String>("fill", &60_000).await.unwrap().len(),
        60_000,
        "the connection lives"
    );
}
