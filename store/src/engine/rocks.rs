//! RocksDB. Its write-ahead log is off, because the Raft log is one: a flush is the only thing that makes rows durable,
//! and it takes all families at one point (`atomic_flush`; without it a kill was measured to lose data silently).

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, BoundColumnFamily, Cache, ColumnFamilyDescriptor, DBCompressionType, DBWithThreadMode,
    Direction, FlushOptions, IteratorMode, MultiThreaded, Options, ReadOptions, ReadTier, WriteBatch, WriteOptions,
};

use super::{Engine, FAMILIES, Family, Row, Writes};
use crate::error::EngineError;

const WRITE_BUFFER_BYTES: usize = 64 << 20;
const WRITE_BUFFERS: i32 = 4;

/// The production engine.
pub struct RocksEngine {
    db: DBWithThreadMode<MultiThreaded>,
}

impl RocksEngine {
    /// Opens or makes the database in `folder`. `block_cache_bytes` is shared by all families.
    pub fn open(folder: &Path, block_cache_bytes: usize) -> Result<RocksEngine, EngineError> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_atomic_flush(true);
        options.set_max_background_jobs(2);
        options.set_max_open_files(512);
        options.set_keep_log_file_num(4);
        let cache = Cache::new_lru_cache(block_cache_bytes);
        let families = FAMILIES
            .iter()
            .map(|family| ColumnFamilyDescriptor::new(name(*family), family_options(*family, &cache)));
        let db = DBWithThreadMode::open_cf_descriptors(&options, folder, families).map_err(engine_error)?;
        Ok(RocksEngine { db })
    }

    fn family(&self, family: Family) -> Result<Arc<BoundColumnFamily<'_>>, EngineError> {
        self.db
            .cf_handle(name(family))
            .ok_or_else(|| EngineError(format!("family {} is missing", name(family))))
    }

    fn read(&self, family: Family, key: &[u8], options: &ReadOptions) -> Result<Option<Bytes>, EngineError> {
        let value = self
            .db
            .get_cf_opt(&self.family(family)?, key, options)
            .map_err(engine_error)?;
        Ok(value.map(Bytes::from))
    }
}

fn family_options(family: Family, cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    // With two, a second full buffer stops the driver, and so every group, until the first is on disk.
    options.set_max_write_buffer_number(WRITE_BUFFERS);
    match family {
        Family::State => options.set_compression_type(DBCompressionType::Lz4),
        Family::Slice => {
            // Record batches are compressed once, where they were made.
            options.set_compression_type(DBCompressionType::None);
            table.set_block_size(64 << 10);
        }
    }
    options.set_block_based_table_factory(&table);
    options
}

fn name(family: Family) -> &'static str {
    match family {
        Family::State => "state",
        Family::Slice => "slice",
    }
}

fn engine_error(error: rocksdb::Error) -> EngineError {
    EngineError(error.into_string())
}

impl Engine for RocksEngine {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.read(family, key, &ReadOptions::default())
    }

    fn get_durable(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Persisted);
        self.read(family, key, &options)
    }

    fn last_at_or_before(&self, family: Family, prefix: &[u8], key: &[u8]) -> Result<Option<Row>, EngineError> {
        let mut rows = self
            .db
            .iterator_cf(&self.family(family)?, IteratorMode::From(key, Direction::Reverse));
        match rows.next().transpose().map_err(engine_error)? {
            Some((key, value)) if key.starts_with(prefix) => Ok(Some((Bytes::from(key), Bytes::from(value)))),
            _ => Ok(None),
        }
    }

    fn scan(
        &self,
        family: Family,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        let start = from.max(prefix);
        let mut rows = self.db.raw_iterator_cf(&self.family(family)?);
        rows.seek(start);
        while let Some((key, value)) = rows.item() {
            if !key.starts_with(prefix) || !visit(key, value) {
                break;
            }
            rows.next();
        }
        rows.status().map_err(engine_error)
    }

    fn write(&self, writes: Writes) -> Result<(), EngineError> {
        let mut batch = WriteBatch::default();
        for (family, key, value) in writes.rows {
            let family = self.family(family)?;
            match value {
                Some(value) => batch.put_cf(&family, key, value),
                None => batch.delete_cf(&family, key),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(engine_error)
    }

    fn flush(&self) -> Result<(), EngineError> {
        let families = FAMILIES
            .iter()
            .map(|family| self.family(*family))
            .collect::<Result<Vec<_>, _>>()?;
        let handles: Vec<_> = families.iter().collect();
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db.flush_cfs_opt(&handles, &options).map_err(engine_error)
    }
}
