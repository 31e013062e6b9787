//! A record batch as followers get it: shared, checked and decompressed at most once.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::error::ReadError;
use crate::ids::{Offset, ShardId};
use crate::record::Record;
use crate::record_batch::{RecordBatchError, RecordBatchHeader, Records, decode_records, open_body, parse_header};

/// One stored record batch of one shard. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StoredBatch {
    /// Its shard.
    pub shard: ShardId,
    /// The offset of its first record.
    pub base: Offset,
    /// Records before it were trimmed.
    first: Offset,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    header: RecordBatchHeader,
    encoded: Bytes,
    body: OnceLock<Result<Bytes, RecordBatchError>>,
}

impl StoredBatch {
    /// Takes the bytes of a record batch; the header is checked now, the body when it is first read.
    pub(crate) fn new(shard: ShardId, encoded: Bytes) -> Result<StoredBatch, RecordBatchError> {
        let header = parse_header(&encoded)?;
        let shared = Shared {
            header,
            encoded,
            body: OnceLock::new(),
        };
        Ok(StoredBatch {
            shard,
            base: header.base_offset,
            first: header.base_offset,
            shared: Arc::new(shared),
        })
    }

    /// The first record that is not trimmed.
    pub(crate) fn first(&self) -> Offset {
        self.first
    }

    /// The same batch, whose records before `first` are trimmed.
    pub(crate) fn hide_before(self, first: Offset) -> StoredBatch {
        StoredBatch {
            first: first.max(self.first),
            ..self
        }
    }

    /// Records in it.
    pub fn count(&self) -> u64 {
        u64::from(self.shared.header.count)
    }

    /// The offset after its last record.
    pub fn end(&self) -> Offset {
        self.base.plus(self.count())
    }

    /// Its records at `from` and after, with their offsets. The decompressed body is shared by all readers.
    pub fn records_from(&self, from: Offset) -> Result<Vec<(Offset, Record)>, ReadError> {
        let body = self.shared.body.get_or_init(|| open_body(&self.shared.encoded));
        let records = body.clone().and_then(|body| decode_records(&self.shared.header, body));
        let mut records = records.map_err(|error| damaged(self.shard, self.base, &error))?;
        let skip = from
            .max(self.first)
            .0
            .saturating_sub(self.base.0)
            .min(records.len() as u64);
        records.drain(..skip as usize);
        Ok(records)
    }

    /// As [`StoredBatch::records_from`], decoded as they are taken. After an error it gives nothing more.
    pub fn into_records_from(self, from: Offset) -> StoredRecords {
        let body = self.shared.body.get_or_init(|| open_body(&self.shared.encoded));
        let records = body.clone().map(|body| Records::new(&self.shared.header, body));
        StoredRecords {
            shard: self.shard,
            base: self.base,
            from: from.max(self.first),
            records: records.map_err(Some),
        }
    }

    /// Bytes as stored.
    pub fn size_bytes(&self) -> usize {
        self.shared.encoded.len()
    }

    /// Bytes that it holds in memory once someone has read it.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.shared.encoded.len() + self.shared.header.raw_length as usize
    }

    pub(crate) fn encoded(&self) -> Bytes {
        self.shared.encoded.clone()
    }

    /// The largest append time in it.
    pub(crate) fn max_timestamp(&self) -> crate::ids::TimestampMs {
        self.shared.header.max_timestamp
    }
}

/// The records of a batch, decoded one by one.
#[derive(Debug)]
pub struct StoredRecords {
    shard: ShardId,
    base: Offset,
    /// What is before it is left out.
    from: Offset,
    /// Or why there are none, until that is told.
    records: Result<Records, Option<RecordBatchError>>,
}

impl StoredRecords {
    /// Their shard.
    pub fn shard(&self) -> ShardId {
        self.shard
    }
}

impl Iterator for StoredRecords {
    type Item = Result<(Offset, Record), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = match &mut self.records {
            Ok(records) => records.find(|record| !matches!(record, Ok((offset, _)) if *offset < self.from))?,
            Err(error) => Err(error.take()?),
        };
        Some(record.map_err(|error| damaged(self.shard, self.base, &error)))
    }
}

pub(crate) fn damaged(shard: ShardId, offset: Offset, reason: &dyn std::fmt::Display) -> ReadError {
    ReadError::Damaged {
        shard,
        offset,
        reason: reason.to_string(),
    }
}
