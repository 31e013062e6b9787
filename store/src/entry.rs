//! The byte layout of an entry: what one turn proposed to one group.
//!
//! ```text
//! entry: version u8 | time i64 | item count u32 | item ...
//! item:  flags u8 | [route revision u64] | [producer id prefixed | epoch u32 | sequence u64] | condition count u16 | condition ...
//!        | append count u32 | append ... | trim count u32 | trim ... | put count u32 | put ...
//! condition: 0 u8 | table u16 | key prefixed | value optional        (the row has this value)
//!            1 u8 | term u64                                         (the entry is of this term)
//! append: stream u64 | shard u16 | retention class u8 | record batch prefixed | key hashes prefixed
//!         | prefix hashes prefixed
//!         (retention.rs, record_batch.rs, key_hashes.rs)
//! trim:   stream u64 | shard u16 | first offset u64                  (records before it go; all ones: the shard goes)
//! put:    table u16 | key prefixed | value optional
//! flags: bit 0, a route revision follows; bit 1, a producer
//! ```
//!
//! Integers are little-endian; `prefixed` is a varint length and the bytes, `optional` is 0 for none, else length + 1.
//! An item is applied whole or not at all. All unconditional appends of a turn share one item, a conditional Batch has
//! its own.

use bytes::Bytes;

use crate::batch::{Condition, Put, TableId, Trim};
use crate::ids::{GroupId, Offset, RouteRevision, ShardId, StreamId, Term, TimestampMs};
use crate::key_hashes::KeyHashes;
use crate::producer::Producer;
use crate::retention::RetentionClass;
use crate::wire::{Reader, Short, put_optional, put_prefixed};

const VERSION: u8 = 4;
const FLAG_REVISION: u8 = 1;
const FLAG_PRODUCER: u8 = 2;
const CONDITION_ROW: u8 = 0;
const CONDITION_TERM: u8 = 1;

/// One turn's writes to one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The leader's clock, not before the entry in front of it.
    pub time: TimestampMs,
    /// Applied in order.
    pub items: Vec<Item>,
}

/// What is applied whole or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Item {
    pub revision: Option<RouteRevision>,
    pub producer: Option<Producer>,
    pub conditions: Vec<Condition>,
    /// Sealed record batches, their base offsets still 0.
    pub appends: Vec<ItemAppend>,
    pub trims: Vec<Trim>,
    pub puts: Vec<Put>,
}

/// One record batch on its way into a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemAppend {
    pub shard: ShardId,
    /// How long it is kept.
    pub class: RetentionClass,
    pub batch: Bytes,
    /// Of the keys and topics in it.
    pub keys: KeyHashes,
    /// Of what the topics lie under.
    pub prefixes: KeyHashes,
}

pub fn encode(entry: &Entry) -> Vec<u8> {
    let size: usize = entry.items.iter().map(size_bytes).sum();
    let mut out = Vec::with_capacity(size + 16);
    out.push(VERSION);
    out.extend_from_slice(&entry.time.0.to_le_bytes());
    out.extend_from_slice(&(entry.items.len() as u32).to_le_bytes());
    for item in &entry.items {
        encode_item(item, &mut out);
    }
    out
}

fn size_bytes(item: &Item) -> usize {
    let appends: usize = item
        .appends
        .iter()
        .map(|append| append.batch.len() + append.keys.as_bytes().len() + append.prefixes.as_bytes().len() + 26)
        .sum();
    let puts: usize = item
        .puts
        .iter()
        .map(|put| put.key.len() + put.value.as_ref().map_or(0, Bytes::len) + 16)
        .sum();
    let producer = item.producer.as_ref().map_or(0, |producer| producer.id.len() + 17);
    producer + appends + puts + 32 + item.conditions.len() * 64 + item.trims.len() * 18
}

fn encode_item(item: &Item, out: &mut Vec<u8>) {
    let flag = |set, flag| if set { flag } else { 0 };
    out.push(flag(item.revision.is_some(), FLAG_REVISION) | flag(item.producer.is_some(), FLAG_PRODUCER));
    if let Some(revision) = item.revision {
        out.extend_from_slice(&revision.0.to_le_bytes());
    }
    if let Some(producer) = &item.producer {
        put_prefixed(out, &producer.id);
        out.extend_from_slice(&producer.epoch.to_le_bytes());
        out.extend_from_slice(&producer.sequence.to_le_bytes());
    }
    out.extend_from_slice(&(item.conditions.len() as u16).to_le_bytes());
    for condition in &item.conditions {
        match condition {
            Condition::Row { table, key, value } => {
                out.push(CONDITION_ROW);
                out.extend_from_slice(&table.0.to_le_bytes());
                put_prefixed(out, key);
                put_optional(out, value.as_deref());
            }
            Condition::Term(term) => {
                out.push(CONDITION_TERM);
                out.extend_from_slice(&term.0.to_le_bytes());
            }
        }
    }
    out.extend_from_slice(&(item.appends.len() as u32).to_le_bytes());
    for append in &item.appends {
        put_shard(out, append.shard);
        out.push(append.class.0);
        put_prefixed(out, &append.batch);
        put_prefixed(out, append.keys.as_bytes());
        put_prefixed(out, append.prefixes.as_bytes());
    }
    out.extend_from_slice(&(item.trims.len() as u32).to_le_bytes());
    for trim in &item.trims {
        put_shard(out, trim.shard);
        out.extend_from_slice(&trim.first.0.to_le_bytes());
    }
    out.extend_from_slice(&(item.puts.len() as u32).to_le_bytes());
    for put in &item.puts {
        out.extend_from_slice(&put.table.0.to_le_bytes());
        put_prefixed(out, &put.key);
        put_optional(out, put.value.as_deref());
    }
}

fn put_shard(out: &mut Vec<u8>, shard: ShardId) {
    out.extend_from_slice(&shard.stream.0.to_le_bytes());
    out.extend_from_slice(&shard.number.to_le_bytes());
}

fn read_shard(group: GroupId, reader: &mut Reader) -> Result<ShardId, Short> {
    Ok(ShardId {
        group,
        stream: StreamId(reader.u64()?),
        number: reader.u16()?,
    })
}

/// Reads what [`encode`] wrote for `group`. Record batches share the buffer.
pub fn decode(group: GroupId, bytes: Bytes) -> Result<Entry, Short> {
    let mut reader = Reader::new(bytes);
    if reader.u8()? != VERSION {
        return Err(Short);
    }
    let time = TimestampMs(reader.i64()?);
    let count = reader.u32()? as usize;
    // An item has at least fifteen bytes: a false count reserves no more than the entry is worth.
    let mut items = Vec::with_capacity(count.min(reader.remaining() / 15 + 1));
    for _ in 0..count {
        items.push(decode_item(group, &mut reader)?);
    }
    if reader.is_empty() {
        Ok(Entry { time, items })
    } else {
        Err(Short)
    }
}

fn decode_item(group: GroupId, reader: &mut Reader) -> Result<Item, Short> {
    let mut item = Item::default();
    let flags = reader.u8()?;
    if flags & !(FLAG_REVISION | FLAG_PRODUCER) != 0 {
        return Err(Short);
    }
    if flags & FLAG_REVISION != 0 {
        item.revision = Some(RouteRevision(reader.u64()?));
    }
    if flags & FLAG_PRODUCER != 0 {
        item.producer = Some(Producer {
            id: reader.prefixed()?,
            epoch: reader.u32()?,
            sequence: reader.u64()?,
        });
    }
    for _ in 0..reader.u16()? {
        item.conditions.push(match reader.u8()? {
            CONDITION_ROW => Condition::Row {
                table: TableId(reader.u16()?),
                key: reader.prefixed()?,
                value: reader.optional()?,
            },
            CONDITION_TERM => Condition::Term(Term(reader.u64()?)),
            _ => return Err(Short),
        });
    }
    for _ in 0..reader.u32()? {
        item.appends.push(ItemAppend {
            shard: read_shard(group, reader)?,
            class: RetentionClass::from_number(reader.u8()?).ok_or(Short)?,
            batch: reader.prefixed()?,
            keys: KeyHashes::decode(reader.prefixed()?)?,
            prefixes: KeyHashes::decode(reader.prefixed()?)?,
        });
    }
    for _ in 0..reader.u32()? {
        item.trims.push(Trim {
            shard: read_shard(group, reader)?,
            first: Offset(reader.u64()?),
        });
    }
    for _ in 0..reader.u32()? {
        let put = Put {
            table: TableId(reader.u16()?),
            key: reader.prefixed()?,
            value: reader.optional()?,
        };
        item.puts.push(put);
    }
    Ok(item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        any::<Vec<u8>>().prop_map(Bytes::from)
    }

    fn item() -> impl Strategy<Value = Item> {
        let condition = prop_oneof![
            (any::<u16>(), bytes(), proptest::option::of(bytes())).prop_map(|(table, key, value)| Condition::Row {
                table: TableId(table),
                key,
                value
            }),
            any::<u64>().prop_map(|term| Condition::Term(Term(term))),
        ];
        let shard = || {
            any::<(u64, u16)>().prop_map(|(stream, number)| ShardId {
                group: GroupId(2),
                stream: StreamId(stream),
                number,
            })
        };
        let append = (shard(), 0..RetentionClass::COUNT as u8, bytes(), any::<[Vec<u32>; 2]>());
        let append = append.prop_map(|(shard, class, batch, [hashes, prefixes])| ItemAppend {
            shard,
            class: RetentionClass(class),
            batch,
            keys: KeyHashes::collect(hashes),
            prefixes: KeyHashes::collect(prefixes),
        });
        let producer = (bytes(), any::<u32>(), any::<u64>());
        let producer = producer.prop_map(|(id, epoch, sequence)| Producer { id, epoch, sequence });
        let trim = (shard(), any::<u64>()).prop_map(|(shard, first)| Trim {
            shard,
            first: Offset(first),
        });
        let put = (any::<u16>(), bytes(), proptest::option::of(bytes())).prop_map(|(table, key, value)| Put {
            table: TableId(table),
            key,
            value,
        });
        (
            proptest::option::of(any::<u64>().prop_map(RouteRevision)),
            proptest::option::of(producer),
            proptest::collection::vec(condition, 0..3),
            proptest::collection::vec(append, 0..3),
            proptest::collection::vec(trim, 0..3),
            proptest::collection::vec(put, 0..3),
        )
            .prop_map(|(revision, producer, conditions, appends, trims, puts)| Item {
                revision,
                producer,
                conditions,
                appends,
                trims,
                puts,
            })
    }

    proptest! {
        #[test]
        fn entries_come_back(time: i64, items in proptest::collection::vec(item(), 0..4)) {
            let entry = Entry { time: TimestampMs(time), items };
            prop_assert_eq!(decode(GroupId(2), encode(&entry).into()), Ok(entry));
        }

        #[test]
        fn noise_never_panics(noise: Vec<u8>) {
            let _ = decode(GroupId(2), noise.into());
        }

        #[test]
        fn a_cut_entry_is_refused(items in proptest::collection::vec(item(), 1..3), at: prop::sample::Index) {
            let encoded = encode(&Entry { time: TimestampMs(1), items });
            let cut = at.index(encoded.len());
            prop_assert_eq!(decode(GroupId(2), encoded[..cut].to_vec().into()), Err(Short));
        }
    }
}
