//! Retained messages: one row for each topic in the RETAINED table of the topic's group, written in the same Batch as
//! the message itself.
//!
//! The store writes the row (its `retained` module has the layout), because queries write them too; here they are read.
//! Properties are an MQTT 5.0 property block (section 2.2.2.2). A row whose message has expired stays until the topic gets
//! another; readers pass over it.

use std::sync::Arc;

use bytes::Bytes;
use bytestring::ByteString;
use headwater_store::{
    GroupId, Header, Level, Put, Qos, RETAINED_ROW_VERSION, ReadError, Record, Store, TimestampMs, TopicFilter,
    TopicName, group_for_topic, retained_put, tables,
};
use nom::error::Error;
use nom::multi::length_data;
use nom::number::complete::{be_i64, be_u8, be_u16, be_u32};
use nom::{IResult, Parser};

use crate::limits::RETAINED_PAGE_ROWS;
use crate::outbox::{Delivery, Outgoing};
use crate::packet::{Owner, Properties};
use crate::publish::{to_header, to_property};
use crate::session::Subscription;

/// The change of the retained row that `record` asks for: an empty payload clears it. None for a record without topic.
pub fn put(record: &Record, now: TimestampMs) -> Option<Put> {
    let properties: Properties = record.headers.iter().filter_map(to_property).collect();
    retained_put(record, properties.as_bytes(), now)
}

/// A row in its pieces.
struct Row<'a> {
    version: u8,
    qos: u8,
    published_at_ms: i64,
    client_id: &'a [u8],
    properties: &'a [u8],
    payload: &'a [u8],
}

/// Splits a row; what is left over is the payload.
fn split(row: &[u8]) -> IResult<&[u8], Row<'_>, Error<&[u8]>> {
    let (rest, (version, qos, published_at_ms)) = (be_u8, be_u8, be_i64).parse(row)?;
    let (payload, (client_id, properties)) = (length_data(be_u16), length_data(be_u32)).parse(rest)?;
    let row = Row {
        version,
        qos,
        published_at_ms,
        client_id,
        properties,
        payload,
    };
    Ok((&[], row))
}

/// Reads a row back; None for one that this version did not write.
pub fn from_row(topic: TopicName, row: &Bytes) -> Option<Record> {
    let (_, fields) = split(row).ok()?;
    if fields.version != RETAINED_ROW_VERSION {
        return None;
    }
    let properties = Properties::check(row.slice_ref(fields.properties), Owner::Publish).ok()?;
    let client_id = ByteString::try_from(row.slice_ref(fields.client_id)).ok()?;
    let publisher = (!client_id.is_empty()).then_some(Header::ClientId(client_id));
    Some(Record {
        timestamp: TimestampMs(fields.published_at_ms),
        topic: Some(topic),
        payload: Some(row.slice_ref(fields.payload)),
        qos: Qos::from_bits(fields.qos)?,
        retain: true,
        headers: publisher
            .into_iter()
            .chain(properties.iter().filter_map(to_header))
            .collect(),
        ..Record::default()
    })
}

/// The retained messages for one new subscription, read page by page so that `#` over a million topics costs no more
/// memory than a page.
#[derive(Debug)]
pub struct Scan {
    subscription: Subscription,
    client_id: ByteString,
    /// What all matching topics begin with.
    prefix: Bytes,
    /// The groups that are left, the current one last.
    groups: Vec<GroupId>,
    /// Where the next page begins in the current group.
    from: Bytes,
}

impl Scan {
    /// A scan for `subscription` of the client `client_id`.
    pub fn new(store: &Store, subscription: Subscription, client_id: ByteString) -> Scan {
        let groups: Vec<GroupId> = store.data_groups().collect();
        let exact = subscription.filter.is_exact();
        let prefix = literal_prefix(&subscription.filter);
        let groups = match exact {
            true => vec![group_for_topic(subscription.filter.as_str(), groups.len() as u16)],
            false => groups,
        };
        Scan {
            subscription,
            client_id,
            prefix,
            groups,
            from: Bytes::new(),
        }
    }

    /// Whether all has been read.
    pub fn is_done(&self) -> bool {
        self.groups.is_empty()
    }

    /// Reads the next page from disk: blocks.
    pub fn next_page(&mut self, store: &Store) -> Result<Vec<Delivery>, ReadError> {
        let Some(group) = self.groups.last().copied() else {
            return Ok(Vec::new());
        };
        let table = store.table(group, tables::RETAINED);
        let rows = if self.subscription.filter.is_exact() {
            table
                .get(&self.prefix)?
                .map(|row| (self.prefix.clone(), row))
                .into_iter()
                .collect()
        } else {
            table.scan(&self.prefix, &self.from, RETAINED_PAGE_ROWS)?
        };
        match rows.last() {
            Some((key, _)) if rows.len() == RETAINED_PAGE_ROWS => {
                // The smallest key after the last one.
                self.from = key.iter().copied().chain([0]).collect();
            }
            _ => {
                self.groups.pop();
                self.from = Bytes::new();
            }
        }
        Ok(rows
            .into_iter()
            .filter_map(|(key, row)| self.delivery(key, &row))
            .collect())
    }

    fn delivery(&self, key: Bytes, row: &Bytes) -> Option<Delivery> {
        let topic = TopicName::new(ByteString::try_from(key).ok()?).ok()?;
        if !self.subscription.filter.matches(&topic) {
            return None;
        }
        let Some(record) = from_row(topic, row) else {
            tracing::warn!(filter = %self.subscription.filter, "a retained row that this version cannot read");
            return None;
        };
        let message = Arc::new(Outgoing::new(record, None)?);
        if self.subscription.options.no_local && message.client_id() == Some(&self.client_id) {
            return None;
        }
        Some(Delivery {
            qos: message.qos.min(self.subscription.options.qos),
            resend: None,
            retain: true,
            subscription_ids: self.subscription.id.map(|id| Arc::from([id])),
            giver: None,
            message,
        })
    }
}

/// The text before the first wildcard. `a/#` matches `a` too, so the slash before it is left out.
fn literal_prefix(filter: &TopicFilter) -> Bytes {
    let mut prefix = String::new();
    for (number, level) in filter.levels().iter().enumerate() {
        let slash = if number > 0 { "/" } else { "" };
        match level {
            Level::Literal(text) => prefix.extend([slash, text]),
            Level::Single(_) => {
                prefix.push_str(slash);
                break;
            }
            Level::Multi => break,
        }
    }
    prefix.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_prefix_covers_all_that_a_filter_matches() {
        let prefix = |filter: &str| literal_prefix(&TopicFilter::new(filter).unwrap());
        for (filter, expected) in [
            ("a/b", "a/b"),
            ("a/+/c", "a/"),
            ("a/#", "a"),
            ("#", ""),
            ("+", ""),
            ("/+", "/"),
            ("a//#", "a/"),
        ] {
            assert_eq!(prefix(filter), expected, "{filter}");
        }
    }

    proptest! {
        #[test]
        fn a_row_reads_back(
            payload in prop::collection::vec(any::<u8>(), 1..200),
            qos in 0u8..3,
            user: (String, String),
            expiry: u32,
            client in "[a-z]{0,9}",
        ) {
            let user = (user.0.replace('\0', ""), user.1.replace('\0', ""));
            let publisher = (!client.is_empty()).then(|| Header::ClientId(client.into()));
            let record = Record {
                timestamp: TimestampMs(1234),
                topic: Some(TopicName::new("a/b").unwrap()),
                payload: Some(payload.into()),
                qos: Qos::from_bits(qos).unwrap(),
                retain: true,
                headers: publisher.into_iter().chain([
                    Header::MessageExpiry(expiry),
                    Header::User(user.0.into(), user.1.into()),
                    Header::Utf8Payload,
                ]).collect(),
                ..Record::default()
            };
            let row = put(&record, TimestampMs(1234)).unwrap().value.unwrap();
            prop_assert_eq!(from_row(TopicName::new("a/b").unwrap(), &row), Some(record));
        }

        #[test]
        fn a_damaged_row_is_no_message_and_no_panic(row: Vec<u8>) {
            let _ = from_row(TopicName::new("a").unwrap(), &row.into());
        }
    }

    #[test]
    fn an_empty_payload_clears_the_row() {
        let record = Record {
            topic: Some(TopicName::new("a").unwrap()),
            ..Record::new("")
        };
        assert_eq!(put(&record, TimestampMs(0)).unwrap().value, None);
        let record = Record {
            payload: Some("x".into()),
            ..record
        };
        assert!(put(&record, TimestampMs(0)).unwrap().value.is_some());
    }
}
