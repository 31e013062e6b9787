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
//! \retained TOPIC          the payload of the topic's retained message
//! \state QUERY              what SHOW QUERIES says of its state
//! \push NAME SELECT …       a push SELECT, which goes on
//! \rows NAME COUNT          its next rows
//! ```
//!
//! Every case runs three times and must give the same answers: straight, over one data group only (but for the order
//! of `\records`, which is sorted), and with steps of one record and the engine killed and another one started at each
//! `\step`, before and after it has read what was there. So between two `\step`s a key changes once at most. A file whose first line is `# straight` holds push SELECTs, which die with their
//! engine, and is not killed.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use headwater_config::{Config, Millis};
use headwater_sql::{Engine, Outcome, Progress, RowStream};
use headwater_store::{Clock, Offset, QueryState, Record, Store, TimestampMs, TopicName, tables};

/// 2026-01-01T00:00:00Z
const BEGIN_MS: i64 = 1_767_225_600_000;

#[derive(Clone)]
struct TestClock(Arc<AtomicI64>);

impl Clock for TestClock {
    fn now(&self) -> TimestampMs {
        TimestampMs(self.0.load(Ordering::SeqCst))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Straight,
    OneGroup,
    Killed,
}

struct World {
    mode: Mode,
    config: Config,
    clock: TestClock,
    store: Store,
    engine: Option<Engine>,
    pushes: HashMap<String, RowStream>,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new(mode: Mode) -> World {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::embedded().unwrap();
        config.store.path = folder.path().join("data");
        config.store.groups = if mode == Mode::OneGroup { 1 } else { 4 };
        config.sql.cursor_save_every = Millis(10);
        config.sql.threads = 1;
        if mode == Mode::Killed {
            // Each record is a step of its own, so that how input is cut into steps is seen not to matter either.
            config.sql.step_records_max = 1;
        }
        let clock = TestClock(Arc::new(AtomicI64::new(BEGIN_MS)));
        let (store_config, store_clock) = (config.store.clone(), Arc::new(clock.clone()));
        let open = move || Store::open(&store_config, store_clock).unwrap();
        let store = tokio::task::spawn_blocking(open).await.unwrap();
        let mut world = World {
            mode,
            config,
            clock,
            store,
            engine: None,
            pushes: HashMap::new(),
            _folder: folder,
        };
        world.start();
        world
    }

    fn start(&mut self) {
        let engine = Engine::start(self.store.clone(), &self.config.sql, Arc::new(|_, _, _| Ok(())));
        self.engine = Some(engine.unwrap());
    }

    /// Without a word, like kill -9: nothing is saved that was not.
    fn kill(&mut self) {
        self.engine = None;
        self.start();
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    async fn run(&mut self, command: &str) -> String {
        let Some(meta) = command.strip_prefix('\\') else {
            return self.sql(command).await;
        };
        let (name, rest) = meta.split_once(char::is_whitespace).unwrap_or((meta, ""));
        match name {
            "publish" => self.publish(rest.trim()).await,
            "clock" => self.advance(rest.trim()).await,
            "step" => self.step().await,
            "records" => self.records(rest.trim()).await,
            "retained" => self.retained(rest.trim()),
            "state" => self.state(rest.trim()),
            "push" => self.push(rest.trim()).await,
            "rows" => self.rows(rest.trim()).await,
            other => panic!("no such command: \\{other}"),
        }
    }

    async fn sql(&self, text: &str) -> String {
        let outcomes = match self.engine().execute(text).await {
            Ok(outcomes) => outcomes,
            Err(error) => return format!("{error}\n"),
        };
        let mut out = String::new();
        for outcome in outcomes {
            match outcome {
                Outcome::Done { message, warnings } => {
                    writeln!(out, "{message}").unwrap();
                    warnings
                        .iter()
                        .for_each(|warning| writeln!(out, "warning: {warning}").unwrap());
                }
                Outcome::Rows(rows) => {
                    rows.warnings()
                        .iter()
                        .for_each(|warning| writeln!(out, "warning: {warning}").unwrap());
                    match rows.collect().await {
                        Ok(rows) => rows.iter().for_each(|row| writeln!(out, "{row}").unwrap()),
                        Err(error) => writeln!(out, "{error}").unwrap(),
                    }
                }
                Outcome::Changes(_) => writeln!(out, "use \\push").unwrap(),
            }
        }
        out
    }

    async fn publish(&self, rest: &str) -> String {
        let (topic, payload) = rest.split_once(' ').unwrap_or((rest, ""));
        let topic = TopicName::new(topic.to_owned()).unwrap();
        let record = Record {
            topic: Some(topic.clone()),
            ..Record::new(payload.to_owned())
        };
        self.store.write(self.store.route(&topic).batch(record)).await.unwrap();
        String::new()
    }

    async fn advance(&self, by: &str) -> String {
        let by: Millis = by.strip_prefix('+').unwrap_or(by).parse().unwrap();
        self.clock.0.fetch_add(by.0 as i64, Ordering::SeqCst);
        // Tasks look at the clock twice a second while windows wait for it.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        String::new()
    }

    async fn step(&mut self) -> String {
        if self.mode == Mode::Killed {
            // It may have read nothing, some or all of what is new.
            self.kill();
            self.caught_up().await;
            self.kill();
        }
        self.caught_up().await;
        String::new()
    }

    async fn caught_up(&self) {
        for _ in 0..1_000 {
            // Twice in a row: a query may have given another one something to read.
            if self.is_caught_up().await && self.is_caught_up().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the queries do not catch up: {:?}", self.engine());
    }

    async fn is_caught_up(&self) -> bool {
        let catalog = self.store.catalog().borrow().clone();
        for query in catalog
            .queries
            .values()
            .filter(|query| query.state == QueryState::Running)
        {
            match self.engine().query_status(query).state {
                "running" => {}
                "failed" => continue,
                _ => return false,
            }
            for group in &catalog.stream_by_id(query.output).unwrap().shards {
                let row = self
                    .store
                    .table(*group, tables::QUERY_PROGRESS)
                    .get(&Progress::key(query.id))
                    .unwrap();
                // A query that has read nothing has nothing to save.
                let cursors = match &row {
                    Some(row) => Progress::decode(row).unwrap().cursors,
                    None => self.start_of(query),
                };
                for (shard, cursor) in cursors {
                    if self.store.bounds(shard).await.unwrap().1 != cursor {
                        return false;
                    }
                }
            }
        }
        true
    }

    fn start_of(&self, query: &headwater_store::QueryRow) -> Vec<(headwater_store::ShardId, Offset)> {
        use headwater_sql::plan::physical::{Plan, Start};
        let catalog = self.store.catalog().borrow().clone();
        let plan = Plan::decode(&query.plan).unwrap();
        let of = |source: &headwater_sql::plan::physical::Source| match &source.start {
            Start::At(offsets) => {
                let stream = catalog.stream_by_id(source.stream).unwrap();
                stream
                    .shard_ids()
                    .zip(offsets.iter().map(|at| Offset(*at)))
                    .collect::<Vec<_>>()
            }
            _ => panic!("the start of {} is not resolved", query.name),
        };
        plan.sources().flat_map(|(_, source)| of(source)).collect()
    }

    async fn records(&self, stream: &str) -> String {
        let catalog = self.store.catalog().borrow().clone();
        let Some(stream) = catalog.stream(stream) else {
            return "no such stream\n".to_owned();
        };
        let mut lines = Vec::new();
        for shard in stream.shard_ids() {
            for batch in self.store.read(shard, Offset(0), usize::MAX).await.unwrap() {
                for (_, record) in batch.records_from(Offset(0)).unwrap() {
                    let text = |bytes: Option<bytes::Bytes>| {
                        bytes.map_or("-".to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
                    };
                    let topic = record.topic.map_or("-".to_owned(), |topic| topic.as_str().to_owned());
                    lines.push(format!("{topic} {} {}\n", text(record.key), text(record.payload)));
                }
            }
        }
        // Stable: records of one key stay in their order.
        lines.sort_by(|a, b| a.split(" {").next().cmp(&b.split(" {").next()));
        lines.concat()
    }

    fn retained(&self, topic: &str) -> String {
        let group = headwater_store::group_for_topic(topic, self.config.store.groups);
        let row = self.store.table(group, tables::RETAINED).get(topic.as_bytes()).unwrap();
        // Of a result: version, qos, time, no client id, no properties, payload.
        row.map_or("(nothing)\n".to_owned(), |row| {
            format!("{}\n", String::from_utf8_lossy(&row[16..]))
        })
    }

    fn state(&self, query: &str) -> String {
        let catalog = self.store.catalog().borrow().clone();
        let Some(query) = catalog.queries.get(query) else {
            return "no such query\n".to_owned();
        };
        let status = self.engine().query_status(query);
        match status.last_error {
            Some(error) if status.state == "failed" => format!("failed: {error}\n"),
            _ => format!("{}\n", status.state),
        }
    }

    async fn push(&mut self, rest: &str) -> String {
        let (name, select) = rest.split_once(' ').unwrap();
        match self.engine().execute(select).await {
            Ok(outcomes) => match outcomes.into_iter().next() {
                Some(Outcome::Changes(rows)) => {
                    self.pushes.insert(name.to_owned(), rows);
                    String::new()
                }
                other => format!("not a push SELECT: {other:?}\n"),
            },
            Err(error) => format!("{error}\n"),
        }
    }

    async fn rows(&mut self, rest: &str) -> String {
        let (name, count) = rest.split_once(' ').unwrap();
        let rows = self.pushes.get_mut(name).unwrap();
        let mut out = String::new();
        for _ in 0..count.parse::<usize>().unwrap() {
            match tokio::time::timeout(Duration::from_secs(5), rows.next()).await {
                Ok(Some(Ok(row))) => writeln!(out, "{row}").unwrap(),
                Ok(Some(Err(error))) => writeln!(out, "{error}").unwrap(),
                Ok(None) => writeln!(out, "(end)").unwrap(),
                Err(_) => writeln!(out, "(nothing)").unwrap(),
            }
        }
        out
    }
}

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
                if found != answer {
                    write!(
                        wrong,
                        "> {}\n--- expected\n{answer}--- found\n{found}",
                        lines.join("\n> ")
                    )
                    .unwrap();
                }
            }
        }
    }
    if let Some(engine) = world.engine.take() {
        engine.stop().await;
    }
    world.store.stop().await;
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
    let mut failures = Vec::new();
    for path in files {
        let straight_only = std::fs::read_to_string(&path).unwrap().starts_with("# straight");
        for mode in [Mode::Straight, Mode::OneGroup, Mode::Killed] {
            if !(straight_only && mode == Mode::Killed) {
                failures.extend(run_file(&path, mode, update).await.err());
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
