//! Seeded simulation of one group over a disk that forgets: entries are logged, synced, applied, flushed, the log is
//! cut, and at random moments the power goes. Whatever was acknowledged must be there afterwards, once, with the
//! outcome it was acknowledged with.
//!
//! The log here is a vector whose tail behind the last sync is lost in a crash; the rows are a [`MemoryEngine`] that
//! goes back to its last flush; the applier is the one that runs in production. A failing run prints its seed, and the
//! same seed gives the same run. [`Bug`] plants the mistakes that the simulation exists to catch.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use fastrand::Rng;

use crate::apply::{Applier, Outcome};
use crate::batch::{Condition, Put, TableId};
use crate::engine::memory::MemoryEngine;
use crate::engine::{Engine, Family};
use crate::entry::{Entry, Item, encode};
use crate::ids::{GroupId, LogIndex, Offset, ShardId, StreamId, Term, TimestampMs};
use crate::keys::{applied, table_row};
use crate::reader;
use crate::record::Record;
use crate::record_batch::{encode_record, seal};

const GROUP: GroupId = GroupId(1);
const TABLE: TableId = TableId(1000);
const STEPS: usize = 300;

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
}

struct World {
    rng: Rng,
    bug: Bug,
    engine: Arc<MemoryEngine>,
    applier: Applier,
    log: BTreeMap<LogIndex, Bytes>,
    last: LogIndex,
    synced: LogIndex,
    /// What writers were told, by entry.
    acknowledged: BTreeMap<LogIndex, Vec<Outcome>>,
    /// The payloads and offsets they were told about.
    promised: BTreeMap<(ShardId, Offset), String>,
    counter: u64,
}

/// What is missing or wrong after a crash.
type Wrong = String;

impl World {
    fn new(seed: u64, bug: Bug) -> World {
        let engine = Arc::new(MemoryEngine::default());
        let applier = Applier::load(engine.clone(), GROUP).unwrap();
        World {
            rng: Rng::with_seed(seed),
            bug,
            engine,
            applier,
            log: BTreeMap::new(),
            last: LogIndex(0),
            synced: LogIndex(0),
            acknowledged: BTreeMap::new(),
            promised: BTreeMap::new(),
            counter: 0,
        }
    }

    fn run(&mut self) -> Result<(), Wrong> {
        for _ in 0..STEPS {
            match self.rng.u32(0..100) {
                0..45 => self.propose(),
                45..65 => self.synced = self.last,
                65..85 => self.apply_some()?,
                85..92 => self.flush_and_cut(),
                _ => self.crash()?,
            }
        }
        self.crash()
    }

    fn shard(&mut self) -> ShardId {
        ShardId {
            group: GROUP,
            stream: StreamId(self.rng.u64(1..3)),
            number: 0,
        }
    }

    /// One entry of one to three items, some of them conditional on a counter that they move.
    fn propose(&mut self) {
        let items = (0..self.rng.usize(1..4)).map(|_| self.item()).collect();
        self.last = self.last.next();
        let entry = Entry {
            time: TimestampMs(self.last.0 as i64),
            items,
        };
        self.log.insert(self.last, encode(&entry).into());
    }

    fn item(&mut self) -> Item {
        let count = self.rng.u32(1..4);
        let mut body = Vec::new();
        for _ in 0..count {
            self.counter += 1;
            encode_record(&Record::new(self.counter.to_string()), &mut body);
        }
        let batch = Bytes::from(seal(&body, count, TimestampMs(1)));
        let mut item = Item {
            appends: vec![(self.shard(), batch)],
            ..Item::default()
        };
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
                .apply(index, Term(1), data)
                .map_err(|error| error.to_string())?;
            if let Some(told) = self.acknowledged.get(&index)
                && *told != outcomes
            {
                return Err(format!(
                    "entry {index} was acknowledged as {told:?} and is now {outcomes:?}"
                ));
            }
            self.acknowledged.insert(index, outcomes);
            for stored in entry.appends {
                for (offset, record) in stored.records_from(stored.base).map_err(|error| error.to_string())? {
                    let payload = String::from_utf8_lossy(&record.payload.unwrap_or_default()).into_owned();
                    self.promised.insert((stored.shard, offset), payload);
                }
            }
        }
        Ok(())
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
        self.engine.crash();
        self.log.retain(|index, _| *index <= self.synced);
        self.last = self.synced;
        self.applier = Applier::load(self.engine.clone(), GROUP).map_err(|error| error.to_string())?;
        if self.bug == Bug::ApplyTwice && self.applier.applied().index > LogIndex(0) {
            self.forget_the_last_applied_index();
        }
        self.apply_some()?;
        self.check()
    }

    fn forget_the_last_applied_index(&mut self) {
        let before = applied::Applied {
            index: LogIndex(self.applier.applied().index.0 - 1),
            ..self.applier.applied()
        };
        let mut writes = crate::engine::Writes::default();
        writes.put(Family::State, applied::key(GROUP), applied::encode(&before));
        self.engine.write(writes).unwrap();
        self.applier = Applier::load(self.engine.clone(), GROUP).unwrap();
    }

    fn check(&self) -> Result<(), Wrong> {
        if let Some(last) = self.acknowledged.keys().next_back()
            && *last > self.applier.applied().index
        {
            return Err(format!("entry {last} was acknowledged and is gone"));
        }
        let mut found = BTreeMap::new();
        for stream in 1..3 {
            let shard = ShardId {
                group: GROUP,
                stream: StreamId(stream),
                number: 0,
            };
            for stored in
                reader::read(&*self.engine, shard, Offset(0), usize::MAX).map_err(|error| error.to_string())?
            {
                for (offset, record) in stored.records_from(stored.base).map_err(|error| error.to_string())? {
                    let payload = String::from_utf8_lossy(&record.payload.unwrap_or_default()).into_owned();
                    found.insert((shard, offset), payload);
                }
            }
        }
        if found == self.promised {
            Ok(())
        } else {
            Err("the stored records are not the promised ones".to_owned())
        }
    }

    /// Everything that is on disk, for comparing two runs of one seed.
    fn fingerprint(&self) -> (LogIndex, BTreeMap<(ShardId, Offset), String>, Option<Bytes>) {
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
    ] {
        let caught = (0..100).filter(|seed| World::new(*seed, bug).run().is_err()).count();
        assert!(caught >= 50, "{name}: only {caught} of 100 seeds caught it");
    }
}
