//! The session does not go on: what was open fails, and a new one begins.

use fluxar::{Code, Origin};
use fluxar_protocol::ErrorBody;

use super::*;

/// A call, whether it may be made twice, and a stream; all unanswered.
struct Open {
    plain: tokio::task::JoinHandle<fluxar::Result<u8>>,
    idempotent: tokio::task::JoinHandle<fluxar::Result<u8>>,
    items: fluxar::ItemStream<u8>,
}

impl Open {
    async fn begin(gateway: &mut Gateway, client: &Client) -> Self {
        let call = |is_idempotent| {
            let client = client.clone();
            tokio::spawn(async move { client.request("a").idempotent(is_idempotent).send().await })
        };
        let plain = call(false);
        gateway.next_of(Kind::Call).await;
        let idempotent = call(true);
        gateway.next_of(Kind::Call).await;
        let items = client.stream("s", &()).await.unwrap();
        gateway.next_of(Kind::Stream).await;
        Self {
            plain,
            idempotent,
            items,
        }
    }

    /// They fail, but for the call that is made again.
    async fn fail(mut self) -> tokio::task::JoinHandle<fluxar::Result<u8>> {
        let error = in_time(self.plain).await.unwrap().unwrap_err();
        assert_eq!(
            (error.code(), error.origin()),
            (Code::Unavailable, Origin::Connection)
        );
        let error = in_time(self.items.next()).await.unwrap().unwrap_err();
        assert_eq!(
            (error.code(), error.origin()),
            (Code::Unavailable, Origin::Connection)
        );
        self.idempotent
    }
}

#[tokio::test]
async fn a_session_that_is_not_known_any_more_is_followed_by_a_new_one() {
    let (mut gateway, client) = Gateway::with_client().await;
    let subscribing = {
        let client = client.clone();
        tokio::spawn(async move { client.subscription("a.*").open().await })
    };
    let subscribe = gateway.next_of(Kind::Subscribe).await;
    gateway.answer(&subscribe, &[0xf6]).await;
    let _events = subscribing.await.unwrap().unwrap();
    let open = Open::begin(&mut gateway, &client).await;
    gateway.lose();
    let asked = gateway.welcome(b"other 1", None).await;
    assert_eq!(asked, Asked::resuming(b"token 1", 1));
    assert_eq!(gateway.next_of(Kind::Subscribe).await.id, subscribe.id);
    let idempotent = open.fail().await;
    let again = gateway.next_of(Kind::Call).await;
    gateway.answer(&again, &[5]).await;
    assert_eq!(in_time(idempotent).await.unwrap().unwrap(), 5);
    assert_eq!(client.resumes(), 0);
    gateway.silence().await;

    // The new one has its own token and count.
    gateway.lose();
    let asked = gateway.welcome(b"other 2", Some(2)).await;
    assert_eq!(asked, Asked::resuming(b"other 1", 1));
    gateway.pong().await;
    assert_eq!(client.resumes(), 1);
}

#[tokio::test]
async fn when_the_time_is_over_what_is_open_fails_without_a_connection() {
    let (mut gateway, client) = Gateway::bind().await;
    let client = client.reconnect_max(Duration::from_secs(3600));
    let (client, _) = tokio::join!(client.build(), gateway.welcome_with(b"token 1", None, Some(100)));
    let client = client.unwrap();
    let open = Open::begin(&mut gateway, &client).await;
    gateway.lose();
    // From here on no hello is answered.
    let refusing = tokio::spawn(async move {
        loop {
            drop(gateway.accept().await);
        }
    });
    let idempotent = open.fail().await;
    assert!(
        matches!(client.state(), State::Reconnecting { .. }),
        "{:?}",
        client.state()
    );
    let error = client.call::<_, ()>("a", &()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    refusing.abort();
    client.close().await;
    let error = in_time(idempotent).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
}

#[tokio::test]
async fn after_a_goodbye_nothing_is_resumed_and_the_pause_asked_for_is_kept() {
    let (mut gateway, client) = Gateway::with_client().await;
    gateway.stops(300).await;
    let begin = tokio::time::Instant::now();
    assert_eq!(gateway.welcome(b"other", None).await, Asked::anew());
    assert!(begin.elapsed() >= Duration::from_millis(300));
    comes_to(&client, |state| *state == State::Connected).await;
    assert_eq!(client.resumes(), 0);
}

#[tokio::test]
async fn a_goodbye_that_was_not_read_when_writing_failed_is_heard() {
    let (mut gateway, client) = Gateway::bind().await;
    // One that is not resumed says so when it is broken.
    let client = client.resume(false).stall(Duration::from_secs(3_600));
    let (client, _) = tokio::join!(client.build(), gateway.welcome(b"token 1", None));
    let client = client.unwrap();
    let subscribing = {
        let client = client.clone();
        tokio::spawn(async move { client.subscription("a").queue(1).open().await })
    };
    let subscribe = gateway.next_of(Kind::Subscribe).await;
    gateway.answer(&subscribe, &[0xf6]).await;
    let mut events = subscribing.await.unwrap().unwrap();
    // Behind the first it does not read on.
    for _ in 0..3 {
        let event = Envelope {
            target: Some("a"),
            ..envelope(Kind::Event, None, &[1])
        };
        gateway.raw().send(&event).await;
    }
    gateway.stops(300).await;
    gateway.raw().0.set_zero_linger().unwrap();
    gateway.lose();
    raw::until(|| {
        let published = client.try_publish("b", &());
        published.is_err_and(|error| !error.is_full())
    })
    .await;
    let begin = tokio::time::Instant::now();
    for _ in 0..3 {
        in_time(events.next()).await.unwrap();
    }
    gateway.welcome(b"other", None).await;
    assert!(
        begin.elapsed() >= Duration::from_millis(300),
        "it was told when to come"
    );
}

#[tokio::test]
async fn a_refusal_for_the_moment_leaves_the_session_as_it_was() {
    let (mut gateway, client) = Gateway::with_client().await;
    gateway.lose();
    let mut raw = gateway.accept().await;
    let hello = raw.hello().await;
    let mut error = Vec::new();
    ErrorBody {
        code: Code::Unavailable,
        message: "too many at once",
        details: None,
        retry_after_ms: Some(50),
    }
    .encode(&mut error);
    let refusal = Envelope {
        error: Some(&error),
        ..envelope(Kind::Hello, Some(hello.id), &[])
    };
    raw.send(&refusal).await;
    let asked = gateway.welcome(b"token 2", Some(0)).await;
    assert_eq!(asked, Asked::resuming(b"token 1", 0));
    gateway.pong().await;
    assert_eq!(client.resumes(), 1);
}

#[tokio::test]
async fn a_session_that_needs_what_was_forgotten_is_not_gone_on_with() {
    let (gateway, client) = Gateway::bind().await;
    let (mut gateway, client) = gateway.greet(client.outbox_bytes(1)).await;
    // 1 MiB and 4 MiB are kept beyond what waits.
    let payload = vec![0_u8; 20_000];
    let count = (5 * 1024 * 1024 / payload.len() + 100) as u64;
    let mut calling = Vec::new();
    for _ in 0..count {
        let (client, payload) = (client.clone(), payload.clone());
        calling.push(tokio::spawn(
            async move { client.call::<_, u8>("a", &payload).await },
        ));
        gateway.next_of(Kind::Call).await;
    }
    gateway.lose();
    gateway.welcome(b"token 2", Some(0)).await;
    let goodbye = gateway.next_of(Kind::Cancel).await;
    assert_eq!(goodbye.reference, None);
    assert_eq!(goodbye.error.unwrap().0, Code::FailedPrecondition);
    for call in calling {
        let error = in_time(call).await.unwrap().unwrap_err();
        assert_eq!(error.code(), Code::Unavailable);
    }
    assert_eq!(gateway.welcome(b"other", None).await, Asked::anew());
}

#[tokio::test]
async fn a_count_of_what_was_never_sent_is_a_breach() {
    let (mut gateway, client) = Gateway::with_client().await;
    let recv = MetaWriter::new().uint("recv", 1);
    gateway.send(Kind::Ping, Id([3; 16]), recv, &[]).await;
    let goodbye = gateway.next_of(Kind::Cancel).await;
    assert_eq!(goodbye.reference, None);
    assert_eq!(goodbye.error.unwrap().0, Code::FailedPrecondition);
    gateway.lose();
    assert_eq!(gateway.welcome(b"other", None).await, Asked::anew());
    comes_to(&client, |state| *state == State::Connected).await;
}

#[tokio::test]
async fn who_wants_no_resume_gets_none() {
    let (mut gateway, client) = Gateway::bind().await;
    let client = client.resume(false);
    // A gateway that gives a token unasked is not asked to resume either.
    let (client, asked) = tokio::join!(client.build(), gateway.welcome(b"token 1", None));
    let client = client.unwrap();
    let never = Asked {
        offers: false,
        resume: None,
    };
    assert_eq!(asked, never);
    assert_eq!(gateway.silence().await, None, "nothing is counted");
    let open = Open::begin(&mut gateway, &client).await;
    gateway.lose();
    let (_, asked) = tokio::join!(open.fail(), gateway.welcome(b"token 1", None));
    assert_eq!(asked, never);
}

#[tokio::test]
async fn closing_while_it_is_away_ends_what_is_open() {
    let (mut gateway, client) = Gateway::with_client().await;
    let open = Open::begin(&mut gateway, &client).await;
    gateway.lose();
    comes_to(&client, |state| matches!(state, State::Resuming { .. })).await;
    in_time(client.close()).await;
    let idempotent = open.fail().await;
    let error = in_time(idempotent).await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(client.state(), State::Closed);
}
