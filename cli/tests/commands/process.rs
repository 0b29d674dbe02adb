//! The command as a process, and a server for it.

use std::{
    io::Write,
    os::unix::process::CommandExt,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use fluxar::{Code, Error, Request, Server};

pub(crate) fn fluxar(url: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fluxar"));
    command
        .args(args)
        .env_clear()
        .env("FLUXAR_URL", url)
        .env("PATH", "/usr/bin:/bin")
        .stdin(Stdio::null());
    command
}

/// Runs it to its end, away from the runtime that serves it.
pub(crate) async fn run(url: &str, args: &[&str]) -> Output {
    let mut command = fluxar(url, args);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

pub(crate) async fn run_with_stdin(url: &str, args: &[&str], stdin: &str) -> Output {
    let mut command = fluxar(url, args);
    let stdin = stdin.to_owned();
    let ran = tokio::task::spawn_blocking(move || {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    });
    ran.await.unwrap()
}

/// With tags and byte strings, which serde does not know.
pub(crate) fn read(payload: &[u8]) -> fluxar::Result<ciborium::Value> {
    ciborium::from_reader(payload).map_err(Error::internal)
}

pub(crate) fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

pub(crate) fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

pub(crate) async fn server() -> Server {
    let server = Server::bind("127.0.0.1:0").build().await.unwrap();
    server
        .handle("echo", |req: Request| async move { read(req.payload_bytes()) })
        .unwrap();
    server
        .handle("fail", |_| async {
            Err::<(), _>(Error::new(Code::NotFound, "there is no user 7").with_details(&("id", 7)))
        })
        .unwrap();
    server
        .handle("hang", |_| std::future::pending::<fluxar::Result<()>>())
        .unwrap();
    let running = server.clone();
    tokio::spawn(async move { running.run().await.unwrap() });
    server
}

pub(crate) async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .expect("the condition comes to hold");
}

/// A command that goes on until it is told to end.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn start(url: &str, args: &[&str]) -> Self {
        let mut command = fluxar(url, args);
        Self(
            command
                .process_group(0)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    }

    pub(crate) fn interrupt(&self) {
        let pid = self.0.id().to_string();
        assert!(
            Command::new("/bin/kill")
                .args(["-INT", &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// As a terminal does it: the signal goes to the whole process group, of which it has to be the leader.
    pub(crate) fn interrupt_group(&self) {
        let group = format!("-{}", self.0.id());
        let kill = Command::new("/bin/kill").args(["-INT", "--", &group]).status();
        assert!(kill.unwrap().success());
    }

    pub(crate) async fn end(self) -> Output {
        tokio::task::spawn_blocking(move || self.0.wait_with_output().unwrap())
            .await
            .unwrap()
    }
}

/// The one peer that has come, once it answers this method.
pub(crate) async fn peer_that_serves(server: &Server, method: &str) -> fluxar::Peer {
    until(async || match server.peers().first() {
        Some(peer) => {
            let answer = peer.call::<_, ciborium::Value>(method, &()).await;
            !answer.is_err_and(|error| error.code() == Code::Unavailable)
        }
        None => false,
    })
    .await;
    server.peers().remove(0)
}
