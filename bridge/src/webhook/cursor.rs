//! The row that says how far a connector has come in one shard, in the table `CONNECTOR_CURSOR` of the shard's group.
//!
//! ```text
//! key:   connector id u64 BE | stream id u64 BE | shard number u16 BE
//! value: version u8 = 1 | next offset u64 BE
//! ```

use bytes::Bytes;
use headwater_store::{Offset, ShardId};

const VERSION: u8 = 1;

/// The key of the row.
pub(crate) fn key(connector: u64, shard: ShardId) -> Bytes {
    let mut key = Vec::with_capacity(18);
    key.extend_from_slice(&connector.to_be_bytes());
    key.extend_from_slice(&shard.stream.0.to_be_bytes());
    key.extend_from_slice(&shard.number.to_be_bytes());
    key.into()
}

/// The row: everything before `next` is delivered, or in the dead letter stream.
pub(crate) fn encode(next: Offset) -> Bytes {
    let mut value = Vec::with_capacity(9);
    value.push(VERSION);
    value.extend_from_slice(&next.0.to_be_bytes());
    value.into()
}

/// Reads a row. None: written by another version, or damaged.
pub(crate) fn decode(value: &[u8]) -> Option<Offset> {
    match value.split_first() {
        Some((&VERSION, rest)) => rest.try_into().ok().map(u64::from_be_bytes).map(Offset),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_store::{GroupId, StreamId};

    #[test]
    fn rows_read_back_and_keys_differ() {
        for offset in [0, 1, 255, 256, u64::MAX] {
            assert_eq!(decode(&encode(Offset(offset))), Some(Offset(offset)));
        }
        assert_eq!(decode(b""), None);
        assert_eq!(decode(&[2; 9]), None);
        assert_eq!(decode(&[1; 8]), None);
        let shard = |stream, number| ShardId {
            group: GroupId(1),
            stream: StreamId(stream),
            number,
        };
        let keys = [
            key(1, shard(2, 3)),
            key(1, shard(3, 2)),
            key(2, shard(1, 3)),
            key(2, shard(3, 1)),
        ];
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }
}
