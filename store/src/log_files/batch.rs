//! The framing of raft-engine's log files (version 2 of its format, release 0.4), as far as telling valid from damaged
//! needs it.
//!
//! ```text
//! file:   "RAFT-LOG-FILE-HEADER-9986AB3E47F320B394C8E84916EB0ED5" | version u64 = 2 | alignment u64 = 0 | batch ...
//!
//!          0                  7             8               16          footer offset              length
//!         +------------------+-------------+---------------+-----------+--------------------------+
//! batch:  | length u56       | compression | footer offset | entries   | footer                   |
//!         |                  | u8 = 0      | u64           | and crc32 | item count, items, crc32 |
//!         +------------------+-------------+---------------+-----------+--------------------------+
//! item:    region varint | 1 | count varint | first index varint | end of each entry varint ...      (entries)
//!          region varint | 2 | 1                                                                    (clean)
//!          region varint | 2 | 2 | index varint                                                     (compact: < index goes)
//!          region varint | 3 | 1 | key prefixed | value prefixed                                    (put)
//!          region varint | 3 | 2 | key prefixed                                                     (delete)
//! ```
//!
//! Integers of the file and the batch header are big-endian, checksums little-endian, varints LEB128. A batch without
//! entries has no bytes between its header and its footer. The footer's crc32 is xored with the low half of the file's
//! number, so that what an earlier life left in a recycled file is not taken for a record of this one. Entries are
//! protobuf `eraftpb.Entry`, their ends counted from the first one's begin, over all items of the batch.

use std::ops::Range;

use bytes::Bytes;

use crate::wire::{Reader, Short};

const MAGIC: &[u8] = b"RAFT-LOG-FILE-HEADER-9986AB3E47F320B394C8E84916EB0ED5";
const VERSION: u64 = 2;
/// Where a file's first batch begins.
pub const FILE_HEADER_BYTES: usize = MAGIC.len() + 8 + 8;
/// The fixed part in front of a batch's entries.
pub const HEADER_BYTES: usize = 16;
const CRC_BYTES: usize = 4;

/// What a batch holds for one region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Entries from an index on; they replace what stood there and behind. Ranges are in [`Batch::entries`].
    Entries {
        region: u64,
        first: u64,
        ranges: Vec<Range<usize>>,
    },
    /// Everything of the region goes.
    Clean { region: u64 },
    /// Entries below `index` go.
    Compact { region: u64, index: u64 },
    /// A value of the region.
    Put { region: u64, key: Bytes, value: Bytes },
    /// A value of the region goes.
    Delete { region: u64, key: Bytes },
}

/// A batch whose checksums hold.
#[derive(Debug)]
pub struct Batch {
    pub items: Vec<Item>,
    /// The entries' bytes.
    pub entries: Bytes,
}

/// The key of the log engine's own values: batches of the rewrite queue that only count together carry one.
pub const MARK_KEY: &[u8] = b"__\x01";

/// Where a batch stands among those that only count together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    Begin,
    Middle,
    End,
}

impl Batch {
    /// Which batches it only counts together with, if so.
    pub fn mark(&self) -> Option<(u64, Mark)> {
        self.items.iter().find_map(|item| match item {
            Item::Put { region, key, value } if key == MARK_KEY => match value[..] {
                [0] => Some((*region, Mark::Begin)),
                [1] => Some((*region, Mark::Middle)),
                [2] => Some((*region, Mark::End)),
                _ => None,
            },
            _ => None,
        })
    }
}

/// Why bytes are not a file header or a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    #[error("the file does not begin as a log file")]
    FileHeader,
    #[error("no record begins here")]
    Header,
    #[error("the record ends beyond the end of the file")]
    Length,
    #[error("the record's entries do not match their checksum")]
    Entries,
    #[error("the record's items do not match their checksum")]
    Footer,
    #[error("the record's items do not decode")]
    Items,
}

impl From<Short> for BatchError {
    fn from(Short: Short) -> BatchError {
        BatchError::Items
    }
}

/// Checks what a file begins with.
pub fn check_file_header(bytes: &[u8]) -> Result<(), BatchError> {
    let numbers = bytes.strip_prefix(MAGIC).ok_or(BatchError::FileHeader)?;
    let wanted = [VERSION.to_be_bytes(), 0u64.to_be_bytes()].concat();
    if numbers.starts_with(&wanted) {
        Ok(())
    } else {
        Err(BatchError::FileHeader)
    }
}

/// A batch's header: its length and where its footer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    pub length: usize,
    footer: usize,
}

impl BatchHeader {
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        let number = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let (Some(word), Some(footer)) = (number(0), number(8)) else {
            return Err(BatchError::Length);
        };
        let (Ok(length), Ok(footer)) = (usize::try_from(word >> 8), usize::try_from(footer)) else {
            return Err(BatchError::Header);
        };
        // A footer has at least its count and its checksum. Compression is switched off, so the low byte is 0.
        if word & 0xff != 0 || footer < HEADER_BYTES || length <= footer.saturating_add(CRC_BYTES) {
            return Err(BatchError::Header);
        }
        Ok(BatchHeader { length, footer })
    }

    /// Checks and decodes the batch of this header; `bytes` has all of it, `file` is the number of its file.
    pub fn decode(&self, bytes: &Bytes, file: u64) -> Result<Batch, BatchError> {
        let footer = checked(&bytes.slice(self.footer..self.length), file as u32).ok_or(BatchError::Footer)?;
        let entries = match bytes.slice(HEADER_BYTES..self.footer) {
            none if none.is_empty() => none,
            some => checked(&some, 0).ok_or(BatchError::Entries)?,
        };
        let items = decode_items(footer, entries.len())?;
        Ok(Batch { items, entries })
    }
}

/// The bytes in front of a checksum that matches them.
fn checked(bytes: &Bytes, signature: u32) -> Option<Bytes> {
    let at = bytes.len().checked_sub(CRC_BYTES)?;
    let crc = u32::from_le_bytes(bytes[at..].try_into().ok()?);
    (crc32fast::hash(&bytes[..at]) == crc ^ signature).then(|| bytes.slice(..at))
}

fn decode_items(footer: Bytes, entries_bytes: usize) -> Result<Vec<Item>, BatchError> {
    let mut reader = Reader::new(footer);
    let count = usize::try_from(reader.varint()?).map_err(|_| Short)?;
    let mut items = Vec::with_capacity(count.min(reader.remaining()));
    let mut entries_end = 0;
    for _ in 0..count {
        items.push(decode_item(&mut reader, &mut entries_end)?);
    }
    if reader.is_empty() && entries_end <= entries_bytes {
        Ok(items)
    } else {
        Err(BatchError::Items)
    }
}

fn decode_item(reader: &mut Reader, entries_end: &mut usize) -> Result<Item, BatchError> {
    let region = reader.varint()?;
    Ok(match (reader.u8()?, region) {
        (1, region) => {
            let count = usize::try_from(reader.varint()?).map_err(|_| Short)?;
            let first = if count > 0 { reader.varint()? } else { 0 };
            let mut ranges = Vec::with_capacity(count.min(reader.remaining()));
            for _ in 0..count {
                let end = usize::try_from(reader.varint()?).map_err(|_| Short)?;
                if end < *entries_end {
                    return Err(BatchError::Items);
                }
                ranges.push(*entries_end..end);
                *entries_end = end;
            }
            Item::Entries { region, first, ranges }
        }
        (2, region) => match reader.u8()? {
            1 => Item::Clean { region },
            2 => Item::Compact {
                region,
                index: reader.varint()?,
            },
            _ => return Err(BatchError::Items),
        },
        (3, region) => match reader.u8()? {
            1 => Item::Put {
                region,
                key: reader.prefixed()?,
                value: reader.prefixed()?,
            },
            2 => Item::Delete {
                region,
                key: reader.prefixed()?,
            },
            _ => return Err(BatchError::Items),
        },
        _ => return Err(BatchError::Items),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn noise_never_panics(noise: Vec<u8>, file: u64) {
            let bytes = Bytes::from(noise);
            let _ = check_file_header(&bytes);
            if let Ok(header) = BatchHeader::parse(&bytes)
                && header.length <= bytes.len()
            {
                let _ = header.decode(&bytes, file);
            }
            let _ = decode_items(bytes, 10);
        }
    }
}
