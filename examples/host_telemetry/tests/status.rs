//! What the example says on stderr when that is no terminal.

use std::{
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fluxar::{Message, Server};

#[tokio::test]
async fn a_log_gets_plain_lines_and_few_of_them() {
    let server = Server::bind("127.0.0.1:0").build().await.unwrap();
    let events = Arc::new(AtomicUsize::new(0));
    let counted = events.clone();
    server
        .on_event("host.load", move |_: Message| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Ok(()) }
        })
        .unwrap();
    let running = server.clone();
    tokio::spawn(async move { running.run().await });
    let mut example = Command::new(env!("CARGO_BIN_EXE_host_telemetry"))
        .args(["--url", server.url()])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Ten a second: after three seconds a terminal would have been written to several times.
    let published = async {
        while events.load(Ordering::SeqCst) < 30 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), published)
        .await
        .unwrap();
    example.kill().unwrap();
    let output = tokio::task::spawn_blocking(move || example.wait_with_output().unwrap());
    let said = String::from_utf8(output.await.unwrap().stderr).unwrap();
    assert!(!said.contains(['\x1b', '\r']), "{said:?}");
    let status: Vec<_> = said
        .lines()
        .filter(|line| line.contains(" events · cpu "))
        .collect();
    assert!(
        !status.is_empty()
            && status
                .iter()
                .all(|line| line.starts_with("host_telemetry: connected")),
        "{said:?}"
    );
}
