//! What is wrong with a configuration.

use std::path::PathBuf;

/// Always names the key or the file.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration file {}: {source}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// Not TOML.
    #[error("{source_name} is not TOML: {message}")]
    Syntax { source_name: String, message: String },
    /// Not `a.b=value`.
    #[error("`{0}` is not a setting: write section.key=value, as in store.groups=8")]
    Setting(String),
    /// An unknown key or a value of the wrong type.
    #[error("in the configuration (file, HEADWATER__ environment or flags): {0}")]
    Shape(String),
    /// A value outside its bounds.
    #[error("{key} {rule}")]
    Value { key: &'static str, rule: &'static str },
}

impl ConfigError {
    pub(crate) fn unless(holds: bool, key: &'static str, rule: &'static str) -> Result<(), ConfigError> {
        if holds {
            Ok(())
        } else {
            Err(ConfigError::Value { key, rule })
        }
    }
}
