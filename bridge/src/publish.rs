//! `POST /streams/{name}:publish`: records into a stream, answered once they are committed.
//!
//! A record without `_topic` is appended to the named stream and nobody else sees it. One with `_topic` is a publish:
//! it goes the way of an MQTT PUBLISH, to every stream that captures the topic and to the subscribers, on condition
//! that the named stream is among the captures.

pub(crate) mod message;

use std::sync::Arc;
use std::task::Poll;

use bytestring::ByteString;
use futures_util::poll;
use headwater_broker::{PublishError, Published};
use headwater_sql::SqlError;
use headwater_store::{Append, Batch, Committed, Offset, Receipt, Record, ShardId, StreamRow, WriteError, shard_for};
use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use crate::body;
use crate::limits::{ADMISSION_TIMEOUT, COMMIT_TIMEOUT, ROUTE_TRIES_MAX};
use crate::metrics;
use crate::problem::{Problem, codes, unknown_stream};
use crate::routes::{Answer, RawRequest, Shared};

/// Publishes what one body holds.
pub(crate) async fn publish(shared: &Shared, name: &str, request: RawRequest) -> Answer {
    let body = shared.bodies.read(request.into_body()).await?;
    // A wrong name is told before what may be wrong with the body.
    stream(shared, name)?;
    let records = message::parse(&body.bytes)?;
    let count = records.len();
    let places = write(shared, name, records).await?;
    metrics::published(count);
    Ok(body::json(StatusCode::OK, &answer(name, &places)))
}

/// The stream, provided that clients may write to it: the rule is that of INSERT.
fn stream(shared: &Shared, name: &str) -> Result<Arc<StreamRow>, Problem> {
    let found = shared.store.catalog().borrow().stream(name).cloned();
    let stream = found.ok_or_else(|| unknown_stream(name))?;
    if let Some(query) = &stream.query {
        let message = format!("stream `{name}` is written by query `{query}`");
        let error = SqlError::new(headwater_sql::codes::NOT_ALLOWED, message);
        return Err(error.help("publish to the streams that the query reads").into());
    }
    Ok(stream)
}

/// Where one record landed, and how far into its append it stands.
#[derive(Debug, Clone)]
struct Place {
    stream: ByteString,
    shard: ShardId,
    base: Offset,
    position: u64,
}

/// HStreamDB's answer. A `batchId` is the offset of the first record that was appended together with this one.
fn answer(name: &str, places: &[Place]) -> Value {
    let ids: Vec<_> = places
        .iter()
        .map(
            |Place {
                 stream,
                 shard,
                 base,
                 position,
             }| {
                json!({
                    "shardId": shard.number.to_string(),
                    "batchId": base.to_string(),
                    "batchIndex": position,
                    "recordId": format!("{stream}:{}:{}", shard.number, base.plus(*position)),
                })
            },
        )
        .collect();
    json!({ "streamName": name, "recordIds": ids })
}

/// Commits the records: one Batch for each group that they fall into, and one for each record with a topic.
async fn write(shared: &Shared, name: &str, records: Vec<Record>) -> Result<Vec<Place>, Problem> {
    let mut places = vec![None; records.len()];
    let (published, appended): (Vec<_>, Vec<_>) = records
        .into_iter()
        .enumerate()
        .partition(|(_, record)| record.topic.is_some());
    publish_topics(shared, name, published, &mut places).await?;
    append(shared, name, appended, &mut places).await?;
    // Every record is in one of the two parts, and each part gives all of its places or an error.
    Ok(places.into_iter().flatten().collect())
}

/// The records of one group, with their numbers in the request.
struct Share {
    batch: Batch,
    numbers: Vec<Vec<usize>>,
}

async fn append(
    shared: &Shared,
    name: &str,
    records: Vec<(usize, Record)>,
    places: &mut [Option<Place>],
) -> Result<(), Problem> {
    let mut left = records;
    for _ in 0..ROUTE_TRIES_MAX {
        if left.is_empty() {
            return Ok(());
        }
        let shares = share_out(shared, name, std::mem::take(&mut left))?;
        let mut receipts = Vec::with_capacity(shares.len());
        for share in shares {
            let again = share.batch.appends.clone();
            let receipt = submit(shared, share.batch).await?;
            receipts.push((receipt, again, share.numbers));
        }
        for (receipt, appends, numbers) in receipts {
            match commit(receipt).await {
                Ok(committed) => {
                    for ((append, base), numbers) in appends.iter().zip(&committed.offsets).zip(numbers) {
                        for (position, number) in (0..).zip(numbers) {
                            let (stream, shard) = (ByteString::from(name), append.shard);
                            places[number] = Some(Place {
                                stream,
                                shard,
                                base: *base,
                                position,
                            });
                        }
                    }
                }
                // The routing moved on between the catalog's snapshot and the commit. Look again.
                Err(WriteError::StaleRoute { wanted, .. }) => {
                    let records = appends.into_iter().flat_map(|append| append.records);
                    left.extend(numbers.into_iter().flatten().zip(records));
                    let mut catalog = shared.store.catalog();
                    timeout(
                        ADMISSION_TIMEOUT,
                        catalog.wait_for(|catalog| catalog.route_revision >= wanted),
                    )
                    .await
                    .ok();
                }
                Err(error) => return Err(error.into()),
            }
        }
        left.sort_by_key(|(number, _)| *number);
    }
    Err(Problem::new(
        codes::OVERLOADED,
        "streams are being made and dropped faster than this could be written",
    ))
}

/// One Batch for each group, in it one append for each shard, in the order of the request.
fn share_out(shared: &Shared, name: &str, records: Vec<(usize, Record)>) -> Result<Vec<Share>, Problem> {
    let revision = shared.store.catalog().borrow().route_revision;
    let stream = stream(shared, name)?;
    let mut shares: Vec<Share> = Vec::new();
    for (number, record) in records {
        let shard = shard_for(&stream, &record);
        let at = shares
            .iter()
            .position(|share| share.batch.group == shard.group)
            .unwrap_or_else(|| {
                shares.push(Share {
                    batch: Batch::new(shard.group).routed(revision),
                    numbers: Vec::new(),
                });
                shares.len() - 1
            });
        let share = &mut shares[at];
        match share.batch.appends.iter().position(|append| append.shard == shard) {
            Some(at) => {
                share.batch.appends[at].records.push(record);
                share.numbers[at].push(number);
            }
            None => {
                share.batch.appends.push(Append {
                    shard,
                    records: vec![record],
                });
                share.numbers.push(vec![number]);
            }
        }
    }
    Ok(shares)
}

/// Waits for room, but not for ever: a client can wait as well, and knows better for how long.
async fn submit(shared: &Shared, batch: Batch) -> Result<Receipt, Problem> {
    match timeout(ADMISSION_TIMEOUT, shared.store.submit(batch)).await {
        Ok(admitted) => Ok(admitted?),
        Err(_) => Err(Problem::new(codes::OVERLOADED, "too many writes are waiting")),
    }
}

async fn commit(receipt: Receipt) -> Result<Committed, WriteError> {
    let late = WriteError::Indefinite("the commit takes too long");
    timeout(COMMIT_TIMEOUT, receipt).await.unwrap_or(Err(late))
}

/// The way of an MQTT PUBLISH. Each is begun, in the order of the request, before any is waited for: so they commit
/// together and in that order.
async fn publish_topics(
    shared: &Shared,
    name: &str,
    records: Vec<(usize, Record)>,
    places: &mut [Option<Place>],
) -> Result<(), Problem> {
    let stream = stream(shared, name)?;
    for (_, record) in &records {
        captured(shared, &stream, record)?;
    }
    let mut pending = Vec::with_capacity(records.len());
    for (number, record) in records {
        let mut publish = Box::pin(timeout(COMMIT_TIMEOUT, shared.publisher.publish(record)));
        match poll!(&mut publish) {
            Poll::Ready(outcome) => places[number] = Some(place(shared, outcome)?),
            Poll::Pending => pending.push((number, publish)),
        }
    }
    for (number, publish) in pending {
        places[number] = Some(place(shared, publish.await)?);
    }
    Ok(())
}

/// The topic's route must lead to the stream that the path names. The default stream captures everything, but takes
/// only what no other stream does.
fn captured(shared: &Shared, stream: &StreamRow, record: &Record) -> Result<(), Problem> {
    let Some(topic) = &record.topic else { return Ok(()) };
    let route = shared.store.route(topic);
    if route.home.stream == stream.id || route.copies.iter().any(|copy| copy.stream == stream.id) {
        return Ok(());
    }
    let detail = format!("messages on topic `{topic}` do not enter the stream `{}`", stream.name);
    let help = match stream.captures.as_slice() {
        [] => "leave `_topic` out: the stream captures no topics".to_owned(),
        captures => format!("it captures {}", captures.join(", ")),
    };
    Err(Problem::new(codes::NOT_CAPTURED, detail).help(help))
}

fn place(shared: &Shared, outcome: Result<Result<Published, PublishError>, Elapsed>) -> Result<Place, Problem> {
    let late = || WriteError::Indefinite("the commit takes too long").into();
    match outcome.unwrap_or_else(|_| Err(late())) {
        // The home copy: where the message is delivered from. It may be in another stream than the one in the path.
        Ok(Published { shard, offset, .. }) => {
            let catalog = shared.store.catalog().borrow().clone();
            let stream = catalog
                .stream_by_id(shard.stream)
                .map(|stream| stream.name.clone())
                .unwrap_or_default();
            Ok(Place {
                stream: stream.into(),
                shard,
                base: offset,
                position: 0,
            })
        }
        Err(PublishError::Write(error)) => Err(error.into()),
        Err(error) => Err(Problem::new(codes::BAD_TOPIC, error.to_string())),
    }
}
