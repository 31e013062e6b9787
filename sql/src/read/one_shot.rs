//! A SELECT that ends.

use std::collections::VecDeque;

use headwater_store::{Offset, ReadError, Record, ShardId, Store};

use super::{Reading, positions};
use crate::change::RecordId;
use crate::error::SqlError;
use crate::homes::{self, HomeStreams};
use crate::limits::{READ_AHEAD_BYTES, TIMERS_PER_STEP_MAX};
use crate::operator::Place;
use crate::outcome::RowSender;
use crate::plan::physical::{Plan, Read};
use crate::query::QueryRules;
use crate::types::TimestampUs;
use crate::view::View;
/// Of a read that ends, which has no watermarks.
const NO_RULES: QueryRules = QueryRules {
    idle_us: 0,
    future_skew_us: 0,
};

/// A one-shot SELECT, ready to run.
pub(crate) struct OneShot {
    reading: Reading,
    shards: Vec<ShardReader>,
    store: Store,
    step_records_max: usize,
}

/// Reads one shard to where it ended at the begin.
struct ShardReader {
    shard: ShardId,
    next: Offset,
    end: Offset,
    ahead: VecDeque<(RecordId, Record)>,
    /// The rows of a view, which were there before any record.
    of_view: bool,
}

impl OneShot {
    /// Fixes what is read: what is appended later is not in it.
    pub async fn begin(
        store: Store,
        plan: &Plan,
        place: &Place,
        rows: RowSender,
        step_records_max: usize,
    ) -> Result<OneShot, SqlError> {
        let catalog = store.catalog().borrow().clone();
        let mut shards = Vec::new();
        for (_, source) in plan.sources() {
            if let Some(view) = View::of(&catalog, source) {
                shards.push(ShardReader::of_rows(view.shard(), view.rows(&store, plan).await?));
                continue;
            }
            for (shard, next) in positions(&store, &catalog, source).await? {
                // A stream that is joined with itself is read once.
                if shards.iter().any(|known: &ShardReader| known.shard == shard) {
                    continue;
                }
                shards.push(ShardReader::begin(&store, shard, next).await?);
            }
        }
        for read in plan.reads() {
            let Read::Homes(homes) = read else { continue };
            let filter = homes.filter().map_err(|error| SqlError::internal(error.to_string()))?;
            let positions = homes::positions(&store, &catalog, homes).await?;
            for (shard, next) in positions.into_iter().flat_map(|(_, at)| at) {
                let stream = catalog.stream_by_id(shard.stream);
                if stream.is_some_and(|stream| !homes::may_lie_in(stream, &filter, shard)) {
                    continue;
                }
                if shards.iter().any(|known: &ShardReader| known.shard == shard) {
                    continue;
                }
                shards.push(ShardReader::begin(&store, shard, next).await?);
            }
        }
        let homes = HomeStreams::of(plan, &catalog, NO_RULES).map_err(|error| SqlError::internal(error.to_string()))?;
        let now = TimestampUs::from_ms(store.now());
        let watermarks = plan.reads().map(|_| None).collect();
        Ok(OneShot {
            reading: Reading::new(plan, place, watermarks, (homes, now), rows, false)?,
            shards,
            store,
            step_records_max,
        })
    }

    /// Reads to the end; an error is the last thing the reader gets.
    pub async fn run(mut self) {
        if let Err(error) = self.read().await {
            // Nobody is there to be told when the reader is gone.
            let _ = self.reading.rows.send(Err(error)).await;
        }
    }

    async fn read(&mut self) -> Result<(), SqlError> {
        let now = TimestampUs::from_ms(self.store.now());
        loop {
            if self.reading.rows.is_closed() {
                return Ok(());
            }
            let records = self.next_records().await?;
            if self.reading.apply(&records, now).await?.is_some() {
                return Ok(());
            }
            let ended = records.is_empty();
            let finished = self
                .reading
                .pipeline
                .finish(now, ended, TIMERS_PER_STEP_MAX)
                .map_err(|stop| self.reading.inputs.stopped(stop))?;
            if self.reading.take(finished.rows).await?.is_some() {
                return Ok(());
            }
            if ended {
                self.reading.send_sorted().await;
                return Ok(());
            }
            // A long read is one task among many.
            tokio::task::yield_now().await;
        }
    }

    /// The next records of all shards by append time.
    async fn next_records(&mut self) -> Result<Vec<(RecordId, Record)>, SqlError> {
        let mut records = Vec::new();
        while records.len() < self.step_records_max {
            for shard in &mut self.shards {
                shard.fill(&self.store).await?;
            }
            let head = |shard: &ShardReader| {
                let (id, record) = shard.ahead.front()?;
                Some((!shard.of_view, record.timestamp, id.shard))
            };
            let Some((_, at)) = self
                .shards
                .iter()
                .enumerate()
                .filter_map(|(at, shard)| head(shard).map(|head| (head, at)))
                .min()
            else {
                break;
            };
            records.extend(self.shards[at].ahead.pop_front());
        }
        Ok(records)
    }
}

impl ShardReader {
    /// From there to its end as it is now.
    async fn begin(store: &Store, shard: ShardId, next: Offset) -> Result<ShardReader, ReadError> {
        let (first, end) = store.bounds(shard).await?;
        Ok(ShardReader {
            shard,
            next: next.max(first),
            end,
            ahead: VecDeque::new(),
            of_view: false,
        })
    }

    /// The rows of a view: they are there already.
    fn of_rows(shard: ShardId, rows: Vec<(RecordId, Record)>) -> ShardReader {
        ShardReader {
            shard,
            next: Offset(0),
            end: Offset(0),
            ahead: rows.into(),
            of_view: true,
        }
    }

    async fn fill(&mut self, store: &Store) -> Result<(), ReadError> {
        while self.ahead.is_empty() && self.next < self.end {
            let batches = store.read(self.shard, self.next, READ_AHEAD_BYTES).await?;
            if batches.is_empty() {
                // Trimmed while it was read: there is nothing left of what it was to read.
                self.next = self.end;
            }
            for batch in batches {
                for (offset, record) in batch.records_from(self.next)? {
                    if offset < self.end {
                        self.ahead.push_back((
                            RecordId {
                                shard: self.shard,
                                offset,
                            },
                            record,
                        ));
                    }
                }
                self.next = self.next.max(batch.end());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use headwater_store::{SystemClock, TopicName};

    use super::*;
    use crate::ast::StatementKind;
    use crate::outcome::RowStream;
    use crate::parse::parse;
    use crate::plan::Binder;

    /// How many records a SELECT looks at, and how many rows it gives.
    async fn read(store: &Store, sql: &str) -> (usize, usize) {
        let catalog = store.catalog().borrow().clone();
        let statements = parse(sql).unwrap();
        let StatementKind::Select(select) = &statements[0].kind else {
            panic!("{sql}");
        };
        let plan = Binder::new(&catalog, sql).select(select).unwrap().plan;
        let begin = async || {
            let (sender, rows) = RowStream::channel();
            let read = OneShot::begin(store.clone(), &plan, &Place::Here, sender, 8_192);
            (read.await.unwrap(), rows)
        };
        let (mut counted, _rows) = begin().await;
        let looked_at = counted.next_records().await.unwrap().len();
        let (whole, rows) = begin().await;
        whole.run().await;
        (looked_at, rows.collect().await.unwrap().len())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_an_exact_topic_one_shard_of_a_stream_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = headwater_config::Config::embedded().unwrap();
        config.store.path = folder.path().join("data");
        config.store.groups = 4;
        let opened = tokio::task::spawn_blocking(move || Store::open(&config.store, Arc::new(SystemClock)));
        let store = opened.await.unwrap().unwrap();
        let topics = (0..64).map(|site| TopicName::new(format!("plant/{site}/t")).unwrap());
        let mut in_first_shard = 0;
        for topic in topics {
            let record = Record {
                topic: Some(topic.clone()),
                ..Record::new(r#"{"temp":7}"#)
            };
            let route = store.route(&topic);
            in_first_shard += usize::from(route.group == store.route(&TopicName::new("plant/0/t").unwrap()).group);
            store.write(route.batch(record)).await.unwrap();
        }
        assert!((1..64).contains(&in_first_shard), "they spread");
        let exact = read(&store, "SELECT temp FROM 'plant/0/t'").await;
        assert_eq!(exact, (in_first_shard, 1));
        assert_eq!(read(&store, "SELECT temp FROM 'plant/+/t'").await, (64, 64));
        store.stop().await;
    }
}
