//! The numbered statements of both specifications, and the tests that show them: `docs/mqtt-conformance.md`.
//!
//! `conformance/*.txt` has the statements. A conversation says what it shows with a line below its `case`:
//!
//! ```text
//! shows 3.1.1: 3.1.0-2 4.8.0-1 5.0: 3.1.0-2
//! ```
//!
//! and a test in Rust with the same line in its doc comment. From these the table is made, so it names tests that are
//! there, and a statement that binds a server and has none fails here. `UPDATE=1` writes the table: read the difference.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

const VERSIONS: [&str; 2] = ["3.1.1", "5.0"];
/// Of the tests that show a statement, the table names so many.
const NAMED_MAX: usize = 3;

/// One numbered statement.
struct Statement {
    number: String,
    binds: String,
    words: String,
    /// What we do where it leaves something open, or why it binds nobody.
    choice: Option<String>,
}

/// The tests that show something: by version and number.
type Shown = BTreeMap<(String, String), Vec<String>>;

#[test]
fn every_statement_is_shown_and_the_table_says_by_what() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let all: Vec<_> = VERSIONS
        .iter()
        .map(|version| (*version, statements(root, version)))
        .collect();
    let mut shown = Shown::new();
    for file in sources(root) {
        let text = std::fs::read_to_string(&file).unwrap();
        collect(&file, &text, &mut shown);
    }
    let mut wrong = Vec::new();
    let known: HashSet<_> = all
        .iter()
        .flat_map(|(version, list)| list.iter().map(|one| (version.to_string(), one.number.clone())))
        .collect();
    for ((version, number), tests) in &shown {
        if !known.contains(&(version.clone(), number.clone())) {
            wrong.push(format!("{version} has no statement {number}: {tests:?}"));
        }
    }
    for (version, list) in &all {
        for one in list.iter().filter(|one| matches!(&*one.binds, "server" | "both")) {
            if !shown.contains_key(&(version.to_string(), one.number.clone())) {
                wrong.push(format!("no test shows {version}: {} ({})", one.number, one.words));
            }
        }
    }
    assert!(wrong.is_empty(), "{} statements:\n{}", wrong.len(), wrong.join("\n"));

    let path = root.join("../docs/mqtt-conformance.md");
    let page = page(&all, &shown);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, page).unwrap();
    } else {
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == page,
            "docs/mqtt-conformance.md is not what the tests say: UPDATE=1 cargo nextest run -p headwater-broker conformance"
        );
    }
}

fn statements(root: &Path, version: &str) -> Vec<Statement> {
    let text = std::fs::read_to_string(root.join(format!("tests/conformance/{version}.txt"))).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (words, choice) = match line.split_once(" => ") {
                Some((words, choice)) => (words, Some(choice.to_owned())),
                None => (line, None),
            };
            let mut parts = words.splitn(3, ' ').map(str::to_owned);
            let mut part = || parts.next().unwrap_or_else(|| panic!("{version}: {line}"));
            let statement = Statement {
                number: part(),
                binds: part(),
                words: part(),
                choice,
            };
            assert!(
                matches!(&*statement.binds, "server" | "client" | "both" | "none"),
                "{line}"
            );
            assert!(
                statement.binds != "none" || statement.choice.is_some(),
                "why does it bind nobody? {line}"
            );
            statement
        })
        .collect()
}

/// Everything that holds tests of the broker, in an order that stays.
fn sources(root: &Path) -> Vec<PathBuf> {
    let mut folders = vec![root.join("src"), root.join("tests"), root.join("../tests")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && !matches!(&*name, "node_modules" | "conformance" | "packets") {
                folders.push(path);
            } else if name.ends_with(".rs") || (name.ends_with(".txt") && folder.ends_with("transcripts")) {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Notes what each test of a file shows: the `case` above the line, or the `fn` below it.
fn collect(file: &Path, text: &str, shown: &mut Shown) {
    let name = file.file_name().unwrap().to_string_lossy();
    let is_rust = file.extension().is_some_and(|extension| extension == "rs");
    let mut case = "";
    let mut waiting: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        let line = line.trim_start();
        if is_rust {
            if let Some(list) = line.strip_prefix("/// Shows ") {
                waiting.extend(parse(file, list));
            } else if let Some((_, rest)) = line.split_once("fn ") {
                let test = rest.split('(').next().unwrap_or(rest).replace('_', " ");
                let name = format!("{name}: {test}");
                waiting
                    .drain(..)
                    .for_each(|one| shown.entry(one).or_default().push(name.clone()));
            }
        } else if let Some(name) = line.strip_prefix("case ") {
            case = name;
        } else if let Some(list) = line.strip_prefix("shows ") {
            for one in parse(file, list) {
                shown.entry(one).or_default().push(format!("{name}: {case}"));
            }
        }
    }
    assert!(waiting.is_empty(), "{}: what shows {waiting:?}?", file.display());
}

/// `3.1.1: 3.1.0-2 4.8.0-1 5.0: 3.1.0-2`
fn parse(file: &Path, list: &str) -> Vec<(String, String)> {
    let mut version = None;
    let mut found = Vec::new();
    for word in list.split_whitespace() {
        match word.strip_suffix(':') {
            Some(name) => version = Some(name.to_owned()),
            None => {
                let version = version.clone().unwrap_or_else(|| panic!("{}: {list}", file.display()));
                found.push((version, word.to_owned()));
            }
        }
    }
    found
}

fn page(all: &[(&str, Vec<Statement>)], shown: &Shown) -> String {
    let mut out = String::from(
        "# What the specifications ask, and the tests that show it\n\n\
         This page is made from `broker/tests/conformance/*.txt` and from what the tests say that they show;\n\
         `broker/tests/conformance.rs` checks it. A test in a `.txt` is a case of that file in `broker/tests/transcripts`, one in\n\
         an `.rs` a function of that file under `broker/` or `tests/`. Statements that bind clients only need no test; where one\n\
         is named, it shows what happens to a client that does not keep to it.\n",
    );
    for (version, list) in all {
        let count = |which: &[&str]| list.iter().filter(|one| which.contains(&&*one.binds)).count();
        let _ = write!(
            out,
            "\n## MQTT {version}\n\n{} statements: {} bind a server, {} clients only, {} nobody here.\n\n\
             | number | what it asks | binds | shown by |\n|---|---|---|---|\n",
            list.len(),
            count(&["server", "both"]),
            count(&["client"]),
            count(&["none"]),
        );
        for one in list {
            let tests = shown.get(&(version.to_string(), one.number.clone()));
            let tests = tests.map(Vec::as_slice).unwrap_or_default();
            let mut cell = tests.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join("; ");
            if tests.len() > NAMED_MAX {
                let _ = write!(cell, "; and {} more", tests.len() - NAMED_MAX);
            }
            let words = match (&*one.binds, &one.choice) {
                ("none", Some(why)) => format!("{}: {why}", one.words),
                _ => one.words.clone(),
            };
            let binds = if one.binds == "none" { "" } else { &one.binds };
            let _ = writeln!(out, "| {} | {words} | {binds} | {cell} |", one.number);
        }
    }
    out.push_str("\n## What they leave open\n\nMore of it, beyond the numbered statements, is in [MQTT](mqtt.md).\n\n");
    out.push_str("| version | number | what it asks | what we do |\n|---|---|---|---|\n");
    for (version, list) in all {
        for one in list.iter().filter(|one| one.binds != "none") {
            if let Some(choice) = &one.choice {
                let _ = writeln!(out, "| {version} | {} | {} | {choice} |", one.number, one.words);
            }
        }
    }
    out
}
