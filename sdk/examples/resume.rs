//! What a program sees when its connection breaks: a pause. A stream counts to two hundred through a proxy that cuts the connection
//! three times; the session goes on each time, and no number is missing or comes twice.
//!
//! ```sh
//! fluxar-gateway                                        # in another terminal
//! cargo run --release -p fluxar --example resume
//! ```
//!
//! Ends with 1 if the stream was not whole, or the session not resumed.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use fluxar::{Client, ItemSink, Request, State};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const NUMBERS: u32 = 200;
/// Behind which numbers the connection is cut.
const CUTS: [u32; 3] = [40, 90, 150];

#[tokio::main]
async fn main() -> ExitCode {
    let url = std::env::var("FLUXAR_URL").unwrap_or_else(|_| "tcp://127.0.0.1:9000".into());
    match run(&url).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("resume: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(url: &str) -> Result<bool, Box<dyn std::error::Error>> {
    // Who counts is connected directly.
    let server = Client::connect(url).build().await?;
    let _offer = server
        .serve_stream("resume.count", |_: Request, out: ItemSink<u32>| async move {
            for number in 1..=NUMBERS {
                out.send(&number).await?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(())
        })
        .await?;

    let gateway = url
        .strip_prefix("tcp://")
        .ok_or("FLUXAR_URL is to be a tcp:// address")?;
    let (cut, cuts) = watch::channel(());
    let proxy = proxy(gateway.to_owned(), cuts).await?;
    let client = Client::connect(format!("tcp://{proxy}")).build().await?;
    let mut states = client.watch_state();
    tokio::spawn(async move {
        let mut lost = Instant::now();
        while states.changed().await.is_ok() {
            match *states.borrow_and_update() {
                State::Resuming { attempt: 1 } => lost = Instant::now(),
                State::Connected => println!("resumed after {:.1} ms", lost.elapsed().as_secs_f64() * 1e3),
                State::Resuming { .. } | State::Closed => {}
                state => println!("{state:?}"),
            }
        }
    });

    let mut numbers = client.stream::<u32>("resume.count", &()).await?;
    let mut expected = 1..=NUMBERS;
    while let Some(number) = numbers.next().await {
        let number = number?;
        if Some(number) != expected.next() {
            println!("{number} came out of turn");
            return Ok(false);
        }
        if CUTS.contains(&number) {
            println!("{number}: the connection is cut");
            cut.send(())?;
        }
    }
    let is_whole = expected.is_empty() && client.resumes() == CUTS.len() as u64;
    println!(
        "{} of {NUMBERS} numbers, each once; {} resumes",
        NUMBERS - expected.count() as u32,
        client.resumes()
    );
    client.close().await;
    server.close().await;
    Ok(is_whole)
}

/// Hands bytes on between those who connect here and the gateway, and drops all connections whenever it is told to.
async fn proxy(gateway: String, cuts: watch::Receiver<()>) -> std::io::Result<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let (gateway, mut cuts) = (gateway.clone(), cuts.clone());
            cuts.mark_unchanged();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(gateway).await?;
                tokio::select! {
                    _ = cuts.changed() => Ok((0, 0)),
                    copied = tokio::io::copy_bidirectional(&mut near, &mut far) => copied,
                }
            });
        }
    });
    Ok(address)
}
