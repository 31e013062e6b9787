//! How far a query has come, for SHOW QUERIES: as its tasks here last said, else as it was saved.

use std::collections::BTreeMap;

use headwater_store::{Catalog, GroupId, Offset, QueryRow, ReadError, ShardId, tables};

use super::Engine;
use crate::limits::{STATE_COUNT_ROWS_MAX, STATE_SCAN_ROWS};
use crate::plan::physical::Plan;
use crate::query::task::TaskPosition;
use crate::query::{Progress, begins};
use crate::types::TimestampUs;
use crate::view::View;

/// Over all tasks of a query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct QueryPosition {
    /// Records of its sources that some task has still to read. None: it cannot be worked out now.
    pub lag: Option<u64>,
    /// The smallest watermark of its tasks. None: before the first event time.
    pub watermark: Option<TimestampUs>,
    /// Groups whose windows are open. None: nothing of it runs here.
    pub windows: Option<u64>,
    /// Keys and values of its state. None: it cannot be read now.
    pub state_bytes: Option<u64>,
    /// The next record of each input shard that some task has still to read.
    pub cursors: BTreeMap<ShardId, Offset>,
}

impl QueryPosition {
    /// The last record of each input shard that is in its results, as `stream:shard:offset`.
    pub fn as_of(&self, catalog: &Catalog) -> Vec<String> {
        let record = |(shard, next): (&ShardId, &Offset)| {
            let name = catalog.stream_names.get(&shard.stream)?;
            let last = next.0.checked_sub(1)?;
            Some(format!("{name}:{}:{last}", shard.number))
        };
        self.cursors.iter().filter_map(record).collect()
    }
}

impl Engine {
    /// See [`QueryPosition`].
    pub(crate) async fn query_position(&self, catalog: &Catalog, query: &QueryRow) -> QueryPosition {
        let mut position = self.committed_position(catalog, query).await.unwrap_or_default();
        let groups = catalog.stream_by_id(query.output).map(|stream| stream.shards.clone());
        for group in groups.unwrap_or_default() {
            let bytes = self.state_bytes(query.id, group).await.ok();
            position.state_bytes = bytes.map(|bytes| position.state_bytes.unwrap_or(0) + bytes);
        }
        if !position.cursors.is_empty() {
            position.lag = self.behind(position.cursors.clone()).await.ok();
        }
        position
    }

    /// What its tasks say without looking at anything else: no lag, no bytes. None: one of them cannot be asked.
    async fn committed_position(&self, catalog: &Catalog, query: &QueryRow) -> Option<QueryPosition> {
        let running = self.inner.statuses.positions(query.id);
        let mut position = QueryPosition::default();
        let mut positions: Vec<TaskPosition> = Vec::new();
        for group in &catalog.stream_by_id(query.output)?.shards {
            match running.get(group) {
                Some(live) => {
                    position.windows = Some(position.windows.unwrap_or(0) + live.windows as u64);
                    positions.push(live.clone());
                }
                None => positions.push(self.saved_position(catalog, query, *group).await?),
            }
        }
        position.watermark = positions
            .iter()
            .map(|task| task.watermark)
            .min()
            .filter(|at| *at != TimestampUs::MIN);
        for (shard, next) in positions.into_iter().flat_map(|task| task.cursors) {
            let known = position.cursors.entry(shard).or_insert(next);
            *known = next.min(*known);
        }
        Some(position)
    }

    /// Up to which records of their sources the views are, at least, that a plan reads from now on.
    pub(crate) async fn as_of(&self, catalog: &Catalog, plan: &Plan) -> Vec<String> {
        let mut as_of = Vec::new();
        for (_, source) in plan.sources() {
            let query = View::of(catalog, source)
                .and_then(|_| catalog.stream_by_id(source.stream)?.query.as_ref())
                .and_then(|query| catalog.queries.get(query));
            let Some(query) = query else { continue };
            if let Some(position) = self.committed_position(catalog, query).await {
                as_of.extend(position.as_of(catalog));
            }
        }
        as_of.sort_unstable();
        as_of.dedup();
        as_of
    }

    async fn behind(&self, cursors: BTreeMap<ShardId, Offset>) -> Result<u64, ReadError> {
        let mut records = 0;
        for (shard, next) in cursors {
            let (first, end) = self.inner.store.bounds(shard).await?;
            records += end.0.saturating_sub(next.max(first).0);
        }
        Ok(records)
    }

    /// Counted, not kept: a step would have to read every row that it overwrites.
    async fn state_bytes(&self, query: u64, group: GroupId) -> Result<u64, ReadError> {
        let table = self.inner.store.table(group, tables::QUERY_STATE);
        let count = move || {
            let (mut bytes, mut rows, mut from) = (0, 0, Vec::new());
            loop {
                let page = table.scan(&query.to_be_bytes(), &from, STATE_SCAN_ROWS)?;
                bytes += page
                    .iter()
                    .map(|(key, value)| (key.len() + value.len()) as u64)
                    .sum::<u64>();
                rows += page.len();
                match page.last() {
                    Some((last, _)) if page.len() == STATE_SCAN_ROWS && rows < STATE_COUNT_ROWS_MAX => {
                        from = [&last[..], &[0]].concat();
                    }
                    _ => return Ok(bytes),
                }
            }
        };
        self.inner.store.blocking(count).await
    }

    async fn saved_position(&self, catalog: &Catalog, query: &QueryRow, group: GroupId) -> Option<TaskPosition> {
        let (table, key) = (
            self.inner.store.table(group, tables::QUERY_PROGRESS),
            Progress::key(query.id),
        );
        let row = self.inner.store.blocking(move || table.get(&key)).await.ok()?;
        let progress = match row {
            Some(row) => Progress::decode(&row).ok()?,
            // It has saved nothing yet.
            None => Progress {
                cursors: begins(query, catalog).ok()?,
                ..Progress::default()
            },
        };
        Some(TaskPosition {
            watermark: progress.watermark(),
            cursors: progress.cursors,
            windows: 0,
        })
    }
}
