//! Over folders that a store has made, sound and damaged.

mod files;
mod rows;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_config::{ByteSize, Config};

use super::*;
use crate::engine::{Engine, Writes};
use crate::ids::{LogIndex, Offset, ShardId, SliceId, TimestampMs};
use crate::key_hashes::KeyHashes;
use crate::keys::{entry_row, record_batch, shard, span, time_index};
use crate::{Record, Store, SystemClock, TopicName};

/// A folder with some hundred records in every group, of which much was flushed and cut, and its path.
struct Made {
    root: tempfile::TempDir,
    flush_every: ByteSize,
}

impl Made {
    /// Flushes all the time, so that the log is cut and there are files.
    fn new() -> Made {
        Made::flushing(20_000)
    }

    fn flushing(every_bytes: u64) -> Made {
        let made = Made {
            root: tempfile::tempdir().unwrap(),
            flush_every: ByteSize(every_bytes),
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = made.open();
        runtime.block_on(async {
            for number in 0..400 {
                let topic = TopicName::new(format!("device/{}", number % 40)).unwrap();
                let record = Record {
                    topic: Some(topic.clone()),
                    ..Record::new(format!("{number:0>300}"))
                };
                store.write(store.route(&topic).batch(record)).await.unwrap();
            }
            // What kill -9 would leave now: files that belong together, so none may change while they are copied.
            loop {
                let before = lengths(&made.path());
                copy(&made.path(), &made.killed());
                if lengths(&made.path()) == before {
                    break;
                }
                fs::remove_dir_all(made.killed()).unwrap();
            }
            store.stop().await;
        });
        drop(store);
        made
    }

    fn open(&self) -> Store {
        let mut config = Config::embedded().unwrap().store;
        config.path = self.path();
        config.flush_every = self.flush_every;
        Store::open(&config, Arc::new(SystemClock)).unwrap()
    }

    fn path(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn killed(&self) -> PathBuf {
        self.root.path().join("killed")
    }

    /// Changes rows behind the store's back.
    fn plant(&self, change: impl FnOnce(&RocksEngine, &mut Writes)) {
        let engine = RocksEngine::open(&self.path().join("state"), 1 << 20).unwrap();
        let mut writes = Writes::default();
        change(&engine, &mut writes);
        engine.write(writes).unwrap();
        engine.flush().unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let path = item.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            // RocksDB may have deleted it by now.
            let _ = fs::copy(&path, target);
        }
    }
}

fn lengths(path: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for item in fs::read_dir(path).unwrap() {
        let path = item.unwrap().path();
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => found.extend(lengths(&path)),
            Ok(metadata) => drop(found.insert(path, metadata.len())),
            Err(_) => {}
        }
    }
    found
}

fn contents(path: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut contents = BTreeMap::new();
    for item in fs::read_dir(path).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            contents.extend(self::contents(&path));
            contents.insert(path, Vec::new());
        } else {
            contents.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    contents
}

fn problems(path: &Path, full: bool) -> (Vec<String>, Summary) {
    let before = contents(path);
    let mut problems = Vec::new();
    let summary = Offline::open(path)
        .unwrap()
        .check(full, &mut |problem| problems.push(problem.to_string()));
    assert_eq!(summary.problems, problems.len() as u64);
    assert!(contents(path) == before, "not a byte is changed");
    (problems, summary)
}

fn newest_log(path: &Path) -> PathBuf {
    crate::log_files::list(&path.join("raft")).unwrap().pop().unwrap().path
}

/// The one problem that a full check finds.
fn one_problem(path: &Path) -> String {
    let (problems, _) = problems(path, true);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems[0].clone()
}

/// Some shard that has several record batches in one slice, the slice, and the batches' offsets.
fn some_shard(engine: &RocksEngine) -> (ShardId, (SliceId, Vec<Offset>)) {
    let mut findings = Findings {
        summary: Summary::default(),
        tell: &mut |problem| panic!("{problem}"),
    };
    let ledger = state::check(engine, &mut findings).unwrap();
    for shard in ledger.spans.keys().copied() {
        let (slice, ..) = ledger.kept(shard).next().unwrap();
        let mut bases = Vec::new();
        let prefix = record_batch::prefix(shard);
        engine
            .scan(Family::Slice(slice), &prefix, &prefix, &mut |key, _| {
                bases.push(record_batch::base_offset(key).unwrap());
                true
            })
            .unwrap();
        if bases.len() > 4 {
            return (shard, (slice, bases));
        }
    }
    panic!("no shard has enough record batches");
}

#[test]
fn a_sound_folder_has_no_problems_and_stays_as_it_is() {
    let made = Made::new();
    for path in [made.path(), made.killed()] {
        for full in [false, true] {
            let (problems, summary) = problems(&path, full);
            assert_eq!(problems, [] as [String; 0]);
            assert_eq!((summary.groups, summary.torn_bytes), (5, 0));
            assert!(
                summary.log_entries > 400 && summary.shards >= 4 && summary.table_rows > 0,
                "{summary:?}"
            );
            if full {
                assert!(summary.records + summary.log_entries_unflushed >= 400, "{summary:?}");
            }
        }
    }
    let mut config = Config::embedded().unwrap().store;
    config.path = made.killed();
    Store::open(&config, Arc::new(SystemClock)).expect("what was checked can be started");
}

#[test]
fn a_folder_in_use_is_left_alone() {
    let made = Made::new();
    let store = made.open();
    assert!(matches!(Offline::open(&made.path()), Err(OpenError::Locked(_))));
    drop(store);
}

#[test]
fn what_was_written_is_dumped() {
    let made = Made::new();
    let offline = Offline::open(&made.path()).unwrap();
    let dumped = |what, filter: DumpFilter| {
        let mut rows = Vec::new();
        offline
            .dump(what, &filter, &mut |row| {
                rows.push(row);
                true
            })
            .unwrap();
        rows
    };
    let records = dumped(DumpWhat::Records, DumpFilter::default());
    assert_eq!(records.len(), 400);
    let mut payloads = Vec::new();
    for row in &records {
        let Dumped::Record { stream, record, .. } = row else {
            panic!("{row:?}")
        };
        assert_eq!(stream.as_deref(), Some("mqtt"));
        payloads.push(
            String::from_utf8(record.payload.clone().unwrap().to_vec())
                .unwrap()
                .parse::<u64>()
                .unwrap(),
        );
    }
    payloads.sort_unstable();
    assert!(payloads.into_iter().eq(0..400));

    let of_group = |group| DumpFilter {
        group: Some(GroupId(group)),
        from: 3,
        ..DumpFilter::default()
    };
    let some = dumped(DumpWhat::Records, of_group(2));
    let in_group = |shard: &ShardId, offset: &Offset| shard.group == GroupId(2) && offset.0 >= 3;
    assert!(
        some.iter()
            .all(|row| matches!(row, Dumped::Record { shard, offset, .. } if in_group(shard, offset)))
    );
    let by_id = DumpFilter {
        stream: Some("999999".to_owned()),
        ..DumpFilter::default()
    };
    assert!(dumped(DumpWhat::Records, by_id).is_empty());
    let unknown = DumpFilter {
        stream: Some("nobody".to_owned()),
        ..DumpFilter::default()
    };
    let error = offline.dump(DumpWhat::Records, &unknown, &mut |_| true).unwrap_err();
    assert!(matches!(error, DumpError::Stream(_)), "{error}");

    assert!(!dumped(DumpWhat::Tables, DumpFilter::default()).is_empty());
    let entries = dumped(DumpWhat::Entries, DumpFilter::default());
    assert!(entries.len() <= 400 && entries.len() > 100, "{}", entries.len());
    let raft = dumped(DumpWhat::Raft, DumpFilter::default());
    assert_eq!(
        raft.iter()
            .filter(|row| matches!(row, Dumped::RaftGroup { .. }))
            .count(),
        5
    );
    assert!(
        raft.iter()
            .any(|row| matches!(row, Dumped::RaftEntry { items, .. } if !items.is_empty()))
    );
}
