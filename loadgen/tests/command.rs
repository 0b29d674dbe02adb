//! The command as a person or a script meets it: what it prints, its exit codes, and that nothing is left behind.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use fluxar_loadgen::server::find_program;

fn loadgen(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(arguments)
        .current_dir(directory)
        .env_remove("FLUXAR_URL")
        .output()
        .expect("loadgen starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn need_redis() {
    assert!(
        find_program("redis-server", Path::new("")).is_some(),
        "these tests start redis-server: install the Debian package redis-server"
    );
}

/// A campaign against a Redis of its own, so short that its figures mean nothing.
fn write_campaign(directory: &Path, scenario: &str) {
    let text = format!(
        r#"
[campaign]
repeats = 1
warmup_ms = 50
duration_ms = 200

[[target]]
name = "redis"
protocol = "redis"
url = "tcp://127.0.0.1:{{port}}"
command = ["redis-server", "--bind", "127.0.0.1", "--port", "{{port}}", "--dir", "{{dir}}", "--save", ""]

[[scenario]]
name = "s"
{scenario}
"#
    );
    fs::write(directory.join("c.toml"), text).expect("a campaign file");
}

const FAN_OUT: &str = "workload = { kind = \"fan-out\", subscribers = 2 }\n";

#[test]
fn a_campaign_leaves_its_records_and_reports() {
    need_redis();
    let directory = tempfile::tempdir().expect("a directory");
    write_campaign(
        directory.path(),
        &format!("{FAN_OUT}assert = [\"lost == 0\", \"delivered_per_s > 1\", \"server_ns_per_message > 0\"]"),
    );
    let output = loadgen(directory.path(), &["run", "c.toml", "--out", "results"]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert!(
        out.contains("redis") && out.contains("3 of 3 assertions held"),
        "{out}"
    );
    assert!(err.contains("[1/1] s · redis"), "{err}");
    let results = directory.path().join("results");
    for name in ["results.jsonl", "results.csv", "report.html", "campaign.toml"] {
        assert!(results.join(name).is_file(), "{name}: {out}");
    }
    let again = loadgen(directory.path(), &["report", "results"]);
    assert_eq!(again.status.code(), Some(0), "{}", text(&again.stderr));
    let compared = loadgen(directory.path(), &["compare", "results", "results/results.jsonl"]);
    assert_eq!(compared.status.code(), Some(0), "{}", text(&compared.stderr));

    fs::write(
        directory.path().join("doc.md"),
        "# D\n\n<!-- begin c -->\n<!-- end c -->\n",
    )
    .expect("a document");
    let into = loadgen(
        directory.path(),
        &["report", "results", "--into", "doc.md", "--marker", "c"],
    );
    assert_eq!(into.status.code(), Some(0), "{}", text(&into.stderr));
    let document = fs::read_to_string(directory.path().join("doc.md")).expect("a document");
    assert!(document.contains("| redis"), "{document}");
}

#[test]
fn an_assertion_that_fails_is_named_with_its_value_and_exits_1() {
    need_redis();
    let directory = tempfile::tempdir().expect("a directory");
    write_campaign(
        directory.path(),
        &format!("{FAN_OUT}assert = [\"p99_us < 0.001\"]"),
    );
    let output = loadgen(
        directory.path(),
        &["run", "c.toml", "--out", "results", "--quiet"],
    );
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{out}{}", text(&output.stderr));
    assert!(out.contains("FAIL s · redis · p99_us < 0.001: FAILED, "), "{out}");
}

#[test]
fn what_is_wrong_with_a_command_or_a_file_exits_2() {
    let directory = tempfile::tempdir().expect("a directory");
    write_campaign(
        directory.path(),
        "workload = { kind = \"fan-out\", subscriber = 2 }\nextra = 1",
    );
    let output = loadgen(directory.path(), &["run", "c.toml"]);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(
        err.contains("c.toml:15: ") && err.contains("c.toml:16: ") && err.contains("2 faults"),
        "{err}"
    );
    for wrong in [
        &["run", "gone.toml"][..],
        &["fan-out", "--assert", "p99_ms <"],
        &["fan-out", "--assert", "fluxr: p99_ms < 5"],
        &["fan-out", "--assert", "p99_ms < 5 at 7000/s"],
        &["fan-out", "--assert", "p99_ms < 5 when subscribers = 10"],
        &["find-knee", "--slo", "nats: p99_ms < 5"],
        &["find-knee", "--slo", "p99_ms < 5 at 1000/s"],
        &["find-knee", "--slo", "p99_ms < 5 when subscribers = 10"],
        &["find-knee", "--slo", "p99_ms < fluxar"],
        &["fan-out", "--url", "http://127.0.0.1"],
        &["fan-out", "--rate", "often"],
        &["compare", "gone", "gone"],
        &["report", "gone"],
        &["dance"],
    ] {
        let output = loadgen(directory.path(), wrong);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{wrong:?}: {}",
            text(&output.stderr)
        );
        assert!(!output.stderr.is_empty(), "{wrong:?}");
    }
}

#[test]
fn a_server_that_is_not_there_exits_3_and_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    // Free a moment ago; the kernel does not hand it out again soon.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
    let url = format!("tcp://{}", port.expect("a port"));
    let output = loadgen(directory.path(), &["fan-out", "--url", &url]);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{err}");
    assert!(err.contains("is the server running"), "{err}");
}

#[test]
fn streams_run_without_a_file_and_without_a_server() {
    let directory = tempfile::tempdir().expect("a directory");
    let url = format!("unix://{}/s.sock", directory.path().display());
    let shared = [
        "--url",
        &url,
        "--service-url",
        &url,
        "--duration",
        "200ms",
        "--warmup",
        "50ms",
    ];
    let with = |more: &[&str]| loadgen(directory.path(), &[more, &shared].concat());
    let output = with(&[
        "stream",
        "--streams",
        "5",
        "--direction",
        "both",
        "--assert",
        "streams_failed == 0",
        "--assert",
        "lost == 0",
    ]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert!(
        out.contains("first chunk p99") && out.contains("2 of 2 assertions held"),
        "{out}"
    );
    let output = with(&["upstream", "--in-flight", "4", "--assert", "lost == 0"]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert!(
        !err.contains("[[upstream]]"),
        "there is no gateway to be configured: {err}"
    );

    for (arguments, why) in [
        (&["stream", "--window", "100"][..], "take at least 128"),
        (
            &["stream", "--stopped", "1", "--stop-reading", "--direction", "up"],
            "--direction down",
        ),
        (&["stream", "--clients", "0"], "nobody would open a stream"),
    ] {
        let output = with(arguments);
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{err}");
        assert!(err.contains(why), "{err}");
    }
}

#[test]
fn what_a_gateway_has_to_hold_for_services_that_listen_is_said() {
    let directory = tempfile::tempdir().expect("a directory");
    let service = format!("unix://{}/s.sock", directory.path().display());
    let gateway = format!("unix://{}/nobody.sock", directory.path().display());
    let arguments = [
        "upstream",
        "--url",
        &gateway,
        "--service-url",
        &service,
        "--services",
        "3",
    ];
    let output = loadgen(directory.path(), &arguments);
    let err = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{err}");
    assert!(
        err.contains("[[upstream]]") && err.contains("connections = 3"),
        "{err}"
    );
    assert!(err.contains(&format!("endpoints = [{service:?}]")), "{err}");
}

#[test]
fn a_plan_runs_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    write_campaign(
        directory.path(),
        &format!("{FAN_OUT}sweep = {{ \"workload.publishers\" = [1, 2] }}"),
    );
    let output = loadgen(directory.path(), &["run", "c.toml", "--plan", "--repeats", "2"]);
    let out = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{out}");
    assert!(
        out.contains("s publishers=2 · redis · repeat 2") && out.contains("4 runs"),
        "{out}"
    );
    assert!(!directory.path().join("loadgen-results").exists());
}

#[test]
fn ctrl_c_ends_the_servers_too() {
    need_redis();
    let directory = tempfile::tempdir().expect("a directory");
    // The first point is short: once it is told, the second is under way.
    let sweep = "sweep = { duration_ms = [100, 60000] }";
    write_campaign(directory.path(), &format!("{FAN_OUT}{sweep}"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["run", "c.toml", "--out", "results"])
        .current_dir(directory.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("loadgen starts");
    let mut lines = BufReader::new(child.stderr.take().expect("its output")).lines();
    let first = lines.next().expect("a line").expect("a line");
    assert!(first.starts_with("[1/2]"), "{first}");
    let server = wait_for(|| children_of(child.id()).into_iter().next());
    let interrupt = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(interrupt.expect("kill").success());
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(130));
    assert!(
        !Path::new(&format!("/proc/{server}")).exists(),
        "the server has ended"
    );
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(
        rest.iter()
            .any(|line| line.contains("finished runs are kept in results")),
        "{rest:?}"
    );
    let kept = fs::read_to_string(directory.path().join("results/results.jsonl")).expect("records");
    assert_eq!(kept.lines().count(), 2, "a header and the run that was finished");
}

fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn children_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc");
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|process: &u32| {
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
            behind.split_ascii_whitespace().nth(1) == Some(&parent.to_string())
        })
        .collect()
}
