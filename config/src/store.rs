//! `[store]`

use std::path::PathBuf;

use serde::Deserialize;

use crate::error::ConfigError;
use crate::units::ByteSize;

/// The keys of `[store]`; `default.toml` says what each is for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    pub path: PathBuf,
    pub groups: u16,
    pub admission: ByteSize,
    pub tail_cache: ByteSize,
    pub flush_every: ByteSize,
    pub block_cache: ByteSize,
    pub slice_size: ByteSize,
    pub retention_bytes: ByteSize,
    pub free_disk_min: ByteSize,
    pub read_threads: usize,
}

impl StoreConfig {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        ConfigError::unless((1..=256).contains(&self.groups), "store.groups", "must be 1 to 256")?;
        ConfigError::unless(self.admission.0 >= 1 << 20, "store.admission", "must be at least 1MiB")?;
        ConfigError::unless(self.admission.0 <= 1 << 30, "store.admission", "must be at most 1GiB")?;
        ConfigError::unless(
            self.tail_cache.0 >= 1 << 16,
            "store.tail_cache",
            "must be at least 64KiB",
        )?;
        ConfigError::unless(
            self.flush_every.0 >= 1 << 16,
            "store.flush_every",
            "must be at least 64KiB",
        )?;
        ConfigError::unless(
            self.slice_size.0 >= 1 << 16,
            "store.slice_size",
            "must be at least 64KiB",
        )?;
        ConfigError::unless(
            (1..=64).contains(&self.read_threads),
            "store.read_threads",
            "must be 1 to 64",
        )
    }
}
