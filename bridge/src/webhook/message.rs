//! What one webhook request carries: one record, or `BATCH` of them.

use bytes::Bytes;
use headwater_store::{Offset, Record, ShardId};

use crate::payload;

/// A request, before its timestamp and signature: the same for every attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// `stream:shard:offset`, or `stream:shard:first-last` of a batch: a receiver that has seen it may skip it. A batch
    /// that is cut differently after a restart has another id, so skipping never loses a row.
    pub(crate) id: String,
    /// `content-type`
    pub(crate) content_type: &'static str,
    /// The payload as it is, or a JSON array of payloads.
    pub(crate) body: Bytes,
}

impl Message {
    /// Of one record.
    pub(crate) fn single(stream: &str, shard: ShardId, offset: Offset, record: &Record) -> Message {
        let (content_type, body) = match &record.payload {
            None => ("application/json", Bytes::from_static(b"null")),
            Some(payload) if payload::as_json(payload).is_some() => ("application/json", payload.clone()),
            Some(payload) => ("application/octet-stream", payload.clone()),
        };
        Message {
            id: format!("{stream}:{}:{offset}", shard.number),
            content_type,
            body,
        }
    }

    /// Of several records, which are not none.
    pub(crate) fn batch(stream: &str, shard: ShardId, records: &[(Offset, Record)]) -> Message {
        let rows: Vec<_> = records
            .iter()
            .map(|(_, record)| payload::to_json(record.payload.as_deref()))
            .collect();
        let offset = |at: Option<&(Offset, Record)>| at.map_or(0, |(offset, _)| offset.0);
        let (first, last) = (offset(records.first()), offset(records.last()));
        Message {
            id: format!("{stream}:{}:{first}-{last}", shard.number),
            content_type: "application/json",
            body: format!("[{}]", rows.join(",")).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_store::{GroupId, StreamId};

    #[test]
    fn one_record_is_its_payload_and_several_are_an_array() {
        let shard = ShardId {
            group: GroupId(2),
            stream: StreamId(9),
            number: 3,
        };
        let json = Record::new("{\"a\":9001.0}");
        let tombstone = Record::default();
        let single = |record: &Record| Message::single("hot", shard, Offset(7), record);
        assert_eq!(single(&json).id, "hot:3:7");
        assert_eq!(
            (single(&json).content_type, single(&json).body.as_ref()),
            ("application/json", &b"{\"a\":9001.0}"[..])
        );
        assert_eq!(single(&tombstone).body, "null");
        assert_eq!(single(&Record::new("a,b")).content_type, "application/octet-stream");
        let records = [
            (Offset(7), json),
            (Offset(8), tombstone),
            (Offset(9), Record::new("a,b")),
        ];
        let batch = Message::batch("hot", shard, &records);
        assert_eq!(batch.id, "hot:3:7-9");
        assert_eq!(batch.body, r#"[{"a":9001.0},null,"a,b"]"#);
    }
}
