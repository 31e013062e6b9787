//! Views over MQTT: `$view/<view>/<key>` has the row of each key as a retained message, and its changes as they come.
//!
//! The rows are kept by the SQL engine, which the broker does not know: the server gives it a way to ask ([`ViewRows`]).
//! The changes are records of the stream that has the view's name, with the same keys. A PUBLISH to `$view/<view>/<key>` or
//! `$view/<view>` with a Response Topic is a question: the answer is the row of that key, or all rows as a JSON array.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use bytestring::ByteString;
use headwater_store::{Catalog, Header, Qos, Record, Store, TopicFilter, TopicName};

use crate::packet::{Property, Publish};
use crate::publish::{Publisher, reserved_topic};
use crate::replay::{Replay, Start};

/// The first level of such topics.
pub const VIEW_LEVEL: &str = "$view/";

/// Rows of a view: the key and the payload that each has as a record, or why they cannot be read.
pub type RowsFuture = Pin<Box<dyn Future<Output = Result<Vec<(Bytes, Bytes)>, String>> + Send>>;

/// Reads the rows of the view of that name: all, or the one of a key. None: there is no such view.
pub type ViewRows = Arc<dyn Fn(&str, Option<&str>) -> Option<RowsFuture> + Send + Sync>;

/// What streams and views there are.
pub struct Names {
    store: Store,
    views: OnceLock<ViewRows>,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").finish_non_exhaustive()
    }
}

impl Names {
    /// Those of a store; no views yet.
    pub fn new(store: Store) -> Names {
        Names {
            store,
            views: OnceLock::new(),
        }
    }

    /// From now on views are read this way. The first one stands.
    pub fn set_views(&self, rows: ViewRows) {
        let _ = self.views.set(rows);
    }

    /// As of now.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.store.catalog().borrow().clone()
    }

    /// Begins to read a view; None where there is none of that name.
    pub fn view_rows(&self, view: &str, key: Option<&str>) -> Option<RowsFuture> {
        self.views.get().and_then(|rows| rows(view, key))
    }

    /// Whether there is a view of that name.
    pub fn is_view(&self, name: &str) -> bool {
        self.view_rows(name, None).is_some()
    }
}

/// Reads a filter below [`VIEW_LEVEL`]: the name of the view, and a filter for its keys.
pub fn parse(text: &ByteString, qos: Qos, id: Option<u32>) -> Option<Replay> {
    let (view, _) = text.strip_prefix(VIEW_LEVEL)?.split_once('/')?;
    if view.is_empty() || view.contains(['+', '#']) {
        return None;
    }
    Some(Replay {
        text: text.clone(),
        stream: view.into(),
        filter: Some(TopicFilter::new(text.clone()).ok()?),
        starts: vec![Start::Latest],
        qos: qos.min(Qos::AtLeastOnce),
        id,
        view: true,
    })
}

/// The key that a filter without wildcards asks for.
pub fn exact_key(replay: &Replay) -> Option<&str> {
    let filter = replay.filter.as_ref().filter(|filter| filter.is_exact())?;
    filter
        .as_str()
        .strip_prefix(VIEW_LEVEL)?
        .split_once('/')
        .map(|(_, key)| key)
}

/// Where the row of a key is published. None for a key that no topic can hold.
pub fn topic_of(view: &str, key: &[u8]) -> Option<TopicName> {
    let key = std::str::from_utf8(key).ok()?;
    TopicName::new(format!("{VIEW_LEVEL}{view}/{key}")).ok()
}

/// A question to a view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    view: String,
    /// None: all rows.
    key: Option<String>,
    response: TopicName,
    correlation: Option<Bytes>,
    qos: Qos,
}

impl Question {
    /// What a PUBLISH to `topic` asks. None without a Response Topic, or with one where nobody publishes.
    pub fn of(topic: &str, publish: &Publish) -> Option<Question> {
        let rest = topic.strip_prefix(VIEW_LEVEL)?;
        let (view, key) = match rest.split_once('/') {
            Some((view, key)) => (view, Some(key.to_owned())),
            None => (rest, None),
        };
        let response = publish.properties.find(|property| match property {
            Property::ResponseTopic(text) => Some(text),
            _ => None,
        })?;
        let correlation = publish.properties.find(|property| match property {
            Property::CorrelationData(data) => Some(data),
            _ => None,
        });
        // Copies: what stays may not hold the read buffer.
        let response = TopicName::new(&*response)
            .ok()
            .filter(|topic| reserved_topic(topic).is_none())?;
        Some(Question {
            view: view.to_owned(),
            key,
            response,
            correlation: correlation.map(|data| Bytes::copy_from_slice(&data)),
            qos: publish.qos,
        })
    }

    /// The view that is asked.
    pub fn view(&self) -> &str {
        &self.view
    }

    /// Reads the answer and publishes it. One that cannot be given is said in a user property `error`.
    pub async fn answer(self, names: Arc<Names>, publisher: Publisher, bytes_max: usize) {
        let rows = match names.view_rows(&self.view, self.key.as_deref()) {
            Some(rows) => rows.await,
            None => Err(format!("there is no view `{}`", self.view)),
        };
        let payload = rows.and_then(|mut rows| match self.key {
            Some(_) => Ok(rows.pop().map(|(_, row)| row).unwrap_or_default()),
            None => array(&rows, bytes_max),
        });
        let mut headers: Vec<Header> = self.correlation.map(Header::CorrelationData).into_iter().collect();
        let payload = payload.unwrap_or_else(|error| {
            headers.push(Header::User("error".into(), error.into()));
            Bytes::new()
        });
        let record = Record {
            topic: Some(self.response),
            payload: Some(payload),
            qos: self.qos,
            headers,
            ..Record::default()
        };
        if let Err(error) = publisher.publish(record).await {
            tracing::debug!(view = self.view, %error, "an answer of a view was not published");
        }
    }
}

fn array(rows: &[(Bytes, Bytes)], bytes_max: usize) -> Result<Bytes, String> {
    let size = 2 + rows.iter().map(|(_, row)| row.len() + 1).sum::<usize>();
    if size > bytes_max {
        return Err(format!("the rows are {size} bytes; ask for those of one key"));
    }
    let mut array = BytesMut::with_capacity(size);
    array.put_u8(b'[');
    for (number, (_, row)) in rows.iter().enumerate() {
        if number > 0 {
            array.put_u8(b',');
        }
        array.put_slice(row);
    }
    array.put_u8(b']');
    Ok(array.freeze())
}
