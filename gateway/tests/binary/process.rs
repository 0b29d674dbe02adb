//! The gateway as a process: started, read from, signalled, and ended with the test.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStderr, ChildStdout, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use fluxar_protocol::envelope::Envelope;
use fluxar_protocol::frame::prefix;
use fluxar_protocol::hello::Hello;
use fluxar_protocol::{Batch, Code, ErrorBody, Form, Id, Kind};

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The binary, with an environment that says nothing to it.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fluxar-gateway"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FLUXAR_")) {
        command.env_remove(name);
    }
    // Not the log of whoever runs the tests.
    command.env("FLUXAR_LOG_DIR", "");
    command
}

/// Runs it to its end with these arguments.
pub(crate) fn run<S: AsRef<OsStr>>(arguments: &[S]) -> Output {
    command().args(arguments).output().expect("the binary runs")
}

/// What it wrote to standard error.
pub(crate) fn complaint(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

/// A gateway that runs.
pub(crate) struct Process {
    child: Child,
    _stdout: BufReader<ChildStdout>,
    /// What it said at its start.
    pub(crate) banner: Vec<String>,
    /// Its log, line by line.
    log: mpsc::Receiver<String>,
    /// Its log, if nobody is to read it.
    _stderr: Option<ChildStderr>,
}

impl Process {
    /// Starts it on ephemeral ports and returns when it is ready.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut command = command();
        command.args(["--listen", "tcp://127.0.0.1:0", "--listen", "ws://127.0.0.1:0"]);
        command.args(arguments);
        Self::spawn(command)
    }

    /// Starts this and returns when it is ready.
    pub(crate) fn spawn(command: Command) -> Self {
        Self::spawn_and(command, true)
    }

    /// The same, and nobody reads its log.
    pub(crate) fn spawn_unread(command: Command) -> Self {
        Self::spawn_and(command, false)
    }

    fn spawn_and(mut command: Command, read_log: bool) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let (line, log) = mpsc::channel();
        let mut stderr = child.stderr.take();
        if read_log {
            let stderr = BufReader::new(stderr.take().expect("a pipe"));
            std::thread::spawn(move || {
                for text in stderr.lines().map_while(Result::ok) {
                    let _ = line.send(text);
                }
            });
        }
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut banner = Vec::new();
        while !banner
            .last()
            .is_some_and(|last: &String| last.starts_with("ready "))
        {
            let mut text = String::new();
            let bytes = stdout.read_line(&mut text).expect("it says what it does");
            if bytes == 0 {
                let status = child.wait().expect("it ended");
                let log: Vec<String> = log.iter().collect();
                panic!("it does not start ({status}): {banner:?} {log:?}");
            }
            banner.push(text.trim_end().to_owned());
        }
        Self {
            child,
            _stdout: stdout,
            banner,
            log,
            _stderr: stderr,
        }
    }

    /// What the banner says after this scheme: `127.0.0.1:4711`, `/run/x.sock`.
    pub(crate) fn address(&self, scheme: &str) -> &str {
        self.banner
            .iter()
            .find_map(|line| line.split_once(scheme))
            .map(|(_, rest)| rest.trim_end_matches('/'))
            .unwrap_or_else(|| panic!("no {scheme} in {:?}", self.banner))
    }

    /// A greeted client on TCP.
    pub(crate) fn client(&self) -> Greeted<TcpStream> {
        let stream = TcpStream::connect(self.address("tcp://")).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        Greeted::on(stream)
    }

    /// Sends it a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Waits for a line of its log that contains this; returns the lines before it.
    pub(crate) fn wait_for_log(&self, what: &str) -> Vec<String> {
        let begun = Instant::now();
        let mut before = Vec::new();
        while let Some(left) = PATIENCE.checked_sub(begun.elapsed()) {
            let Ok(line) = self.log.recv_timeout(left) else {
                break;
            };
            if line.contains(what) {
                return before;
            }
            before.push(line);
        }
        panic!("it never says {what:?}, but {before:?}");
    }

    /// Waits for its end and returns its exit code.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that was greeted: just enough to be told something.
pub(crate) struct Greeted<S> {
    stream: S,
}

impl<S: Read + Write> Greeted<S> {
    /// Says hello and takes the welcome.
    pub(crate) fn on(stream: S) -> Self {
        let mut client = Self { stream };
        let mut payload = Vec::new();
        Hello::default().encode(&mut payload);
        client.say(Kind::Hello, None, &payload);
        assert!(
            client
                .hear()
                .iter()
                .any(|(kind, code)| (*kind, *code) == (Kind::Hello, None))
        );
        client
    }

    /// Sends one envelope.
    pub(crate) fn say(&mut self, kind: Kind, target: Option<&str>, payload: &[u8]) {
        let mut body = Vec::new();
        Envelope {
            kind,
            id: Id([kind as u8; 16]),
            reference: None,
            target,
            meta: None,
            payload,
            error: None,
        }
        .encode(Form::Compact, &mut body);
        self.send(&body);
    }

    /// Sends a frame with this body.
    pub(crate) fn send(&mut self, body: &[u8]) {
        let mut frame = prefix(body.len()).to_vec();
        frame.extend_from_slice(body);
        self.stream.write_all(&frame).expect("the gateway reads");
    }

    /// Reads one frame and shows its envelopes.
    pub(crate) fn read(&mut self, mut show: impl FnMut(&Envelope<'_>)) {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).expect("a frame");
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut body).expect("a whole frame");
        for decoded in Batch::new(&body) {
            show(&decoded.expect("readable").envelope);
        }
    }

    /// Types and error codes of the next frame; none at the end of the stream.
    pub(crate) fn hear(&mut self) -> Vec<(Kind, Option<Code>)> {
        let mut length = [0; 4];
        if self.stream.read_exact(&mut length).is_err() {
            return Vec::new();
        }
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut body).expect("a whole frame");
        Batch::new(&body)
            .map(|decoded| {
                let envelope = decoded.expect("readable").envelope;
                let code = envelope
                    .error
                    .map(|error| ErrorBody::decode(error).expect("readable").code);
                (envelope.kind, code)
            })
            .collect()
    }

    /// All that is still to come.
    pub(crate) fn hear_all(&mut self) -> Vec<(Kind, Option<Code>)> {
        let mut all = Vec::new();
        loop {
            let some = self.hear();
            if some.is_empty() {
                return all;
            }
            all.extend(some);
        }
    }
}

/// A greeted client on a Unix socket.
pub(crate) fn unix_client(path: &str) -> Greeted<UnixStream> {
    let stream = UnixStream::connect(path).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    Greeted::on(stream)
}
