//! What it is configured by, and how it refuses what is wrong: everything, with its line, before anything starts.

use std::fs;

use crate::process::{command, complaint, run};

#[test]
fn a_bad_file_is_refused_with_every_fault_and_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bad.toml");
    let text = "\
cores = 0
listen = [\"http://127.0.0.1:9000\"]
colour = \"red\"

[limits]
queue_byte = 65536
handshake_ms = 3
frame_ms = \"long\"

[engine]
spin_us = 20.5
";
    fs::write(&path, text).expect("a file");
    let file = path.display().to_string();
    for check in [true, false] {
        let mut arguments = vec!["--config", &file];
        arguments.extend(check.then_some("--check"));
        let output = run(&arguments);
        let said = complaint(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(output.stdout.is_empty());
        let lines: Vec<&str> = said.lines().collect();
        let expected = [
            (1, "cores"),
            (2, "listen"),
            (3, "there is no setting `colour`"),
            (6, "did you mean `limits.queue_bytes`?"),
            (7, "100..60000"),
            (8, "a text where a whole number belongs"),
            (11, "fraction"),
        ];
        assert_eq!(lines.len(), expected.len() + 1, "{said}");
        for ((number, what), line) in expected.iter().zip(&lines) {
            assert!(line.starts_with(&format!("{file}:{number}: ")), "{line}");
            assert!(line.contains(what), "{what:?} is not said: {line}");
        }
        assert!(lines[7].starts_with("7 faults"), "{said}");
    }
}

#[test]
fn a_file_that_is_no_toml_or_is_not_there_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("broken.toml");
    fs::write(&path, "cores = 1\nlisten = [\n").expect("a file");
    let output = run(&["--check", "--config", &path.display().to_string()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        complaint(&output).contains("broken.toml:"),
        "{}",
        complaint(&output)
    );

    let output = run(&["--check", "--config", "/no/such/file.toml"]);
    assert_eq!(output.status.code(), Some(2));
    let said = complaint(&output);
    assert!(
        said.contains("/no/such/file.toml") && said.contains("cannot be read"),
        "{said}"
    );
}

#[test]
fn a_good_configuration_is_said_to_be_good() {
    let output = run(&["--check"]);
    assert_eq!(output.status.code(), Some(0), "{}", complaint(&output));
    assert!(String::from_utf8_lossy(&output.stdout).contains("good"));
}

#[test]
fn what_is_printed_reads_back_as_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("printed.toml");
    let first = run(&[
        "--print-config",
        "--cores",
        "1",
        "--listen",
        "tcp://127.0.0.1:7000",
    ]);
    assert_eq!(first.status.code(), Some(0), "{}", complaint(&first));
    fs::write(&path, &first.stdout).expect("a file");
    let second = run(&["--print-config", "--config", &path.display().to_string()]);
    assert_eq!(second.status.code(), Some(0), "{}", complaint(&second));
    assert_eq!(
        String::from_utf8_lossy(&first.stdout),
        String::from_utf8_lossy(&second.stdout)
    );
    let text = String::from_utf8_lossy(&first.stdout);
    assert!(
        text.contains("tcp://127.0.0.1:7000") && text.contains("cores = \"1\""),
        "{text}"
    );
    // Every setting has a comment in front of it.
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if lines.peek().is_some_and(|next| next.contains(" = ")) {
            assert!(line.starts_with("# "), "nothing explains {:?}", lines.peek());
        }
    }
}

#[test]
fn what_several_sources_say_is_checked_beside_other_faults() {
    let output = command()
        .args(["--check", "--cores", "4000", "--listen", "tcp://127.0.0.1:7000"])
        .args(["--listen", "tcp://127.0.0.1:7000", "--log", "loud"])
        .output()
        .expect("the binary runs");
    let said = complaint(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for words in ["4000 were asked for", "stands twice", "loud", "3 faults"] {
        assert!(said.contains(words), "{words:?} is not said: {said}");
    }
}

#[test]
fn options_that_are_wrong_are_refused_by_name() {
    for (arguments, words) in [
        (&["--frobnicate"][..], &["--frobnicate"][..]),
        (&["--cores", "0"], &["--cores", "0 cores"]),
        (&["--cores", "0,0"], &["--cores", "core 0 stands twice"]),
        (&["--cores", "many"], &["--cores", "many"]),
        (&["--cores", "3-1"], &["--cores", "3-1"]),
        (&["--cores", "4000"], &["cores", "4000"]),
        (&["--listen", "9000"], &["--listen", "9000"]),
        (&["--listen", "tcp://127.0.0.1:99999"], &["--listen", "99999"]),
        (&["--log", "loud"], &["--log", "loud"]),
        (
            &[
                "--listen",
                "tcp://127.0.0.1:7000",
                "--listen",
                "tcp://127.0.0.1:7000",
            ],
            &["tcp://127.0.0.1:7000", "twice"],
        ),
    ] {
        let output = run(arguments);
        let said = complaint(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        for word in words {
            assert!(said.contains(word), "{arguments:?}: {word:?} is not said: {said}");
        }
    }
}

#[test]
fn the_environment_overrides_the_file_and_the_command_line_the_environment() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fluxar.toml");
    fs::write(
        &path,
        "cores = 1\n[limits]\nqueue_bytes = 70000\nframe_ms = 2000\n[log]\nlevel = \"warn\"\n",
    )
    .expect("a file");
    let output = command()
        .args([
            "--print-config",
            "--config",
            &path.display().to_string(),
            "--log",
            "error",
        ])
        .env("FLUXAR_LIMITS_QUEUE_BYTES", "80000")
        .env("FLUXAR_LIMITS_MAX_FRAME_BYTES", "65536")
        .env("FLUXAR_LISTEN", "tcp://127.0.0.1:7001, ws://127.0.0.1:7002")
        .env("FLUXAR_LOG_LEVEL", "debug")
        .env("FLUXAR_URL", "tcp://127.0.0.1:9000") // another program's
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(0), "{}", complaint(&output));
    let text = String::from_utf8_lossy(&output.stdout);
    for setting in [
        "queue_bytes = 80000",
        "frame_ms = 2000",
        "listen = [\"tcp://127.0.0.1:7001\", \"ws://127.0.0.1:7002\"]",
        "level = \"error\"",
    ] {
        assert!(text.contains(setting), "{setting} is missing: {text}");
    }

    let output = command()
        .arg("--check")
        .env("FLUXAR_LIMITS_QUEUE_BYTE", "80000")
        .env("FLUXAR_LOG_DIRECTORY", "/var/lib/fluxar")
        .env("FLUXAR_TOKEN", "another program's")
        .env("FLUXAR_PORT", "as some who run containers have it")
        .output()
        .expect("the binary runs");
    let said = complaint(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("FLUXAR_LIMITS_QUEUE_BYTE is no setting")
            && said.contains("did you mean FLUXAR_LIMITS_QUEUE_BYTES?")
            && said.contains("lists those of [log]"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 2, "{said}");

    let output = command()
        .arg("--check")
        .env("FLUXAR_LIMITS_QUEUE_BYTES", "lots")
        .env("FLUXAR_CORES", "0")
        .output()
        .expect("the binary runs");
    let said = complaint(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("FLUXAR_LIMITS_QUEUE_BYTES: ") && said.contains("FLUXAR_CORES: "),
        "{said}"
    );
}

#[test]
fn the_help_fits_a_terminal_and_names_the_variables() {
    for flag in ["--help", "-h"] {
        let output = run(&[flag]);
        assert_eq!(output.status.code(), Some(0));
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        for line in text.lines() {
            assert!(
                line.chars().count() <= 100,
                "{} columns: {line}",
                line.chars().count()
            );
        }
        for word in [
            "FLUXAR_",
            "--config",
            "--listen",
            "--cores",
            "--check",
            "--print-config",
            "SIGHUP",
            "SIGTERM",
        ] {
            assert!(text.contains(word), "{flag} does not mention {word}");
        }
    }
}

#[test]
fn upstreams_and_routes_are_checked_and_printed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fluxar.toml");
    let file = path.display().to_string();
    let good = "\
[[upstream]]
name = \"users\"
endpoints = [\"tcp://127.0.0.1:7100\", { url = \"unix:///run/users.sock\", in_flight = 8 }]

[[route]]
methods = \"users.>\"
percent = 2.5
fleet = \"user\"
";
    fs::write(&path, good).expect("a file");
    let output = run(&["--check", "--config", &file]);
    let said = complaint(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.starts_with("warning: route 1: ") && said.contains("did you mean \"users\"?"),
        "{said}"
    );

    let first = run(&["--print-config", "--config", &file]);
    let text = String::from_utf8_lossy(&first.stdout);
    assert!(
        text.contains("percent = 2.5") && text.contains("in_flight = 8"),
        "{text}"
    );
    fs::write(&path, &first.stdout).expect("a file");
    let second = run(&["--print-config", "--config", &file]);
    assert_eq!(second.status.code(), Some(0), "{}", complaint(&second));
    assert_eq!(text, String::from_utf8_lossy(&second.stdout));

    fs::write(
        &path,
        format!("{good}percant = 5\n[[upstream]]\nname = \"users\"\n"),
    )
    .expect("a file");
    let output = run(&["--check", "--config", &file]);
    let said = complaint(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for (number, what) in [
        (9, "did you mean `percent`?"),
        (10, "it has no `endpoints`"),
        (11, "taken by an upstream above"),
    ] {
        let line = said.lines().find(|line| line.contains(what));
        let line = line.unwrap_or_else(|| panic!("{what:?} is not said: {said}"));
        assert!(line.starts_with(&format!("{file}:{number}: ")), "{line}");
    }
}
