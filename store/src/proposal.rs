//! A Batch on its way to the driver: records already encoded, where they arose; and the merging of many into an entry.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::apply::{Outcome, Refusal};
use crate::batch::{Batch, Committed, Condition, Put, Trim};
use crate::encoded::EncodedRecords;
use crate::entry::{Entry, Item, ItemAppend};
use crate::error::WriteError;
use crate::ids::{GroupId, LogIndex, RouteRevision, ShardId, StreamId, TimestampMs};
use crate::key_hashes::KeyHashes;
use crate::limits::{ENTRY_BYTES_TARGET, RECORD_BATCH_RECORDS_MAX};
use crate::producer::Producer;
use crate::record::Record;
use crate::record_batch::seal;
use crate::retention::RetentionClass;

/// How a writer learns what became of its Batch.
pub type Reply = oneshot::Sender<Result<Committed, WriteError>>;

/// Encoded records for one shard.
#[derive(Debug)]
struct EncodedAppend {
    shard: ShardId,
    class: RetentionClass,
    records: EncodedRecords,
    /// The writer's append was longer than a record batch may be; this follows the part before it.
    continues: bool,
}

/// A Batch, ready to be merged. Its admission ends when it is dropped.
#[derive(Debug)]
pub struct Proposal {
    pub group: GroupId,
    revision: Option<RouteRevision>,
    producer: Option<Producer>,
    conditions: Vec<Condition>,
    appends: Vec<EncodedAppend>,
    trims: Vec<Trim>,
    puts: Vec<Put>,
    size_bytes: usize,
    pub reply: Reply,
    _admission: OwnedSemaphorePermit,
}

impl Proposal {
    /// Encodes the records of `batch`; runs where the writer runs. `class` tells how long a stream's records are kept.
    pub fn new(
        batch: Batch,
        class: impl Fn(StreamId) -> RetentionClass,
        reply: Reply,
        admission: OwnedSemaphorePermit,
    ) -> Proposal {
        let size_bytes = batch.size_bytes();
        let append = |shard: ShardId, records: EncodedRecords, part: usize| EncodedAppend {
            shard,
            class: class(shard.stream),
            records,
            continues: part > 0,
        };
        let parts = batch.appends.iter().flat_map(|append| {
            let parts = append.records.chunks(RECORD_BATCH_RECORDS_MAX).enumerate();
            parts.map(|(part, records)| (append.shard, part, records))
        });
        let encode = |(shard, part, records): (ShardId, usize, &[Record])| {
            let mut encoded = EncodedRecords::with_capacity(records.iter().map(Record::size_bytes).sum());
            records.iter().for_each(|record| encoded.push_record(record));
            append(shard, encoded, part)
        };
        let encoded = parts.map(encode);
        let ready = batch
            .encoded
            .into_iter()
            .map(|(shard, records)| append(shard, records, 0));
        let appends = encoded.chain(ready).collect();
        Proposal {
            group: batch.group,
            revision: batch.revision,
            size_bytes,
            producer: batch.producer,
            appends,
            conditions: batch.conditions,
            trims: batch.trims,
            puts: batch.puts,
            reply,
            _admission: admission,
        }
    }
}

/// A writer waiting for an item: for each of its appends, the item's append and the records in front of its own.
#[derive(Debug)]
pub struct Waiter {
    item: usize,
    appends: Vec<(usize, u64)>,
    reply: Reply,
    _admission: OwnedSemaphorePermit,
}

impl Waiter {
    /// Tells the writer.
    pub fn resolve(self, index: LogIndex, timestamp: TimestampMs, outcomes: &[Outcome], sent: Option<RouteRevision>) {
        let result = match &outcomes[self.item] {
            Ok(bases) => {
                let offsets = self
                    .appends
                    .iter()
                    .map(|(append, before)| bases[*append].plus(*before))
                    .collect();
                Ok(Committed {
                    index,
                    timestamp,
                    offsets,
                })
            }
            Err(Refusal::Conflict) => Err(WriteError::Conflict),
            Err(Refusal::Duplicate) => Err(WriteError::Duplicate),
            Err(Refusal::Behind) => Err(WriteError::ProducerBehind),
            Err(Refusal::Stale(wanted)) => Err(WriteError::StaleRoute {
                sent: sent.unwrap_or_default(),
                wanted: *wanted,
            }),
        };
        // A writer that no longer waits is not an error.
        let _ = self.reply.send(result);
    }

    /// Tells the writer that nothing, or nobody knows what, came of it.
    pub fn fail(self, error: WriteError) {
        let _ = self.reply.send(Err(error));
    }
}

/// An entry and those who wait for it, with the revision of each item.
#[derive(Debug)]
pub struct Merged {
    pub entry: Entry,
    pub waiters: Vec<Waiter>,
}

impl Merged {
    /// The route revision that a waiter's item was sent with.
    pub fn revision_of(revisions: &[Option<RouteRevision>], waiter: &Waiter) -> Option<RouteRevision> {
        revisions.get(waiter.item).copied().flatten()
    }
}

/// An item being filled: bodies instead of sealed record batches.
#[derive(Default)]
struct OpenItem {
    revision: Option<RouteRevision>,
    producer: Option<Producer>,
    conditions: Vec<Condition>,
    appends: Vec<EncodedAppend>,
    /// The append that a shard's next records join.
    open: HashMap<ShardId, usize>,
    trims: Vec<Trim>,
    puts: Vec<Put>,
}

impl OpenItem {
    /// Unconditional Batches of one routing share an item.
    fn takes(&self, proposal: &Proposal) -> bool {
        // A trim comes after the appends of its own item, and may not come after those of the next.
        self.trims.is_empty()
            && self.conditions.is_empty()
            && proposal.conditions.is_empty()
            && self.producer.is_none()
            && proposal.producer.is_none()
            && self.revision == proposal.revision
    }

    /// Joins the records of one append; gives where they stand.
    fn join(&mut self, append: EncodedAppend) -> (usize, u64) {
        if let Some(at) = self.open.get(&append.shard) {
            let open = &mut self.appends[*at];
            if open.class == append.class && open.records.len() + append.records.len() <= RECORD_BATCH_RECORDS_MAX {
                let before = open.records.len() as u64;
                open.records.join(&append.records);
                return (*at, before);
            }
        }
        self.appends.push(append);
        let at = self.appends.len() - 1;
        self.open.insert(self.appends[at].shard, at);
        (at, 0)
    }

    fn seal(self, time: TimestampMs) -> Item {
        let seal = |append: EncodedAppend| ItemAppend {
            shard: append.shard,
            class: append.class,
            batch: Bytes::from(seal(&append.records.body, append.records.count, time)),
            keys: KeyHashes::collect(append.records.hashes),
            prefixes: KeyHashes::collect(append.records.prefixes),
        };
        Item {
            revision: self.revision,
            producer: self.producer,
            conditions: self.conditions,
            appends: self.appends.into_iter().map(seal).collect(),
            trims: self.trims,
            puts: self.puts,
        }
    }
}

/// Merges proposals, in order, until the entry has its size; the rest stays in `queue`.
pub fn merge(queue: &mut std::collections::VecDeque<Proposal>, time: TimestampMs) -> Merged {
    let mut items: Vec<OpenItem> = Vec::new();
    let mut waiters = Vec::with_capacity(queue.len());
    let mut bytes = 0;
    while bytes < ENTRY_BYTES_TARGET
        && let Some(proposal) = queue.pop_front()
    {
        bytes += proposal.size_bytes;
        if !items.last().is_some_and(|item| item.takes(&proposal)) {
            items.push(OpenItem {
                revision: proposal.revision,
                producer: proposal.producer.clone(),
                conditions: proposal.conditions,
                ..OpenItem::default()
            });
        }
        let at = items.len() - 1;
        let item = &mut items[at];
        let mut appends = Vec::with_capacity(proposal.appends.len());
        for append in proposal.appends {
            let continues = append.continues;
            let place = item.join(append);
            if !continues {
                appends.push(place);
            }
        }
        item.trims.extend(proposal.trims);
        item.puts.extend(proposal.puts);
        waiters.push(Waiter {
            item: at,
            appends,
            reply: proposal.reply,
            _admission: proposal._admission,
        });
    }
    let items = items.into_iter().map(|item| item.seal(time)).collect();
    Merged {
        entry: Entry { time, items },
        waiters,
    }
}
