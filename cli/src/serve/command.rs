//! A command that answers: JSON on its stdin, JSON from its stdout.

use std::{
    collections::HashSet,
    process::{ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ciborium::Value;
use fluxar::{Code, Error, ItemSink, ItemStream};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
};

use super::read;
use crate::json;

/// Most bytes of an answer, or of a line, that are taken from a command.
const STDOUT_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The end of a failed command's stderr that its caller is told.
const STDERR_TAIL_BYTES: usize = 1024;

/// The process groups of the commands that run.
static RUNNING: Mutex<Option<HashSet<Pid>>> = Mutex::new(None);

/// A command that runs, in a process group of its own: what a terminal sends to this program's group does not reach it,
/// and dropped before it was waited for, it is killed with everything that it has started.
struct Running {
    child: Child,
    group: Option<Pid>,
}

impl Running {
    fn new(child: Child) -> Self {
        let group = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        if let Some(group) = group {
            running().get_or_insert_default().insert(group);
        }
        Self { child, group }
    }

    /// Only when all that it wrote was read: as long as it was not waited for, nobody else can get its number.
    async fn wait(mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(group) = self.group else { return };
        if let Some(groups) = &mut *running() {
            groups.remove(&group);
        }
        if self.child.id().is_some() {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

fn running() -> MutexGuard<'static, Option<HashSet<Pid>>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills what still runs. At the end of the program nobody waits for handlers to be dropped.
pub(super) fn kill_all() {
    for group in running().iter().flatten() {
        let _ = kill_process_group(*group, Signal::KILL);
    }
}

/// Runs it once, for a call. When the caller gives up it is killed, with what it has started.
pub(super) async fn answer(words: &[String], method: &str, stdin: &str) -> fluxar::Result<Value> {
    let (program, mut running) = start(words, method)?;
    let input = running.child.stdin.take();
    let write = async {
        if let Some(mut input) = input {
            // A command need not read what it does not want.
            drop(write_line(&mut input, stdin).await);
        }
    };
    let stdout = read_start(running.child.stdout.take());
    let stderr = read_tail(running.child.stderr.take());
    let ((), stdout, stderr) = tokio::join!(write, stdout, stderr);
    check(program, running.wait().await, &stderr)?;
    let text = String::from_utf8_lossy(&stdout);
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    json::parse(&text)
        .map_err(|error| Error::internal(format!("`{program}` did not answer with JSON: {error}")))
}

/// Runs it once, for a stream: each line of its stdout is an item. Its stdin brings the request and then the caller's
/// items, a line each, and ends when those do. When the caller gives up it is killed, with what it has started.
pub(super) async fn stream(
    words: &[String],
    method: &str,
    request: &str,
    items: ItemStream<Value>,
    out: &ItemSink<Value>,
) -> fluxar::Result<()> {
    let (program, mut running) = start(words, method)?;
    let child = &mut running.child;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let writing = write_items(stdin, request, items);
    let reading = async {
        let stderr = async { Ok(read_tail(stderr).await) };
        let ((), stderr) = tokio::try_join!(send_lines(program, stdout, out), stderr)?;
        check(program, running.wait().await, &stderr)
    };
    tokio::pin!(writing, reading);
    let mut is_written = false;
    loop {
        tokio::select! {
            done = &mut reading => return done,
            wrote = &mut writing, if !is_written => {
                wrote?;
                is_written = true;
            }
        }
    }
}

fn start<'a>(words: &'a [String], method: &str) -> fluxar::Result<(&'a str, Running)> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Error::internal("no command was given"));
    };
    let child = Command::new(program)
        .args(arguments)
        .env("FLUXAR_METHOD", method)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| Error::internal(format!("`{program}` cannot be started: {error}")))?;
    Ok((program, Running::new(child)))
}

/// Whether it ended well; otherwise with the end of what it said.
fn check(program: &str, status: std::io::Result<ExitStatus>, stderr: &[u8]) -> fluxar::Result<()> {
    let status =
        status.map_err(|error| Error::internal(format!("`{program}` cannot be waited for: {error}")))?;
    if status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(stderr).trim().to_owned();
    let separator = if said.is_empty() { "" } else { ": " };
    Err(Error::new(
        Code::Internal,
        format!("`{program}` ended with {status}{separator}{said}"),
    ))
}

async fn write_line(input: &mut ChildStdin, line: &str) -> std::io::Result<()> {
    input.write_all(line.as_bytes()).await?;
    input.write_all(b"\n").await
}

async fn write_items(
    stdin: Option<ChildStdin>,
    request: &str,
    mut items: ItemStream<Value>,
) -> fluxar::Result<()> {
    let Some(mut stdin) = stdin else { return Ok(()) };
    let mut line = request.to_owned();
    // A command need not read what it does not want.
    while write_line(&mut stdin, &line).await.is_ok() {
        match items.next_bytes().await {
            Some(item) => line = json::compact(&read(&item?, "an item")?),
            None => break,
        }
    }
    Ok(())
}

/// A command waits to be read while there is no credit for its items.
async fn send_lines(
    program: &str,
    stdout: Option<impl AsyncRead + Unpin>,
    out: &ItemSink<Value>,
) -> fluxar::Result<()> {
    let Some(stdout) = stdout else { return Ok(()) };
    let mut lines = BufReader::new(stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut lines)
            .take(STDOUT_BYTES_MAX)
            .read_until(b'\n', &mut line)
            .await;
        let read = read.map_err(|error| Error::internal(format!("`{program}` cannot be read: {error}")))?;
        if read == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line);
        if !text.trim().is_empty() {
            let item = json::parse(&text).map_err(|error| {
                Error::internal(format!("`{program}` wrote a line that is not JSON: {error}"))
            })?;
            out.send(&item).await?;
        }
    }
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
