//! Many streams whose both sides do what comes to their minds at any moment: each ends, tells no lies, and leaves
//! nothing behind.

use std::time::Duration;

use fluxar::{Client, Code, Error, ItemSink, ItemStream, Request, Server};
use serde::{Deserialize, Serialize};

use crate::{all, raw::PATIENCE, start};

const STREAMS: u64 = 3000;
const AT_ONCE: u64 = 40;
/// The item that comes before an end that is well.
const LAST: u32 = u32::MAX;

/// What one side does with a stream.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Plan {
    /// How many items it sends, and how many it reads before it does what it does.
    sends: u32,
    reads: u32,
    then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Then {
    /// Ends its direction well and reads to the end.
    Finish,
    /// Ends both directions by an error.
    Fail,
    /// Lets go of everything.
    Drop,
    /// Lets go of what it reads, then of the rest.
    Deafen,
    Cancel,
}

/// Numbers that look drawn, the same in each run.
struct Draw(u64);

impl Draw {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }

    fn plan(&mut self) -> Plan {
        let then = [Then::Finish, Then::Fail, Then::Drop, Then::Deafen, Then::Cancel];
        Plan {
            sends: self.next(40) as u32,
            reads: self.next(40) as u32,
            then: then[self.next(5) as usize],
        }
    }
}

/// Sends and reads numbered items until one of both has come as far as planned. Whether the other side's last item was
/// read.
async fn exchange(plan: Plan, sink: &ItemSink<u32>, items: &mut ItemStream<u32>) -> fluxar::Result<bool> {
    // Not what `reading` returns: the last item may be read and its end not be there yet when the sending is done.
    let mut is_over = false;
    let sending = async {
        for number in 0..plan.sends {
            sink.send(&number).await?;
        }
        Ok::<(), Error>(())
    };
    let reading = async {
        for number in 0..plan.reads {
            match items.next().await {
                Some(Ok(LAST)) => {
                    is_over = true;
                    assert!(items.next().await.is_none());
                    return Ok(());
                }
                Some(item) => assert_eq!(item?, number, "in order"),
                None => panic!("an end that looks well comes behind the last item"),
            }
        }
        Ok::<(), Error>(())
    };
    tokio::select! { sent = sending => sent, read = reading => read }?;
    Ok(is_over)
}

/// Reads what is left, which begins and ends as it must.
async fn read_on(items: &mut ItemStream<u32>, is_over: bool) {
    let (rest, error) = all(items).await;
    assert!(
        rest.windows(2)
            .all(|pair| pair[0] + 1 == pair[1] || pair[1] == LAST),
        "{rest:?}"
    );
    match error {
        None => assert!(is_over || rest.last() == Some(&LAST), "{rest:?} looks complete"),
        Some(error) => assert!(matches!(error.code(), Code::Aborted | Code::Cancelled), "{error}"),
    }
}

/// The handler's side.
async fn handle(req: Request, out: ItemSink<u32>) -> fluxar::Result<()> {
    let plan: Plan = req.payload()?;
    let mut items = req.items::<u32>();
    let is_over = exchange(plan, &out, &mut items).await?;
    match plan.then {
        Then::Fail => return Err(Error::new(Code::Aborted, "as planned")),
        Then::Deafen => drop(items),
        Then::Finish => {
            let ending = async {
                out.send(&LAST).await?;
                out.finish().await
            };
            return tokio::join!(ending, read_on(&mut items, is_over)).0;
        }
        Then::Drop | Then::Cancel => {}
    }
    out.send(&LAST).await
}

/// The opener's side.
async fn open(client: &Client, own: Plan, there: Plan) {
    let (sink, mut items) = client.duplex::<u32, u32>("random", &there).await.unwrap();
    let Ok(is_over) = exchange(own, &sink, &mut items).await else {
        return;
    };
    match own.then {
        Then::Finish => {
            // Refused if the handler has ended by now; then nothing more of this side is missed.
            let ending = async {
                sink.send(&LAST).await?;
                sink.finish().await
            };
            drop(tokio::join!(ending, read_on(&mut items, is_over)));
        }
        Then::Fail => sink.fail(Error::new(Code::Aborted, "as planned")),
        Then::Deafen => {
            drop(items);
            tokio::task::yield_now().await;
            drop(sink);
        }
        Then::Cancel => items
            .cancel()
            .await
            .expect("the other side ends what was cancelled"),
        Then::Drop => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_both_sides_do_every_stream_ends_and_leaves_nothing_behind() {
    let (window_bytes, max) = (20, AT_ONCE as usize);
    let server = start(
        Server::bind("127.0.0.1:0")
            .credit_bytes(window_bytes)
            .handlers_max(max),
    )
    .await;
    server.handle_stream("random", handle).unwrap();
    let client = Client::connect(server.url())
        .credit_bytes(window_bytes)
        .open_streams_max(max)
        .build()
        .await
        .unwrap();
    // Half as many at once as may be, since a handler that is dropped keeps its place for a moment longer.
    let runs = (0..AT_ONCE / 2).map(|run| {
        let client = client.clone();
        tokio::spawn(async move {
            let mut draw = Draw(run);
            for _ in 0..STREAMS / (AT_ONCE / 2) {
                let (own, there) = (draw.plan(), draw.plan());
                let stream = open(&client, own, there);
                tokio::time::timeout(PATIENCE, stream)
                    .await
                    .unwrap_or_else(|_| panic!("{own:?} with {there:?} does not end"));
            }
        })
    });
    for run in runs.collect::<Vec<_>>() {
        run.await.unwrap();
    }

    // Every place is free again, on both sides.
    server
        .handle_stream("forever", |_, out: ItemSink<u8>| async move {
            out.send(&1).await?;
            std::future::pending().await
        })
        .unwrap();
    let full = async {
        loop {
            let mut open = Vec::new();
            while let Ok(mut stream) = client.stream::<u8>("forever", &()).await
                && let Some(Ok(1)) = stream.next().await
            {
                open.push(stream);
            }
            if open.len() == max {
                return;
            }
            drop(open);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, full)
        .await
        .expect("nothing is left of the streams");
    client.ping().await.unwrap();
}
