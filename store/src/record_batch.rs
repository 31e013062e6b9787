//! The byte layout of a record batch: the unit on the wire, in the Raft entry and on disk.
//!
//! ```text
//!  0        1         2       3       4            8          12
//! +--------+---------+-------+-------+------------+----------+
//! | magic  | version | codec | 0     | header crc | body crc |
//! +--------+---------+-------+-------+------------+----------+
//! 12        16           20        24              32                 40                48
//! +---------+------------+---------+---------------+------------------+-----------------+------ ...
//! | length  | raw length | count   | base offset   | base timestamp   | max timestamp   | body
//! +---------+------------+---------+---------------+------------------+-----------------+------ ...
//! ```
//!
//! Integers are little-endian. The header crc (crc32c) covers bytes 0 to 4 and 8 to 48, the body crc the stored body, so
//! the base offset, which is only known at apply, is set without touching the body. `length` is the stored body's,
//! `raw length` the decompressed one's. Codec 0 stores the body as it is, codec 1 is an LZ4 block.
//! A record in the body, with varints (LEB128) and `optional` = 0 for none, else length + 1 and the bytes:
//!
//! ```text
//! +------------+-----------------+----------+----------+----------+----------------+--------- ...
//! | attributes | timestamp delta | key      | topic    | payload  | header count   | headers
//! | u8         | zigzag varint   | optional | optional | optional | varint         | kind u8, value
//! +------------+-----------------+----------+----------+----------+----------------+--------- ...
//! attributes: bits 0-1 QoS, bit 2 RETAIN, bit 3 copy, bits 4-5 what a query's result changes
//! ```
//!
//! Records are encoded where they arise and concatenated by the turn that merges them, so the timestamp is a delta to
//! the batch's: the entry's time sets them all.

use bytes::Bytes;
use bytestring::ByteString;

use crate::ids::{BootId, NodeId, Offset, TimestampMs};
use crate::limits::{RECORD_BATCH_BODY_BYTES_MAX, RECORD_BATCH_RECORDS_MAX};
use crate::record::{Change, Header, Qos, Record};
use crate::topic::TopicName;
use crate::wire::{Reader, Short, put_optional, put_prefixed, put_varint, unzigzag, zigzag};

const MAGIC: u8 = 0xb7;
const VERSION: u8 = 1;
const CODEC_NONE: u8 = 0;
const CODEC_LZ4: u8 = 1;
/// The fixed part in front of the body.
pub const HEADER_BYTES: usize = 48;
/// Smaller bodies rarely shrink by more than the work is worth.
const COMPRESS_BYTES_MIN: usize = 512;

const ATTRIBUTE_QOS: u8 = 0b0000_0011;
const ATTRIBUTE_RETAIN: u8 = 0b0000_0100;
const ATTRIBUTE_COPY: u8 = 0b0000_1000;
const ATTRIBUTE_CHANGE: u8 = 0b0011_0000;
const ATTRIBUTES: u8 = ATTRIBUTE_QOS | ATTRIBUTE_RETAIN | ATTRIBUTE_COPY | ATTRIBUTE_CHANGE;

/// Why bytes are not a record batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordBatchError {
    /// Fewer bytes than the header or the body needs, or an impossible number inside.
    #[error(transparent)]
    Short(#[from] Short),
    /// Not a record batch, or one of another version.
    #[error("not a record batch of version {VERSION}")]
    Format,
    /// The header or body does not match its checksum.
    #[error("the {0} does not match its checksum")]
    Checksum(&'static str),
    /// The header promises what the body does not hold.
    #[error("the body does not hold what the header says")]
    Body,
}

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordBatchHeader {
    pub codec: u8,
    pub body_crc: u32,
    pub length: u32,
    pub raw_length: u32,
    pub count: u32,
    pub base_offset: Offset,
    pub base_timestamp: TimestampMs,
    pub max_timestamp: TimestampMs,
}

/// Appends one record to a body.
pub fn encode_record(record: &Record, body: &mut Vec<u8>) {
    let topic = record.topic.as_ref();
    encode_parts(
        attributes(record.qos, record.retain, record.copy, record.change),
        record.key.as_deref(),
        topic,
        record.payload.as_deref(),
        &record.headers,
        body,
    );
}

/// The first byte of a record.
pub fn attributes(qos: Qos, retain: bool, copy: bool, change: Option<Change>) -> u8 {
    let flag = |set, flag| if set { flag } else { 0 };
    let change = change.map_or(0, Change::bits) << ATTRIBUTE_CHANGE.trailing_zeros();
    qos.bits() | flag(retain, ATTRIBUTE_RETAIN) | flag(copy, ATTRIBUTE_COPY) | change
}

/// Appends a record, given in its parts, to a body.
pub fn encode_parts(
    attributes: u8,
    key: Option<&[u8]>,
    topic: Option<&TopicName>,
    payload: Option<&[u8]>,
    headers: &[Header],
    body: &mut Vec<u8>,
) {
    body.push(attributes);
    put_varint(body, zigzag(0));
    put_optional(body, key);
    put_optional(body, topic.map(|topic| topic.as_str().as_bytes()));
    put_optional(body, payload);
    put_varint(body, headers.len() as u64);
    for header in headers {
        encode_header(header, body);
    }
}

fn encode_header(header: &Header, body: &mut Vec<u8>) {
    match header {
        Header::ClientId(text) => tagged(1, text.as_bytes(), body),
        Header::Username(text) => tagged(2, text.as_bytes(), body),
        Header::PublishedAt(time) => {
            body.push(3);
            put_varint(body, zigzag(time.0));
        }
        Header::Utf8Payload => body.push(4),
        Header::MessageExpiry(seconds) => {
            body.push(5);
            put_varint(body, u64::from(*seconds));
        }
        Header::ContentType(text) => tagged(6, text.as_bytes(), body),
        Header::ResponseTopic(text) => tagged(7, text.as_bytes(), body),
        Header::CorrelationData(data) => tagged(8, data, body),
        Header::User(name, value) => {
            tagged(9, name.as_bytes(), body);
            put_prefixed(body, value.as_bytes());
        }
        Header::DeliveredBy(node, boot) => {
            body.push(10);
            put_varint(body, node.0);
            put_varint(body, boot.0);
        }
    }
}

fn tagged(kind: u8, bytes: &[u8], body: &mut Vec<u8>) {
    body.push(kind);
    put_prefixed(body, bytes);
}

/// Makes a record batch of `count` encoded records. The base offset is 0 until apply sets it.
pub fn seal(body: &[u8], count: u32, time: TimestampMs) -> Vec<u8> {
    debug_assert!(body.len() <= RECORD_BATCH_BODY_BYTES_MAX && count as usize <= RECORD_BATCH_RECORDS_MAX && count > 0);
    let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
    out.resize(HEADER_BYTES, 0);
    let mut codec = CODEC_NONE;
    if body.len() >= COMPRESS_BYTES_MIN {
        let compressed = lz4_flex::block::compress(body);
        if compressed.len() < body.len() - body.len() / 8 {
            out.extend_from_slice(&compressed);
            codec = CODEC_LZ4;
        }
    }
    if codec == CODEC_NONE {
        out.extend_from_slice(body);
    }
    let stored = &out[HEADER_BYTES..];
    let header = RecordBatchHeader {
        codec,
        body_crc: crc32c::crc32c(stored),
        length: stored.len() as u32,
        raw_length: body.len() as u32,
        count,
        base_offset: Offset(0),
        base_timestamp: time,
        max_timestamp: time,
    };
    write_header(&header, &mut out);
    out
}

/// Sets the base offset of a sealed batch.
pub fn set_base_offset(batch: &mut [u8], base: Offset) -> Result<(), RecordBatchError> {
    let fixed: &[u8] = batch.get(..HEADER_BYTES).ok_or(Short)?;
    let header = RecordBatchHeader {
        base_offset: base,
        ..parse_header(fixed)?
    };
    write_header(&header, batch);
    Ok(())
}

fn write_header(header: &RecordBatchHeader, out: &mut [u8]) {
    out[0] = MAGIC;
    out[1] = VERSION;
    out[2] = header.codec;
    out[3] = 0;
    out[8..12].copy_from_slice(&header.body_crc.to_le_bytes());
    out[12..16].copy_from_slice(&header.length.to_le_bytes());
    out[16..20].copy_from_slice(&header.raw_length.to_le_bytes());
    out[20..24].copy_from_slice(&header.count.to_le_bytes());
    out[24..32].copy_from_slice(&header.base_offset.0.to_le_bytes());
    out[32..40].copy_from_slice(&header.base_timestamp.0.to_le_bytes());
    out[40..48].copy_from_slice(&header.max_timestamp.0.to_le_bytes());
    let crc = header_crc(out);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
}

/// Bytes 4 to 8 hold the crc itself; everything else in front of the body is covered.
fn header_crc(header: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[..4]), &header[8..HEADER_BYTES])
}

/// Reads and checks the header.
pub fn parse_header(bytes: &[u8]) -> Result<RecordBatchHeader, RecordBatchError> {
    let header = bytes.get(..HEADER_BYTES).ok_or(Short)?;
    if header[0] != MAGIC || header[1] != VERSION || header[2] > CODEC_LZ4 || header[3] != 0 {
        return Err(RecordBatchError::Format);
    }
    let mut reader = Reader::new(Bytes::copy_from_slice(&header[4..]));
    let crc = reader.u32()?;
    if crc != header_crc(header) {
        return Err(RecordBatchError::Checksum("header"));
    }
    Ok(RecordBatchHeader {
        codec: header[2],
        body_crc: reader.u32()?,
        length: reader.u32()?,
        raw_length: reader.u32()?,
        count: reader.u32()?,
        base_offset: Offset(reader.u64()?),
        base_timestamp: TimestampMs(reader.i64()?),
        max_timestamp: TimestampMs(reader.i64()?),
    })
}

/// Checks the body's checksum and decompresses it.
pub fn open_body(batch: &Bytes) -> Result<Bytes, RecordBatchError> {
    let header = parse_header(batch)?;
    let body = batch.slice(HEADER_BYTES..);
    let raw_length = header.raw_length as usize;
    if body.len() != header.length as usize
        || raw_length > RECORD_BATCH_BODY_BYTES_MAX
        || header.count as usize > RECORD_BATCH_RECORDS_MAX
    {
        return Err(RecordBatchError::Body);
    }
    if crc32c::crc32c(&body) != header.body_crc {
        return Err(RecordBatchError::Checksum("body"));
    }
    if header.codec == CODEC_NONE {
        return if body.len() == raw_length {
            Ok(body)
        } else {
            Err(RecordBatchError::Body)
        };
    }
    // An LZ4 block expands at most 255 times: a larger promise is false, and must not be allocated.
    if raw_length > body.len().saturating_mul(255) {
        return Err(RecordBatchError::Body);
    }
    let raw = lz4_flex::block::decompress(&body, raw_length).map_err(|_| RecordBatchError::Body)?;
    if raw.len() == raw_length {
        Ok(raw.into())
    } else {
        Err(RecordBatchError::Body)
    }
}

/// Decodes the records of an opened body, with their offsets. Payloads share the body's buffer.
pub fn decode_records(header: &RecordBatchHeader, body: Bytes) -> Result<Vec<(Offset, Record)>, RecordBatchError> {
    // A record has at least six bytes, so a false count cannot reserve more than the body is worth.
    let mut records = Vec::with_capacity((header.count as usize).min(body.len() / 6 + 1));
    for record in Records::new(header, body) {
        records.push(record?);
    }
    Ok(records)
}

/// The records of an opened body, decoded one after the other. After an error it gives nothing more.
#[derive(Debug)]
pub struct Records {
    base: TimestampMs,
    next: Offset,
    left: u32,
    reader: Reader,
}

impl Records {
    pub fn new(header: &RecordBatchHeader, body: Bytes) -> Records {
        Records {
            base: header.base_timestamp,
            next: header.base_offset,
            left: header.count,
            reader: Reader::new(body),
        }
    }
}

impl Iterator for Records {
    type Item = Result<(Offset, Record), RecordBatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let offset = self.next;
        let record = decode_record(self.base, &mut self.reader);
        (self.left, self.next) = (self.left - 1, offset.plus(1));
        let all_read = self.left > 0 || self.reader.is_empty();
        let record = record.and_then(|record| {
            if all_read {
                Ok(record)
            } else {
                Err(RecordBatchError::Body)
            }
        });
        if record.is_err() {
            self.left = 0;
        }
        Some(record.map(|record| (offset, record)))
    }
}

fn decode_record(base: TimestampMs, reader: &mut Reader) -> Result<Record, RecordBatchError> {
    let attributes = reader.u8()?;
    if attributes & !ATTRIBUTES != 0 {
        return Err(RecordBatchError::Body);
    }
    let delta = unzigzag(reader.varint()?);
    let timestamp = TimestampMs(base.0.checked_add(delta).ok_or(RecordBatchError::Body)?);
    let key = reader.optional()?;
    let topic = match reader.optional()? {
        Some(bytes) => Some(TopicName::new(text(bytes)?).map_err(|_| RecordBatchError::Body)?),
        None => None,
    };
    let payload = reader.optional()?;
    let count = reader.varint()?;
    let mut headers = Vec::with_capacity(usize::try_from(count).unwrap_or(usize::MAX).min(reader.remaining()));
    for _ in 0..count {
        headers.push(decode_header(reader)?);
    }
    Ok(Record {
        timestamp,
        key,
        topic,
        payload,
        qos: Qos::from_bits(attributes & ATTRIBUTE_QOS).ok_or(RecordBatchError::Body)?,
        retain: attributes & ATTRIBUTE_RETAIN != 0,
        copy: attributes & ATTRIBUTE_COPY != 0,
        change: Change::from_bits((attributes & ATTRIBUTE_CHANGE) >> ATTRIBUTE_CHANGE.trailing_zeros()),
        headers,
    })
}

fn decode_header(reader: &mut Reader) -> Result<Header, RecordBatchError> {
    Ok(match reader.u8()? {
        1 => Header::ClientId(text(reader.prefixed()?)?),
        2 => Header::Username(text(reader.prefixed()?)?),
        3 => Header::PublishedAt(TimestampMs(unzigzag(reader.varint()?))),
        4 => Header::Utf8Payload,
        5 => Header::MessageExpiry(u32::try_from(reader.varint()?).map_err(|_| RecordBatchError::Body)?),
        6 => Header::ContentType(text(reader.prefixed()?)?),
        7 => Header::ResponseTopic(text(reader.prefixed()?)?),
        8 => Header::CorrelationData(reader.prefixed()?),
        9 => Header::User(text(reader.prefixed()?)?, text(reader.prefixed()?)?),
        10 => Header::DeliveredBy(NodeId(reader.varint()?), BootId(reader.varint()?)),
        _ => return Err(RecordBatchError::Body),
    })
}

fn text(bytes: Bytes) -> Result<ByteString, RecordBatchError> {
    ByteString::try_from(bytes).map_err(|_| RecordBatchError::Body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> impl Strategy<Value = Header> {
        let text = || ".{0,20}".prop_map(ByteString::from);
        prop_oneof![
            text().prop_map(Header::ClientId),
            text().prop_map(Header::Username),
            any::<i64>().prop_map(|ms| Header::PublishedAt(TimestampMs(ms))),
            Just(Header::Utf8Payload),
            any::<u32>().prop_map(Header::MessageExpiry),
            text().prop_map(Header::ContentType),
            text().prop_map(Header::ResponseTopic),
            any::<Vec<u8>>().prop_map(|data| Header::CorrelationData(data.into())),
            (text(), text()).prop_map(|(name, value)| Header::User(name, value)),
            any::<(u64, u64)>().prop_map(|(node, boot)| Header::DeliveredBy(NodeId(node), BootId(boot))),
        ]
    }

    fn record() -> impl Strategy<Value = Record> {
        (
            any::<Option<Vec<u8>>>(),
            proptest::option::of("[a-z/]{1,12}"),
            proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300)),
            0u8..3,
            (any::<(bool, bool)>(), 0u8..4),
            proptest::collection::vec(header(), 0..4),
        )
            .prop_map(|(key, topic, payload, qos, ((retain, copy), change), headers)| Record {
                timestamp: TimestampMs(1_700_000_000_000),
                key: key.map(Bytes::from),
                topic: topic.map(|topic| TopicName::new(topic).unwrap()),
                payload: payload.map(Bytes::from),
                qos: Qos::from_bits(qos).unwrap(),
                retain,
                copy,
                change: Change::from_bits(change),
                headers,
            })
    }

    fn sealed(records: &[Record], base: Offset) -> Bytes {
        let mut body = Vec::new();
        records.iter().for_each(|record| encode_record(record, &mut body));
        let mut batch = seal(&body, records.len() as u32, TimestampMs(1_700_000_000_000));
        set_base_offset(&mut batch, base).unwrap();
        batch.into()
    }

    fn decoded(batch: &Bytes) -> Result<Vec<(Offset, Record)>, RecordBatchError> {
        decode_records(&parse_header(batch)?, open_body(batch)?)
    }

    proptest! {
        #[test]
        fn records_come_back(records in proptest::collection::vec(record(), 1..20), base in 0u64..1 << 40) {
            let batch = sealed(&records, Offset(base));
            let expected: Vec<_> =
                records.into_iter().enumerate().map(|(n, r)| (Offset(base + n as u64), r)).collect();
            prop_assert_eq!(decoded(&batch).unwrap(), expected);
        }

        #[test]
        fn any_flipped_bit_is_found(records in proptest::collection::vec(record(), 1..5), at: prop::sample::Index, bit in 0u8..8) {
            let batch = sealed(&records, Offset(3));
            let mut damaged = batch.to_vec();
            let at = at.index(damaged.len());
            damaged[at] ^= 1 << bit;
            prop_assert!(decoded(&damaged.into()).is_err());
        }

        #[test]
        fn noise_is_refused_without_a_panic(noise: Vec<u8>) {
            prop_assert!(decoded(&noise.into()).is_err());
        }
    }

    #[test]
    fn a_false_raw_length_is_not_allocated() {
        let mut batch = sealed(&[Record::new(vec![b'x'; 4096])], Offset(0)).to_vec();
        let mut header = parse_header(&batch).unwrap();
        assert_eq!(header.codec, CODEC_LZ4);
        header.raw_length = RECORD_BATCH_BODY_BYTES_MAX as u32;
        write_header(&header, &mut batch);
        assert_eq!(decoded(&batch.into()), Err(RecordBatchError::Body));
    }
}
