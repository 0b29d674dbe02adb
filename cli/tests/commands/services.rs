//! `fluxar services` against a server that answers as a gateway would.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use ciborium::{Value, cbor};
use fluxar::{Code, Error, Request, Server};

use crate::process::{Running, run, server, stderr, stdout, until};

/// A gateway of two services, one of which has so many calls open; and what it was told to drain. The upstream that is
/// called "main" is the second service, which has four fewer open.
async fn gateway(open: Arc<AtomicU64>, cores_missing: u32) -> (Server, Arc<Mutex<Vec<Value>>>) {
    let server = server().await;
    let drained = Arc::new(Mutex::new(Vec::new()));
    let told = drained.clone();
    server
        .handle("$services.list", move |_: Request| {
            // Counts down, as calls end.
            let left = open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
                Some(open.saturating_sub(1))
            });
            let left = left.unwrap();
            async move {
                Ok(cbor!({
                    "services" => [
                        {"id" => "0/2.1", "name" => "orders/2.0", "methods" => ["orders.*"], "fleet" => null, "zone" => "eu",
                         "weight" => 1, "state" => "draining", "in_flight" => left, "in_flight_max" => 64,
                         "latency_us" => 900, "answered" => 12, "failed" => 1},
                        {"id" => "1/0.1", "name" => "tcp://10.0.0.7:9000", "methods" => ["a.b", "a.c"], "fleet" => "blue",
                         "weight" => 3, "state" => "ejected", "ejected_ms" => 2500, "in_flight" => left.saturating_sub(4)}
                    ],
                    "cores_missing" => cores_missing
                })
                .unwrap())
            }
        })
        .unwrap();
    server
        .handle("$services.drain", move |request: Request| {
            let wanted: Value = ciborium::from_reader(&request.payload_bytes()[..]).unwrap();
            let peer = wanted.as_map().unwrap()[0].1.as_text().unwrap().to_owned();
            let is_known = peer != "nobody";
            let mut told = told.lock().unwrap();
            let is_first = !told.contains(&wanted);
            told.push(wanted);
            async move {
                if is_known {
                    let ids = match peer.as_str() {
                        "main" => vec!["1/0.1"],
                        "away" => vec![],
                        "gone" => vec!["0/9.1"],
                        _ => vec!["0/2.1"],
                    };
                    // The first time, a core is slow to answer.
                    let missing = u32::from(peer == "slow" && is_first);
                    Ok(
                        cbor!({"matched" => 2, "ids" => ids, "left_out" => 0, "cores_missing" => missing})
                            .unwrap(),
                    )
                } else {
                    Err(Error::new(Code::NotFound, "nobody is called nobody"))
                }
            }
        })
        .unwrap();
    (server, drained)
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_listed_as_a_table_and_as_json() {
    let (server, _) = gateway(Arc::new(AtomicU64::new(4)), 1).await;
    let output = run(server.url(), &["services"]).await;
    assert_eq!(
        (stdout(&output), output.status.code()),
        (
            "\
ID     NAME                 SERVES    FLEET  ZONE  WEIGHT  STATE          IN FLIGHT  LATENCY  ANSWERED  FAILED
0/2.1  orders/2.0           orders.*  -      eu         1  draining            4/64   900 µs        12       1
1/0.1  tcp://10.0.0.7:9000  a.b, a.c  blue   -          3  ejected 2.5 s          0        -         -       -
",
            Some(0)
        ),
        "{}",
        stderr(&output)
    );
    assert!(stderr(&output).contains("1 cores of the gateway did not answer"));
    let json = run(server.url(), &["services", "--json"]).await;
    let list: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(list["services"][1]["state"], "ejected");
    assert_eq!(stdout(&json).lines().count(), 1);

    // Again and again, until it is told to end.
    let watch = Running::start(server.url(), &["services", "--json", "--watch=1ms"]);
    until(async || !server.peers().is_empty()).await;
    watch.interrupt();
    let output = watch.end().await;
    assert_eq!((stderr(&output), output.status.code()), ("", Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn services_are_drained_by_name() {
    let open = Arc::new(AtomicU64::new(3));
    let (server, drained) = gateway(open.clone(), 0).await;
    let wait = run(server.url(), &["services", "drain", "orders/2.0", "--wait"]).await;
    assert_eq!(
        (stderr(&wait), wait.status.code()),
        (
            "fluxar: orders/2.0: 2 connections get no new calls\nfluxar: orders/2.0: nothing is open there\n",
            Some(0)
        )
    );
    assert_eq!(open.load(Ordering::Relaxed), 0);
    let off = run(server.url(), &["services", "drain", "orders/2.0", "--off"]).await;
    assert_eq!(off.status.code(), Some(0), "{}", stderr(&off));
    let wanted = |on: bool| cbor!({"peer" => "orders/2.0", "on" => on}).unwrap();
    assert_eq!(*drained.lock().unwrap(), [wanted(true), wanted(false)]);

    // By the upstream's name, which no row has.
    open.store(6, Ordering::Relaxed);
    let upstream = run(server.url(), &["services", "drain", "main", "--wait"]).await;
    assert!(
        stderr(&upstream).ends_with("main: nothing is open there\n"),
        "{}",
        stderr(&upstream)
    );
    // Two looks found it so: six calls less four, and one more look.
    assert_eq!(open.load(Ordering::Relaxed), 2);
    for (name, expected) in [
        ("away", "none of these is connected"),
        ("gone", "is gone, or offers nothing any more"),
    ] {
        let output = run(server.url(), &["services", "drain", name, "--wait"]).await;
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        assert_eq!(output.status.code(), Some(0));
    }
    // A core that did not answer is asked again, or the failure told.
    let slow = |on: bool| cbor!({"peer" => "slow", "on" => on}).unwrap();
    let wait = run(server.url(), &["services", "drain", "slow", "--wait"]).await;
    assert_eq!(wait.status.code(), Some(0), "{}", stderr(&wait));
    let off = run(server.url(), &["services", "drain", "slow", "--off"]).await;
    assert_eq!(off.status.code(), Some(1), "{}", stderr(&off));
    let told = drained.lock().unwrap().split_off(5);
    assert_eq!(told, [slow(true), slow(true), slow(false)]);

    open.store(u64::MAX, Ordering::Relaxed);
    let late = run(
        server.url(),
        &["--timeout", "200ms", "services", "drain", "0/2.1", "--wait"],
    )
    .await;
    assert_eq!(late.status.code(), Some(4), "{}", stderr(&late));
    assert!(stderr(&late).contains("still open"), "{}", stderr(&late));

    let nobody = run(server.url(), &["services", "drain", "nobody"]).await;
    assert_eq!(nobody.status.code(), Some(1));
    assert!(
        stderr(&nobody).contains("nobody is called nobody"),
        "{}",
        stderr(&nobody)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_no_gateway_is_told_apart() {
    let server = server().await;
    let output = run(server.url(), &["services"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("is it a gateway?"),
        "{}",
        stderr(&output)
    );
}
