//! The row of a retained message: one for each topic, in the RETAINED table of the topic's group, written in the same
//! Batch as the message. MQTT clients and queries write them; so the format is here, below both.
//!
//! ```text
//! key    the topic's bytes
//! value  | version 1 | qos | published at, ms | client id length, client id | properties length, properties | payload |
//!          u8          u8    i64                u16                           u32                             the rest
//! ```
//!
//! Properties are an MQTT 5.0 property block (section 2.2.2.2), which this crate does not look into. Numbers are big
//! endian, as in MQTT.

use bytes::{BufMut, Bytes, BytesMut};

use crate::batch::{Put, tables};
use crate::ids::TimestampMs;
use crate::record::{Header, Record};

/// The first byte of a row.
pub const RETAINED_ROW_VERSION: u8 = 1;

/// The change of the retained row that `record` asks for: an empty payload, or none, clears it. `properties` is the
/// record's property block. None for a record without topic.
pub fn retained_put(record: &Record, properties: &[u8], now: TimestampMs) -> Option<Put> {
    let topic = record.topic.as_ref()?;
    let payload = record.payload.as_deref().unwrap_or_default();
    Some(Put {
        table: tables::RETAINED,
        key: Bytes::copy_from_slice(topic.as_str().as_bytes()),
        value: (!payload.is_empty()).then(|| row(record, properties, payload, now)),
    })
}

fn row(record: &Record, properties: &[u8], payload: &[u8], now: TimestampMs) -> Bytes {
    let client_id = record.headers.iter().find_map(|header| match header {
        Header::ClientId(id) if id.len() <= usize::from(u16::MAX) => Some(id.as_bytes().as_ref()),
        _ => None,
    });
    let client_id: &[u8] = client_id.unwrap_or_default();
    let mut row = BytesMut::with_capacity(16 + client_id.len() + properties.len() + payload.len());
    row.put_u8(RETAINED_ROW_VERSION);
    row.put_u8(record.qos.bits());
    row.put_i64(now.0);
    row.put_u16(client_id.len() as u16);
    row.put_slice(client_id);
    // A Batch is far smaller than 4 GiB.
    row.put_u32(properties.len() as u32);
    row.put_slice(properties);
    row.put_slice(payload);
    row.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Qos;
    use crate::topic::TopicName;

    #[test]
    fn the_bytes_of_a_row_are_for_ever() {
        let mut record = Record {
            topic: Some(TopicName::new("a/b").unwrap()),
            qos: Qos::AtLeastOnce,
            headers: vec![Header::ClientId("c".into())],
            ..Record::new("hi")
        };
        let put = retained_put(&record, &[1, 1], TimestampMs(258)).unwrap();
        assert_eq!((put.table, &put.key[..]), (tables::RETAINED, &b"a/b"[..]));
        assert_eq!(
            put.value.unwrap(),
            &b"\x01\x01\0\0\0\0\0\0\x01\x02\0\x01c\0\0\0\x02\x01\x01hi"[..]
        );
        record.payload = None;
        assert_eq!(retained_put(&record, &[], TimestampMs(0)).unwrap().value, None);
        record.topic = None;
        assert_eq!(retained_put(&record, &[], TimestampMs(0)), None);
    }
}
