//! Retention over real files: what is past its time goes and gives its disk back, nothing else does, and what was trimmed
//! or dropped is hidden at once. The clock is the test's own.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use headwater_config::{ByteSize, Config, StoreConfig};
use headwater_store::{
    Ack, Batch, Clock, Offset, Placement, Position, Record, ShardId, Store, StreamForm, StreamOptions, StreamSpec,
    TimestampMs,
};

const MINUTE_MS: i64 = 60_000;

#[derive(Default)]
struct TestClock(AtomicI64);

impl TestClock {
    fn go_on(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> TimestampMs {
        TimestampMs(1_700_000_000_000 + self.0.load(Ordering::Relaxed))
    }
}

fn config(path: &Path) -> StoreConfig {
    StoreConfig {
        path: path.into(),
        slice_size: ByteSize(1 << 20),
        ..Config::embedded().unwrap().store
    }
}

async fn stream(store: &Store, name: &str, duration_ms: Option<u64>) -> ShardId {
    let spec = StreamSpec {
        name: name.into(),
        placement: Placement::Key,
        shards: 1,
        columns: Vec::new(),
        captures: Vec::new(),
        form: StreamForm::Append,
        options: StreamOptions {
            duration_ms,
            ..StreamOptions::default()
        },
        ack: Ack::default(),
        sql: String::new(),
    };
    store.create_stream(spec).await.unwrap().shard(0)
}

/// Does not compress: disk sizes mean something.
fn noise(n: u64, bytes: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(n);
    (0..bytes).map(|_| rng.u8(..)).collect()
}

async fn append(store: &Store, shard: ShardId, payload: Vec<u8>) -> Offset {
    let batch = Batch::new(shard.group).append(shard, vec![Record::new(payload)]);
    store.write(batch).await.unwrap().offsets[0]
}

async fn offsets(store: &Store, shard: ShardId) -> Vec<u64> {
    let batches = store.read(shard, Offset(0), usize::MAX).await.unwrap();
    let records = batches
        .iter()
        .flat_map(|stored| stored.records_from(Offset(0)).unwrap());
    records.map(|(offset, _)| offset.0).collect()
}

async fn trim(store: &Store, shard: ShardId, to: Position) {
    let first = store.resolve(vec![shard], to).await.unwrap();
    store.trim(&first).await.unwrap();
}

async fn disk_bytes(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder.join("state")).unwrap().filter_map(Result::ok);
    let tables = files.filter(|file| file.file_name().to_string_lossy().ends_with(".sst"));
    tables
        .filter_map(|file| file.metadata().ok())
        .map(|data| data.len())
        .sum()
}

/// The maintenance thread looks once a second; how long it takes is not what is tested.
async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    for _ in 0..600 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never: {what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn records_past_their_time_go_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::default());
    let store = Store::open(&config(folder.path()), clock.clone()).unwrap();
    let short = stream(&store, "short", Some(MINUTE_MS as u64)).await;
    let kept = stream(&store, "kept", None).await;
    for n in 0..4 {
        append(&store, short, noise(n, 100_000)).await;
        append(&store, kept, noise(n, 1_000)).await;
        clock.go_on(20_000);
    }
    // Each of the four lies in a slice of its own; the first is 80 s old, the second 60 s.
    eventually("the first record is past its minute", || async {
        offsets(&store, short).await == [1, 2, 3]
    })
    .await;
    assert_eq!(store.bounds(short).await.unwrap(), (Offset(1), Offset(4)));
    assert_eq!(offsets(&store, kept).await, [0, 1, 2, 3]);

    let mut follower = store.follow(vec![short], Position::Earliest).await.unwrap();
    assert_eq!(
        follower.next(1).await.unwrap()[0].1,
        Offset(1),
        "earliest is what is left"
    );
    let at = store
        .resolve(vec![short], Position::Timestamp(TimestampMs(0)))
        .await
        .unwrap();
    assert_eq!(at, [(short, Offset(1))]);

    clock.go_on(10 * MINUTE_MS);
    eventually("all are past their time", || async {
        offsets(&store, short).await.is_empty()
    })
    .await;
    assert_eq!(store.bounds(short).await.unwrap(), (Offset(4), Offset(4)));
    assert_eq!(append(&store, short, b"new".into()).await, Offset(4), "offsets go on");
    assert_eq!(offsets(&store, short).await, [4]);
    store.stop().await;
    drop((store, follower));

    let store = Store::open(&config(folder.path()), clock).unwrap();
    assert_eq!(offsets(&store, short).await, [4]);
    assert_eq!(offsets(&store, kept).await, [0, 1, 2, 3]);
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_byte_limit_the_oldest_go_first() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::default());
    let config = StoreConfig {
        slice_size: ByteSize(100_000),
        retention_bytes: ByteSize(500_000),
        ..config(folder.path())
    };
    let store = Store::open(&config, clock.clone()).unwrap();
    let shard = stream(&store, "kept", None).await;
    for n in 0..40 {
        append(&store, shard, noise(n, 50_000)).await;
        clock.go_on(1);
    }
    eventually("two thirds are dropped", || async {
        let first = store.bounds(shard).await.unwrap().0;
        first > Offset(20) && disk_bytes(folder.path()).await < 700_000
    })
    .await;
    // A slice here holds up to an eighth of two megabytes.
    let left = offsets(&store, shard).await;
    assert!(left.len() >= 4 && left.last() == Some(&39), "the newest stay: {left:?}");
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trim_hides_at_once_and_the_disk_follows() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::default());
    let store = Store::open(&config(folder.path()), clock.clone()).unwrap();
    let shard = stream(&store, "kept", None).await;
    let batch = |n: u64| {
        Batch::new(shard.group).append(
            shard,
            (0..10).map(|at| Record::new(noise(n * 10 + at, 50_000))).collect(),
        )
    };
    for n in 0..10 {
        store.write(batch(n)).await.unwrap();
    }
    trim(&store, shard, Position::Offset(Offset(87))).await;
    assert_eq!(
        offsets(&store, shard).await,
        (87..100).collect::<Vec<_>>(),
        "also inside a batch"
    );
    assert_eq!(store.bounds(shard).await.unwrap(), (Offset(87), Offset(100)));
    eventually("the trimmed batches leave the disk", || async {
        disk_bytes(folder.path()).await < 1_500_000
    })
    .await;
    assert_eq!(offsets(&store, shard).await, (87..100).collect::<Vec<_>>());
    trim(&store, shard, Position::Offset(Offset(3))).await;
    assert_eq!(
        store.bounds(shard).await.unwrap().0,
        Offset(87),
        "a trim never goes back"
    );
    store.stop().await;
    drop(store);

    let store = Store::open(&config(folder.path()), clock).unwrap();
    assert_eq!(offsets(&store, shard).await, (87..100).collect::<Vec<_>>());
    trim(&store, shard, Position::Latest).await;
    assert_eq!(store.bounds(shard).await.unwrap(), (Offset(100), Offset(100)));
    assert_eq!(append(&store, shard, b"new".into()).await, Offset(100));
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_stream_gives_its_disk_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&config(folder.path()), Arc::new(TestClock::default())).unwrap();
    let gone = stream(&store, "gone", None).await;
    let kept = stream(&store, "kept", None).await;
    for n in 0..30 {
        append(&store, gone, noise(n, 100_000)).await;
        append(&store, kept, noise(n, 1_000)).await;
    }
    store.drop_stream("gone").await.unwrap();
    eventually("the disk is given back", || async {
        disk_bytes(folder.path()).await < 500_000
    })
    .await;
    assert_eq!(offsets(&store, kept).await, (0..30).collect::<Vec<_>>());
    let reborn = stream(&store, "gone", None).await;
    assert!(offsets(&store, reborn).await.is_empty());
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_is_found_across_slices_and_inside_them() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(TestClock::default());
    let store = Store::open(&config(folder.path()), clock.clone()).unwrap();
    let shard = stream(&store, "kept", None).await;
    let mut times = Vec::new();
    // Several slices, and several rows of the time index in each; three records have the same time.
    for n in 0..200 {
        times.push(clock.now());
        append(&store, shard, noise(n, 20_000)).await;
        if n % 3 == 2 {
            clock.go_on(7);
        }
    }
    for probe in times[0].0 - 1..=clock.now().0 + 1 {
        let expected = times.partition_point(|time| time.0 < probe) as u64;
        let found = store
            .resolve(vec![shard], Position::Timestamp(TimestampMs(probe)))
            .await
            .unwrap();
        assert_eq!(found, [(shard, Offset(expected))], "at {probe}");
    }
    store.stop().await;
}
