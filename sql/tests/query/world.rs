//! A store and an engine of a test, with a clock that stands still, and what a test may do with them.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::future::select_all;
use headwater_config::{Config, Millis};
use headwater_sql::{Engine, Outcome, Progress, RowStream};
use headwater_store::{Clock, GroupFollower, Offset, QueryState, Record, Store, TimestampMs, TopicName, tables};

/// 2026-01-01T00:00:00Z
const BEGIN_MS: i64 = 1_767_225_600_000;
/// Kills between two `\\step`s: more than the steps of any case, less than would hang it.
const KILLS_MAX: usize = 300;

#[derive(Clone)]
struct TestClock(Arc<AtomicI64>);

impl Clock for TestClock {
    fn now(&self) -> TimestampMs {
        TimestampMs(self.0.load(Ordering::SeqCst))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Straight,
    OneGroup,
    Killed,
}

pub struct World {
    mode: Mode,
    config: Config,
    clock: TestClock,
    store: Store,
    engine: Option<Engine>,
    pushes: HashMap<String, RowStream>,
    _folder: tempfile::TempDir,
}

impl World {
    pub async fn new(mode: Mode) -> World {
        let groups = if mode == Mode::OneGroup { 1 } else { 4 };
        // Killed: each record is a step of its own, so that how input is cut into steps is seen not to matter either.
        let step_records_max = if mode == Mode::Killed { 1 } else { 8_192 };
        World::with(mode, groups, step_records_max).await
    }

    /// Over so many data groups, with steps of so many records.
    pub async fn with(mode: Mode, groups: u16, step_records_max: usize) -> World {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::embedded().unwrap();
        config.store.path = folder.path().join("data");
        config.store.groups = groups;
        config.sql.cursor_save_every = Millis(10);
        config.sql.threads = 1;
        config.sql.step_records_max = step_records_max;
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

    /// Everything is written; the engine and the store end in order.
    pub async fn close(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.stop().await;
        }
        self.store.stop().await;
    }

    /// Without a word, like kill -9: nothing is saved that was not.
    pub fn kill(&mut self) {
        self.engine = None;
        self.start();
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    pub async fn run(&mut self, command: &str) -> String {
        let Some(meta) = command.strip_prefix('\\') else {
            return self.sql(command).await;
        };
        let (name, rest) = meta.split_once(char::is_whitespace).unwrap_or((meta, ""));
        match name {
            "publish" => self.publish(rest.trim()).await,
            "clock" => self.advance(rest.trim()).await,
            "step" => self.step().await,
            "records" => self.records(rest.trim()).await,
            "changes" => self.changes(rest.trim()).await,
            "retained" => self.retained(rest.trim()),
            "state" => self.state(rest.trim()),
            "places" => self.places(rest.trim()),
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
            self.kill_after_each_step().await;
        }
        self.caught_up().await;
        String::new()
    }

    /// Until the queries have read all there is, ends the engine as soon as a step of any of them is committed, and
    /// starts another one. By turns it is killed and told to stop: steps that a dead one had on their way may still
    /// happen, or not, and one that stops may save how far its steps have come, and nothing further.
    async fn kill_after_each_step(&mut self) {
        for number in 0..KILLS_MAX {
            if number % 2 == 1 {
                self.engine().stop().await;
            }
            // They begin behind what is applied now: only what the next engine does is seen.
            let groups = self.store.data_groups().map(|group| self.store.follow_group(group));
            let mut groups: Vec<_> = groups.collect();
            self.kill();
            let steps = groups.iter_mut().map(|group| Box::pin(step_of(group)));
            tokio::select! {
                _ = select_all(steps) => {}
                () = self.caught_up() => break,
            }
        }
        self.kill();
    }

    pub async fn caught_up(&self) {
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
                // A query that has read nothing has nothing to save, and one that has not come to a new stream yet neither.
                let saved = row
                    .map(|row| Progress::decode(&row).unwrap().cursors)
                    .unwrap_or_default();
                for (shard, begin) in headwater_sql::begins(query, &catalog).unwrap() {
                    let cursor = saved.iter().find(|(known, _)| *known == shard);
                    let cursor = cursor.map_or(begin, |(_, cursor)| *cursor);
                    if self.store.bounds(shard).await.unwrap().1 != cursor {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// All records of a stream, shard by shard. None: there is no such stream.
    pub async fn stored(&self, stream: &str) -> Option<Vec<Record>> {
        let stream = self.store.catalog().borrow().stream(stream)?.clone();
        let mut records = Vec::new();
        for shard in stream.shard_ids() {
            for batch in self.store.read(shard, Offset(0), usize::MAX).await.unwrap() {
                records.extend(
                    batch
                        .records_from(Offset(0))
                        .unwrap()
                        .into_iter()
                        .map(|(_, record)| record),
                );
            }
        }
        Some(records)
    }

    async fn records(&self, stream: &str) -> String {
        let Some(records) = self.stored(stream).await else {
            return "no such stream\n".to_owned();
        };
        let line = |record: Record| {
            let text = |bytes: Option<bytes::Bytes>| {
                bytes.map_or("-".to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
            };
            let topic = record.topic.map_or("-".to_owned(), |topic| topic.as_str().to_owned());
            format!("{topic} {} {}\n", text(record.key), text(record.payload))
        };
        let mut lines: Vec<String> = records.into_iter().map(line).collect();
        // Stable: records of one key stay in their order.
        lines.sort_by(|a, b| a.split(" {").next().cmp(&b.split(" {").next()));
        lines.concat()
    }

    async fn changes(&self, stream: &str) -> String {
        let records = self.stored(stream).await.unwrap_or_default();
        let line = |record: Record| {
            let key = String::from_utf8_lossy(&record.key.unwrap_or_default()).into_owned();
            format!(
                "{key} {}\n",
                record.change.map_or("-".to_owned(), |change| format!("{change:?}"))
            )
        };
        let mut lines: Vec<String> = records.into_iter().map(line).collect();
        lines.sort_by(|a, b| a.split(' ').next().cmp(&b.split(' ').next()));
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

    fn places(&self, query: &str) -> String {
        let catalog = self.store.catalog().borrow().clone();
        let query = &catalog.queries[query];
        let mut names = BTreeSet::new();
        for group in &catalog.stream_by_id(query.output).unwrap().shards {
            let progress = self.store.table(*group, tables::QUERY_PROGRESS);
            let row = progress.get(&Progress::key(query.id)).unwrap();
            let cursors = row.map(|row| Progress::decode(&row).unwrap().cursors);
            for (shard, _) in cursors.unwrap_or_default() {
                let name = catalog.stream_names.get(&shard.stream);
                names.insert(name.cloned().unwrap_or_else(|| "-".to_owned()));
            }
        }
        names.into_iter().map(|name| name + "\n").collect()
    }

    /// What each query has saved: for whoever has to find out why a case failed.
    pub fn left_behind(&self) -> String {
        let catalog = self.store.catalog().borrow().clone();
        let mut out = String::new();
        for query in catalog.queries.values() {
            let status = self.engine().query_status(query);
            writeln!(out, "{}: {} {:?}", query.name, status.state, status.last_error).unwrap();
            for group in &catalog.stream_by_id(query.output).unwrap().shards {
                let progress = self.store.table(*group, tables::QUERY_PROGRESS);
                let row = progress.get(&Progress::key(query.id)).unwrap();
                let saved = row.map(|row| Progress::decode(&row).unwrap());
                writeln!(out, "  group {group}: {saved:?}").unwrap();
                let state = self.store.table(*group, tables::QUERY_STATE);
                let rows = state.scan(&Progress::key(query.id), &[], usize::MAX).unwrap();
                for (key, row) in rows {
                    writeln!(out, "    {} = {}", key.escape_ascii(), row.escape_ascii()).unwrap();
                }
            }
        }
        out
    }

    async fn push(&mut self, rest: &str) -> String {
        let (name, select) = rest.split_once(' ').unwrap();
        match self.engine().execute(select).await {
            // What is SET stands before it.
            Ok(mut outcomes) => match outcomes.pop() {
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

/// Waits until a step of some query is committed in the group.
async fn step_of(group: &mut GroupFollower) {
    loop {
        let entry = group.next().await.unwrap();
        if entry.puts.iter().any(|put| put.table == tables::QUERY_PROGRESS) {
            return;
        }
    }
}
