//! [`EncodedRecords`]: records that are encoded as they arise, by a writer that makes very many and keeps none of them.
//!
//! A query has its results in pieces. A [`Record`] of its own for each, which is encoded and dropped a moment later, would
//! cost it more than what it makes of them.

use crate::key_hashes::{key_hash, prefix_hashes};
use crate::limits::RECORD_BATCH_RECORDS_MAX;
use crate::record::{Change, Qos, Record};
use crate::record_batch::{attributes, encode_parts, encode_record};
use crate::topic::TopicName;

/// Records for one shard, in order: the body of a record batch that is still open.
#[derive(Debug, Clone, Default)]
pub struct EncodedRecords {
    pub(crate) body: Vec<u8>,
    pub(crate) count: u32,
    /// Of their keys and topics.
    pub(crate) hashes: Vec<u32>,
    /// Of what their topics lie under.
    pub(crate) prefixes: Vec<u32>,
}

impl EncodedRecords {
    /// With room for that many bytes.
    pub fn with_capacity(bytes: usize) -> EncodedRecords {
        EncodedRecords {
            body: Vec::with_capacity(bytes),
            ..EncodedRecords::default()
        }
    }

    /// Adds a record without headers. It must not be full.
    pub fn push(
        &mut self,
        key: &[u8],
        topic: Option<&TopicName>,
        payload: Option<&[u8]>,
        (qos, retain): (Qos, bool),
        change: Option<Change>,
    ) {
        debug_assert!(!self.is_full());
        encode_parts(
            attributes(qos, retain, false, change),
            Some(key),
            topic,
            payload,
            &[],
            &mut self.body,
        );
        self.count += 1;
        self.prefixes.extend(topic.into_iter().flat_map(prefix_hashes));
        let topic = topic.map(|topic| topic.as_str().as_bytes());
        self.hashes
            .extend([Some(key), topic].into_iter().flatten().map(key_hash));
    }

    /// Adds a record. It must not be full.
    pub fn push_record(&mut self, record: &Record) {
        debug_assert!(!self.is_full());
        encode_record(record, &mut self.body);
        self.count += 1;
        self.hashes.extend(record.key_and_topic().map(key_hash));
        self.prefixes.extend(record.topic.iter().flat_map(prefix_hashes));
    }

    /// Adds those of another one; together they are few enough for one record batch.
    pub(crate) fn join(&mut self, more: &EncodedRecords) {
        self.body.extend_from_slice(&more.body);
        self.count += more.count;
        self.hashes.extend_from_slice(&more.hashes);
        self.prefixes.extend_from_slice(&more.prefixes);
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// None?
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// It has as many as one record batch may hold.
    pub fn is_full(&self) -> bool {
        self.len() >= RECORD_BATCH_RECORDS_MAX
    }

    /// Encoded bytes.
    pub fn size_bytes(&self) -> usize {
        self.body.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn pieces_are_encoded_as_the_record_that_they_make() {
        let record = Record {
            key: Some(Bytes::from_static(b"k")),
            topic: Some(TopicName::new("a/b").unwrap()),
            payload: Some(Bytes::from_static(b"{}")),
            qos: Qos::ExactlyOnce,
            retain: true,
            change: Some(Change::Update),
            ..Record::default()
        };
        let gone = Record {
            key: Some(Bytes::from_static(b"k")),
            change: Some(Change::Delete),
            ..Record::default()
        };
        let (mut pieces, mut records) = (EncodedRecords::default(), EncodedRecords::default());
        pieces.push(
            b"k",
            record.topic.as_ref(),
            Some(b"{}"),
            (Qos::ExactlyOnce, true),
            record.change,
        );
        pieces.push(b"k", None, None, (Qos::AtMostOnce, false), gone.change);
        records.push_record(&record);
        records.push_record(&gone);
        let parts = |made: EncodedRecords| (made.body, made.hashes, made.prefixes, made.count);
        assert_eq!(parts(pieces), parts(records));
    }
}
