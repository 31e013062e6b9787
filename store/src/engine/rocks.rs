//! RocksDB. Its write-ahead log is off, because the Raft log is one: a flush is the only thing that makes rows durable,
//! and it takes all families at one point (`atomic_flush`; without it a kill was measured to lose data silently).

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, BoundColumnFamily, Cache, ColumnFamilyDescriptor, CompactOptions,
    DBCompactionStyle, DBCompressionType, DBWithThreadMode, Direction, FlushOptions, IteratorMode, MultiThreaded,
    Options, Range, ReadOptions, ReadTier, SliceTransform, WriteBatch, WriteOptions, compaction_filter::Decision,
    properties, statistics::Ticker,
};

use super::{Engine, Family, Row, Writes};
use crate::error::EngineError;
use crate::garbage::Garbage;
use crate::ids::SliceId;
use crate::manifest;

/// More than `store.flush_every` has by itself, so that flushes come when the driver asks for them: a buffer that is full just
/// before that leaves a large file and a small one each time, and twice as many files are joined twice as early.
const WRITE_BUFFER_BYTES: usize = 96 << 20;
const WRITE_BUFFERS: i32 = 3;
/// How often a flush is looked at.
const FLUSH_LOOK_MIN: Duration = Duration::from_micros(200);
const FLUSH_LOOK_MAX: Duration = Duration::from_millis(10);
/// A flush that has not begun again so long after an error does not.
const FLUSH_GIVEN_UP: Duration = Duration::from_secs(1);
/// The block cache of a database that is only looked at.
const LOOK_CACHE_BYTES: usize = 32 << 20;
/// Files of an open slice after which RocksDB joins some: many small ones make short reads slow (4 against 128 files:
/// 20 times, measured). A slice of ordinary size is sealed before it gets there, and so is written once and merged once.
const OPEN_SLICE_FILES: i32 = 24;
/// Tag, group, stream, shard: what all keys of one shard in one slice begin with.
const SHARD_PREFIX_BYTES: usize = 13;
const STATE: &str = "state";
const SLICE: &str = "slice-";

/// The production engine.
pub struct RocksEngine {
    db: DBWithThreadMode<MultiThreaded>,
    /// Behind `db`, so that it goes after it: a family that is made later uses its compaction filter, and RocksDB does not
    /// keep that alive.
    slice_options: Options,
    slices: RwLock<BTreeSet<SliceId>>,
    /// What the merge that runs leaves out.
    garbage: Arc<RwLock<Garbage>>,
    /// Why a flush failed: nothing is durable any more, and the store stops.
    flush_failed: OnceLock<EngineError>,
    /// What RocksDB counts, of a database that is only looked at.
    counts: Option<Options>,
}

impl RocksEngine {
    /// Opens or makes the database in `folder`. `block_cache_bytes` is shared by all families.
    pub fn open(folder: &Path, block_cache_bytes: usize) -> Result<RocksEngine, EngineError> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_atomic_flush(true);
        // A merge that meets a damaged block gives up and leaves its files as they are. With paranoid checks RocksDB would
        // take no more writes, because of records that somebody may never read; who reads them is told.
        options.set_paranoid_checks(false);
        options.set_max_background_jobs(2);
        options.set_max_open_files(512);
        options.set_keep_log_file_num(4);
        let cache = Cache::new_lru_cache(block_cache_bytes);
        let garbage = Arc::default();
        let slice_options = slice_options(&cache, &garbage);
        let slices = slices_of(&options, folder)?;
        let families = families(&slices, &slice_options, &cache);
        let db = DBWithThreadMode::open_cf_descriptors(&options, folder, families).map_err(engine_error)?;
        refuse_lost_files(&db, folder)?;
        Ok(RocksEngine {
            db,
            slice_options,
            slices: RwLock::new(slices),
            garbage,
            flush_failed: OnceLock::new(),
            counts: None,
        })
    }

    /// Opens the database in `folder` to look at it: not a byte of it is changed.
    pub fn open_read_only(folder: &Path) -> Result<RocksEngine, EngineError> {
        let mut options = Options::default();
        options.set_max_open_files(512);
        options.enable_statistics();
        let cache = Cache::new_lru_cache(LOOK_CACHE_BYTES);
        let garbage = Arc::default();
        let slice_options = slice_options(&cache, &garbage);
        let slices = slices_of(&options, folder)?;
        let families = families(&slices, &slice_options, &cache);
        let db =
            DBWithThreadMode::open_cf_descriptors_read_only(&options, folder, families, false).map_err(engine_error)?;
        refuse_lost_files(&db, folder)?;
        Ok(RocksEngine {
            db,
            slice_options,
            slices: RwLock::new(slices),
            garbage,
            flush_failed: OnceLock::new(),
            counts: Some(options),
        })
    }

    /// Whether a block that was read so far did not match its checksum, of a database that is only looked at. RocksDB says so
    /// itself where rows lie in it, and nothing where it can do without: a damaged filter is no filter.
    pub fn has_bad_blocks(&self) -> bool {
        let counts = self.counts.as_ref();
        counts.is_some_and(|counts| counts.get_ticker_count(Ticker::BlockChecksumMismatchCount) > 0)
    }

    /// None: a slice that is not there.
    fn family(&self, family: Family) -> Result<Option<Arc<BoundColumnFamily<'_>>>, EngineError> {
        match family {
            Family::State => match self.db.cf_handle(STATE) {
                Some(state) => Ok(Some(state)),
                None => Err(EngineError("the family of tables is missing".to_owned())),
            },
            Family::Slice(slice) => Ok(self.db.cf_handle(&name(slice))),
        }
    }

    /// Starts a flush and waits for it. RocksDB's own waiting never ends where a flush fails: without paranoid checks that is no
    /// error to it, and nothing is tried again.
    fn flush_all(&self) -> Result<(), EngineError> {
        let slices = self.slices().into_iter().map(Family::Slice);
        let names: Vec<Family> = slices.chain([Family::State]).collect();
        let families = names.iter().map(|name| self.family(*name));
        let families = families.collect::<Result<Vec<_>, _>>()?;
        let handles: Vec<_> = families.iter().flatten().collect();
        let mut options = FlushOptions::default();
        options.set_wait(false);
        let errors_before = self.number(properties::BACKGROUND_ERRORS)?;
        self.db.flush_cfs_opt(&handles, &options).map_err(engine_error)?;
        let (mut pause, mut gave_up) = (FLUSH_LOOK_MIN, None);
        loop {
            let mut waiting = 0;
            for family in handles.iter().copied() {
                let tables = self
                    .db
                    .property_int_value_cf(family, properties::NUM_IMMUTABLE_MEM_TABLE);
                waiting += tables.map_err(engine_error)?.unwrap_or(0);
            }
            if waiting == 0 {
                return Ok(());
            }
            // A merge that fails counts as an error too, but while a flush runs or is about to, nothing is decided.
            let idle = self.number(properties::NUM_RUNNING_FLUSHES)? == 0;
            gave_up = match idle && self.number(properties::BACKGROUND_ERRORS)? > errors_before {
                true => gave_up.or(Some(Instant::now())),
                false => None,
            };
            if gave_up.is_some_and(|at| at.elapsed() >= FLUSH_GIVEN_UP) {
                let log = self.db.path().join("LOG");
                return Err(EngineError(format!("a flush failed; {} says why", log.display())));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(FLUSH_LOOK_MAX);
        }
    }

    fn number(&self, property: &properties::PropName) -> Result<u64, EngineError> {
        let value = self.db.property_int_value(property).map_err(engine_error)?;
        Ok(value.unwrap_or(0))
    }

    fn read(&self, family: Family, key: &[u8], options: &ReadOptions) -> Result<Option<Bytes>, EngineError> {
        let Some(family) = self.family(family)? else {
            return Ok(None);
        };
        let value = self.db.get_cf_opt(&family, key, options).map_err(engine_error)?;
        Ok(value.map(Bytes::from))
    }
}

fn families(slices: &BTreeSet<SliceId>, slice_options: &Options, cache: &Cache) -> Vec<ColumnFamilyDescriptor> {
    let slices = slices.iter();
    slices
        .map(|slice| ColumnFamilyDescriptor::new(name(*slice), slice_options.clone()))
        .chain([ColumnFamilyDescriptor::new(STATE, state_options(cache))])
        .collect()
}

/// The slices that a database in `folder` has; none where there is no database yet.
fn slices_of(options: &Options, folder: &Path) -> Result<BTreeSet<SliceId>, EngineError> {
    if !folder.join("CURRENT").exists() {
        return Ok(BTreeSet::new());
    }
    manifest::check(folder).map_err(|error| EngineError(error.to_string()))?;
    let names = DBWithThreadMode::<MultiThreaded>::list_cf(options, folder).map_err(engine_error)?;
    let numbers = names.iter().filter_map(|name| name.strip_prefix(SLICE));
    numbers
        .map(|number| match number.parse() {
            Ok(number) => Ok(SliceId(number)),
            Err(_) => Err(EngineError(format!("a family is called {SLICE}{number}"))),
        })
        .collect()
}

/// RocksDB opens a file when somebody reads it, which may be long after the start.
fn refuse_lost_files(db: &DBWithThreadMode<MultiThreaded>, folder: &Path) -> Result<(), EngineError> {
    for file in db.live_files().map_err(engine_error)? {
        let path = folder.join(file.name.trim_start_matches('/'));
        let found = std::fs::metadata(&path).map(|metadata| metadata.len());
        match found {
            Ok(bytes) if bytes == file.size as u64 => {}
            Ok(bytes) => {
                let (path, size) = (path.display(), file.size);
                return Err(EngineError(format!("{path} has {bytes} bytes and should have {size}")));
            }
            Err(error) => return Err(EngineError(format!("{}: {error}", path.display()))),
        }
    }
    Ok(())
}

fn name(slice: SliceId) -> String {
    format!("{SLICE}{slice}")
}

fn family_options(table: &mut BlockBasedOptions, cache: &Cache) -> Options {
    table.set_block_cache(cache);
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    // With two, a second full buffer stops the driver, and so every group, until the first is on disk.
    options.set_max_write_buffer_number(WRITE_BUFFERS);
    options
}

fn state_options(cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    let mut options = family_options(&mut table, cache);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_block_based_table_factory(&table);
    options
}

fn slice_options(cache: &Cache, garbage: &Arc<RwLock<Garbage>>) -> Options {
    let mut table = BlockBasedOptions::default();
    let mut options = family_options(&mut table, cache);
    // Record batches are compressed once, where they were made.
    options.set_compression_type(DBCompressionType::None);
    table.set_block_size(64 << 10);
    // A file without the shard is not opened.
    options.set_prefix_extractor(SliceTransform::create_fixed_prefix(SHARD_PREFIX_BYTES));
    options.set_compaction_style(DBCompactionStyle::Universal);
    options.set_level_zero_file_num_compaction_trigger(OPEN_SLICE_FILES);
    // Writers are slowed by admission, never by the number of files.
    options.set_level_zero_slowdown_writes_trigger(1 << 20);
    options.set_level_zero_stop_writes_trigger(1 << 20);
    let garbage = garbage.clone();
    options.set_compaction_filter("garbage", move |_, key, value| {
        if garbage.read().unwrap_or_else(PoisonError::into_inner).holds(key, value) {
            Decision::Remove
        } else {
            Decision::Keep
        }
    });
    options.set_block_based_table_factory(&table);
    options
}

/// Rows of one shard are found by the prefix bloom; a shorter prefix has to look at all files.
fn scan_options(family: Family, prefix: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    match family {
        Family::Slice(_) if prefix.len() >= SHARD_PREFIX_BYTES => options.set_prefix_same_as_start(true),
        _ => options.set_total_order_seek(true),
    }
    options
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
        let options = scan_options(family, prefix);
        let Some(family) = self.family(family)? else {
            return Ok(None);
        };
        let mut rows = self
            .db
            .iterator_cf_opt(&family, options, IteratorMode::From(key, Direction::Reverse));
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
        let options = scan_options(family, prefix);
        let Some(family) = self.family(family)? else {
            return Ok(());
        };
        let mut rows = self.db.raw_iterator_cf_opt(&family, options);
        rows.seek(from.max(prefix));
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
        // An entry writes to few families, and to them in turns.
        let mut handles: Vec<(Family, Arc<BoundColumnFamily<'_>>)> = Vec::with_capacity(2);
        for (family, key, value) in writes.rows {
            let at = match handles.iter().position(|(known, _)| *known == family) {
                Some(at) => at,
                None => {
                    let handle = self.family(family)?;
                    let handle = handle.ok_or_else(|| EngineError(format!("{family:?} is missing")))?;
                    handles.push((family, handle));
                    handles.len() - 1
                }
            };
            let handle = &handles[at].1;
            match value {
                Some(value) => batch.put_cf(handle, key, value),
                None => batch.delete_cf(handle, key),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(engine_error)
    }

    fn flush(&self) -> Result<(), EngineError> {
        if let Some(error) = self.flush_failed.get() {
            return Err(error.clone());
        }
        let flushed = self.flush_all();
        flushed.inspect_err(|error| {
            // Another thread's failure says as much.
            let _ = self.flush_failed.set(error.clone());
        })
    }

    fn slices(&self) -> Vec<SliceId> {
        let slices = self.slices.read().unwrap_or_else(PoisonError::into_inner);
        slices.iter().copied().collect()
    }

    fn make_slice(&self, slice: SliceId) -> Result<(), EngineError> {
        self.db
            .create_cf(name(slice), &self.slice_options)
            .map_err(engine_error)?;
        let mut slices = self.slices.write().unwrap_or_else(PoisonError::into_inner);
        slices.insert(slice);
        Ok(())
    }

    fn drop_slice(&self, slice: SliceId) -> Result<(), EngineError> {
        let mut slices = self.slices.write().unwrap_or_else(PoisonError::into_inner);
        slices.remove(&slice);
        drop(slices);
        self.db.drop_cf(&name(slice)).map_err(engine_error)
    }

    fn merge_slice(&self, slice: SliceId, garbage: Garbage) -> Result<(), EngineError> {
        let Some(family) = self.family(Family::Slice(slice))? else {
            return Ok(());
        };
        *self.garbage.write().unwrap_or_else(PoisonError::into_inner) = garbage;
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        self.db
            .compact_range_cf_opt(&family, None::<&[u8]>, None::<&[u8]>, &options);
        *self.garbage.write().unwrap_or_else(PoisonError::into_inner) = Garbage::default();
        Ok(())
    }

    fn slice_files(&self, slice: SliceId) -> usize {
        let name = name(slice);
        let files = self.db.live_files().unwrap_or_default();
        files.iter().filter(|file| file.column_family_name == name).count()
    }

    fn slice_bytes(&self, slice: SliceId) -> u64 {
        match self.family(Family::Slice(slice)) {
            // A property that every family has; it fails for a name that RocksDB does not know.
            Ok(Some(family)) => {
                let bytes = self.db.property_int_value_cf(&family, properties::TOTAL_SST_FILES_SIZE);
                bytes.ok().flatten().unwrap_or(0)
            }
            _ => 0,
        }
    }

    fn bytes_between(&self, slice: SliceId, from: &[u8], to: &[u8]) -> u64 {
        match self.family(Family::Slice(slice)) {
            Ok(Some(family)) => self
                .db
                .get_approximate_sizes_cf(&family, &[Range::new(from, to)])
                .into_iter()
                .sum(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The maintenance thread flushes once more when the store stops, whatever became of the flush before that.
    #[test]
    fn after_a_flush_that_failed_the_next_one_fails_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let engine = RocksEngine::open(folder.path(), 1 << 20).unwrap();
        std::fs::remove_dir_all(folder.path()).unwrap();
        for key in [b"a", b"b"] {
            let mut writes = Writes::default();
            writes.put(Family::State, key.to_vec(), Bytes::from_static(b"value"));
            // Not taken any more once RocksDB knows.
            let _ = engine.write(writes);
            assert!(engine.flush().is_err());
        }
        // It would flush again when it is closed.
        std::mem::forget(engine);
    }
}
