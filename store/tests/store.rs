//! The store over real files: what is committed is there, once and in order, for every kind of reader and after a
//! restart.

use std::path::Path;
use std::sync::Arc;

use headwater_config::{ByteSize, Config, StoreConfig};
use headwater_store::{
    Ack, Batch, CatalogError, Condition, GroupId, Offset, Placement, Position, Record, ShardId, Store, StreamForm,
    StreamOptions, StreamRow, StreamSpec, SystemClock, TableId, TopicName, WriteError,
};

const TABLE: TableId = TableId(1000);

fn config(path: &Path) -> StoreConfig {
    StoreConfig {
        path: path.into(),
        ..Config::embedded().unwrap().store
    }
}

fn open(path: &Path) -> Store {
    Store::open(&config(path), Arc::new(SystemClock)).unwrap()
}

fn spec(name: &str, captures: &[&str]) -> StreamSpec {
    StreamSpec {
        name: name.into(),
        placement: Placement::Key,
        shards: 1,
        columns: Vec::new(),
        captures: captures.iter().map(|text| text.to_string()).collect(),
        form: StreamForm::Append,
        options: StreamOptions::default(),
        ack: Ack::default(),
        sql: String::new(),
    }
}

fn message(topic: &str, payload: String) -> Record {
    Record {
        topic: Some(TopicName::new(topic).unwrap()),
        ..Record::new(payload)
    }
}

async fn publish(store: &Store, topic: &str, payload: String) -> Result<Offset, WriteError> {
    let route = store.route(&TopicName::new(topic).unwrap());
    let committed = store.write(route.batch(message(topic, payload))).await?;
    Ok(*committed.offsets.last().unwrap())
}

async fn payloads(store: &Store, shard: ShardId) -> Vec<String> {
    let mut found = Vec::new();
    for stored in store.read(shard, Offset(0), usize::MAX).await.unwrap() {
        for (offset, record) in stored.records_from(Offset(0)).unwrap() {
            assert_eq!(offset, Offset(found.len() as u64), "offsets count the records");
            found.push(String::from_utf8(record.payload.unwrap().to_vec()).unwrap());
        }
    }
    found
}

fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_appends_are_there_in_order_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let stream = store.create_stream(spec("demo", &[])).await.unwrap();
    let shard = stream.shard(0);
    let mut receipts = Vec::new();
    for n in 0..1000 {
        let batch = Batch::new(shard.group).append(shard, vec![Record::new(n.to_string())]);
        receipts.push(store.submit(batch).await.unwrap());
    }
    for (n, receipt) in receipts.into_iter().enumerate() {
        assert_eq!(receipt.await.unwrap().offsets, [Offset(n as u64)]);
    }
    assert_eq!(payloads(&store, shard).await, numbered(1000));
    store.stop().await;
    assert!(matches!(
        store.write(Batch::new(shard.group)).await,
        Err(WriteError::Stopped)
    ));
    drop(store);

    let store = open(folder.path());
    assert_eq!(payloads(&store, shard).await, numbered(1000));
    let batch = Batch::new(shard.group).append(shard, vec![Record::new("1000")]);
    assert_eq!(store.write(batch).await.unwrap().offsets, [Offset(1000)]);
    assert_eq!(**store.catalog().borrow().stream("demo").unwrap(), *stream);
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_append_may_be_longer_than_a_record_batch() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let shard = store.create_stream(spec("demo", &[])).await.unwrap().shard(0);
    let append = |from: usize, to: usize| {
        let records = (from..to).map(|n| Record::new(n.to_string())).collect();
        Batch::new(shard.group).append(shard, records)
    };
    assert_eq!(store.write(append(0, 140_000)).await.unwrap().offsets, [Offset(0)]);
    assert_eq!(
        store.write(append(140_000, 140_001)).await.unwrap().offsets,
        [Offset(140_000)]
    );
    assert_eq!(payloads(&store, shard).await, numbered(140_001));
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_learn_that_the_store_has_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let shard = store.create_stream(spec("demo", &[])).await.unwrap().shard(0);
    let mut shards = store.follow(vec![shard], Position::Latest).await.unwrap();
    let mut entries = store.follow_group(shard.group);
    let waiting = tokio::spawn(async move { (shards.next(1).await.is_err(), entries.next().await.is_err()) });
    store.stop().await;
    assert_eq!(waiting.await.unwrap(), (true, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_log_is_flushed_and_cut_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        flush_every: ByteSize(1 << 16),
        tail_cache: ByteSize(1 << 16),
        ..config(folder.path())
    };
    let store = Store::open(&config, Arc::new(SystemClock)).unwrap();
    let stream = store.create_stream(spec("demo", &[])).await.unwrap();
    let shard = stream.shard(0);
    let mut slow = store.follow(vec![shard], Position::Earliest).await.unwrap();
    let mut entries = store.follow_group(shard.group);
    let noise = |n: usize| {
        format!(
            "{n}:{}",
            (0..200)
                .map(|i| char::from(b'a' + ((n * 31 + i * i) % 26) as u8))
                .collect::<String>()
        )
    };
    for n in 0..2000 {
        store
            .write(Batch::new(shard.group).append(shard, vec![Record::new(noise(n))]))
            .await
            .unwrap();
    }
    // Both followers fell out of the tail cache long ago and read from disk without a gap or a repetition.
    let mut seen = 0;
    while seen < 2000 {
        for (stored, from) in slow.next(10_000).await.unwrap() {
            for (offset, record) in stored.records_from(from).unwrap() {
                assert_eq!((offset.0, record.payload.unwrap()), (seen as u64, noise(seen).into()));
                seen += 1;
            }
        }
    }
    let mut seen = 0;
    while seen < 2000 {
        for stored in &entries.next().await.unwrap().appends {
            assert_eq!(stored.base, Offset(seen));
            seen = stored.end().0;
        }
    }
    store.stop().await;
    drop((store, slow, entries));

    let store = Store::open(&config, Arc::new(SystemClock)).unwrap();
    assert_eq!(payloads(&store, shard).await, (0..2000).map(noise).collect::<Vec<_>>());
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_sees_old_and_new_records_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let stream = store
        .create_stream(StreamSpec {
            shards: 3,
            ..spec("demo", &[])
        })
        .await
        .unwrap();
    let shards: Vec<_> = stream.shard_ids().collect();
    let mut follower = store.follow(shards.clone(), Position::Earliest).await.unwrap();
    let writer = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 0..900 {
                let shard = shards[n % 3];
                let batch = Batch::new(shard.group).append(shard, vec![Record::new((n / 3).to_string())]);
                store.submit(batch).await.unwrap();
            }
        }
    });
    let mut seen = [0usize; 3];
    while seen.iter().sum::<usize>() < 900 {
        for (stored, from) in follower.next(500).await.unwrap() {
            let seen = &mut seen[usize::from(stored.shard.number)];
            for (offset, record) in stored.records_from(from).unwrap() {
                assert_eq!(
                    (offset.0, record.payload.unwrap()),
                    (*seen as u64, seen.to_string().into())
                );
                *seen += 1;
            }
        }
    }
    writer.await.unwrap();
    assert_eq!(seen, [300; 3]);
    assert!(follower.poll(1000).await.unwrap().is_empty());
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conditional_batch_applies_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let stream = store.create_stream(spec("demo", &[])).await.unwrap();
    let shard = stream.shard(0);
    let group = shard.group;
    let step = |from: Option<&'static str>, to: &'static str| {
        Batch::new(group)
            .when(Condition::Row {
                table: TABLE,
                key: "cursor".into(),
                value: from.map(Into::into),
            })
            .when(Condition::Term(store.leadership(group).borrow().term))
            .append(shard, vec![Record::new(to)])
            .put(TABLE, "cursor", to)
    };
    store.write(step(None, "one")).await.unwrap();
    assert!(matches!(
        store.write(step(None, "again")).await,
        Err(WriteError::Conflict)
    ));
    // Two at once on the same cursor: one wins.
    let (a, b) = tokio::join!(
        store.write(step(Some("one"), "two")),
        store.write(step(Some("one"), "two"))
    );
    assert_eq!([a.is_ok(), b.is_ok()].iter().filter(|won| **won).count(), 1);
    assert_eq!(payloads(&store, shard).await, ["one", "two"]);
    assert_eq!(store.table(group, TABLE).get(b"cursor").unwrap().unwrap(), "two");
    assert_eq!(store.table(group, TABLE).scan(b"cur", b"", 10).unwrap().len(), 1);
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_is_cut_exactly_while_messages_flow() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let publisher = tokio::spawn({
        let store = store.clone();
        async move {
            let mut sent = 0;
            while store.catalog().borrow().stream("done").is_none() {
                // A stale route is the only error there may be, and the retry goes to the new home.
                match publish(&store, "plant/1", sent.to_string()).await {
                    Ok(_) => sent += 1,
                    Err(WriteError::StaleRoute { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            sent
        }
    });
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let plant = store.create_stream(spec("plant", &["plant/#"])).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    store.create_stream(spec("done", &[])).await.unwrap();
    let sent = publisher.await.unwrap();
    let group = store.route(&TopicName::new("plant/1").unwrap()).group;
    let in_group = |stream: &StreamRow| stream.shard_ids().find(|shard| shard.group == group).unwrap();
    let default = store.catalog().borrow().stream("mqtt").unwrap().clone();
    let before = payloads(&store, in_group(&default)).await;
    let after = payloads(&store, in_group(&plant)).await;
    assert!(
        !before.is_empty() && !after.is_empty(),
        "messages flowed on both sides of the cut"
    );
    assert_eq!(
        [before, after].concat(),
        numbered(sent),
        "every message has one home, and the cut is exact"
    );
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_refuses_what_would_contradict_itself() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    store.create_stream(spec("demo", &[])).await.unwrap();
    let again = store.create_stream(spec("demo", &[])).await;
    assert!(matches!(again, Err(CatalogError::Exists { .. })));
    assert!(matches!(
        store.create_stream(spec("a/b", &[])).await,
        Err(CatalogError::NotAllowed(_))
    ));
    assert!(matches!(
        store.create_stream(spec("x", &["a/#/b"])).await,
        Err(CatalogError::NotAllowed(_))
    ));
    assert!(matches!(
        store.drop_stream("nothing").await,
        Err(CatalogError::Missing { .. })
    ));
    assert!(matches!(
        store.drop_stream("mqtt").await,
        Err(CatalogError::NotAllowed(_))
    ));
    store.drop_stream("demo").await.unwrap();
    assert!(store.catalog().borrow().stream("demo").is_none());
    let reborn = store.create_stream(spec("demo", &[])).await.unwrap();
    assert_eq!(
        store.bounds(reborn.shard(0)).await.unwrap(),
        (Offset(0), Offset(0)),
        "a new stream is empty"
    );
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_data_group_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(
        &StoreConfig {
            groups: 1,
            ..config(folder.path())
        },
        Arc::new(SystemClock),
    )
    .unwrap();
    assert_eq!(store.data_groups().collect::<Vec<_>>(), [GroupId(1)]);
    assert_eq!(publish(&store, "a/b", "x".into()).await.unwrap(), Offset(0));
    assert_eq!(publish(&store, "c", "y".into()).await.unwrap(), Offset(1));
    store.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_and_keeps_reading() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    publish(&store, "a", "0".into()).await.unwrap();
    store.stop().await;
    drop(store);
    let config = StoreConfig {
        free_disk_min: ByteSize(u64::MAX >> 12),
        ..config(folder.path())
    };
    let store = Store::open(&config, Arc::new(SystemClock)).unwrap();
    assert!(matches!(
        publish(&store, "a", "1".into()).await,
        Err(WriteError::DiskFull { .. })
    ));
    assert!(matches!(store.check_disk(), Err(WriteError::DiskFull { .. })));
    // Making room stays possible: the catalog and its fences are still written.
    store.create_stream(spec("plant", &["plant/#"])).await.unwrap();
    store.drop_stream("plant").await.unwrap();
    let home = store.route(&TopicName::new("a").unwrap()).home;
    assert_eq!(payloads(&store, home).await, ["0"]);
    store.stop().await;
}
