//! Query cases as files: `tests/sql/query/*.test` in the root of the workspace.
//!
//! A case is a list of commands with what they answer. Lines that begin with `> ` are the command, the lines after them
//! the answer; `UPDATE=1 cargo test -p headwater-sql --test query` writes the answers anew. Commands are SQL, or
//!
//! ```text
//! \publish TOPIC PAYLOAD    a message of an MQTT client
//! \clock +31s               the store's clock goes on (it stands still otherwise, at 2026-01-01T00:00:00Z)
//! \step                     waits until every query has read all there is; here a step ends
//! \records STREAM           what the stream holds: topic, key, payload; shard by shard, `-` where there is none
//! \changes STREAM           of the same records the key, and what they do to its row
//! \retained TOPIC          the payload of the topic's retained message
//! \state QUERY              what SHOW QUERIES says of its state
//! \places QUERY             the streams that it saves a place in; `-` where there is none any more
//! \push NAME SELECT …       a push SELECT, which goes on
//! \rows NAME COUNT          its next rows
//! ```
//!
//! Every case runs three times and must give the same answers: straight, over one data group only (but for the order
//! of `\records`, which is sorted), and with steps of one record, where the engine is killed, or every other time told to
//! stop, after each step that any query commits, and another one started, until all is read. So between two `\step`s a
//! key changes once at most. A file whose first line is `# straight` holds push SELECTs, which die with their engine, and
//! is not killed.

mod oracle;
mod world;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use world::{Mode, World};

const CASES_AT_ONCE: usize = 6;
/// When a wrong answer is looked at once more.
const LATER: Duration = Duration::from_secs(2);

/// A file, taken apart: text between the commands, and the commands with their answers.
enum Part {
    Text(String),
    Command { lines: Vec<String>, answer: String },
}

fn parse(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(first) = line.strip_prefix("> ") else {
            parts.push(Part::Text(line.to_owned()));
            continue;
        };
        let mut command = vec![first.to_owned()];
        // Commands that follow each other are apart: a backslash begins a new one, SQL goes on to its `;`.
        while !first.starts_with('\\') && !command.last().unwrap().trim_end().ends_with(';') {
            match lines.next_if(|line| line.starts_with("> ")) {
                Some(line) => command.push(line["> ".len()..].to_owned()),
                None => break,
            }
        }
        let mut answer = String::new();
        while let Some(line) = lines.next_if(|line| !line.starts_with("> ") && !line.is_empty()) {
            writeln!(answer, "{line}").unwrap();
        }
        parts.push(Part::Command { lines: command, answer });
    }
    parts
}

async fn run_file(path: &Path, mode: Mode, update: bool) -> Result<(), String> {
    let text = std::fs::read_to_string(path).unwrap();
    let mut world = World::new(mode).await;
    let mut rewritten = String::new();
    let mut wrong = String::new();
    for part in parse(&text) {
        match part {
            Part::Text(line) => writeln!(rewritten, "{line}").unwrap(),
            Part::Command { lines, answer } => {
                let found = world.run(&lines.join("\n")).await;
                lines.iter().for_each(|line| writeln!(rewritten, "> {line}").unwrap());
                rewritten.push_str(&found);
                // What is written anew is not run twice: an INSERT would be in it twice.
                if found != answer && !update {
                    write!(
                        wrong,
                        "> {}\n--- expected\n{answer}--- found\n{found}",
                        lines.join("\n> ")
                    )
                    .unwrap();
                    // Was it too early, or does it stay wrong?
                    tokio::time::sleep(LATER).await;
                    let later = world.run(&lines.join("\n")).await;
                    write!(wrong, "--- later\n{later}--- left behind\n{}", world.left_behind()).unwrap();
                }
            }
        }
    }
    world.close().await;
    if update && mode == Mode::Straight {
        std::fs::write(path, rewritten).unwrap();
        return Ok(());
    }
    let mode = match mode {
        Mode::Straight => "straight",
        Mode::OneGroup => "over one group",
        Mode::Killed => "killed at each step",
    };
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("{} ({mode})\n{wrong}", path.display()))
    }
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/sql/query");
    let only = std::env::var("CASE").unwrap_or_default();
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "test"))
        .filter(|path| path.to_string_lossy().contains(&only))
        .collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn query_cases() {
    let update = std::env::var("UPDATE").is_ok_and(|value| value == "1");
    let files = cases();
    assert!(!files.is_empty(), "no cases were found");
    // They wait for disks and clocks most of the time.
    let at_once = Arc::new(Semaphore::new(CASES_AT_ONCE));
    let mut running = Vec::new();
    for path in files {
        let straight_only = std::fs::read_to_string(&path).unwrap().starts_with("# straight");
        for mode in [Mode::Straight, Mode::OneGroup, Mode::Killed] {
            // A case that is written anew is written by one run, before the others read it.
            if (straight_only && mode == Mode::Killed) || (update && mode != Mode::Straight) {
                continue;
            }
            let (path, at_once) = (path.clone(), at_once.clone());
            running.push(tokio::spawn(async move {
                let _turn = at_once.acquire().await.unwrap();
                run_file(&path, mode, update).await
            }));
        }
    }
    let mut failures = Vec::new();
    for case in running {
        failures.extend(case.await.unwrap().err());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
