//! Every [`Point`] is struck several times, over real files: a process that writes dies there, and the next one, over
//! the same folder, first looks whether anything is missing. The processes are this test binary, running only [`writer`].

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use headwater_config::{ByteSize, Config, StoreConfig};

use super::Point;
use crate::batch::{Condition, Put, TableId, Trim};
use crate::{Batch, GroupId, Offset, Record, ShardId, Store, SystemClock, TopicName};

/// The folder, in the environment of a process that writes.
const FOLDER: &str = "HEADWATER_TEST_KILL_FOLDER";
/// The point to die at, and at which of its occurrences: `FlushEnds:2`.
const AT: &str = "HEADWATER_TEST_KILL_AT";

const TABLE: TableId = TableId(1000);
const KEY: &[u8] = b"cursor";
/// So many bytes each: a slice is full after a few dozen, and so is what may stay unflushed.
const PAYLOAD_BYTES: usize = 700;
/// Every so many records the older ones are trimmed.
const TRIM_EVERY: u64 = 150;
/// And so many stay.
const TRIM_LEAVES: u64 = 40;
/// A process that was to die, and did not get there in this time, ends by itself.
const PATIENCE: Duration = Duration::from_secs(20);
/// One that is to live writes so many records.
const LAST_ROUND: u64 = 50;

struct Strike {
    point: String,
    occurrences_left: AtomicU64,
}

static STRIKE: LazyLock<Option<Strike>> = LazyLock::new(|| {
    let at = std::env::var(AT).ok()?;
    let (point, occurrence) = at.split_once(':').unwrap();
    Some(Strike {
        point: point.to_owned(),
        occurrences_left: AtomicU64::new(occurrence.parse().unwrap()),
    })
});

/// Ends the process if this is where it is to die. No destructor runs, nothing is flushed.
pub fn reached(point: Point) {
    if let Some(strike) = &*STRIKE
        && format!("{point:?}") == strike.point
        && strike.occurrences_left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}

#[test]
fn at_every_step_of_the_log() {
    strike(&[
        Point::LogBegins,
        Point::LogSynced,
        Point::EntryApplied,
        Point::LogCut,
        Point::LogPurge,
        Point::LogPurged,
    ]);
}

#[test]
fn at_every_step_of_a_flush_and_a_merge() {
    strike(&[
        Point::FlushBegins,
        Point::FlushEnds,
        Point::SliceMade,
        Point::SliceIndexed,
        Point::MergeBegins,
        Point::MergeEnds,
    ]);
}

#[test]
fn at_every_step_of_a_drop() {
    strike(&[Point::SliceHidden, Point::DropBegins, Point::DropEnds]);
}

#[test]
fn at_every_step_of_a_start() {
    let folder = tempfile::tempdir().unwrap();
    // A start has a tail to cut only after a death.
    for point in [Point::TailCut, Point::LogOpened] {
        for _ in 0..3 {
            assert!(dies(folder.path(), Point::LogSynced, 30), "the writer lives on");
            assert!(dies(folder.path(), point, 1), "{point:?} is not reached");
            // What is half repaired is repaired again.
            assert!(dies(folder.path(), Point::LogSynced, 1), "the writer lives on");
        }
    }
    lives(folder.path());
}

fn strike(points: &[Point]) {
    let folder = tempfile::tempdir().unwrap();
    for point in points {
        for occurrence in [1, 2, 5] {
            assert!(
                dies(folder.path(), *point, occurrence),
                "{point:?} is not reached {occurrence} times"
            );
        }
    }
    lives(folder.path());
}

fn dies(folder: &Path, point: Point, occurrence: u64) -> bool {
    let output = writer_process(folder)
        .env(AT, format!("{point:?}:{occurrence}"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("panicked"), "at {point:?} {occurrence}: {said}");
    !output.status.success()
}

fn lives(folder: &Path) {
    let output = writer_process(folder).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "the writer did not run: {said}");
}

fn writer_process(folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["kill_points::tests::writer", "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env_remove(AT);
    command
}

#[test]
#[ignore = "the other tests run it in processes of their own"]
fn writer() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    // The acknowledged number and the trimmed one: what the system's cache holds outlives the process.
    let mut options = File::options();
    options.create(true).read(true).write(true).truncate(false);
    let acknowledged = options.open(folder.join("acknowledged")).unwrap();
    let config = StoreConfig {
        path: folder.join("data"),
        groups: 1,
        flush_every: ByteSize(12 << 10),
        slice_size: ByteSize(16 << 10),
        retention_bytes: ByteSize(96 << 10),
        ..Config::embedded().unwrap().store
    };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let store = Store::open(&config, Arc::new(SystemClock)).unwrap();
        let topic = TopicName::new("numbers").unwrap();
        let shard = store.route(&topic).home;
        let [told, trimmed] = promises(&acknowledged);
        let cursor = check(&store, shard, told, trimmed).await;
        acknowledged.write_at(&cursor.to_le_bytes(), 0).unwrap();
        let dies = STRIKE.is_some();
        let (began, mut number) = (Instant::now(), cursor);
        while (dies && began.elapsed() < PATIENCE) || (!dies && number < cursor + LAST_ROUND) {
            number += 1;
            store.write(batch(&store, &topic, number)).await.unwrap();
            acknowledged.write_at(&number.to_le_bytes(), 0).unwrap();
            if number.is_multiple_of(TRIM_EVERY) {
                let first = number - TRIM_LEAVES;
                let mut trim = Batch::new(GroupId(1));
                trim.trims.push(Trim {
                    shard,
                    first: Offset(first),
                });
                store.write(trim).await.unwrap();
                acknowledged.write_at(&first.to_le_bytes(), 8).unwrap();
            }
        }
        store.stop().await;
    });
}

fn promises(file: &File) -> [u64; 2] {
    [0, 8].map(|at| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at)
            .map_or(0, |()| u64::from_le_bytes(bytes))
    })
}

/// Number `n` is the record at offset `n - 1`; the cursor says how many there are.
fn batch(store: &Store, topic: &TopicName, number: u64) -> Batch {
    let record = Record {
        topic: Some(topic.clone()),
        ..Record::new(payload(number))
    };
    let mut batch = store.route(topic).batch(record);
    let cursor = |number: u64| (number > 0).then(|| Bytes::copy_from_slice(&number.to_le_bytes()));
    batch.conditions.push(Condition::Row {
        table: TABLE,
        key: Bytes::from_static(KEY),
        value: cursor(number - 1),
    });
    batch.puts.push(Put {
        table: TABLE,
        key: Bytes::from_static(KEY),
        value: cursor(number),
    });
    batch
}

fn payload(number: u64) -> String {
    // Nothing that LZ4 could shorten.
    let mut random = fastrand::Rng::with_seed(number);
    let filler = std::iter::repeat_with(|| random.alphanumeric()).take(PAYLOAD_BYTES);
    format!("{number} {}", filler.collect::<String>())
}

/// Everything that was promised is there: the cursor, each record once and in order, nothing of what was trimmed.
/// Gives the cursor.
async fn check(store: &Store, shard: ShardId, told: u64, trimmed: u64) -> u64 {
    let row = store.table(GroupId(1), TABLE).get(KEY).unwrap();
    let cursor = row.map_or(0, |row| u64::from_le_bytes(row.as_ref().try_into().unwrap()));
    // One more may be there: committed, and its writer was not told before the end.
    assert!(
        (told..=told + 1).contains(&cursor),
        "cursor {cursor}, {told} were acknowledged"
    );
    let (first, end) = store.bounds(shard).await.unwrap();
    assert_eq!(end, Offset(cursor), "as many records as the cursor says");
    assert!(first.0 >= trimmed, "{first:?} was trimmed to {trimmed}");
    let mut next = first;
    while next < end {
        let batches = store.read(shard, next, usize::MAX).await.unwrap();
        // Retention may have dropped some since the bounds were read.
        let (first, _) = store.bounds(shard).await.unwrap();
        assert!(!batches.is_empty() || first > next, "nothing at {next:?} of ..{end:?}");
        next = next.max(first);
        for batch in batches {
            for (offset, record) in batch.records_from(next).unwrap() {
                assert_eq!(offset, next);
                assert_eq!(record.payload.unwrap(), payload(offset.0 + 1));
                next = Offset(offset.0 + 1);
            }
        }
    }
    assert_eq!(next, end);
    cursor
}
