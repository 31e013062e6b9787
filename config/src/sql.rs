//! `[sql]`

use serde::Deserialize;

use crate::error::ConfigError;
use crate::units::Millis;

/// The keys of `[sql]`; `default.toml` says what each is for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqlConfig {
    pub step_records_max: usize,
    pub cursor_save_every: Millis,
    pub idle: Millis,
    pub future_skew_max: Millis,
    pub threads: usize,
}

impl SqlConfig {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        ConfigError::unless(
            (1..=65_536).contains(&self.step_records_max),
            "sql.step_records_max",
            "must be 1 to 65536",
        )?;
        ConfigError::unless(self.idle.0 > 0, "sql.idle", "must be longer than nothing")?;
        ConfigError::unless(self.threads <= 256, "sql.threads", "must be at most 256")
    }
}
