//! Over folders that a store has made, sound and damaged.

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
    let ledger = state::check(engine, &mut findings);
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
fn a_flipped_bit_in_the_raft_log_is_found() {
    let made = Made::new();
    let file = &newest_log(&made.path());
    let whole = fs::read(file).unwrap();
    for at in [20, 200, whole.len() / 2, whole.len() - 2_000] {
        let mut damaged = whole.clone();
        damaged[at] ^= 4;
        fs::write(file, damaged).unwrap();
        let (problems, _) = problems(&made.path(), false);
        assert!(
            problems
                .iter()
                .any(|problem| problem.contains(&file.display().to_string()) && problem.contains("byte")),
            "{problems:?}"
        );
    }
}

/// It looks like what a crash leaves, but the rows know better.
#[test]
fn a_log_that_ends_before_the_rows_is_found() {
    let made = Made::new();
    let file = crate::log_files::list(&made.path().join("raft"))
        .unwrap()
        .pop()
        .unwrap();
    let mut begins = Vec::new();
    crate::log_files::scan(&file, &mut |event| {
        if let crate::log_files::Event::Batch(offset, _) = event {
            begins.push(offset);
        }
        true
    })
    .unwrap();
    let open = fs::File::options().write(true).open(&file.path).unwrap();
    open.set_len(begins[begins.len() / 2]).unwrap();
    let (problems, summary) = problems(&made.path(), false);
    assert_eq!(summary.torn_bytes, 0);
    assert!(
        problems.iter().any(|problem| problem.contains("rows are applied to")),
        "{problems:?}"
    );
}

#[test]
fn a_torn_write_is_told_and_is_no_problem() {
    let made = Made::new();
    let file = &newest_log(&made.path());
    let mut bytes = fs::read(file).unwrap();
    bytes.extend_from_slice(&[0, 0, 0, 0, 0, 9, 9, 0, 7]);
    fs::write(file, bytes).unwrap();
    let (problems, summary) = problems(&made.path(), true);
    assert_eq!((problems.len(), summary.torn_bytes), (0, 9), "{problems:?}");
}

/// Every file of RocksDB that holds something, and the log it writes for people set aside.
#[test]
fn a_flipped_bit_in_any_file_of_the_database_is_found() {
    let made = Made::new();
    let state = made.path().join("state");
    let mut seen = BTreeMap::new();
    for (path, whole) in contents(&state) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let kind = match name.split_once(['.', '-']) {
            Some((_, "sst")) => "sst",
            Some(("MANIFEST", _)) => "MANIFEST",
            None if name == "CURRENT" => "CURRENT",
            _ => continue,
        };
        *seen.entry(kind).or_insert(0) += 1;
        for at in [0, whole.len() / 3, whole.len() / 2] {
            let mut damaged = whole.clone();
            damaged[at] ^= 16;
            fs::write(&path, damaged).unwrap();
            let (problems, _) = problems(&made.path(), true);
            assert!(!problems.is_empty(), "{name} byte {at}");
            // What was not read is not called missing.
            let says = |text: &str| problems.iter().any(|problem| problem.contains(text));
            assert!(
                !says("were not read") || !says("are missing"),
                "{name} byte {at}: {problems:?}"
            );
        }
        fs::write(&path, whole).unwrap();
    }
    assert!(seen.len() == 3 && seen["sst"] >= 2, "{seen:?}");
    assert_eq!(problems(&made.path(), true).0.len(), 0);
}

#[test]
fn a_missing_record_batch_is_found() {
    let made = Made::new();
    let mut gone = None;
    made.plant(|engine, writes| {
        let (shard, (slice, bases)) = some_shard(engine);
        writes.delete(Family::Slice(slice), record_batch::key(shard, bases[2]));
        gone = Some((shard, bases[2]));
    });
    let (shard, base) = gone.unwrap();
    let (problems, _) = problems(&made.path(), true);
    let missing = format!("shard {shard} offset {base}");
    assert!(
        problems
            .iter()
            .any(|problem| problem.starts_with(&missing) && problem.contains("missing")),
        "{problems:?}"
    );
    assert!(
        problems.iter().any(|problem| problem.contains("it leads to")),
        "its entry's row: {problems:?}"
    );
}

#[test]
fn a_last_record_batch_that_is_missing_is_found_by_a_quick_check() {
    let made = Made::new();
    made.plant(|engine, writes| {
        let (shard, (slice, bases)) = some_shard(engine);
        writes.delete(Family::Slice(slice), record_batch::key(shard, *bases.last().unwrap()));
    });
    let (problems, _) = problems(&made.path(), false);
    assert!(
        problems.len() == 1 && problems[0].contains("the records should end here"),
        "{problems:?}"
    );
}

#[test]
fn a_damaged_record_batch_is_found() {
    let made = Made::new();
    made.plant(|engine, writes| {
        let (shard, (slice, bases)) = some_shard(engine);
        let key = record_batch::key(shard, bases[2]);
        let mut batch = engine.get(Family::Slice(slice), &key).unwrap().unwrap().to_vec();
        *batch.last_mut().unwrap() ^= 1;
        writes.put(Family::Slice(slice), key, batch);
    });
    let (problems, _) = problems(&made.path(), true);
    assert!(
        problems[0].contains("the body does not match its checksum"),
        "{problems:?}"
    );
}

#[test]
fn rows_that_lead_nowhere_are_found() {
    let made = Made::new();
    made.plant(|engine, writes| {
        let (shard, (slice, bases)) = some_shard(engine);
        let inside = Offset(bases[3].0 + 1_000_000);
        let row = entry_row::EntryRow {
            time: TimestampMs(1),
            appends: vec![entry_row::Appended {
                shard,
                base: inside,
                keys: KeyHashes::default(),
                prefixes: KeyHashes::default(),
            }],
        };
        let key = entry_row::key(shard.group, LogIndex(1 << 40));
        writes.put(Family::Slice(slice), key, entry_row::encode(&row));
        let key = time_index::key(shard, TimestampMs(5));
        writes.put(Family::Slice(slice), key, time_index::encode(inside));
    });
    let (problems, _) = problems(&made.path(), true);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems.iter().all(|problem| problem.contains("it leads to shard")),
        "{problems:?}"
    );
}

#[test]
fn an_end_that_does_not_agree_is_found() {
    for more in [true, false] {
        let made = Made::new();
        made.plant(|engine, writes| {
            let (id, _) = some_shard(engine);
            let mut row = shard::decode(engine.get(Family::State, &shard::key(id)).unwrap().unwrap()).unwrap();
            row.end = if more { row.end.plus(3) } else { Offset(row.end.0 - 1) };
            writes.put(Family::State, shard::key(id), shard::encode(&row));
        });
        let problem = one_problem(&made.path());
        let expected = if more {
            "records are missing from here"
        } else {
            "where none should be"
        };
        assert!(problem.contains(expected), "{problem}");
        assert_eq!(
            problems(&made.path(), false).0.len(),
            1,
            "the quick check finds it as well"
        );
    }
}

#[test]
fn records_that_nothing_leads_to_are_found() {
    let made = Made::new();
    made.plant(|engine, writes| {
        let (id, _) = some_shard(engine);
        let prefix = span::prefix(id);
        let mut keys = Vec::new();
        engine
            .scan(Family::State, &prefix, &prefix, &mut |key, _| {
                keys.push(key.to_vec());
                true
            })
            .unwrap();
        keys.into_iter().for_each(|key| writes.delete(Family::State, key));
    });
    let problem = one_problem(&made.path());
    assert!(problem.contains("nothing leads to offsets 0 to"), "{problem}");
}

#[test]
fn an_applied_index_beyond_the_log_or_before_its_cut_is_found() {
    for (index, expected) in [
        (1 << 40, "rows are applied to 1099511627776"),
        (0, "rows are applied to 0"),
    ] {
        let made = Made::new();
        made.plant(|engine, writes| {
            let group = GroupId(1);
            let row = engine.get(Family::State, &applied::key(group)).unwrap().unwrap();
            let row = applied::Applied {
                index: LogIndex(index),
                ..applied::decode(row).unwrap()
            };
            writes.put(Family::State, applied::key(group), applied::encode(&row));
        });
        let problem = one_problem(&made.path());
        assert!(
            problem.starts_with("raft log of group 1") && problem.contains(expected),
            "{problem}"
        );
    }
}

#[test]
fn a_row_of_no_known_kind_is_found() {
    let made = Made::new();
    made.plant(|_, writes| {
        writes.put(Family::State, b"zz".to_vec(), "");
        writes.put(Family::State, [&b"o"[..], &[1; 11]].concat(), "short");
    });
    let (problems, _) = problems(&made.path(), false);
    assert_eq!(
        problems,
        [
            "state row o 0101010101010101010101: it does not decode",
            "state row z 7a: it does not decode"
        ]
    );
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

/// Compares with the log engine's own replay.
fn assert_replayed(folder: &Path, groups: usize) {
    let files = crate::log_files::list(folder).unwrap();
    let logs = raft::load(&files).unwrap();
    assert_eq!(logs.len(), groups);
    let engine = crate::raft_log::open(folder).unwrap();
    for (group, log) in logs {
        let region = u64::from(group.0) + 1;
        let first = (!log.entries.is_empty()).then_some(log.first);
        assert_eq!(engine.first_index(region), first, "group {group}");
        let last = engine.last_index(region).unwrap_or(log.cut.index.0);
        assert_eq!(log.last(), LogIndex(last), "group {group}");
        assert_eq!(Cut::load(&engine, group).unwrap(), log.cut, "group {group}");
    }
}

#[test]
fn the_raft_log_is_replayed_as_the_log_engine_replays_it() {
    let made = Made::new();
    assert_replayed(&made.killed().join("raft"), 5);
    assert_replayed(&made.path().join("raft"), 5);
}

/// An idle group's entries are moved to the rewrite queue when the files they lie in are to go.
#[test]
fn what_the_log_engine_rewrote_is_replayed() {
    use crate::raft_log::testing::{cut, open_small, write, write_of};

    let root = tempfile::tempdir().unwrap();
    let live = root.path().join("live");
    let engine = open_small(&live, 4096);
    for index in 1..=3 {
        write_of(&engine, GroupId(2), index, b"idle");
    }
    for index in 1..=200 {
        write(&engine, index, &[index as u8; 300]);
        if index % 10 == 0 {
            cut(&engine, index - 5);
        }
    }
    let left = root.path().join("left");
    copy(&live, &left);
    let files = crate::log_files::list(&left).unwrap();
    let rewritten = files
        .iter()
        .filter(|file| file.queue == crate::log_files::Queue::Rewrite);
    let bytes: u64 = rewritten.map(|file| fs::metadata(&file.path).unwrap().len()).sum();
    assert!(bytes > 200, "{bytes} bytes were rewritten");
    assert!(
        files
            .iter()
            .all(|file| file.number > 1 || file.queue == crate::log_files::Queue::Rewrite)
    );
    assert_eq!(raft::load(&files).unwrap()[&GroupId(2)].entries.len(), 3);
    assert_replayed(&left, 2);
}

/// RocksDB takes it for a crash, and would delete what it does not find named.
#[test]
fn a_manifest_that_lost_its_end_is_refused_before_a_file_is_deleted() {
    // Seldom enough that what the earlier end names is still there.
    let made = Made::flushing(60_000);
    let state = made.killed().join("state");
    let current = fs::read_to_string(state.join("CURRENT")).unwrap();
    let manifest = state.join(current.trim());
    let whole = fs::read(&manifest).unwrap();
    let mut refused = 0;
    for lost in [whole.len() / 8, whole.len() / 4, whole.len() / 2] {
        fs::write(&manifest, &whole[..whole.len() - lost]).unwrap();
        let tables = |contents: BTreeMap<PathBuf, Vec<u8>>| -> Vec<PathBuf> {
            let names = contents.into_keys();
            names
                .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
                .collect()
        };
        let before = tables(contents(&state));
        let mut config = Config::embedded().unwrap().store;
        config.path = made.killed();
        let error = Store::open(&config, Arc::new(SystemClock))
            .expect_err("rows are gone")
            .to_string();
        assert!(error.contains("headwater store check"), "{error}");
        eprintln!("{lost}: {error}");
        refused += usize::from(error.contains("end at entry"));
        assert_eq!(tables(contents(&state)), before);
    }
    assert!(
        refused > 0,
        "RocksDB notices by itself, and this guards against nothing"
    );
    fs::write(&manifest, &whole).unwrap();
    let mut config = Config::embedded().unwrap().store;
    config.path = made.killed();
    Store::open(&config, Arc::new(SystemClock)).expect("nothing was lost");
}
