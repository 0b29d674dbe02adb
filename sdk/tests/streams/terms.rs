//! The terms of offers and calls, as a bare peer in the gateway's place sees them.

use std::time::Duration;

use fluxar::{Client, Code, ItemSink, Origin, Server};
use fluxar_protocol::{Envelope, Id, Kind, meta::Meta};

use crate::{
    END, PingThrough, all, client_of_bare, hear, open,
    raw::{PATIENCE, envelope, until},
    start,
};

#[tokio::test]
async fn an_offer_says_its_terms_and_is_left_in_good_order() {
    let (client, mut raw) = client_of_bare(0).await;
    let mut heard = Vec::new();
    let (gate, opened) = tokio::sync::watch::channel(false);
    let offering = client
        .serve("jobs.*", move |_| {
            let mut opened = opened.clone();
            async move {
                opened.wait_for(|opened| *opened).await.unwrap();
                Ok("done")
            }
        })
        .weight(3)
        .max_in_flight(10)
        .zone("north")
        .fleet("workers");
    let offering = tokio::spawn(async { offering.await });
    let asked = hear(&mut raw, &mut heard).await;
    let meta = asked.meta();
    assert_eq!(
        (asked.kind, asked.target.as_deref()),
        (Kind::Subscribe, Some("jobs.*"))
    );
    assert_eq!(meta.flag("serve"), Ok(true));
    assert_eq!(
        (meta.uint("weight"), meta.uint("in_flight")),
        (Ok(Some(3)), Ok(Some(10)))
    );
    assert_eq!(
        (meta.text("zone"), meta.text("group")),
        (Ok(Some("north")), Ok(Some("workers")))
    );
    raw.send(&envelope(
        Kind::Subscribe,
        Some(asked.id),
        b"\xa2\x65epoch\x00\x62at\x80",
    ))
    .await;
    let offer = offering.await.unwrap().unwrap();

    let call = |id| Envelope {
        kind: Kind::Call,
        ..open(id, "jobs.a", &[])
    };
    raw.send(&call(1)).await;
    client.ping_through(&mut raw, &mut heard).await;
    let leaving = tokio::spawn(offer.leave());
    let cancel = hear(&mut raw, &mut heard).await;
    assert_eq!((cancel.kind, cancel.reference), (Kind::Cancel, Some(asked.id)));
    raw.send(&call(2)).await; // it was under way
    let mut confirmation = envelope(Kind::Subscribe, Some(asked.id), &[]);
    confirmation.meta = Some(Meta::from_checked(END));
    raw.send(&confirmation).await;
    client.ping_through(&mut raw, &mut heard).await;
    assert!(!leaving.is_finished(), "calls are running");
    gate.send_replace(true);
    tokio::time::timeout(PATIENCE, leaving)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let mut answered = Vec::new();
    for _ in 0..2 {
        let answer = hear(&mut raw, &mut heard).await;
        assert_eq!((answer.kind, answer.error), (Kind::Call, None));
        answered.push(answer.reference.unwrap());
    }
    answered.sort();
    assert_eq!(answered, [Id([1; 16]), Id([2; 16])]);
}

#[tokio::test]
async fn leaving_gives_up_on_a_peer_that_does_not_confirm_or_is_gone() {
    for is_lost in [false, true] {
        let (client, mut raw) = client_of_bare(0).await;
        let mut heard = Vec::new();
        let offering = client.serve_stream("jobs", |_, _: ItemSink<()>| async { Ok(()) });
        let offering = tokio::spawn(async { offering.await });
        let asked = hear(&mut raw, &mut heard).await;
        assert_eq!(
            asked.meta().uint("in_flight"),
            Ok(Some(1024)),
            "as many as handlers run"
        );
        raw.send(&envelope(Kind::Subscribe, Some(asked.id), &[])).await;
        let leaving = tokio::spawn(offering.await.unwrap().unwrap().leave());
        assert_eq!(hear(&mut raw, &mut heard).await.kind, Kind::Cancel);
        let error = if is_lost {
            drop(raw);
            leaving.await.unwrap().unwrap_err()
        } else {
            tokio::time::pause();
            let error = leaving.await.unwrap().unwrap_err();
            tokio::time::resume();
            error
        };
        let code = if is_lost {
            Code::Unavailable
        } else {
            Code::DeadlineExceeded
        };
        assert_eq!(error.code(), code, "{error}");
    }
}

#[tokio::test]
async fn a_server_lets_offers_go() {
    let server = start(Server::bind("127.0.0.1:0")).await;
    let client = Client::connect(server.url()).build().await.unwrap();
    let offer = client
        .serve_stream(
            "letters",
            |_, out: ItemSink<str>| async move { out.send("a").await },
        )
        .await
        .unwrap();
    until(|| server.peers().len() == 1).await;
    let mut items = server.peers()[0].stream::<String>("letters", &()).await.unwrap();
    assert_eq!(all(&mut items).await.0, ["a"]);
    offer.leave().await.unwrap();
    for wrong in [
        client.serve("a", |_| async { Ok(()) }).weight(0),
        client.serve("a", |_| async { Ok(()) }).zone(""),
        client.serve("a", |_| async { Ok(()) }).fleet("f".repeat(256)),
    ] {
        let error = wrong.await.unwrap_err();
        assert_eq!(
            (error.code(), error.origin()),
            (Code::InvalidArgument, Origin::Input)
        );
    }
}

#[tokio::test]
async fn a_call_says_that_it_may_be_repeated() {
    let (client, mut raw) = client_of_bare(0).await;
    let mut heard = Vec::new();
    let call = async {
        client
            .request("a")
            .idempotent(true)
            .hedge_after(Duration::from_millis(50))
            .key([0xff, 0])
            .send::<u8>()
            .await
    };
    let answer = async {
        let call = hear(&mut raw, &mut heard).await;
        let meta = call.meta();
        assert_eq!(
            (meta.flag("idempotent"), meta.uint("hedge_ms")),
            (Ok(true), Ok(Some(50)))
        );
        assert_eq!(meta.get("key"), Some(&[0x42, 0xff, 0][..]));
        raw.send(&envelope(Kind::Call, Some(call.id), &[7])).await;
    };
    assert_eq!(tokio::join!(call, answer).0.unwrap(), 7);
    let error = client
        .request("a")
        .hedge_after(Duration::from_millis(50))
        .send::<u8>()
        .await
        .unwrap_err();
    assert_eq!(
        (error.code(), error.origin()),
        (Code::InvalidArgument, Origin::Input),
        "{error}"
    );
}
