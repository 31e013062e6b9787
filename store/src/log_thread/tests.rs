//! What becomes of a node whose log cannot be written: it stops, it acknowledges nothing more, and the next start finds
//! everything that was acknowledged.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use headwater_config::{Config, StoreConfig};

use crate::raft_log::faults::{Fault, switch};
use crate::raft_log::testing::copy;
use crate::{Offset, Record, Store, SystemClock, TopicName, WriteError};

const WRITERS: usize = 8;
/// Bounds a hang.
const PATIENCE: Duration = Duration::from_secs(60);
/// Records that must be acknowledged before the fault.
const ENOUGH: u64 = 200;

#[test]
fn a_write_that_stops_half_way() {
    stops_and_loses_nothing(Fault::ShortWrite, "the write stopped half-way");
}

#[test]
fn a_sync_that_fails() {
    stops_and_loses_nothing(Fault::Sync, "the sync failed");
}

#[test]
fn a_full_disk() {
    stops_and_loses_nothing(Fault::Full, "nospace");
}

fn stops_and_loses_nothing(fault: Fault, reason: &str) {
    let root = tempfile::tempdir().unwrap();
    let mut config = Config::embedded().unwrap().store;
    config.path = root.path().join("data");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let numbers = Arc::new(AtomicU64::new(0));
    let mut acknowledged = BTreeSet::new();
    // A store that went through one fault must stand the next one as well.
    for round in 1..=3 {
        acknowledged.extend(write_into(&runtime, &config, &numbers, fault, reason));
        // The log engine keeps its files until the process ends, as a process that is killed would leave them.
        let left = root.path().join(format!("left-{round}"));
        copy_all(&config.path, &left);
        config.path = left;
        let stored = stored(&runtime, &config);
        let lost: Vec<_> = acknowledged.difference(&stored).collect();
        assert!(
            lost.is_empty(),
            "round {round}: {} acknowledged records are lost: {lost:?}",
            lost.len()
        );
        let sent = numbers.load(Ordering::Relaxed);
        assert!(stored.iter().all(|number| *number < sent), "nothing that nobody wrote");
    }
}

/// Writes until the fault strikes; what was acknowledged.
fn write_into(
    runtime: &tokio::runtime::Runtime,
    config: &StoreConfig,
    numbers: &Arc<AtomicU64>,
    fault: Fault,
    reason: &str,
) -> BTreeSet<u64> {
    let switch = switch(&config.path.join("raft"));
    let store = Store::open(config, Arc::new(SystemClock)).unwrap();
    let count = Arc::new(AtomicU64::new(0));
    let acknowledged = runtime.block_on(async {
        let mut writers = Vec::new();
        for _ in 0..WRITERS {
            let (store, numbers, count) = (store.clone(), numbers.clone(), count.clone());
            writers.push(tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                loop {
                    let number = numbers.fetch_add(1, Ordering::Relaxed);
                    match append(&store, number).await {
                        Ok(()) => acknowledged.push(number),
                        Err(WriteError::Indefinite(_) | WriteError::Stopped) => return acknowledged,
                        Err(other) => panic!("not what a node that stops answers: {other}"),
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        while count.load(Ordering::Relaxed) < ENOUGH {
            tokio::task::yield_now().await;
        }
        switch.set(fault);
        let failed = tokio::time::timeout(PATIENCE, store.failed()).await;
        let said = failed.expect("the node stops by itself");
        assert!(
            said.contains("the raft log cannot be written") && said.contains(reason),
            "{said}"
        );
        let mut acknowledged = BTreeSet::new();
        for writer in writers {
            acknowledged.extend(writer.await.unwrap());
        }
        assert!(
            append(&store, u64::MAX).await.is_err(),
            "a node that stopped takes nothing"
        );
        store.stop().await;
        acknowledged
    });
    assert!(acknowledged.len() as u64 >= ENOUGH);
    acknowledged
}

fn copy_all(from: &Path, to: &Path) {
    copy(from, to);
    for folder in ["raft", "state"] {
        copy(&from.join(folder), &to.join(folder));
    }
}

async fn append(store: &Store, number: u64) -> Result<(), WriteError> {
    let topic = TopicName::new("numbers").unwrap();
    let record = Record {
        topic: Some(topic.clone()),
        ..Record::new(number.to_string())
    };
    store.write(store.route(&topic).batch(record)).await.map(drop)
}

/// All numbers after a new start; each is there once.
fn stored(runtime: &tokio::runtime::Runtime, config: &StoreConfig) -> BTreeSet<u64> {
    let store = Store::open(config, Arc::new(SystemClock)).unwrap();
    let shard = store.route(&TopicName::new("numbers").unwrap()).home;
    runtime.block_on(async {
        let mut numbers = BTreeSet::new();
        for batch in store.read(shard, Offset(0), usize::MAX).await.unwrap() {
            for (_, record) in batch.records_from(Offset(0)).unwrap() {
                let text = String::from_utf8(record.payload.unwrap().to_vec()).unwrap();
                assert!(numbers.insert(text.parse().unwrap()), "{text} is there twice");
            }
        }
        store.stop().await;
        numbers
    })
}
