//! Items of every type, in every direction, over every transport.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use fluxar::{Client, Code, ItemSink, Origin, Request, Server, Transport};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::Barrier;

use crate::{all, next, raw::until, start, tcp};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Token {
    at: u32,
    text: String,
    score: Option<f64>,
}

fn token(at: u32) -> Token {
    Token {
        at,
        text: "ſtream ✓".repeat(at as usize % 7),
        score: at.is_multiple_of(2).then_some(0.5),
    }
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
async fn typed_items_travel_in_every_direction_over_every_transport() {
    const ITEMS: u32 = 3000;
    for (server, client, _folder) in everywhere().await {
        server
            .handle_stream("complete", |req: Request, out: ItemSink<Token>| async move {
                for at in 0..req.payload()? {
                    out.send(&token(at)).await?;
                }
                Ok(())
            })
            .unwrap();
        let mut tokens = client.stream::<Token>("complete", &ITEMS).await.unwrap();
        let (tokens, error) = all(&mut tokens).await;
        assert_eq!(error.map(|error| error.to_string()), None);
        assert_eq!(tokens, (0..ITEMS).map(token).collect::<Vec<_>>());

        server
            .handle_stream("count", |req: Request, out: ItemSink<usize>| async move {
                let (tokens, error) = all(&mut req.items::<Token>()).await;
                assert!(error.is_none());
                out.send(&tokens.len()).await
            })
            .unwrap();
        let (sink, mut counted) = client.duplex::<Token, usize>("count", &()).await.unwrap();
        for at in 0..ITEMS {
            sink.send(&token(at)).await.unwrap();
        }
        sink.finish().await.unwrap();
        assert_eq!(all(&mut counted).await.0, [ITEMS as usize]);

        // And the other way round: the server opens, the client serves.
        client
            .handle_stream("echo", |req: Request, out: ItemSink<Token>| async move {
                let mut tokens = req.items();
                while let Some(token) = tokens.next().await {
                    out.send(&token?).await?;
                }
                Ok(())
            })
            .unwrap();
        until(|| server.peers().len() == 1).await;
        let peer = server.peers().remove(0);
        let (sink, mut echoed) = peer.duplex::<Token, Token>("echo", &()).await.unwrap();
        let sending = async {
            for at in 0..ITEMS {
                sink.send(&token(at)).await.unwrap();
            }
            sink.finish().await.unwrap();
        };
        let ((), (echoed, error)) = tokio::join!(sending, all(&mut echoed));
        assert_eq!(error.map(|error| error.to_string()), None);
        assert_eq!(echoed, (0..ITEMS).map(token).collect::<Vec<_>>());
        client.close().await;
        server.close().await;
    }
}

#[tokio::test]
async fn a_thousand_streams_are_interleaved() {
    const STREAMS: usize = 1000;
    const ROUNDS: usize = 10;
    let (server, client) = tcp().await;
    // No stream sends its next item before all have sent this one.
    let round = Arc::new(Barrier::new(STREAMS));
    server
        .handle_stream("turns", move |req: Request, out: ItemSink<(usize, usize)>| {
            let round = round.clone();
            async move {
                let number: usize = req.payload()?;
                let mut answers = req.items::<(usize, usize)>();
                for turn in 0..ROUNDS {
                    round.wait().await;
                    out.send(&(number, turn)).await?;
                    assert_eq!(answers.next().await.unwrap()?, (number, turn));
                }
                assert!(answers.next().await.is_none());
                Ok(())
            }
        })
        .unwrap();
    let streams = (0..STREAMS).map(|number| {
        let peer = client.peer().clone();
        tokio::spawn(async move {
            let (sink, mut turns) = peer.duplex("turns", &number).await.unwrap();
            for turn in 0..ROUNDS {
                let said: (usize, usize) = next(&mut turns).await.unwrap().unwrap();
                assert_eq!(said, (number, turn));
                sink.send(&said).await.unwrap();
            }
            sink.finish().await.unwrap();
            assert!(next(&mut turns).await.is_none());
        })
    });
    for stream in streams.collect::<Vec<_>>() {
        stream.await.unwrap();
    }
}

#[tokio::test]
async fn an_item_that_is_something_else_costs_itself_only() {
    let (server, client) = tcp().await;
    server
        .handle_stream("mixed", |_, out: ItemSink<serde_bytes::Any>| async move {
            for item in [
                serde_bytes::Any::Number(1),
                serde_bytes::Any::Text("two"),
                serde_bytes::Any::Number(3),
            ] {
                out.send(&item).await?;
            }
            Ok(())
        })
        .unwrap();
    let mut numbers = client.stream::<u8>("mixed", &()).await.unwrap();
    assert_eq!(next(&mut numbers).await.unwrap().unwrap(), 1);
    let error = next(&mut numbers).await.unwrap().unwrap_err();
    assert_eq!(
        (error.code(), error.origin()),
        (Code::InvalidArgument, Origin::Payload),
        "{error}"
    );
    assert_eq!(next(&mut numbers).await.unwrap().unwrap(), 3);
    assert!(next(&mut numbers).await.is_none());

    let mut bytes = client.stream::<()>("mixed", &()).await.unwrap();
    assert_eq!(bytes.next_bytes().await.unwrap().unwrap()[..], [1]);
    assert_eq!(bytes.next_bytes().await.unwrap().unwrap()[..], *b"\x63two");
}

/// Values of more than one type.
mod serde_bytes {
    #[derive(serde::Serialize)]
    #[serde(untagged)]
    pub(super) enum Any {
        Number(u8),
        Text(&'static str),
    }
}

#[tokio::test]
async fn null_is_an_item() {
    let (server, client) = tcp().await;
    server
        .handle_stream("maybe", |_, out: ItemSink<Option<u8>>| async move {
            for item in [None, Some(1), None] {
                out.send(&item).await?;
            }
            Ok(())
        })
        .unwrap();
    let maybe = client.stream::<Option<u8>>("maybe", &()).await.unwrap();
    let items: Vec<_> = maybe.map(Result::unwrap).collect().await; // as a `futures` stream
    assert_eq!(items, [None, Some(1), None]);
}

#[tokio::test]
async fn a_stream_keeps_its_connection() {
    let (server, client) = tcp().await;
    let (gate, opened) = tokio::sync::watch::channel(false);
    server
        .handle_stream("late", move |_, out: ItemSink<u8>| {
            let mut opened = opened.clone();
            async move {
                opened.wait_for(|opened| *opened).await.unwrap();
                out.send(&7).await
            }
        })
        .unwrap();
    let mut late = client.stream::<u8>("late", &()).await.unwrap();
    drop(client);
    gate.send_replace(true);
    assert_eq!(all(&mut late).await.0, [7]);
    drop(late);
    until(|| server.peers().is_empty()).await;
}

#[tokio::test]
async fn methods_are_streams_or_calls_or_both() {
    let (server, client) = tcp().await;
    server.handle("both", |_| async { Ok("called") }).unwrap();
    server
        .handle_stream("both", |_, out: ItemSink<str>| async move {
            out.send("streamed").await
        })
        .unwrap();
    server.handle("call", |_| async { Ok(()) }).unwrap();
    server
        .handle_stream("streams.*", |req: Request, out: ItemSink<String>| async move {
            out.send(&req.method().to_owned()).await
        })
        .unwrap();
    assert_eq!(client.call::<_, String>("both", &()).await.unwrap(), "called");
    for (method, item) in [("both", "streamed"), ("streams.a", "streams.a")] {
        let mut items = client.stream::<String>(method, &()).await.unwrap();
        assert_eq!(all(&mut items).await.0, [item]);
    }
    for (method, code) in [("call", Code::Unimplemented), ("nobody", Code::Unavailable)] {
        let mut items = client.stream::<()>(method, &()).await.unwrap();
        let (none, error) = all(&mut items).await;
        let error = error.unwrap();
        assert_eq!((none.len(), error.code()), (0, code), "{error}");
        assert_eq!(
            (error.origin(), error.address()),
            (Origin::Answer, Some(server.url()))
        );
    }
    let error = client.call::<_, ()>("streams.a", &()).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented, "{error}");
    let error = client.stream::<()>("a..b", &()).await.unwrap_err();
    assert_eq!(
        (error.code(), error.origin()),
        (Code::InvalidArgument, Origin::Input)
    );
    let refused = server.handle_stream("a..b", |_, _: ItemSink<()>| async { Ok(()) });
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn items_are_taken_once_and_a_call_has_none() {
    let (server, client) = tcp().await;
    server
        .handle_stream(
            "twice",
            |req: Request, out: ItemSink<(usize, String)>| async move {
                let mut first = req.items::<u8>();
                let error = req.items::<u8>().next().await.unwrap().unwrap_err();
                let (items, _) = all(&mut first).await;
                out.send(&(items.len(), error.code().name().to_owned())).await
            },
        )
        .unwrap();
    let (sink, mut said) = client.duplex::<u8, (usize, String)>("twice", &()).await.unwrap();
    sink.send(&1).await.unwrap();
    sink.finish().await.unwrap();
    assert_eq!(all(&mut said).await.0, [(1, "failed_precondition".to_owned())]);
    // A stream that carries a request only has none either.
    let mut said = client.stream::<(usize, String)>("twice", &()).await.unwrap();
    assert_eq!(all(&mut said).await.0, [(0, "failed_precondition".to_owned())]);
    server
        .handle("call", |req: Request| async move {
            Ok(all(&mut req.items::<u8>()).await.0)
        })
        .unwrap();
    assert!(client.call::<_, Vec<u8>>("call", &()).await.unwrap().is_empty());
}

#[tokio::test]
async fn streams_beyond_the_bounds_are_refused_and_those_below_them_are_not() {
    let server = start(Server::bind("127.0.0.1:0").handlers_max(2)).await;
    let running = Arc::new(AtomicUsize::new(0));
    let count = running.clone();
    server
        .handle_stream("forever", move |_, _: ItemSink<()>| {
            count.fetch_add(1, Ordering::SeqCst);
            std::future::pending()
        })
        .unwrap();
    server
        .handle_stream("quick", |_, out: ItemSink<u8>| async move { out.send(&1).await })
        .unwrap();
    server.handle("call", |_| async { Ok(()) }).unwrap();
    let client = Client::connect(server.url())
        .open_streams_max(3)
        .build()
        .await
        .unwrap();
    let quick = async || {
        let mut quick = client.stream::<u8>("quick", &()).await.unwrap();
        let (items, error) = all(&mut quick).await;
        error.map_or(Ok(items), Err)
    };
    let first = client.stream::<()>("forever", &()).await.unwrap();
    for _ in 0..100 {
        assert_eq!(quick().await.unwrap(), [1], "its place is free once it has ended");
    }
    let second = client.stream::<()>("forever", &()).await.unwrap();
    until(|| running.load(Ordering::SeqCst) == 2).await;
    assert_eq!(quick().await.unwrap_err().code(), Code::ResourceExhausted);
    let error = client.call::<_, ()>("call", &()).await.unwrap_err();
    assert_eq!(
        error.code(),
        Code::ResourceExhausted,
        "calls and streams share the bound: {error}"
    );

    let third = client.stream::<u8>("quick", &()).await.unwrap();
    let error = client.stream::<u8>("quick", &()).await.unwrap_err();
    assert!(
        error.is_full() && error.code() == Code::ResourceExhausted,
        "{error}"
    );
    drop(third);
    first.cancel().await.unwrap();
    second.cancel().await.unwrap();
    assert_eq!(quick().await.unwrap(), [1], "there is room again");
}
