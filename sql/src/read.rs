//! SELECTs: queries without a name, whose rows go to whoever asked and whose state is in memory.
//!
//! A one-shot SELECT reads what is stored now, from the first shard's first record to the last of each shard as they
//! were when it began, merged by append time, and ends. A push SELECT follows; it writes nothing, so it loses nothing
//! when its reader goes.

mod one_shot;
mod push;

pub(crate) use one_shot::OneShot;
pub(crate) use push::Push;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_store::{Catalog, Offset, Position, ReadError, Record, ShardId, Store, TimestampMs};

use crate::change::RecordId;
use crate::decode::BadRecord;
use crate::error::{SqlError, codes};
use crate::homes::{self, HomeStreams};
use crate::limits::SORT_BYTES_MAX;
use crate::operator::Place;
use crate::outcome::RowSender;
use crate::pipeline::Pipeline;
use crate::plan::physical::{OrderBy, Plan, Source, Start};
use crate::query::side::SourceNames;
use crate::step::{Committed, SinkRow, State, Stop};
use crate::types::TimestampUs;
use crate::value::Value;
use crate::watermark::Watermarks;

/// Where each shard of a source is read from.
pub(crate) async fn positions(
    store: &Store,
    catalog: &Catalog,
    source: &Source,
) -> Result<Vec<(ShardId, Offset)>, ReadError> {
    let Some(stream) = catalog.stream_by_id(source.stream) else {
        return Ok(Vec::new());
    };
    let shards: Vec<ShardId> = stream.shard_ids().collect();
    resolve(store, shards, &source.start).await
}

/// Where a start is in each shard, now.
pub(crate) async fn resolve(
    store: &Store,
    shards: Vec<ShardId>,
    start: &Start,
) -> Result<Vec<(ShardId, Offset)>, ReadError> {
    let position = match start {
        Start::Latest => Position::Latest,
        Start::Earliest => Position::Earliest,
        Start::Timestamp(ms) => Position::Timestamp(TimestampMs(*ms)),
        Start::Offset(offset) => Position::Offset(Offset(*offset)),
        Start::At(offsets) => return Ok(shards.into_iter().zip(offsets.iter().map(|at| Offset(*at))).collect()),
    };
    store.resolve(shards, position).await
}

/// Shared by both sorts of SELECT.
struct Reading {
    pipeline: Pipeline,
    inputs: SourceNames,
    rows: RowSender,
    order_by: Vec<OrderBy>,
    /// Rows that may still be sent.
    left: u64,
    /// ORDER BY: all rows, until the end.
    held: Vec<SinkRow>,
    held_bytes: usize,
    /// It tells of rows that are gone, as `{"_gone":{…}}`: a read that goes on.
    tells_gone: bool,
}

/// The reader is satisfied, or gone.
struct Done;

impl Reading {
    fn new(
        plan: &Plan,
        place: &Place,
        watermarks: Vec<Option<Watermarks>>,
        (homes, now): (HomeStreams, TimestampUs),
        rows: RowSender,
        tells_gone: bool,
    ) -> Result<Reading, SqlError> {
        let state = State::load(0, Committed::Memory(BTreeMap::new()), [])?;
        let mut pipeline =
            Pipeline::new(plan, place, state, watermarks).map_err(|error| SqlError::internal(error.to_string()))?;
        let left = plan.limit.unwrap_or(u64::MAX);
        let inputs = SourceNames::of(plan, homes.names());
        homes.put_into(&mut pipeline, now);
        Ok(Reading {
            pipeline,
            inputs,
            rows,
            order_by: plan.order_by.clone(),
            left,
            held: Vec::new(),
            held_bytes: 0,
            tells_gone,
        })
    }

    /// Takes in records; what comes of them is sent before all of it is worked out, and nothing more is worked out once
    /// the reader has enough.
    async fn apply(&mut self, records: &[(RecordId, Record)], now: TimestampUs) -> Result<Option<Done>, SqlError> {
        let mut more = self
            .pipeline
            .begin(records, now)
            .map_err(|stop| self.inputs.stopped(stop))?;
        while more {
            let rows = self.pipeline.take_rows();
            if self.rows.is_closed() {
                return Ok(Some(Done));
            }
            if let Some(done) = self.take(rows).await? {
                return Ok(Some(done));
            }
            // A long read is one task among many.
            tokio::task::yield_now().await;
            more = self.pipeline.go_on(now).map_err(|stop| self.inputs.stopped(stop))?;
        }
        Ok(None)
    }

    /// Sends rows, or holds them to be sorted.
    async fn take(&mut self, rows: Vec<SinkRow>) -> Result<Option<Done>, SqlError> {
        if self.order_by.is_empty() {
            return Ok(self.send(rows).await);
        }
        self.held_bytes += rows
            .iter()
            .map(|row| row.payload.as_ref().map_or(0, |payload| payload.len()) + row.key.len() + 64)
            .sum::<usize>();
        if self.held_bytes > SORT_BYTES_MAX {
            let message = format!(
                "ORDER BY would have to hold more than {} MiB of rows",
                SORT_BYTES_MAX >> 20
            );
            return Err(SqlError::new(codes::TOO_LARGE, message).help("narrow it down with WHERE"));
        }
        self.held.extend(rows);
        Ok(None)
    }

    async fn send(&mut self, rows: Vec<SinkRow>) -> Option<Done> {
        for row in rows {
            let text = match (&row.payload, &row.old) {
                (Some(payload), _) => payload.to_string(),
                (None, Some(old)) if self.tells_gone => format!("{{\"_gone\":{old}}}"),
                (None, _) => continue,
            };
            if self.left == 0 || self.rows.send(Ok(text)).await.is_err() {
                return Some(Done);
            }
            // LIMIT counts rows.
            self.left -= u64::from(row.payload.is_some());
        }
        (self.left == 0).then_some(Done)
    }

    async fn send_sorted(&mut self) {
        let order_by = std::mem::take(&mut self.order_by);
        let mut rows = std::mem::take(&mut self.held);
        rows.sort_by(|a, b| compare(&a.order, &b.order, &order_by));
        self.send(rows).await;
    }
}

/// NULLs last, or first when descending.
fn compare(a: &[Value], b: &[Value], order_by: &[OrderBy]) -> Ordering {
    for ((a, b), item) in a.iter().zip(b).zip(order_by) {
        let order = a.order_nulls_last(b);
        let order = if item.descending { order.reverse() } else { order };
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

impl SourceNames {
    /// Why a SELECT ended, in the words of its error.
    fn stopped(&self, stop: Stop) -> SqlError {
        match stop {
            Stop::BadRecord(BadRecord(record)) => SqlError::new(codes::BAD_RECORD, self.does_not_parse(record)),
            Stop::Read(error) => error.into(),
            Stop::TooManyGroups(_) | Stop::TooLarge | Stop::TooManyPairs => {
                SqlError::new(codes::TOO_LARGE, stop.to_string())
            }
            Stop::State(_) | Stop::GivenUp => SqlError::internal(stop.to_string()),
        }
    }
}

/// Resolves where a persistent query begins, for all its tasks at once.
pub(crate) async fn resolve_start(store: &Store, plan: &mut Plan) -> Result<(), ReadError> {
    let catalog: Arc<Catalog> = store.catalog().borrow().clone();
    for source in plan.sources_mut() {
        let offsets = positions(store, &catalog, source).await?;
        source.start = Start::At(offsets.into_iter().map(|(_, offset)| offset.0).collect());
    }
    for homes in plan.homes_mut() {
        let positions = homes::positions(store, &catalog, homes).await?;
        let offsets = |shards: Vec<(ShardId, Offset)>| shards.into_iter().map(|(_, offset)| offset.0).collect();
        homes.begins = positions
            .into_iter()
            .map(|(id, shards)| (id, offsets(shards)))
            .collect();
    }
    Ok(())
}
