//! Seeded simulation of one group over a disk that forgets: entries are logged, synced, applied, flushed, the log is
//! cut, slices are closed, merged and dropped, and at random moments, also in the middle of that, the power goes. Whatever
//! was acknowledged must be there afterwards, once, with the outcome it was acknowledged with, unless it was trimmed or its
//! time was over; and what was trimmed must not be there.
//!
//! The log here is a vector whose tail behind the last sync is lost in a crash; the rows are a [`MemoryEngine`] that
//! goes back to its last flush; the applier is the one that runs in production. A failing run prints its seed, and the
//! same seed gives the same run. [`Bug`] plants the mistakes that the simulation exists to catch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;

use crate::apply::{Applier, Outcome};
use crate::batch::{Condition, Put, TableId, Trim};
use crate::engine::memory::MemoryEngine;
use crate::engine::{Engine, Family};
use crate::entry::{self, Entry, Item, ItemAppend, encode};
use crate::ids::{GroupId, LogIndex, Offset, RouteRevision, ShardId, StreamId, Term, TimestampMs};
use crate::key_hashes::{KeyHashes, key_hash};
use crate::keys::{applied, table_row};
use crate::producer::Producer;
use crate::reader;
use crate::record::Record;
use crate::record_batch::{decode_records, encode_record, open_body, parse_header, seal};
use crate::retention::RetentionClass;
use crate::slices::Slices;

const GROUP: GroupId = GroupId(1);
const TABLE: TableId = TableId(1000);
const STEPS: usize = 300;
/// Between two entries. A slice of the shortest class is closed after three of them, and dropped twelve later.
const ENTRY_MS: i64 = 5_000;
/// A few entries' bytes.
const SLICE_BYTES: u64 = 500;
/// Streams 1 to 3: kept for ever, for a minute, and sometimes the one and sometimes the other.
const STREAMS: std::ops::Range<u64> = 1..4;
/// Records have so many keys.
const KEYS: u8 = 5;

/// A mistake planted on purpose.
#[derive(Clone, Copy, PartialEq)]
enum Bug {
    None,
    /// Writers are answered before the log is synced.
    AcknowledgeBeforeSync,
    /// The log is cut at what is applied instead of at what is flushed.
    CutAtApplied,
    /// A restart applies the last entry again.
    ApplyTwice,
    /// Slices are dropped half a minute too early.
    DropTooEarly,
    /// A crash keeps how far rows are applied, and not the rows.
    AppliedAheadOfRows,
    /// Writers do not say with what routing they write.
    SkipFence,
}

struct World {
    rng: Rng,
    bug: Bug,
    engine: Arc<MemoryEngine>,
    slices: Arc<Slices>,
    applier: Applier,
    log: BTreeMap<LogIndex, Bytes>,
    last: LogIndex,
    synced: LogIndex,
    /// What writers were told, by entry.
    acknowledged: BTreeMap<LogIndex, Vec<Outcome>>,
    /// The routing each item was made with, by entry, and the newest one that was applied.
    revisions: BTreeMap<LogIndex, Vec<RouteRevision>>,
    fence: RouteRevision,
    /// What producers have sent that was applied.
    applied_once: BTreeSet<(Bytes, u64)>,
    /// The payloads and offsets they were told about.
    promised: BTreeMap<(ShardId, Offset), Promise>,
    /// Time as the maintenance thread saw it last.
    maintained_at: TimestampMs,
    counter: u64,
    /// How often each stream was dropped: a new one of that name has another number.
    dropped: [u64; 4],
}

#[derive(Debug, Clone, PartialEq)]
struct Promise {
    payload: String,
    class: RetentionClass,
    time: TimestampMs,
}

/// What is missing or wrong after a crash.
type Wrong = String;

impl World {
    fn new(seed: u64, bug: Bug) -> World {
        let engine = Arc::new(MemoryEngine::default());
        let slices = Arc::new(Slices::open(engine.clone(), SLICE_BYTES).unwrap());
        let applier = Applier::load(engine.clone(), slices.clone(), GROUP).unwrap();
        World {
            rng: Rng::with_seed(seed),
            bug,
            engine,
            slices,
            applier,
            log: BTreeMap::new(),
            last: LogIndex(0),
            synced: LogIndex(0),
            acknowledged: BTreeMap::new(),
            revisions: BTreeMap::new(),
            fence: RouteRevision(0),
            applied_once: BTreeSet::new(),
            promised: BTreeMap::new(),
            maintained_at: TimestampMs(0),
            counter: 0,
            dropped: [0; 4],
        }
    }

    fn run(&mut self) -> Result<(), Wrong> {
        for _ in 0..STEPS {
            match self.rng.u32(0..100) {
                0..45 => self.propose(),
                45..65 => self.synced = self.last,
                65..85 => self.apply_some()?,
                85..89 => self.flush_and_cut(),
                89..93 => self.maintain()?,
                93..95 => self.lose_power_in_maintenance()?,
                _ => self.crash()?,
            }
        }
        self.crash()
    }

    fn shard(&mut self) -> ShardId {
        let stream = self.rng.u64(STREAMS);
        self.shard_of(stream)
    }

    fn shard_of(&self, stream: u64) -> ShardId {
        ShardId {
            group: GROUP,
            stream: StreamId(stream + self.dropped[stream as usize] * 10),
            number: 0,
        }
    }

    /// One entry of one to three items, some of them conditional on a counter that they move.
    fn propose(&mut self) {
        let mut items: Vec<Item> = (0..self.rng.usize(1..4)).map(|_| self.item()).collect();
        if self.rng.u8(0..20) == 0 {
            let stream = self.rng.u64(STREAMS);
            let (shard, first) = (self.shard_of(stream), Trim::ALL);
            items.push(Item {
                trims: vec![Trim { shard, first }],
                ..Item::default()
            });
            self.dropped[stream as usize] += 1;
        }
        self.last = self.last.next();
        self.route(&mut items);
        let entry = Entry {
            time: TimestampMs(self.last.0 as i64 * ENTRY_MS),
            items,
        };
        self.log.insert(self.last, encode(&entry).into());
    }

    /// Gives items a routing: now and then a newer one, and often one that is no longer the newest.
    fn route(&mut self, items: &mut [Item]) {
        let newest = self.revisions.values().flatten().max().map_or(1, |newest| newest.0);
        let revision = |rng: &mut Rng| match rng.u8(0..20) {
            0 => RouteRevision(newest + 1),
            1 | 2 => RouteRevision(newest.saturating_sub(1)),
            _ => RouteRevision(newest),
        };
        let revisions: Vec<RouteRevision> = items.iter().map(|_| revision(&mut self.rng)).collect();
        for (item, revision) in items.iter_mut().zip(&revisions) {
            item.revision = (self.bug != Bug::SkipFence).then_some(*revision);
        }
        self.revisions.insert(self.last, revisions);
    }

    fn item(&mut self) -> Item {
        let count = self.rng.u32(1..4);
        let (mut body, mut hashes) = (Vec::new(), Vec::new());
        for _ in 0..count {
            self.counter += 1;
            let key = self.rng.u8(0..KEYS);
            hashes.push(key_hash(&[key]));
            let record = Record {
                key: Some(Bytes::from(vec![key])),
                ..Record::new(self.counter.to_string())
            };
            encode_record(&record, &mut body);
        }
        let batch = Bytes::from(seal(&body, count, TimestampMs(1)));
        let shard = self.shard();
        let minute = RetentionClass::of(Some(60_000));
        let class = match shard.stream.0 % 10 {
            1 => RetentionClass::FOREVER,
            2 => minute,
            _ if self.rng.bool() => minute,
            _ => RetentionClass::FOREVER,
        };
        let mut item = Item {
            appends: vec![ItemAppend {
                shard,
                class,
                batch,
                keys: KeyHashes::collect(hashes),
                prefixes: KeyHashes::default(),
            }],
            ..Item::default()
        };
        // A producer sends what it has sent before about every other time.
        if self.rng.u8(0..4) == 0 {
            item.producer = Some(Producer {
                id: Bytes::from(vec![self.rng.u8(0..3)]),
                epoch: 1,
                sequence: self.rng.u64(0..30),
            });
        }
        if self.rng.u8(0..10) == 0 {
            let shard = self.shard();
            let first = Offset(self.rng.u64(0..80));
            item.trims.push(Trim { shard, first });
        }
        if self.rng.bool() {
            let expected = self.rng.u8(0..3);
            let value = (expected > 0).then(|| Bytes::from(vec![expected]));
            item.conditions.push(Condition::Row {
                table: TABLE,
                key: "c".into(),
                value,
            });
            item.puts.push(Put {
                table: TABLE,
                key: "c".into(),
                value: Some(vec![(expected + 1) % 3].into()),
            });
        }
        item
    }

    /// Applies what is committed: in a group of one, what is synced.
    fn apply_some(&mut self) -> Result<(), Wrong> {
        let committed = if self.bug == Bug::AcknowledgeBeforeSync {
            self.last
        } else {
            self.synced
        };
        while self.applier.applied().index < committed {
            let index = self.applier.applied().index.next();
            let data = self
                .log
                .get(&index)
                .cloned()
                .ok_or(format!("entry {index} is needed and gone"))?;
            let (entry, outcomes) = self
                .applier
                .apply(index, Term(1), data.clone())
                .map_err(|error| error.to_string())?;
            if let Some(told) = self.acknowledged.get(&index)
                && *told != outcomes
            {
                return Err(format!(
                    "entry {index} was acknowledged as {told:?} and is now {outcomes:?}"
                ));
            }
            let replayed = self.acknowledged.insert(index, outcomes.clone()).is_some();
            if !replayed {
                self.promise(index, data, &outcomes)?;
            }
            drop(entry);
        }
        Ok(())
    }

    /// Notes what an entry's writers were told.
    fn promise(&mut self, index: LogIndex, data: Bytes, outcomes: &[Outcome]) -> Result<(), Wrong> {
        let entry = entry::decode(GROUP, data).map_err(|error| error.to_string())?;
        let revisions = self.revisions.get(&index).cloned().unwrap_or_default();
        for ((item, outcome), revision) in entry.items.into_iter().zip(outcomes).zip(revisions) {
            let Ok(bases) = outcome else { continue };
            if revision < self.fence {
                return Err(format!(
                    "entry {index}: an item of routing {revision:?} came after {:?}",
                    self.fence
                ));
            }
            self.fence = revision;
            if let Some(Producer { id, sequence, .. }) = item.producer
                && !self.applied_once.insert((id.clone(), sequence))
            {
                return Err(format!("entry {index}: {id:?} {sequence} is applied twice"));
            }
            for (append, base) in item.appends.into_iter().zip(bases) {
                let header = parse_header(&append.batch).map_err(|error| error.to_string())?;
                let body = open_body(&append.batch).map_err(|error| error.to_string())?;
                for (offset, record) in decode_records(&header, body).map_err(|error| error.to_string())? {
                    let promise = Promise {
                        payload: String::from_utf8_lossy(&record.payload.unwrap_or_default()).into_owned(),
                        class: append.class,
                        time: entry.time,
                    };
                    self.promised.insert((append.shard, base.plus(offset.0)), promise);
                }
            }
            for trim in item.trims {
                self.promised
                    .retain(|(shard, offset), _| *shard != trim.shard || *offset >= trim.first);
            }
        }
        Ok(())
    }

    fn now(&self) -> TimestampMs {
        TimestampMs(self.last.0 as i64 * ENTRY_MS)
    }

    fn maintain(&mut self) -> Result<(), Wrong> {
        self.maintained_at = self.maintained_at.max(self.now());
        let now = match self.bug {
            Bug::DropTooEarly => TimestampMs(self.maintained_at.0 + 30_000),
            _ => self.maintained_at,
        };
        let applied = self.slices.close_old(now).and_then(|()| self.slices.maintain(now, 0));
        applied.map(|_| ()).map_err(|error| error.to_string())
    }

    /// The power goes after some of what the maintenance thread does.
    fn lose_power_in_maintenance(&mut self) -> Result<(), Wrong> {
        self.engine.cut_power_after(self.rng.u32(0..12));
        let _ = self.maintain();
        self.crash()
    }

    fn flush_and_cut(&mut self) {
        let through = if self.bug == Bug::CutAtApplied {
            self.applier.applied().index
        } else {
            self.engine.flush().unwrap();
            self.durable()
        };
        self.log.retain(|index, _| *index > through);
    }

    fn durable(&self) -> LogIndex {
        let row = self.engine.get_durable(Family::State, &applied::key(GROUP)).unwrap();
        row.map_or(LogIndex(0), |value| applied::decode(value).unwrap().index)
    }

    /// The power goes; the node starts again and replays its log.
    fn crash(&mut self) -> Result<(), Wrong> {
        let applied = self.engine.get(Family::State, &applied::key(GROUP)).unwrap();
        self.engine.crash();
        if self.bug == Bug::AppliedAheadOfRows {
            self.keep_applied(applied);
        }
        self.log.retain(|index, _| *index <= self.synced);
        self.last = self.synced;
        let wrong = |error: crate::error::EngineError| error.to_string();
        self.slices = Arc::new(Slices::open(self.engine.clone(), SLICE_BYTES).map_err(wrong)?);
        let applier = Applier::load(self.engine.clone(), self.slices.clone(), GROUP);
        self.applier = applier.map_err(|error| error.to_string())?;
        self.slices.applied_to(self.applier.applied().time);
        if self.bug == Bug::ApplyTwice && self.applier.applied().index > LogIndex(0) {
            self.forget_the_last_applied_index();
        }
        self.apply_some()?;
        self.check()
    }

    fn keep_applied(&self, row: Option<Bytes>) {
        let mut writes = crate::engine::Writes::default();
        row.into_iter()
            .for_each(|row| writes.put(Family::State, applied::key(GROUP), row));
        self.engine.write(writes).unwrap();
        self.engine.flush().unwrap();
    }

    fn forget_the_last_applied_index(&mut self) {
        let before = applied::Applied {
            index: LogIndex(self.applier.applied().index.0 - 1),
            ..self.applier.applied()
        };
        let mut writes = crate::engine::Writes::default();
        writes.put(Family::State, applied::key(GROUP), applied::encode(&before));
        self.engine.write(writes).unwrap();
        self.applier = Applier::load(self.engine.clone(), self.slices.clone(), GROUP).unwrap();
    }

    fn check(&self) -> Result<(), Wrong> {
        if let Some(last) = self.acknowledged.keys().next_back()
            && *last > self.applier.applied().index
        {
            return Err(format!("entry {last} was acknowledged and is gone"));
        }
        let mut found = BTreeSet::new();
        let all = STREAMS.flat_map(|stream| (0..=self.dropped[stream as usize]).map(move |times| stream + times * 10));
        for stream in all {
            let shard = ShardId {
                group: GROUP,
                stream: StreamId(stream),
                number: 0,
            };
            let mut by_key: BTreeMap<Bytes, Vec<Offset>> = BTreeMap::new();
            let batches =
                reader::read(&*self.engine, shard, Offset(0), usize::MAX).map_err(|error| error.to_string())?;
            for stored in batches {
                for (offset, record) in stored.records_from(stored.base).map_err(|error| error.to_string())? {
                    let payload = String::from_utf8_lossy(&record.payload.unwrap_or_default()).into_owned();
                    let promise = self.promised.get(&(shard, offset));
                    if promise.is_none_or(|promise| promise.payload != payload) {
                        return Err(format!("{shard} {offset} is {payload}, promised was {promise:?}"));
                    }
                    if !found.insert((shard, offset)) {
                        return Err(format!("{shard} {offset} is there twice"));
                    }
                    by_key.entry(record.key.unwrap_or_default()).or_default().push(offset);
                }
            }
            for key in 0..KEYS {
                let offsets = self.offsets_of(shard, key)?;
                if offsets != by_key.get(&[key][..]).cloned().unwrap_or_default() {
                    return Err(format!(
                        "{shard} key {key}: its index gives {offsets:?}, and there are {by_key:?}"
                    ));
                }
            }
        }
        let missing = self
            .promised
            .iter()
            .find(|(at, promise)| !found.contains(at) && !promise.class.is_expired(promise.time, self.maintained_at));
        match missing {
            Some(((shard, offset), promise)) => Err(format!("{shard} {offset} is gone: {promise:?}")),
            None => Ok(()),
        }
    }

    /// Where a key's records are, found by its hash, a record batch at a time.
    fn offsets_of(&self, shard: ShardId, key: u8) -> Result<Vec<Offset>, Wrong> {
        let (mut offsets, mut from) = (Vec::new(), Offset(0));
        loop {
            let read = reader::read_key(&*self.engine, shard, &[key], from, 1);
            let reader::KeyRead { records, next } = read.map_err(|error| error.to_string())?;
            offsets.extend(records.iter().map(|(offset, _)| *offset));
            match next {
                Some(next) => from = next,
                None => return Ok(offsets),
            }
        }
    }

    /// Everything that is on disk, for comparing two runs of one seed.
    fn fingerprint(&self) -> (LogIndex, BTreeMap<(ShardId, Offset), Promise>, Option<Bytes>) {
        let row = self
            .engine
            .get(Family::State, &table_row::key(GROUP, TABLE, b"c"))
            .unwrap();
        (self.applier.applied().index, self.promised.clone(), row)
    }
}

#[test]
fn nothing_acknowledged_is_lost_or_changed() {
    for seed in 0..200 {
        let mut world = World::new(seed, Bug::None);
        if let Err(wrong) = world.run() {
            panic!("seed {seed}: {wrong}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    for seed in 0..20 {
        let (mut one, mut other) = (World::new(seed, Bug::None), World::new(seed, Bug::None));
        one.run().unwrap();
        other.run().unwrap();
        assert_eq!(one.fingerprint(), other.fingerprint(), "seed {seed}");
    }
}

/// The test of the test: each planted bug is seen by most seeds.
#[test]
fn planted_bugs_are_caught() {
    for (bug, name) in [
        (Bug::AcknowledgeBeforeSync, "acknowledge before sync"),
        (Bug::CutAtApplied, "cut at applied"),
        (Bug::ApplyTwice, "apply twice"),
        (Bug::DropTooEarly, "drop too early"),
        (Bug::AppliedAheadOfRows, "applied ahead of rows"),
        (Bug::SkipFence, "skip the fence"),
    ] {
        let caught = (0..100).filter(|seed| World::new(*seed, bug).run().is_err()).count();
        assert!(caught >= 50, "{name}: only {caught} of 100 seeds caught it");
    }
}
