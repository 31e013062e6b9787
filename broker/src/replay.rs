//! Streams over plain MQTT: `$stream/<name>` and `$stream/<name>/<filter>`, from a place in the log on, then live.
//!
//! Where to begin is said by user properties `stream-offset` of the SUBSCRIBE, or, in any version, behind the name:
//! `$stream/<name>@earliest/<filter>`. A message says where it was found in its own user properties, so a client that
//! wants to go on where it was asks for that place.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use bytestring::ByteString;
use headwater_config::Millis;
use headwater_store::{
    Catalog, Follower, Header, LogIndex, Offset, Position, Qos, ReadError, Record, ShardId, Store, TimestampMs,
    TopicFilter, TopicName,
};

use crate::change;
use crate::cursor::At;
use crate::giver::Giver;
use crate::limits::REPLAY_PAGE_BYTES;
use crate::outbox::{Delivery, Outgoing};
use crate::sessions::StreamRow;
use crate::views::{self, Names, RowsFuture};

/// The first level of such filters.
pub const STREAM_LEVEL: &str = "$stream/";
/// The user property that says where to begin.
pub const OFFSET_PROPERTY: &str = "stream-offset";

/// Where a replay begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// `earliest`: the oldest record there is.
    Earliest,
    /// `latest`: what comes from now on.
    Latest,
    /// `42`: that offset in every shard.
    Offset(Offset),
    /// `3:42`: that offset in that shard; shards that are not named begin with their oldest record.
    Shard(u16, Offset),
    /// `@2026-01-31T12:00:00Z`: what was appended at that time or after.
    At(TimestampMs),
    /// `@-1h`: that long ago, in milliseconds.
    Ago(u64),
}

impl Start {
    /// Reads one of the forms above.
    pub fn parse(text: &str) -> Option<Start> {
        Some(match text {
            "earliest" => Start::Earliest,
            "latest" => Start::Latest,
            _ => match (text.strip_prefix("@-"), text.strip_prefix('@'), text.split_once(':')) {
                (Some(ago), _, _) => Start::Ago(ago.parse::<Millis>().ok()?.0),
                (None, Some(time), _) => {
                    let time: jiff::Timestamp = time.parse().ok()?;
                    Start::At(TimestampMs(time.as_millisecond()))
                }
                (None, None, Some((shard, offset))) => Start::Shard(shard.parse().ok()?, Offset(offset.parse().ok()?)),
                (None, None, None) => Start::Offset(Offset(text.parse().ok()?)),
            },
        })
    }
}

/// A subscription to a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// As the client wrote it.
    pub text: ByteString,
    /// The stream.
    pub stream: ByteString,
    /// Topics that are wanted; None: all records, also those without a topic.
    pub filter: Option<TopicFilter>,
    /// At least one.
    pub starts: Vec<Start>,
    /// As granted: 0 or 1.
    pub qos: Qos,
    /// The Subscription Identifier.
    pub id: Option<u32>,
    /// It is a view's (`views`): first its rows, then their changes.
    pub view: bool,
}

impl Replay {
    /// Reads a filter that begins with [`STREAM_LEVEL`]; `starts` are those of the packet, for a filter that names none.
    pub fn parse(text: &ByteString, starts: &[Start], qos: Qos, id: Option<u32>) -> Option<Replay> {
        Replay::parse_below(STREAM_LEVEL, Start::Latest, text, starts, qos, id)
    }

    /// The same behind another first level, and with another place to begin where none is named.
    pub fn parse_below(
        level: &str,
        otherwise: Start,
        text: &ByteString,
        starts: &[Start],
        qos: Qos,
        id: Option<u32>,
    ) -> Option<Replay> {
        let rest = text.strip_prefix(level)?;
        let (stream, filter) = match rest.split_once('/') {
            Some((stream, filter)) => (stream, Some(TopicFilter::new(filter).ok()?)),
            None => (rest, None),
        };
        // A time has no slash, so what is behind the first @ is one start.
        let (stream, starts) = match stream.split_once('@') {
            Some((stream, start)) => {
                let time = || Start::parse(&format!("@{start}"));
                (stream, vec![Start::parse(start).or_else(time)?])
            }
            None if starts.is_empty() => (stream, vec![otherwise]),
            None => (stream, starts.to_vec()),
        };
        if stream.is_empty() || stream.contains(['+', '#']) {
            return None;
        }
        Some(Replay {
            text: text.clone(),
            stream: stream.into(),
            filter,
            starts,
            qos: qos.min(Qos::AtLeastOnce),
            id,
            view: false,
        })
    }

    /// Whether there is such a stream, with the shards that are named.
    pub fn exists(&self, catalog: &Catalog) -> bool {
        let Some(row) = catalog.stream(&self.stream) else {
            return false;
        };
        let shards = row.shard_ids().count();
        self.starts.iter().all(|start| match start {
            Start::Shard(number, _) => usize::from(*number) < shards,
            _ => true,
        })
    }
}

/// How far a durable session has replayed a stream: what is before was sent.
#[derive(Debug)]
pub struct Replayed {
    replay: Replay,
    state: Mutex<ReplayedState>,
}

#[derive(Debug)]
struct ReplayedState {
    cursors: Vec<(ShardId, Offset)>,
    moved: bool,
}

impl Replayed {
    /// From these places on.
    pub fn new(replay: Replay, cursors: Vec<(ShardId, Offset)>) -> Replayed {
        let state = ReplayedState { cursors, moved: false };
        Replayed {
            replay,
            state: Mutex::new(state),
        }
    }

    /// The filter, as the client wrote it.
    pub fn text(&self) -> &ByteString {
        &self.replay.text
    }

    /// A message was sent, or there was a reason not to.
    pub fn take(&self, at: &At) {
        let mut state = self.lock();
        if let Some((_, next)) = state.cursors.iter_mut().find(|(shard, _)| *shard == at.shard) {
            *next = at.offset.plus(1).max(*next);
            state.moved = true;
        }
    }

    /// What is saved of it.
    pub fn row(&self) -> StreamRow {
        let mut state = self.lock();
        state.moved = false;
        StreamRow {
            qos: self.replay.qos,
            id: self.replay.id,
            cursors: state.cursors.clone(),
        }
    }

    /// Whether something was sent since it was saved.
    pub fn has_moved(&self) -> bool {
        self.lock().moved
    }

    fn lock(&self) -> MutexGuard<'_, ReplayedState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a stream for one subscription.
#[derive(Debug)]
pub struct Reader {
    replay: Replay,
    follower: Follower,
    /// The rows of a view, to be given first.
    rows: Vec<Delivery>,
    /// Some in a durable session.
    replayed: Option<Arc<Replayed>>,
}

impl Reader {
    /// Finds the place to begin.
    pub async fn open(store: &Store, names: &Names, replay: Replay) -> Result<Reader, ReadError> {
        let row = store.catalog().borrow().stream(&replay.stream).cloned();
        let shards: Vec<ShardId> = row.iter().flat_map(|row| row.shard_ids()).collect();
        let follower = store.follow_from(beginnings(store, shards, &replay.starts).await?);
        let (mut reader, mut rows) = (
            Reader {
                replay,
                follower,
                rows: Vec::new(),
                replayed: None,
            },
            Vec::new(),
        );
        // Read after the place of the follower is taken: a change between the two comes again, and none is missed.
        if let Some(read) = reader.view_rows(names) {
            match read.await {
                Ok(found) => rows = found,
                Err(error) => tracing::warn!(view = %reader.replay.stream, error, "the rows of a view cannot be read"),
            }
        }
        let row = |(key, payload): (Bytes, Bytes)| reader.view_delivery(&key, payload, true);
        reader.rows = rows.into_iter().filter_map(row).collect();
        Ok(reader)
    }

    /// Goes on for a durable session.
    pub fn resume(store: &Store, replayed: Arc<Replayed>) -> Reader {
        let cursors = replayed.lock().cursors.clone();
        Reader {
            replay: replayed.replay.clone(),
            follower: store.follow_from(cursors),
            rows: Vec::new(),
            replayed: Some(replayed),
        }
    }

    /// Waits for the next messages.
    pub async fn next(&mut self) -> Result<Vec<Delivery>, ReadError> {
        if !self.rows.is_empty() {
            return Ok(std::mem::take(&mut self.rows));
        }
        let batches = self.follower.next(REPLAY_PAGE_BYTES).await?;
        let mut deliveries = Vec::new();
        for (batch, from) in batches {
            for (offset, record) in batch.records_from(from)? {
                deliveries.extend(self.delivery(batch.shard, offset, record));
            }
        }
        Ok(deliveries)
    }

    fn view_rows(&self, names: &Names) -> Option<RowsFuture> {
        let key = views::exact_key(&self.replay);
        let wanted = self.replay.view.then(|| names.view_rows(&self.replay.stream, key));
        wanted.flatten()
    }

    /// A row of a view, or its change: an empty payload when it is gone.
    fn view_delivery(&self, key: &[u8], payload: Bytes, retain: bool) -> Option<Delivery> {
        let topic = views::topic_of(&self.replay.stream, key)?;
        if !self.replay.filter.as_ref().is_some_and(|filter| filter.matches(&topic)) {
            return None;
        }
        let record = Record {
            topic: Some(topic),
            qos: self.replay.qos,
            ..Record::new(payload)
        };
        Some(Delivery {
            retain,
            ..self.delivery_of(Outgoing::new(record, None)?)
        })
    }

    fn delivery(&self, shard: ShardId, offset: Offset, record: Record) -> Option<Delivery> {
        if self.replay.view {
            return self.view_delivery(
                record.key_or_topic()?,
                record.payload.clone().unwrap_or_default(),
                false,
            );
        }
        if !is_wanted(self.replay.filter.as_ref(), record.topic.as_ref()) {
            return None;
        }
        Some(self.delivery_of(placed(&self.replay.stream, shard, offset, record)?))
    }

    fn delivery_of(&self, message: Outgoing) -> Delivery {
        Delivery {
            qos: self.replay.qos,
            resend: None,
            retain: false,
            subscription_ids: self.replay.id.map(|id| [id].into()),
            giver: self.replayed.clone().map(Giver::Replay),
            message: message.into(),
        }
    }
}

/// Whether the filter behind a stream's name takes a record.
fn is_wanted(filter: Option<&TopicFilter>, topic: Option<&TopicName>) -> bool {
    match (filter, topic) {
        (None, _) => true,
        // Also what has no topic, as results of queries.
        (Some(filter), _) if filter.as_str() == "#" => true,
        (Some(filter), Some(topic)) => filter.matches(topic),
        (Some(_), None) => false,
    }
}

/// Where to begin in each shard.
pub async fn beginnings(
    store: &Store,
    shards: Vec<ShardId>,
    starts: &[Start],
) -> Result<Vec<(ShardId, Offset)>, ReadError> {
    let position = match starts.first() {
        Some(Start::Latest) | None => Position::Latest,
        Some(Start::Earliest | Start::Shard(..)) => Position::Earliest,
        Some(Start::Offset(offset)) => Position::Offset(*offset),
        Some(Start::At(time)) => Position::Timestamp(*time),
        Some(Start::Ago(ago_ms)) => {
            let ago_ms = i64::try_from(*ago_ms).unwrap_or(i64::MAX);
            Position::Timestamp(TimestampMs(store.now().0.saturating_sub(ago_ms)))
        }
    };
    let named = |shard: &ShardId| {
        starts.iter().find_map(|start| match start {
            Start::Shard(number, offset) if *number == shard.number => Some(*offset),
            _ => None,
        })
    };
    let mut cursors = store.resolve(shards, position).await?;
    for (shard, cursor) in &mut cursors {
        *cursor = named(shard).unwrap_or(*cursor);
    }
    Ok(cursors)
}

/// A record of a stream as a message that says where it was found. None: it is for queries only.
pub fn placed(stream: &str, shard: ShardId, offset: Offset, mut record: Record) -> Option<Outgoing> {
    if record.watermark_us().is_some() {
        return None;
    }
    if record.topic.is_none() {
        record.topic = TopicName::new(format!("{STREAM_LEVEL}{stream}")).ok();
    }
    let place = [
        ("stream", stream.to_owned()),
        ("shard", shard.number.to_string()),
        ("offset", offset.to_string()),
        ("timestamp", record.timestamp.to_string()),
    ];
    let place = place
        .into_iter()
        .map(|(name, value)| Header::User(name.into(), value.into()));
    record.headers.extend(place);
    change::tell(&mut record, stream, shard, offset);
    // No entry: it does not move the session's place in the log.
    let index = LogIndex(0);
    Outgoing::new(record, Some(At { index, shard, offset }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_read_in_all_their_forms() {
        for (text, start) in [
            ("earliest", Some(Start::Earliest)),
            ("latest", Some(Start::Latest)),
            ("42", Some(Start::Offset(Offset(42)))),
            ("3:42", Some(Start::Shard(3, Offset(42)))),
            ("@-1h", Some(Start::Ago(3_600_000))),
            ("@1970-01-01T00:00:01Z", Some(Start::At(TimestampMs(1000)))),
            ("@1970-01-01T02:00:01+02:00", Some(Start::At(TimestampMs(1000)))),
            ("", None),
            ("-1", None),
            ("x:1", None),
            ("@", None),
            ("@yesterday", None),
            ("@-", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(Start::parse(text), start, "{text}");
        }
    }

    #[test]
    fn all_of_a_stream_is_also_what_has_no_topic() {
        let filter = |text: &'static str| TopicFilter::new(text).unwrap();
        let topic = TopicName::new("a/b").unwrap();
        assert!(is_wanted(None, None) && is_wanted(Some(&filter("#")), None));
        assert!(is_wanted(Some(&filter("#")), Some(&topic)) && is_wanted(Some(&filter("a/+")), Some(&topic)));
        assert!(!is_wanted(Some(&filter("+/+")), None) && !is_wanted(Some(&filter("b/#")), Some(&topic)));
    }

    #[test]
    fn filters_are_read_with_and_without_a_start() {
        let parse = |text: &str| {
            let replay = Replay::parse(&text.into(), &[Start::Earliest], Qos::ExactlyOnce, None)?;
            let filter = replay.filter.map(|filter| filter.as_str().to_owned());
            Some((replay.stream.to_string(), filter, replay.starts[0]))
        };
        let some = |stream: &str, filter: Option<&str>, start| Some((stream.into(), filter.map(str::to_owned), start));
        assert_eq!(parse("$stream/s"), some("s", None, Start::Earliest));
        assert_eq!(parse("$stream/s/a/+"), some("s", Some("a/+"), Start::Earliest));
        assert_eq!(parse("$stream/s@latest/#"), some("s", Some("#"), Start::Latest));
        assert_eq!(parse("$stream/s@1:7"), some("s", None, Start::Shard(1, Offset(7))));
        assert_eq!(parse("$stream/s@-1h/a"), some("s", Some("a"), Start::Ago(3_600_000)));
        for wrong in [
            "$stream/",
            "$stream/+",
            "$stream/#",
            "$stream/s@never",
            "$stream/s/a#",
            "$stream/@1",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
