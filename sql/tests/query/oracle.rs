//! What queries come to over generated events, beside what SQLite makes of the same events in one go.
//!
//! A case in `tests/sql/oracle/*.test` is statements of ours (lines that begin with `> `), which result counts, and the
//! question for SQLite (lines that begin with `? `):
//!
//! ```text
//! > CREATE STREAM hot AS SELECT id, temp FROM r WHERE temp > 20;
//! = all hot             every record of a stream
//! = last counts         the last record of each key, without keys that are gone
//! = rows SELECT …       the rows of a SELECT
//! ? SELECT id, temp FROM r WHERE temp > 20
//! ```
//!
//! All cases run at once, over the streams of [`STREAMS`], which come in pieces; in between the engine is killed. SQLite has
//! the same streams as tables, times in milliseconds and `seq` the order of the events. A seed decides the events, how
//! they are cut, how many groups there are and how large a step is. `SEED=7` runs one seed.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use fastrand::Rng;
use serde_json::{Value, json};

use crate::world::{Mode, World};

const SEEDS: u64 = 6;
const EVENTS: usize = 240;
/// 2010-01-01T00:00:00Z
const BEGIN_MS: i64 = 1_262_304_000_000;
/// How far events may be out of order: the streams' DELAY, so that none is late.
const DISORDER_MS: i64 = 8_000;

const STREAMS: &str = "
    CREATE STREAM r (id INTEGER, device STRING, room STRING, temp FLOAT, n INTEGER, at TIMESTAMP)
        WITH (TIMESTAMP = at, DELAY = INTERVAL 8 SECOND, SHARDS = 3, KEY = id);
    CREATE STREAM o (id INTEGER, device STRING, amount INTEGER, at TIMESTAMP) WITH (TIMESTAMP = at, DELAY = INTERVAL 8 SECOND);
    CREATE STREAM u WITH (KEY = k);
    CREATE STREAM names_in WITH (KEY = k);";
const INPUTS: [(&str, &[&str]); 4] = [
    ("r", &["seq", "id", "device", "room", "temp", "n", "at"]),
    ("o", &["seq", "id", "device", "amount", "at"]),
    ("u", &["seq", "k", "grp", "v"]),
    ("names_in", &["seq", "k", "name"]),
];

/// A question, and where our answer is.
struct Case {
    file: String,
    setup: String,
    result: String,
    question: String,
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/sql/oracle");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut cases = Vec::new();
    for path in files {
        let (mut setup, mut result, mut question) = (String::new(), String::new(), String::new());
        let text = std::fs::read_to_string(&path).unwrap();
        for line in text.lines().chain([""]) {
            match line.split_at_checked(2) {
                Some(("> ", rest)) => setup.extend([rest, "\n"]),
                Some(("= ", rest)) => result = rest.to_owned(),
                Some(("? ", rest)) => question.extend([rest, "\n"]),
                _ if question.is_empty() => {}
                _ => cases.push(Case {
                    file: path.file_stem().unwrap().to_string_lossy().into_owned(),
                    setup: std::mem::take(&mut setup),
                    result: std::mem::take(&mut result),
                    question: std::mem::take(&mut question),
                }),
            }
        }
    }
    assert!(!cases.is_empty(), "no cases were found");
    cases
}

/// One event: its stream, and its fields by name.
type Event = (&'static str, Value);

/// In the order in which they come. What a lookup needs is first.
fn events(rng: &mut Rng) -> (Vec<Event>, Vec<Event>) {
    fn sometimes(rng: &mut Rng, value: Value) -> Value {
        if rng.u8(..20) == 0 { Value::Null } else { value }
    }
    let device = |rng: &mut Rng| {
        let number = rng.u8(..6);
        sometimes(rng, json!(format!("d{number}")))
    };
    let first = (0..12).map(|_| {
        let (k, name) = (rng.u8(..5), rng.u8(..20));
        (
            "names_in",
            json!({ "k": format!("d{k}"), "name": format!("name {name}") }),
        )
    });
    let first = first.collect();
    let mut now = BEGIN_MS;
    let mut rest = Vec::new();
    for id in 0..EVENTS {
        // Now and then nothing happens for a while, so that sessions end.
        now += if rng.u8(..12) == 0 {
            rng.i64(3_000..9_000)
        } else {
            rng.i64(0..800)
        };
        let at = (now - rng.i64(0..DISORDER_MS)).div_euclid(250) * 250;
        let device = device(rng);
        rest.push(match rng.u8(..10) {
            0..6 => {
                let temp = match rng.u8(..10) {
                    0 => Value::Null,
                    1 | 2 => json!(rng.i32(-20..60)),
                    _ => json!(f64::from(rng.i32(-80..240)) / 4.0),
                };
                let (room, n) = (rng.u8(..3), rng.i32(-5..20));
                let n = sometimes(rng, json!(n));
                ("r", json!({ "id": id, "device": device, "room": format!("room {room}"), "temp": temp, "n": n, "at": at }))
            }
            6 | 7 => ("o", json!({ "id": id, "device": device, "amount": rng.i32(0..100), "at": at })),
            _ => {
                let (k, grp) = (rng.u8(..8), rng.u8(..3));
                let v = rng.i32(-40..40);
                let v = sometimes(rng, json!(v));
                ("u", json!({ "k": format!("k{k}"), "grp": format!("g{grp}"), "v": v }))
            }
        });
    }
    (first, rest)
}

async fn insert(world: &mut World, stream: &str, rows: &[&Value]) {
    let rows: Vec<String> = rows.iter().map(|row| format!("'{row}'")).collect();
    let answer = world
        .run(&format!("INSERT INTO {stream} VALUES {};", rows.join(", ")))
        .await;
    assert!(answer.contains("inserted"), "{answer}");
}

/// Gives all events to the queries, in pieces, and kills the engine now and then.
async fn feed(world: &mut World, events: &[Event], rng: &mut Rng) {
    let mut left = events;
    while !left.is_empty() {
        let (piece, later) = left.split_at(rng.usize(1..40).min(left.len()));
        left = later;
        for (stream, _) in INPUTS {
            let rows: Vec<&Value> = piece
                .iter()
                .filter(|event| event.0 == stream)
                .map(|(_, row)| row)
                .collect();
            if !rows.is_empty() {
                insert(world, stream, &rows).await;
            }
        }
        match rng.u8(..4) {
            0 => world.kill(),
            1 => world.caught_up().await,
            _ => {}
        }
    }
    world.caught_up().await;
}

/// What SQLite says of each case.
fn sqlite(cases: &[Case], events: &[Event]) -> Vec<Vec<Row>> {
    let rows_of = |stream: &str, columns: &[&str]| {
        let own = events.iter().enumerate().filter(|(_, event)| event.0 == stream);
        let row = |(seq, (_, row)): (usize, &Event)| {
            let value = |column: &&str| {
                if *column == "seq" {
                    json!(seq)
                } else {
                    row[column].clone()
                }
            };
            columns.iter().map(value).collect::<Value>()
        };
        own.map(row).collect::<Value>()
    };
    let table = |(name, columns): &(&str, &[&str])| {
        let rows = rows_of(name, columns);
        ((*name).to_owned(), json!({ "columns": columns, "rows": rows }))
    };
    let tables: serde_json::Map<String, Value> = INPUTS.iter().map(table).collect();
    let questions: Vec<&String> = cases.iter().map(|case| &case.question).collect();
    let asked = json!({ "tables": tables, "questions": questions });
    let python = std::env::var("HEADWATER_TEST_PYTHON").unwrap_or_else(|_| "/usr/bin/python3".into());
    let mut child = Command::new(&python)
        .args(["-c", include_str!("oracle.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{python}: {error}"));
    child
        .stdin
        .take()
        .unwrap()
        .write_all(asked.to_string().as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "SQLite did not answer");
    let answers: Vec<Vec<Vec<Value>>> = serde_json::from_slice(&output.stdout).unwrap();
    answers
        .into_iter()
        .map(|rows| sorted(rows.iter().map(comparable)))
        .collect()
}

/// A row, as text in which equal numbers are equal.
type Row = String;

fn comparable<'v>(row: impl IntoIterator<Item = &'v Value>) -> Row {
    let value = |value: &Value| match value {
        Value::Bool(truth) => format!("{:?}", f64::from(*truth)),
        Value::Number(number) => format!("{:?}", number.as_f64().unwrap() + 0.0),
        other => other.to_string(),
    };
    row.into_iter().map(value).collect::<Vec<_>>().join(" | ")
}

fn sorted(rows: impl Iterator<Item = Row>) -> Vec<Row> {
    let mut rows: Vec<Row> = rows.collect();
    rows.sort();
    rows
}

async fn ours(world: &mut World, result: &str) -> Vec<Row> {
    let row = |text: &str| {
        let row: Value = serde_json::from_str(text).unwrap_or_else(|_| panic!("{result}: {text}"));
        comparable(row.as_object().unwrap().values())
    };
    let text = |payload: bytes::Bytes| String::from_utf8(payload.to_vec()).unwrap();
    match result.split_once(' ') {
        Some(("all", stream)) => {
            let records = world.stored(stream).await.unwrap();
            sorted(records.into_iter().map(|record| row(&text(record.payload.unwrap()))))
        }
        Some(("last", stream)) => {
            let records = world.stored(stream).await.unwrap();
            let last: BTreeMap<_, _> = records.into_iter().map(|record| (record.key, record.payload)).collect();
            sorted(last.into_values().flatten().map(|payload| row(&text(payload))))
        }
        Some(("rows", select)) => sorted(world.run(&format!("{select};")).await.lines().map(row)),
        _ => panic!("no such result: {result}"),
    }
}

async fn run(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let groups = [1, 4][rng.usize(..2)];
    let step_records_max = [1, 5, 60, 8_192][rng.usize(..4)];
    let mut world = World::with(Mode::Straight, groups, step_records_max).await;
    let (first, rest) = events(&mut rng);
    let cases = cases();
    for setup in [STREAMS].into_iter().chain(cases.iter().map(|case| &case.setup[..])) {
        let answer = world.run(setup).await;
        assert!(!answer.contains("error["), "{answer}");
    }
    feed(&mut world, &first, &mut rng).await;
    feed(&mut world, &rest, &mut rng).await;
    for stream in ["r", "o"] {
        world
            .run(&format!(
                "ADVANCE WATERMARK OF {stream} TO TIMESTAMP '2010-02-01 00:00:00';"
            ))
            .await;
    }
    world.caught_up().await;
    let all: Vec<Event> = first.into_iter().chain(rest).collect();
    let expected = sqlite(&cases, &all);
    for (case, expected) in cases.iter().zip(expected) {
        let found = ours(&mut world, &case.result).await;
        let missing: Vec<_> = expected.iter().filter(|row| !found.contains(row)).collect();
        let extra: Vec<_> = found.iter().filter(|row| !expected.contains(row)).collect();
        assert!(
            found == expected,
            "seed {seed}, {groups} groups, steps of {step_records_max}, {}:\n{}{}\nmissing {missing:#?}\nextra {extra:#?}\n{} rows, SQLite has {}",
            case.file,
            case.setup,
            case.question,
            found.len(),
            expected.len(),
        );
    }
    world.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_agree_with_sqlite() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..SEEDS).collect(),
    };
    for seed in seeds {
        run(seed).await;
    }
}
