//! `GET /v1/streams/{name}/records`: what a stream holds, for people and for programs that look now and then.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use headwater_config::Millis;
use headwater_store::{Header, KeyRead, Offset, Position, Qos, Record, ShardId, StreamRow, TimestampMs};
use hyper::StatusCode;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use crate::body;
use crate::limits::{KEY_READ_BYTES, READ_BYTES_MAX, READ_RECORDS_DEFAULT, READ_RECORDS_MAX, READ_WAIT_MAX};
use crate::payload;
use crate::problem::{Problem, codes, unknown_stream};
use crate::routes::{Answer, RawRequest, Shared, parameter};

/// `?from=earliest|latest|OFFSET|@MS|@-1h&limit=100&wait=5s&shard=0&key=device-1`
pub(crate) async fn read(shared: &Shared, name: &str, request: &RawRequest) -> Answer {
    let stream = shared
        .store
        .catalog()
        .borrow()
        .stream(name)
        .cloned()
        .ok_or_else(|| unknown_stream(name))?;
    let asked = Asked::parse(|name| parameter(request, name), &stream, shared.store.now())?;
    let cursors = shared.store.resolve(asked.shards.clone(), asked.from).await?;
    let mut found = stored(shared, &cursors, &asked).await?;
    if found.is_empty() && !asked.wait.is_zero() {
        tokio::select! {
            waited = timeout(asked.wait, wait_for(shared, &cursors, asked.key.as_deref())) => waited.unwrap_or(Ok(()))?,
            () = shared.stopping.cancelled() => {}
        }
        found = stored(shared, &cursors, &asked).await?;
    }
    // Shards have no order among them; the append time is what people expect to see sorted.
    found.sort_by_key(|(shard, offset, record)| (record.timestamp, shard.number, *offset));
    found.truncate(asked.limit);
    let records: Vec<_> = found
        .iter()
        .map(|(shard, offset, record)| describe(&stream, *shard, *offset, record))
        .collect();
    Ok(body::typed(
        StatusCode::OK,
        "application/json",
        format!("{{\"records\":[{}]}}", records.join(",")),
    ))
}

async fn of_key(
    shared: &Shared,
    shard: ShardId,
    key: &Bytes,
    mut from: Offset,
    limit: usize,
    bytes_max: usize,
) -> Result<Vec<(ShardId, Offset, Record)>, Problem> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    loop {
        let KeyRead { records, next } = shared.store.read_key(shard, key.clone(), from, KEY_READ_BYTES).await?;
        for (offset, record) in records {
            bytes += record.size_bytes();
            found.push((shard, offset, record));
            if found.len() == limit || bytes >= bytes_max {
                return Ok(found);
            }
        }
        match next {
            Some(next) => from = next,
            None => return Ok(found),
        }
    }
}

/// Returns when there is a record behind `cursors`, of that key if one is asked for.
async fn wait_for(shared: &Shared, cursors: &[(ShardId, Offset)], key: Option<&[u8]>) -> Result<(), Problem> {
    let mut follower = shared.store.follow_from(cursors.to_vec());
    loop {
        let batch = follower.next(1).await?;
        let Some(key) = key else { return Ok(()) };
        for (stored, from) in batch {
            let records = stored.records_from(from)?;
            if records.iter().any(|(_, record)| record.key_or_topic() == Some(key)) {
                return Ok(());
            }
        }
    }
}

async fn stored(
    shared: &Shared,
    cursors: &[(ShardId, Offset)],
    asked: &Asked,
) -> Result<Vec<(ShardId, Offset, Record)>, Problem> {
    let mut found = Vec::new();
    let bytes_each = READ_BYTES_MAX / cursors.len().max(1);
    for (shard, from) in cursors {
        if let Some(key) = &asked.key {
            found.extend(of_key(shared, *shard, key, *from, asked.limit, bytes_each).await?);
            continue;
        }
        let (mut next, mut left, mut bytes) = (*from, asked.limit, bytes_each);
        while left > 0 && bytes > 0 {
            let batches = shared.store.read(*shard, next, bytes).await?;
            if batches.is_empty() {
                break;
            }
            for batch in batches {
                let records = batch.records_from(next)?;
                next = batch.end();
                bytes = bytes.saturating_sub(batch.size_bytes());
                let before = found.len();
                found.extend(
                    records
                        .into_iter()
                        .take(left)
                        .map(|(offset, record)| (*shard, offset, record)),
                );
                left -= found.len() - before;
            }
        }
    }
    Ok(found)
}

/// The query parameters.
#[derive(Debug, PartialEq)]
struct Asked {
    from: Position,
    limit: usize,
    wait: Duration,
    shards: Vec<ShardId>,
    /// Only records of this key, or of this topic where they have no key.
    key: Option<Bytes>,
}

impl Asked {
    fn parse(
        parameter: impl Fn(&str) -> Option<String>,
        stream: &Arc<StreamRow>,
        now: TimestampMs,
    ) -> Result<Asked, Problem> {
        let bad = |name: &str, value: &str, wanted: &str| {
            Problem::new(codes::BAD_PARAMETER, format!("{name}={value}: it can be {wanted}"))
        };
        let from = match parameter("from") {
            None => Position::Earliest,
            Some(text) => position(&text, now).ok_or_else(|| {
                bad(
                    "from",
                    &text,
                    "earliest, latest, an offset, @ and milliseconds, or @- and a duration",
                )
            })?,
        };
        let limit = match parameter("limit") {
            None => READ_RECORDS_DEFAULT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|limit| (1..=READ_RECORDS_MAX).contains(limit))
                .ok_or_else(|| bad("limit", &text, &format!("1 to {READ_RECORDS_MAX}")))?,
        };
        let wait = match parameter("wait") {
            None => Duration::ZERO,
            Some(text) => text
                .parse()
                .ok()
                .map(Millis::duration)
                .filter(|wait| *wait <= READ_WAIT_MAX)
                .ok_or_else(|| {
                    bad(
                        "wait",
                        &text,
                        &format!("a duration such as 5s, at most {} s", READ_WAIT_MAX.as_secs()),
                    )
                })?,
        };
        let shards: Vec<ShardId> = match parameter("shard") {
            None => stream.shard_ids().collect(),
            Some(text) => stream
                .shard_ids()
                .filter(|shard| text.parse() == Ok(shard.number))
                .collect(),
        };
        if shards.is_empty() {
            let text = parameter("shard").unwrap_or_default();
            return Err(bad(
                "shard",
                &text,
                &format!("0 to {}", stream.shards.len().saturating_sub(1)),
            ));
        }
        Ok(Asked {
            from,
            limit,
            wait,
            shards,
            key: parameter("key").map(Bytes::from),
        })
    }
}

fn position(text: &str, now: TimestampMs) -> Option<Position> {
    match text {
        "earliest" => return Some(Position::Earliest),
        "latest" => return Some(Position::Latest),
        _ => {}
    }
    if let Some(ago) = text.strip_prefix("@-") {
        let ago = i64::try_from(ago.parse::<Millis>().ok()?.0).ok()?;
        return Some(Position::Timestamp(TimestampMs(now.0.saturating_sub(ago))));
    }
    match text.strip_prefix('@') {
        Some(ms) => ms.parse().ok().map(TimestampMs).map(Position::Timestamp),
        None => text.parse().ok().map(Offset).map(Position::Offset),
    }
}

/// One record as JSON text: the payload goes out as it was written, so that no number changes its spelling.
fn describe(stream: &StreamRow, shard: ShardId, offset: Offset, record: &Record) -> String {
    let id = json!(format!("{}:{}:{offset}", stream.name, shard.number));
    let mut text = format!(
        r#"{{"id":{id},"shard":{},"offset":{offset},"timestampMs":{}"#,
        shard.number, record.timestamp
    );
    if let Some(key) = &record.key {
        text.push_str(&format!(r#","key":{}"#, json!(String::from_utf8_lossy(key))));
    }
    if let Some(topic) = &record.topic {
        text.push_str(&format!(r#","topic":{}"#, json!(topic.as_str())));
    }
    if record.qos != Qos::AtMostOnce {
        text.push_str(&format!(r#","qos":{}"#, record.qos.bits()));
    }
    if record.retain {
        text.push_str(r#","retain":true"#);
    }
    let payload = record.payload.as_deref();
    match (payload, payload.and_then(payload::as_json)) {
        (None, _) => text.push_str(r#","value":null"#),
        (Some(_), Some(value)) => text.push_str(&format!(r#","value":{value}"#)),
        (Some(payload), None) => text.push_str(&format!(r#","payload":{}"#, payload::to_json(Some(payload)))),
    }
    let headers = headers(&record.headers);
    if !headers.is_empty() {
        text.push_str(&format!(r#","headers":{}"#, Value::Object(headers)));
    }
    text.push('}');
    text
}

/// Headers by the names that MQTT gives them; user properties keep their order, and repeated names, in a list of pairs.
fn headers(headers: &[Header]) -> Map<String, Value> {
    let mut named = Map::new();
    let mut user = Vec::new();
    for header in headers {
        let (name, value) = match header {
            Header::ClientId(text) => ("clientId", json!(&**text)),
            Header::Username(text) => ("username", json!(&**text)),
            Header::PublishedAt(time) => ("publishedAtMs", json!(time.0)),
            Header::Utf8Payload => ("payloadFormatIndicator", json!(1)),
            Header::MessageExpiry(seconds) => ("messageExpirySeconds", json!(seconds)),
            Header::ContentType(text) => ("contentType", json!(&**text)),
            Header::ResponseTopic(text) => ("responseTopic", json!(&**text)),
            Header::CorrelationData(data) => ("correlationDataBase64", json!(STANDARD.encode(data))),
            Header::User(name, value) => {
                user.push(json!([&**name, &**value]));
                continue;
            }
            // Which boot of which node delivered it first is nobody's business outside.
            Header::DeliveredBy(..) => continue,
        };
        named.insert(name.to_owned(), value);
    }
    if !user.is_empty() {
        named.insert("userProperties".to_owned(), Value::Array(user));
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_read_as_they_are_written() {
        let now = TimestampMs(10_000_000);
        let at = |ms| Some(Position::Timestamp(TimestampMs(ms)));
        assert_eq!(position("earliest", now), Some(Position::Earliest));
        assert_eq!(position("latest", now), Some(Position::Latest));
        assert_eq!(position("42", now), Some(Position::Offset(Offset(42))));
        assert_eq!(position("@1563268202000", now), at(1_563_268_202_000));
        assert_eq!(position("@-1h", now), at(10_000_000 - 3_600_000));
        for wrong in ["", "first", "-1", "@", "@-", "@-1", "@tomorrow", "1.5"] {
            assert_eq!(position(wrong, now), None, "{wrong}");
        }
    }
}
