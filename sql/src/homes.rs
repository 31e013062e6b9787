//! FROM a topic filter: which streams are home to its messages now, and how each of them is read.
//!
//! See decision 14. A message lies in its home stream, and copies of it in the other streams that capture it. All streams
//! are read one of whose captures has a topic in common with the filter; a record of them is a row where its topic matches
//! and it is no copy. So a stream may be read in vain, and no message is missed or comes twice, however streams come and go.

use std::sync::Arc;

use headwater_store::{
    Catalog, Level, Offset, Placement, QueryRow, ReadError, ShardId, Store, StreamId, StreamRow, TopicFilter, slot,
};

use crate::decode::Decoder;
use crate::pipeline::Pipeline;
use crate::plan::physical::{ColumnId, Expr, Homes, Plan, PlanError, Read, Source};
use crate::plan::{EventTime, event_time_of};
use crate::query::{QueryRules, rules_of};
use crate::read::resolve;
use crate::types::TimestampUs;
use crate::watermark::WatermarkRules;

/// The streams that the topic filters of a plan are read from now.
#[derive(Debug, Default)]
pub(crate) struct HomeStreams {
    /// Of each filter: its number among what the plan reads, and its streams.
    filters: Vec<(usize, Vec<Home>)>,
}

/// A stream that is home to messages of a filter, as a query reads it.
#[derive(Debug)]
struct Home {
    stream: Arc<StreamRow>,
    decoder: Decoder,
    rules: WatermarkRules,
}

impl HomeStreams {
    /// Those of the catalog as it is.
    pub fn of(plan: &Plan, catalog: &Catalog, rules: QueryRules) -> Result<HomeStreams, PlanError> {
        let mut filters = Vec::new();
        for (number, read) in plan.reads().enumerate() {
            let Read::Homes(homes) = read else { continue };
            let filter = homes.filter()?;
            let home = |stream: Arc<StreamRow>| {
                let source = source(&stream, homes)?;
                Ok(Home {
                    decoder: Decoder::of_home(&source, filter.clone(), homes.columns.len())?,
                    rules: rules_of(plan, &source, rules),
                    stream,
                })
            };
            let homes = streams(catalog, &filter).into_iter().map(home);
            filters.push((number, homes.collect::<Result<_, PlanError>>()?));
        }
        Ok(HomeStreams { filters })
    }

    fn all(&self) -> impl Iterator<Item = &Home> {
        self.filters.iter().flat_map(|(_, homes)| homes)
    }

    /// For telling people of records.
    pub fn names(&self) -> Vec<(StreamId, String)> {
        self.all()
            .map(|home| (home.stream.id, home.stream.name.clone()))
            .collect()
    }

    /// Each once, in order; see [`streams_of`].
    pub fn ids(&self) -> Vec<StreamId> {
        ids(self.all().map(|home| home.stream.id).collect())
    }

    /// The shards of what the plan reads by that number, where that is a topic filter.
    pub fn shards(&self, number: usize) -> Option<Vec<ShardId>> {
        let (_, homes) = self.filters.iter().find(|(known, _)| *known == number)?;
        Some(homes.iter().flat_map(|home| home.stream.shard_ids()).collect())
    }

    /// Has a pipeline read them.
    pub fn put_into(self, pipeline: &mut Pipeline, now: TimestampUs) {
        for (number, homes) in self.filters {
            let shards = homes
                .iter()
                .flat_map(|home| home.stream.shard_ids().map(|shard| (shard, home.rules)));
            let shards = shards.collect();
            let decoders = homes.into_iter().map(|home| (home.stream.id, home.decoder));
            pipeline.set_homes(number, decoders.collect(), shards, now);
        }
    }
}

/// The streams of a filter, those that are made or dropped just now among them, in the order in which they were made.
fn streams(catalog: &Catalog, filter: &TopicFilter) -> Vec<Arc<StreamRow>> {
    let is_home = |stream: &&Arc<StreamRow>| {
        stream
            .capture_filters()
            .any(|capture| overlap(capture.levels(), filter.levels()))
    };
    let mut streams: Vec<_> = catalog.streams.values().filter(is_home).cloned().collect();
    streams.sort_unstable_by_key(|stream| stream.id);
    streams
}

/// The streams of several filters, each once, in order.
pub(crate) fn streams_of(catalog: &Catalog, filters: &[TopicFilter]) -> Vec<StreamId> {
    let streams = filters.iter().flat_map(|filter| streams(catalog, filter));
    ids(streams.map(|stream| stream.id).collect())
}

fn ids(mut ids: Vec<StreamId>) -> Vec<StreamId> {
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// What of a persistent query's sources is read by way of topic filters, now.
pub(crate) fn of_query(catalog: &Catalog, query: &QueryRow) -> Vec<StreamId> {
    let Ok(plan) = Plan::decode(&query.plan) else {
        return Vec::new();
    };
    streams_of(catalog, &plan.filters().collect::<Vec<_>>())
}

/// A stream as a source: what its TIMESTAMP needs is taken out of records behind what the query wants.
fn source(stream: &StreamRow, homes: &Homes) -> Result<Source, PlanError> {
    let EventTime {
        columns,
        timestamp,
        delay_us,
        idle_us,
    } = event_time_of(stream).map_err(|error| PlanError::Invalid(error.to_string()))?;
    let before = homes.columns.len() as u32;
    let captures = std::iter::once(homes.filter.clone()).chain(stream.captures.iter().cloned());
    Ok(Source {
        stream: stream.id,
        name: stream.name.clone(),
        format: stream.options.format,
        on_error: stream.options.on_error,
        form: stream.form,
        columns: homes.columns.iter().cloned().chain(columns).collect(),
        captures: captures.collect(),
        timestamp: timestamp.map(|mut expr| {
            expr.replace_columns(&mut |column| Some(Expr::Column(ColumnId(column.0 + before))));
            expr
        }),
        delay_us,
        idle_us: idle_us.or(homes.idle_us),
        start: homes.start.clone(),
    })
}

/// Brings the cursors of a persistent query in step with the streams of its filters: those that are gone go, those that are
/// not there begin as the plan says, and at their first record where it says nothing.
pub(crate) fn bring_up(plan: &Plan, catalog: &Catalog, cursors: &mut Vec<(ShardId, Offset)>) {
    let mut there: Vec<StreamId> = plan.inputs();
    for read in plan.reads() {
        let Read::Homes(homes) = read else { continue };
        let Ok(filter) = homes.filter() else { continue };
        for stream in streams(catalog, &filter) {
            there.push(stream.id);
            let begins = homes.begins.iter().find(|(id, _)| *id == stream.id);
            for (number, shard) in stream.shard_ids().enumerate() {
                if !cursors.iter().any(|(known, _)| *known == shard) {
                    let begin = begins.and_then(|(_, begins)| begins.get(number));
                    cursors.push((shard, Offset(begin.copied().unwrap_or(0))));
                }
            }
        }
    }
    cursors.retain(|(shard, _)| there.contains(&shard.stream));
}

/// Where the streams of a filter are read from that there are now.
pub(crate) async fn positions(
    store: &Store,
    catalog: &Catalog,
    homes: &Homes,
) -> Result<Vec<(StreamId, Vec<(ShardId, Offset)>)>, ReadError> {
    let mut all = Vec::new();
    let Ok(filter) = homes.filter() else {
        return Ok(all);
    };
    for stream in streams(catalog, &filter) {
        let shards = stream.shard_ids().collect();
        all.push((stream.id, resolve(store, shards, &homes.start).await?));
    }
    Ok(all)
}

/// Whether a message of the filter can lie there: of a stream that is placed by topic, one topic lies in one shard.
pub(crate) fn may_lie_in(stream: &StreamRow, filter: &TopicFilter, shard: ShardId) -> bool {
    let placed = filter.is_exact() && stream.placement == Placement::Topic;
    !placed || shard.number == slot(filter.as_str().as_bytes()) % stream.shards.len() as u16
}

/// What EXPLAIN says of a read that ends: which of the streams' shards it reads.
pub(crate) fn explain(plan: &Plan, catalog: &Catalog) -> Vec<String> {
    let line = |read: Read<'_>| {
        let Read::Homes(homes) = read else { return None };
        let filter = homes.filter().ok()?;
        let streams = streams(catalog, &filter);
        let shards = || {
            streams
                .iter()
                .flat_map(|stream| stream.shard_ids().map(move |shard| (stream, shard)))
        };
        let read = shards()
            .filter(|(stream, shard)| may_lie_in(stream, &filter, *shard))
            .count();
        let names: Vec<&str> = streams.iter().map(|stream| stream.name.as_str()).collect();
        let (names, of) = (names.join(", "), shards().count());
        Some(format!("Reads {read} of {of} shards of {names} for '{}'", homes.filter))
    };
    plan.reads().filter_map(line).collect()
}

/// Some topic matches both.
fn overlap(a: &[Level], b: &[Level]) -> bool {
    match (a.split_first(), b.split_first()) {
        (None, None) => true,
        (Some((Level::Multi, _)), _) | (_, Some((Level::Multi, _))) => true,
        (Some((Level::Literal(one), a)), Some((Level::Literal(other), b))) => one == other && overlap(a, b),
        (Some((_, a)), Some((_, b))) => overlap(a, b),
        (None, Some(_)) | (Some(_), None) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(filter: &str) -> Vec<Level> {
        TopicFilter::capture(filter).unwrap().levels().to_vec()
    }

    #[test]
    fn filters_overlap_where_a_topic_matches_both() {
        let overlap = |a, b| overlap(&levels(a), &levels(b)) && super::overlap(&levels(b), &levels(a));
        assert!(overlap("a/+", "+/b"));
        assert!(overlap("a/#", "a"));
        assert!(overlap("a/b/#", "a/+/c"));
        assert!(!overlap("a/+", "a"));
        assert!(!overlap("a/b", "a/c"));
        assert!(overlap("a/b/#", "a/+"), "`a/b/#` matches `a/b` too");
        assert!(!overlap("a/b/#", "a"));
    }
}
