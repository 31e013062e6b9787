//! Which topics, what they lie under, and which keys an entry holds, from the entry's row alone, and those of its record batches that hold some of them.
//! This is how a reader of a group finds the few entries that concern it.

use bytes::Bytes;

use crate::engine::Family;
use crate::error::ReadError;
use crate::follow::AppliedEntry;
use crate::ids::{GroupId, LogIndex};
use crate::keys::entry_row::Appended;
use crate::keys::record_batch;
use crate::reader::{Marks, SliceRows, entry_rows};
use crate::store::Store;
use crate::stored::StoredBatch;

/// The rows of one entry: what it appended, without the records.
#[derive(Debug)]
pub struct EntryKeys {
    /// The group.
    pub group: GroupId,
    /// Its place in the group's log.
    pub index: LogIndex,
    rows: SliceRows,
}

impl EntryKeys {
    /// The hashes of all keys and topics in it ([`key_hash`](crate::key_hash)), and of what the topics lie under
    /// ([`filter_hashes`](crate::filter_hashes)).
    pub fn hashes(&self) -> impl Iterator<Item = u32> + '_ {
        self.appends().flat_map(Appended::hashes)
    }

    fn appends(&self) -> impl Iterator<Item = &Appended> {
        self.rows.iter().flat_map(|(_, row)| &row.appends)
    }
}

impl Store {
    /// Entries of a group from `from` on and before `to` that appended something: some hundreds at once; and the index to go
    /// on from, `to` when there are no more. `to` is applied. Blocks.
    pub fn entry_keys(
        &self,
        group: GroupId,
        from: LogIndex,
        to: LogIndex,
    ) -> Result<(Vec<EntryKeys>, LogIndex), ReadError> {
        let (rows, next) = entry_rows(&*self.inner.shared.engine, group, from, to)?;
        let keys = rows.into_iter().map(|(index, rows)| EntryKeys { group, index, rows });
        Ok((keys.collect(), next))
    }

    /// An entry with those of its record batches in which `wanted` is true of some hash, without records that are trimmed.
    /// Blocks.
    pub fn read_wanted(&self, keys: &EntryKeys, wanted: impl Fn(u32) -> bool) -> Result<AppliedEntry, ReadError> {
        let (engine, mut appends) = (&self.inner.shared.engine, Vec::new());
        let mut marks = Marks::new(&**engine);
        for (slice, row) in &keys.rows {
            for Appended { shard, base, .. } in row.appends.iter().filter(|appended| appended.hashes().any(&wanted)) {
                let stored: Option<Bytes> = engine.get(Family::Slice(*slice), &record_batch::key(*shard, *base))?;
                // None: trimmed, and gone from disk.
                let Some(encoded) = stored else { continue };
                match StoredBatch::new(*shard, encoded) {
                    Ok(stored) => appends.extend(marks.shown(stored)?),
                    Err(error) => {
                        tracing::error!(%shard, offset = base.0, %error, "a damaged record batch is left out")
                    }
                }
            }
        }
        let time = keys.rows.iter().map(|(_, row)| row.time).max().unwrap_or_default();
        Ok(AppliedEntry {
            group: keys.group,
            index: keys.index,
            time,
            appends,
            puts: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Record, SystemClock, TopicName, key_hash};

    #[tokio::test(flavor = "multi_thread")]
    async fn an_entry_is_found_by_topic_and_by_key_without_its_records() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = headwater_config::Config::embedded().unwrap().store;
        config.path = folder.path().join("data");
        (config.groups, config.free_disk_min.0) = (1, 0);
        let open = move || Store::open(&config, Arc::new(SystemClock)).unwrap();
        let store = tokio::task::spawn_blocking(open).await.unwrap();
        let mut indexes = Vec::new();
        for (topic, key) in [("a/1", None), ("a/2", Some("k")), ("a/1", None)] {
            let topic = TopicName::new(topic).unwrap();
            let record = Record {
                key: key.map(Bytes::from),
                topic: Some(topic.clone()),
                ..Record::new("x")
            };
            let committed = store.write(store.route(&topic).batch(record)).await.unwrap();
            indexes.push(committed.index);
        }
        let group = GroupId(1);
        let to = store.applied(group).next();
        let (keys, next) = store.entry_keys(group, LogIndex(0), to).unwrap();
        assert_eq!(next, to);
        let holding = |name: &str| -> Vec<LogIndex> {
            let hash = key_hash(name.as_bytes());
            let holds = keys.iter().filter(|keys| keys.hashes().any(|other| other == hash));
            holds.map(|keys| keys.index).collect()
        };
        assert_eq!(holding("a/1"), [indexes[0], indexes[2]]);
        assert_eq!((holding("a/2"), holding("k")), (vec![indexes[1]], vec![indexes[1]]));
        let last = keys.iter().find(|keys| keys.index == indexes[2]).unwrap();
        let read = |wanted: bool| store.read_wanted(last, |_| wanted).unwrap().appends.len();
        assert_eq!((read(true), read(false)), (1, 0));
        store.stop().await;
    }
}
