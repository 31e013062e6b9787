//! The storage seam: ordered bytes in families, atomic writes, and a flush that makes everything before it durable.
//!
//! [`rocks::RocksEngine`] is what runs; [`memory::MemoryEngine`] is what simulations crash: it forgets all that was
//! not flushed, exactly as RocksDB does with its write-ahead log off.

use bytes::Bytes;

use crate::error::EngineError;
use crate::garbage::Garbage;
use crate::ids::SliceId;

#[cfg(test)]
pub mod memory;
pub mod rocks;

/// A key space of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Tables, and where groups, shards and slices stand: rows that are overwritten.
    State,
    /// Record batches and what finds them: written once, and dropped whole.
    Slice(SliceId),
}

/// Rows that become visible, and durable, all together.
#[derive(Debug, Default)]
pub struct Writes {
    pub rows: Vec<(Family, Vec<u8>, Option<Bytes>)>,
}

impl Writes {
    pub fn put(&mut self, family: Family, key: Vec<u8>, value: impl Into<Bytes>) {
        self.rows.push((family, key, Some(value.into())));
    }

    pub fn delete(&mut self, family: Family, key: Vec<u8>) {
        self.rows.push((family, key, None));
    }
}

/// A key with its value.
pub type Row = (Bytes, Bytes);

/// Ordered bytes. Reads see every write that returned; only [`Engine::flush`] makes them survive a crash. A slice that is
/// not there, or not any more, reads as empty.
pub trait Engine: Send + Sync + 'static {
    /// One row.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// One row as a crash right now would leave it.
    fn get_durable(&self, family: Family, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// The last row whose key begins with `prefix` and is not above `key`.
    fn last_at_or_before(&self, family: Family, prefix: &[u8], key: &[u8]) -> Result<Option<Row>, EngineError>;

    /// Gives rows whose key begins with `prefix`, from `from` on, in order, until `visit` returns false.
    fn scan(
        &self,
        family: Family,
        prefix: &[u8],
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError>;

    /// Applies all rows atomically.
    fn write(&self, writes: Writes) -> Result<(), EngineError>;

    /// Makes all that was written durable, all families at one point. Blocks.
    fn flush(&self) -> Result<(), EngineError>;

    /// The slices there are.
    fn slices(&self) -> Vec<SliceId>;

    /// Makes an empty slice; durable at once.
    fn make_slice(&self, slice: SliceId) -> Result<(), EngineError>;

    /// Drops a slice and gives its disk back; durable at once. Readers that are inside it finish.
    fn drop_slice(&self, slice: SliceId) -> Result<(), EngineError>;

    /// Rewrites what is on disk of a slice into few files, without `garbage`. Blocks.
    fn merge_slice(&self, slice: SliceId, garbage: Garbage) -> Result<(), EngineError>;

    /// How many files a slice has on disk.
    fn slice_files(&self, slice: SliceId) -> usize;

    /// The bytes of a slice's files.
    fn slice_bytes(&self, slice: SliceId) -> u64;

    /// About the bytes on disk between two keys of a slice.
    fn bytes_between(&self, slice: SliceId, from: &[u8], to: &[u8]) -> u64;
}
