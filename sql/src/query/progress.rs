//! How far a query has come: what is saved of it, and where it begins before anything is.

use bytes::Bytes;
use headwater_store::{Catalog, ControlError, Offset, QueryRow, ShardId, decode_control, encode_control};

use super::{LoadError, QueryRules};
use crate::homes::{self, HomeStreams};
use crate::plan::physical::{Plan, Read, Source, Start};
use crate::types::TimestampUs;
use crate::watermark::{WatermarkRules, Watermarks};
/// How far a query has come in one group: the row that fences its steps.
#[derive(Debug, Clone, PartialEq, Eq, Default, bincode::Encode, bincode::Decode)]
pub struct Progress {
    /// The version of the plan whose state this is.
    pub plan: u32,
    /// Steps committed so far.
    pub step: u64,
    /// The last step's time: `now()` never goes back.
    pub now: TimestampUs,
    /// The next offset of each input shard.
    pub cursors: Vec<(ShardId, Offset)>,
    /// The watermark of each input shard.
    pub watermarks: Vec<(ShardId, TimestampUs)>,
    /// The watermark of each source of the plan, which silence may have moved past those of its shards.
    pub combined: Vec<TimestampUs>,
}

impl Progress {
    /// The key of a query's row in its group.
    pub fn key(query: u64) -> Bytes {
        Bytes::copy_from_slice(&query.to_be_bytes())
    }

    /// As a row.
    pub fn encode(&self) -> Bytes {
        encode_control(self)
    }

    /// From a row.
    pub fn decode(row: &[u8]) -> Result<Progress, ControlError> {
        decode_control(row)
    }

    /// The smallest of its sources' watermarks.
    pub fn watermark(&self) -> TimestampUs {
        self.combined.iter().copied().min().unwrap_or(TimestampUs::MIN)
    }
}

/// A source's own rules, and the configuration's where it has none.
pub(crate) fn rules_of(plan: &Plan, source: &Source, rules: QueryRules) -> WatermarkRules {
    WatermarkRules {
        silence: plan.manner.silence,
        delay_us: source.delay_us,
        idle_us: source.idle_us.unwrap_or(rules.idle_us),
        future_skew_us: rules.future_skew_us,
    }
}

/// Those of a topic filter, before its streams are known.
pub(crate) fn of_no_stream(plan: &Plan, rules: QueryRules) -> WatermarkRules {
    WatermarkRules {
        silence: plan.manner.silence,
        delay_us: 0,
        idle_us: rules.idle_us,
        future_skew_us: rules.future_skew_us,
    }
}

/// Those of each source, as they were saved: one after the other, so that of a shard that two of them read each has its own.
pub(super) fn restore_watermarks(
    plan: &Plan,
    homes: &HomeStreams,
    saved: &Progress,
    rules: QueryRules,
    now: TimestampUs,
) -> Vec<Option<Watermarks>> {
    let mut before: Vec<ShardId> = Vec::new();
    let restore = |(number, read): (usize, Read<'_>)| {
        let shards = saved.cursors.iter().map(|(shard, _)| *shard);
        let (rules, shards) = match read {
            Read::Stream(source) => (
                rules_of(plan, source, rules),
                shards.filter(|shard| shard.stream == source.stream).collect(),
            ),
            // Each of its streams has rules of its own, which the pipeline is told.
            Read::Homes(_) => (of_no_stream(plan, rules), homes.shards(number).unwrap_or_default()),
        };
        let of_shard = |shard: &ShardId| {
            let earlier = before.iter().filter(|known| *known == shard).count();
            let mut found = saved.watermarks.iter().filter(|(known, _)| known == shard);
            let watermark = found.nth(earlier).map_or(TimestampUs::MIN, |(_, watermark)| *watermark);
            (*shard, watermark)
        };
        let marks: Vec<_> = shards.iter().map(of_shard).collect();
        before.extend(shards);
        let combined = saved.combined.get(number).copied().unwrap_or(TimestampUs::MIN);
        Some(Watermarks::new(rules, marks, combined, now))
    };
    plan.reads().enumerate().map(restore).collect()
}

/// Where the shards of the plan's sources are read from, before anything is saved.
pub(crate) fn start(plan: &Plan, catalog: &Catalog) -> Result<Vec<(ShardId, Offset)>, LoadError> {
    let mut cursors: Vec<(ShardId, Offset)> = Vec::new();
    for (_, source) in plan.sources() {
        let Start::At(offsets) = &source.start else {
            return Err(LoadError::NoStart);
        };
        let stream = catalog
            .stream_by_id(source.stream)
            .ok_or(LoadError::NoInput(source.stream))?;
        for (shard, offset) in stream.shard_ids().zip(offsets) {
            if !cursors.iter().any(|(known, _)| *known == shard) {
                cursors.push((shard, Offset(*offset)));
            }
        }
    }
    homes::bring_up(plan, catalog, &mut cursors);
    Ok(cursors)
}

/// Where a query's shards are read from that has saved nothing: as its plan, stored under it, says.
pub fn begins(query: &QueryRow, catalog: &Catalog) -> Result<Vec<(ShardId, Offset)>, LoadError> {
    start(&Plan::decode(&query.plan)?, catalog)
}
