//! What the tests of the engine are run in.

use std::sync::Arc;
use std::time::Duration;

use headwater_config::{Config, SqlConfig};
use headwater_store::{Offset, Record, Store, SystemClock, TopicName, tables};
use tempfile::TempDir;

use super::Engine;
use crate::query::Progress;

/// A store in a folder of its own.
pub(super) struct World {
    pub config: Config,
    pub store: Store,
    _folder: TempDir,
}

impl World {
    pub async fn new(groups: u16) -> World {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::embedded().unwrap();
        config.store.path = folder.path().join("data");
        config.store.groups = groups;
        config.sql.cursor_save_every = headwater_config::Millis(20);
        config.sql.threads = 1;
        let store_config = config.store.clone();
        let store = tokio::task::spawn_blocking(move || Store::open(&store_config, Arc::new(SystemClock)).unwrap());
        World {
            config,
            store: store.await.unwrap(),
            _folder: folder,
        }
    }

    pub fn engine(&self) -> Engine {
        let sql: &SqlConfig = &self.config.sql;
        Engine::start(self.store.clone(), sql, Arc::new(|_, _, _| Ok(()))).unwrap()
    }

    pub async fn publish(&self, topic: &str, payload: &str) {
        let topic = TopicName::new(topic.to_owned()).unwrap();
        let record = Record {
            topic: Some(topic.clone()),
            ..Record::new(payload.to_owned())
        };
        self.store.write(self.store.route(&topic).batch(record)).await.unwrap();
    }

    /// Waits until every task of a query has read its inputs to their ends.
    pub async fn caught_up(&self, query: &str) {
        let catalog = self.store.catalog().borrow().clone();
        let query = catalog.queries[query].clone();
        let output = catalog.stream_by_id(query.output).unwrap().clone();
        for group in &output.shards {
            'wait: for _ in 0..500 {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let row = self
                    .store
                    .table(*group, tables::QUERY_PROGRESS)
                    .get(&Progress::key(query.id))
                    .unwrap();
                let Some(progress) = row.map(|row| Progress::decode(&row).unwrap()) else {
                    continue;
                };
                for (shard, cursor) in &progress.cursors {
                    if self.store.bounds(*shard).await.unwrap().1 != *cursor {
                        continue 'wait;
                    }
                }
                break;
            }
        }
    }

    /// `topic key payload` of each record, sorted, because shards have no order among them.
    pub async fn output(&self, stream: &str) -> Vec<String> {
        let catalog = self.store.catalog().borrow().clone();
        let mut lines = Vec::new();
        for shard in catalog.streams[stream].shard_ids() {
            for batch in self.store.read(shard, Offset(0), usize::MAX).await.unwrap() {
                for (_, record) in batch.records_from(Offset(0)).unwrap() {
                    let text = |bytes: Option<bytes::Bytes>| {
                        bytes.map_or("-".to_owned(), |bytes| String::from_utf8(bytes.to_vec()).unwrap())
                    };
                    let topic = record.topic.map_or("-".to_owned(), |topic| topic.as_str().to_owned());
                    lines.push(format!("{topic} {} {}", text(record.key), text(record.payload)));
                }
            }
        }
        lines.sort();
        lines
    }
}
