//! `POST /streams/{name}:publish`: records into a stream, answered once they are committed.
//!
//! A record without `_topic` is appended to the named stream, keyed and addressed by the stream's own options like an
//! INSERT's row. One with `_topic` is a publish: it goes the way of an MQTT PUBLISH, to every stream that captures the
//! topic and to the subscribers, on condition that the named stream is among the captures.
//!
//! With an `Idempotency-Key` a request can be sent again: what of it is in already is not written a second time. All its
//! records then go the way of an append, those with `_topic` by the topic's route.
//!
//! Several groups commit each for itself. Where only a part of an array is in, the answer says which, and it is one that
//! no client repeats by itself: that would append the part again.

pub(crate) mod message;

use std::sync::Arc;
use std::task::Poll;

use futures_util::poll;
use headwater_broker::{PublishError, Published};
use headwater_sql::limits::APPEND_NAME_BYTES_MAX;
use headwater_sql::{AppendError, Fate, Outgoing, Patience, Place, SqlError};
use headwater_store::{Record, StreamRow, WriteError};
use hyper::StatusCode;
use serde_json::{Map, Value, json};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use crate::body;
use crate::limits::{ADMISSION_TIMEOUT, COMMIT_TIMEOUT};
use crate::metrics;
use crate::problem::{Problem, codes, unknown_stream};
use crate::routes::{Answer, RawRequest, Shared};

/// draft-ietf-httpapi-idempotency-key-header
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// A request's records are given up rather than held for ever: the client can wait as well.
const PATIENCE: Patience = Patience {
    admission: ADMISSION_TIMEOUT,
    commit: COMMIT_TIMEOUT,
};

/// Publishes what one body holds.
pub(crate) async fn publish(shared: &Shared, name: &str, request: RawRequest) -> Answer {
    let once = once(name, &request)?;
    let body = shared.bodies.read(request.into_body()).await?;
    // A wrong name is told before what may be wrong with the body.
    let stream = stream(shared, name)?;
    let records = message::parse(&body.bytes)?;
    let outcome = write(shared, &stream, records, once.as_deref()).await?;
    metrics::published(outcome.committed());
    let name_of = |place: &Place| {
        let catalog = shared.store.catalog().borrow().clone();
        let stream = catalog.stream_by_id(place.shard.stream);
        stream.map(|stream| stream.name.clone()).unwrap_or_default()
    };
    let answer = outcome.answer(name, &name_of)?;
    Ok(body::json(StatusCode::OK, &answer))
}

/// The name of a request that may come again, if it has one. Streams do not share names.
fn once(stream: &str, request: &RawRequest) -> Result<Option<String>, Problem> {
    let Some(value) = request.headers().get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let key = value.to_str().ok().filter(|key| !key.is_empty());
    match key.map(|key| format!("http/{stream}/{key}")) {
        Some(name) if name.len() <= APPEND_NAME_BYTES_MAX => Ok(Some(name)),
        _ => {
            let problem = Problem::new(
                codes::BAD_PARAMETER,
                "the Idempotency-Key is empty, too long, or not ASCII",
            );
            Err(problem.help("use a UUID, a new one for each body"))
        }
    }
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

/// What became of the records of one request, in its order.
struct Outcome {
    fates: Vec<Fate>,
    /// Why some are not in.
    problem: Option<Problem>,
    /// The request may come again as it is.
    named: bool,
}

impl Outcome {
    fn committed(&self) -> usize {
        self.fates
            .iter()
            .filter(|fate| matches!(fate, Fate::Committed(_)))
            .count()
    }

    /// HStreamDB's answer, or what is wrong. A `batchId` is the offset of the first record that was appended together
    /// with this one.
    fn answer(self, name: &str, stream_of: &dyn Fn(&Place) -> String) -> Result<Value, Problem> {
        let committed = self.committed();
        let numbers = |wanted: Fate| -> Vec<usize> {
            (0..self.fates.len())
                .filter(|number| self.fates[*number] == wanted)
                .collect()
        };
        let (missing, unknown) = (numbers(Fate::NotWritten), numbers(Fate::Unknown));
        let repeated = numbers(Fate::Repeated);
        let ids = self.fates.iter().enumerate().filter_map(|(number, fate)| match fate {
            Fate::Committed(place) => Some((number, id(place, &stream_of(place)))),
            _ => None,
        });
        let Some(problem) = self.problem else {
            let ids: Vec<_> = ids.map(|(_, id)| Value::Object(id)).collect();
            let mut answer = json!({ "streamName": name, "recordIds": ids });
            if !repeated.is_empty() {
                answer["repeated"] = json!(repeated);
            }
            return Ok(answer);
        };
        // Nothing of it is in, or what is in will be known again: it can be repeated as it is, and the problem's own status
        // says whether that helps.
        if committed == 0 || self.named {
            return Err(problem);
        }
        let ids: Vec<_> = ids
            .map(|(number, mut id)| {
                id.insert("index".to_owned(), json!(number));
                Value::Object(id)
            })
            .collect();
        let (count, why) = (self.fates.len(), problem.detail());
        let partly = Problem::new(
            codes::PARTLY_COMMITTED,
            format!("{committed} of {count} records were committed: {why}"),
        );
        Err(partly
            .help("send those of `notCommitted` again; whether those of `unknown` are in has to be looked up")
            .with("recordIds", Value::Array(ids))
            .with("notCommitted", json!(missing))
            .with("unknown", json!(unknown)))
    }
}

fn id(place: &Place, stream: &str) -> Map<String, Value> {
    let Place { shard, base, position } = place;
    let members = [
        ("shardId", json!(shard.number.to_string())),
        ("batchId", json!(base.to_string())),
        ("batchIndex", json!(position)),
        (
            "recordId",
            json!(format!("{stream}:{}:{}", shard.number, base.plus(*position))),
        ),
    ];
    members
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Commits the records: one Batch for each group that they fall into, and one for each record with a topic. An error:
/// nothing was begun.
async fn write(
    shared: &Shared,
    stream: &StreamRow,
    mut records: Vec<Record>,
    once: Option<&str>,
) -> Result<Outcome, Problem> {
    let published: Vec<bool> = records.iter().map(|record| record.topic.is_some()).collect();
    for record in &records {
        captured(shared, stream, record)?;
    }
    shared.engine.address(stream, &mut records)?;
    let mut outcome = Outcome {
        fates: vec![Fate::NotWritten; records.len()],
        problem: None,
        named: once.is_some(),
    };
    let (published, appended): (Vec<_>, Vec<_>) = records
        .into_iter()
        .zip(published)
        .map(|(record, published)| Outgoing { record, published })
        .enumerate()
        .partition(|(_, row)| row.published && once.is_none());
    publish_topics(shared, published, &mut outcome).await;
    if outcome.problem.is_none() && !appended.is_empty() {
        append(shared, stream, appended, once, &mut outcome).await;
    }
    Ok(outcome)
}

async fn append(
    shared: &Shared,
    stream: &StreamRow,
    rows: Vec<(usize, Outgoing)>,
    once: Option<&str>,
    outcome: &mut Outcome,
) {
    let (numbers, rows): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
    let appended = shared.engine.append(stream, &rows, PATIENCE, once).await;
    for (number, fate) in numbers.into_iter().zip(appended.fates) {
        outcome.fates[number] = fate;
    }
    outcome.problem = appended.error.map(|error| match error {
        AppendError::Refused(error) => error.into(),
        AppendError::Write(error) => error.into(),
        AppendError::Overloaded(detail) => Problem::new(codes::OVERLOADED, detail),
    });
}

/// The way of an MQTT PUBLISH. Each is begun, in the order of the request, before any is waited for: so they commit
/// together and in that order.
async fn publish_topics(shared: &Shared, rows: Vec<(usize, Outgoing)>, outcome: &mut Outcome) {
    let mut pending = Vec::with_capacity(rows.len());
    for (number, Outgoing { record, .. }) in rows {
        let mut publish = Box::pin(timeout(COMMIT_TIMEOUT, shared.publisher.publish(record)));
        match poll!(&mut publish) {
            Poll::Ready(published) => outcome.published(number, published),
            Poll::Pending => pending.push((number, publish)),
        }
    }
    for (number, publish) in pending {
        outcome.published(number, publish.await);
    }
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

impl Outcome {
    fn published(&mut self, number: usize, published: Result<Result<Published, PublishError>, Elapsed>) {
        let late = WriteError::Indefinite("the commit takes too long");
        let error = match published.unwrap_or(Err(PublishError::Write(late))) {
            // The home copy: where the message is delivered from. It may be in another stream than the one in the path.
            Ok(Published { shard, offset, .. }) => {
                self.fates[number] = Fate::Committed(Place {
                    shard,
                    base: offset,
                    position: 0,
                });
                return;
            }
            Err(error) => error,
        };
        if let PublishError::Write(WriteError::Indefinite(_)) = error {
            self.fates[number] = Fate::Unknown;
        }
        self.problem.get_or_insert_with(|| match error {
            PublishError::Write(error) => error.into(),
            error => Problem::new(codes::BAD_TOPIC, error.to_string()),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_store::{GroupId, Offset, ShardId, StreamId};

    fn outcome(fates: &str) -> Outcome {
        let shard = ShardId {
            group: GroupId(1),
            stream: StreamId(1),
            number: 3,
        };
        let fate = |(position, letter)| match letter {
            'c' => Fate::Committed(Place {
                shard,
                base: Offset(40),
                position,
            }),
            'u' => Fate::Unknown,
            'r' => Fate::Repeated,
            _ => Fate::NotWritten,
        };
        Outcome {
            fates: (0..).zip(fates.chars()).map(fate).collect(),
            problem: None,
            named: false,
        }
    }

    fn refused(fates: &str) -> (u16, Value) {
        let mut outcome = outcome(fates);
        outcome.problem = Some(WriteError::Indefinite("leader lost").into());
        let problem = outcome.answer("s", &|_| "s".to_owned()).unwrap_err();
        let json = problem.to_json();
        (problem.into_response().status().as_u16(), json)
    }

    #[test]
    fn what_is_in_is_told_exactly_and_not_so_that_it_is_repeated() {
        let (status, problem) = refused("cnuc");
        assert_eq!(status, 409, "EMQX repeats 429 and 503, others repeat 5xx");
        assert_eq!(problem["code"], "HW6017");
        assert_eq!(
            (&problem["notCommitted"], &problem["unknown"]),
            (&json!([1]), &json!([2]))
        );
        let id =
            |index, id| json!({"shardId": "3", "batchId": "40", "batchIndex": index, "recordId": id, "index": index});
        assert_eq!(problem["recordIds"], json!([id(0, "s:3:40"), id(3, "s:3:43")]));
        assert_eq!(
            problem["detail"],
            "2 of 4 records were committed: the outcome is not known: leader lost"
        );
    }

    #[test]
    fn where_nothing_is_in_it_can_be_repeated() {
        for fates in ["nn", "un", "u"] {
            let (status, problem) = refused(fates);
            assert_eq!((status, &problem["code"]), (503, &json!("HW4003")), "{fates}");
        }
        let mut named = outcome("cn");
        (named.named, named.problem) = (true, Some(WriteError::Indefinite("leader lost").into()));
        let problem = named.answer("s", &|_| "s".to_owned()).unwrap_err();
        assert_eq!(
            problem.into_response().status().as_u16(),
            503,
            "what is in is known again"
        );
        let again = outcome("rc").answer("s", &|_| "s".to_owned()).unwrap();
        assert_eq!(again["repeated"], json!([0]));
        let all = outcome("cc").answer("s", &|_| "s".to_owned()).unwrap();
        assert_eq!(all["recordIds"][1]["recordId"], "s:3:41");
        assert_eq!(all["recordIds"][1].get("index"), None);
    }
}
