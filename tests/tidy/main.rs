//! Holds the shape of the house: which crate may depend on which, where unsafe code may stand, that what documents
//! cite exists, and that every dependency has its reason.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Which of our crates each may depend on, tests and benches aside.
const MAY_DEPEND: &[(&str, &[&str])] = &[
    ("fluxar-protocol", &[]),
    ("fluxar-shard", &["fluxar-protocol"]),
    ("fluxar-engine", &[]),
    (
        "fluxar-gateway",
        &["fluxar-protocol", "fluxar-shard", "fluxar-engine"],
    ),
    ("fluxar", &["fluxar-protocol"]),
    ("fluxar-cli", &["fluxar", "fluxar-protocol", "fluxar-shard"]),
    ("host_telemetry", &["fluxar"]),
    ("llm", &["fluxar"]),
    ("orders", &["fluxar"]),
    ("fluxar-loadgen", &["fluxar-protocol", "fluxar-engine"]),
    ("fluxar-bench", &["fluxar-protocol", "fluxar-shard"]),
    (
        "fluxar-tests",
        &[
            "fluxar-protocol",
            "fluxar-shard",
            "fluxar-engine",
            "fluxar-gateway",
            "fluxar",
        ],
    ),
];

/// Crates that nothing may build on.
const LEAVES: &[&str] = &[
    "fluxar-bench",
    "fluxar-tests",
    "fluxar-cli",
    "fluxar-loadgen",
    "host_telemetry",
    "llm",
    "orders",
];

/// Folders in which unsafe code may stand. The rest forbids or denies it.
const UNSAFE_MAY_STAND_IN: &[&str] = &["protocol/src/cbor/simd", "engine/src/uring"];

/// Licences that go with Apache-2.0.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Unicode-3.0",
    "Zlib",
    "CC0-1.0",
    "Unlicense",
    "BSL-1.0",
    "NCSA",
    "0BSD",
    "BlueOak-1.0.0",
    "Apache-2.0 WITH LLVM-exception",
];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "manager", "common", "misc"];

#[test]
fn dependencies_point_one_way() {
    let metadata = metadata();
    let ours: BTreeSet<&str> = metadata
        .workspace_packages()
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    let allowed: BTreeMap<&str, &[&str]> = MAY_DEPEND.iter().copied().collect();
    for package in metadata.workspace_packages() {
        let name = package.name.as_str();
        let may = allowed
            .get(name)
            .unwrap_or_else(|| panic!("{name} is new: say in this test what it may depend on"));
        for dependency in &package.dependencies {
            let on = dependency.name.as_str();
            if !ours.contains(on) {
                continue;
            }
            if dependency.kind == DependencyKind::Normal {
                assert!(may.contains(&on), "{name} must not depend on {on}");
            }
            assert!(!LEAVES.contains(&on), "{name} depends on {on}, which nothing may");
        }
    }
}

#[test]
fn every_dependency_has_its_reason_and_a_licence_that_fits() {
    let metadata = metadata();
    let reasons = read(&root().join("docs/dependencies.md"));
    let ours: BTreeSet<&str> = metadata
        .workspace_packages()
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    let mut direct = BTreeSet::new();
    for package in metadata.workspace_packages() {
        for dependency in &package.dependencies {
            if !ours.contains(dependency.name.as_str()) {
                direct.insert(dependency.name.clone());
            }
        }
    }
    let missing: Vec<_> = direct
        .iter()
        .filter(|name| !reasons.contains(&format!("| `{name}` |")))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/dependencies.md has no line for {missing:?}"
    );
    let named: Vec<&str> = reasons
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    let gone: Vec<_> = named.iter().filter(|name| !direct.contains(**name)).collect();
    assert!(
        gone.is_empty(),
        "docs/dependencies.md gives reasons for {gone:?}, which nothing uses"
    );

    for package in &metadata.packages {
        let Some(licence) = &package.license else {
            panic!("{} says no licence", package.name);
        };
        let fits = licence
            .replace(" or ", " OR ") // as one of them writes it
            .split(" OR ")
            .flat_map(|part| part.split('/'))
            .any(|choice| {
                choice
                    .split(" AND ")
                    .all(|one| LICENCES.contains(&one.trim().trim_matches(['(', ')'])))
            });
        assert!(
            fits,
            "{}: licence {licence} does not fit Apache-2.0",
            package.name
        );
    }
}

#[test]
fn clauses_that_are_cited_exist() {
    let protocol = read(&root().join("docs/protocol.md"));
    let exists = |clause: &str| {
        let section = format!("## {clause} ");
        let item = format!("**{clause}");
        protocol.contains(&section)
            || protocol.match_indices(&item).any(|(at, _)| {
                // "P-3.1" must not be satisfied by "P-3.10".
                !protocol[at + item.len()..].starts_with(|next: char| next.is_ascii_digit())
            })
    };
    let mut cited = 0;
    for file in sources() {
        let text = read(&file);
        for (at, _) in text.match_indices("[P-") {
            let Some(end) = text[at..].find(']') else { continue };
            let clause = &text[at + 1..at + end];
            if !clause[2..].chars().all(|c| c.is_ascii_digit() || c == '.') {
                continue;
            }
            cited += 1;
            assert!(
                exists(clause),
                "{} cites {clause}, which docs/protocol.md does not have",
                file.display()
            );
        }
    }
    assert!(
        cited > 20,
        "only {cited} citations were found: this test looks in the wrong place"
    );
}

#[test]
fn unsafe_code_stays_in_its_fences() {
    for file in sources() {
        let path = relative(&file);
        if UNSAFE_MAY_STAND_IN.iter().any(|fence| path.starts_with(fence)) {
            continue;
        }
        for (at, line) in read(&file).lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            let unsafe_code = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
                .iter()
                .any(|form| code.trim_start().starts_with(form) || code.contains(&format!(" {form}")));
            // Allocators and environments of tests may need it; a product may not.
            if unsafe_code && !path.contains("/tests/") {
                panic!(
                    "{path}:{}: unsafe code outside of {UNSAFE_MAY_STAND_IN:?}",
                    at + 1
                );
            }
        }
    }
    for package in metadata().workspace_packages() {
        for target in &package.targets {
            let text = read(target.src_path.as_std_path());
            let said = text.contains("#![forbid(unsafe_code)]")
                || (["fluxar-protocol", "fluxar-engine"].contains(&package.name.as_str())
                    || package.name.as_str() == "fluxar-bench"
                    || target.is_test())
                    && (text.contains("#![deny(unsafe_code)]") || target.is_test() || target.is_bench());
            assert!(said, "{} does not forbid unsafe code", target.src_path);
        }
    }
}

#[test]
fn names_say_something_and_nothing_is_left_to_do() {
    for file in sources() {
        let path = relative(&file);
        let stem = file
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        assert!(!EMPTY_NAMES.contains(&stem), "{path}: a name that says nothing");
        if path.starts_with("tests/tidy") {
            continue;
        }
        let text = read(&file);
        for word in ["todo!(", "unimplemented!(", "dbg!(", "FIXME", "XXX"] {
            assert!(!text.contains(word), "{path} still has {word}");
        }
        if file.extension().is_some_and(|extension| extension == "rs") {
            assert!(
                text.starts_with("//!"),
                "{path} does not open with what it is for"
            );
            let lines = text.lines().count();
            assert!(
                lines <= 1000,
                "{path} has {lines} lines: it does more than one thing"
            );
        }
    }
}

#[test]
fn documents_point_at_what_exists() {
    for file in documents() {
        let text = read(&file);
        let folder = file.parent().expect("a document is in a folder");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(
                folder.join(target).exists(),
                "{}: {target} does not exist",
                relative(&file)
            );
        }
    }
}

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .exec()
        .expect("cargo metadata")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ is in the root")
        .to_path_buf()
}

fn relative(file: &Path) -> String {
    file.strip_prefix(root()).unwrap_or(file).display().to_string()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn sources() -> Vec<PathBuf> {
    files(&["rs"])
}

fn documents() -> Vec<PathBuf> {
    files(&["md"])
}

fn files(extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default()
                .to_string();
            if path.is_dir() {
                if !name.starts_with('.') && !name.starts_with("target") && name != "node_modules" {
                    folders.push(path);
                }
            } else if path
                .extension()
                .and_then(|extension| extension.to_str())
                .is_some_and(|e| extensions.contains(&e))
            {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
