//! `fluxar serve`: answers calls with their argument, with what was given, or with what a command says.

use std::{
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ciborium::Value;
use fluxar::{Code, Error, Request};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
};

use crate::{
    args::{Args, Serve},
    failure::Result,
    json,
    output::tell,
    publish::parse,
    subscribe::{interrupted, tell_state},
};

/// Most bytes of an answer that are taken from a command.
const STDOUT_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The end of a failed command's stderr that its caller is told.
const STDERR_TAIL_BYTES: usize = 1024;

/// How a call is answered.
enum Answer {
    Echo,
    Fixed(Value),
    Command(Vec<String>),
}

pub(crate) async fn run(args: &Args, command: &Serve) -> Result<()> {
    let answer = match &command.reply {
        _ if command.echo => Answer::Echo,
        Some(text) => Answer::Fixed(parse(text, false, "--reply")?),
        None => Answer::Command(command.command.clone()),
    };
    let client = args.client().reconnect(true).build().await?;
    let (answer, served) = (Arc::new(answer), Arc::new(AtomicU64::new(0)));
    let (is_verbose, counted) = (args.verbose, served.clone());
    let offer = client
        .serve(&command.method, move |request: Request| {
            let answer = answer.clone();
            counted.fetch_add(1, Ordering::Relaxed);
            async move {
                let answered = give(&answer, &request).await;
                if is_verbose {
                    let how = answered.as_ref().map_or_else(Error::to_string, json::compact);
                    tell(&format!("{}: {how}", request.method()));
                }
                answered
            }
        })
        .await?;
    tell(&format!(
        "serving {} at {} (Ctrl-C ends)",
        command.method,
        client.address()
    ));
    let mut states = client.watch_state();
    let interrupted = interrupted();
    tokio::pin!(interrupted);
    loop {
        tokio::select! {
            Ok(()) = states.changed() => {
                let state = *states.borrow_and_update();
                tell_state(&client, state);
            }
            why = offer.ended() => {
                let why = why.unwrap_or_else(|| Error::new(Code::Cancelled, "it gave no reason"));
                tell(&format!("the offer of {} has ended", command.method));
                return Err(why.into());
            }
            () = &mut interrupted => break,
        }
    }
    tell(&format!("{} calls", served.load(Ordering::Relaxed)));
    client.close().await;
    Ok(())
}

async fn give(answer: &Answer, request: &Request) -> fluxar::Result<Value> {
    match answer {
        Answer::Echo => argument(request),
        Answer::Fixed(value) => Ok(value.clone()),
        Answer::Command(words) => command(words, request.method(), &json::compact(&argument(request)?)).await,
    }
}

/// The argument with its tags and byte strings.
fn argument(request: &Request) -> fluxar::Result<Value> {
    ciborium::from_reader(&request.payload_bytes()[..]).map_err(|error| {
        Error::new(
            Code::InvalidArgument,
            format!("the argument cannot be read: {error}"),
        )
    })
}

/// Runs the command. When the caller gives up it is killed.
async fn command(words: &[String], method: &str, stdin: &str) -> fluxar::Result<Value> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Error::internal("no command was given"));
    };
    let failed = |what: &str, error: std::io::Error| Error::internal(format!("`{program}` {what}: {error}"));
    let mut child = Command::new(program)
        .args(arguments)
        .env("FLUXAR_METHOD", method)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed("cannot be started", error))?;
    let input = child.stdin.take();
    let write = async {
        if let Some(mut input) = input {
            // A command need not read what it does not want.
            drop(input.write_all(stdin.as_bytes()).await);
            drop(input.write_all(b"\n").await);
        }
    };
    let stdout = read_start(child.stdout.take());
    let stderr = read_tail(child.stderr.take());
    let ((), stdout, stderr, status) = tokio::join!(write, stdout, stderr, child.wait());
    let status = status.map_err(|error| failed("cannot be waited for", error))?;
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr).trim().to_owned();
        let separator = if said.is_empty() { "" } else { ": " };
        return Err(Error::new(
            Code::Internal,
            format!("`{program}` ended with {status}{separator}{said}"),
        ));
    }
    let text = String::from_utf8_lossy(&stdout);
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    json::parse(&text)
        .map_err(|error| Error::internal(format!("`{program}` did not answer with JSON: {error}")))
}

async fn read_start(source: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(source) = source {
        drop(source.take(STDOUT_BYTES_MAX).read_to_end(&mut bytes).await);
    }
    bytes
}

async fn read_tail(source: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut tail = Vec::new();
    let Some(mut source) = source else { return tail };
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = source.read(&mut chunk).await {
        tail.extend_from_slice(&chunk[..read]);
        let excess = tail.len().saturating_sub(STDERR_TAIL_BYTES);
        tail.drain(..excess);
    }
    tail
}
