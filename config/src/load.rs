//! Defaults, file, environment and flags, laid over each other.

use std::path::Path;

use serde::Deserialize;
use toml::{Table, Value};

use crate::error::ConfigError;
use crate::{BridgeConfig, BrokerConfig, SqlConfig, StoreConfig};

/// The reference of all keys, and their defaults.
pub const DEFAULT_TOML: &str = include_str!("../default.toml");

const ENVIRONMENT_PREFIX: &str = "HEADWATER__";

/// The whole configuration, checked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub store: StoreConfig,
    pub broker: BrokerConfig,
    pub sql: SqlConfig,
    pub bridge: BridgeConfig,
}

impl Config {
    /// The defaults alone.
    pub fn embedded() -> Result<Config, ConfigError> {
        Config::load(None, [], &[])
    }

    /// Lays `file` over the defaults, then `environment` (only names that begin with `HEADWATER__` count), then
    /// `settings` (each `section.key=value`), and checks the result.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        settings: &[String],
    ) -> Result<Config, ConfigError> {
        let mut table = parse(DEFAULT_TOML, "config/default.toml")?;
        if let Some(path) = file {
            let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
                path: path.into(),
                source,
            })?;
            merge(&mut table, parse(&text, &path.display().to_string())?);
        }
        for (name, value) in environment {
            if let Some(key) = name.strip_prefix(ENVIRONMENT_PREFIX) {
                let path: Vec<_> = key.split("__").map(str::to_ascii_lowercase).collect();
                set(&mut table, &path, &value).ok_or(ConfigError::Setting(format!("{name}={value}")))?;
            }
        }
        for setting in settings {
            let bad = || ConfigError::Setting(setting.clone());
            let (key, value) = setting.split_once('=').ok_or_else(bad)?;
            let path: Vec<_> = key.trim().split('.').map(str::to_owned).collect();
            set(&mut table, &path, value.trim()).ok_or_else(bad)?;
        }
        let config: Config = table
            .try_into()
            .map_err(|error: toml::de::Error| ConfigError::Shape(error.to_string()))?;
        config.store.check()?;
        config.broker.check()?;
        config.sql.check()?;
        config.bridge.check()?;
        Ok(config)
    }
}

fn parse(text: &str, source_name: &str) -> Result<Table, ConfigError> {
    text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
        source_name: source_name.to_owned(),
        message: error.to_string(),
    })
}

fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

/// Sets one key. The value is TOML where it reads as TOML (`8`, `true`, `["a"]`), else text (`127.0.0.1:1883`).
fn set(table: &mut Table, path: &[String], value: &str) -> Option<()> {
    let (last, sections) = path
        .split_last()
        .filter(|(last, sections)| !last.is_empty() && !sections.is_empty())?;
    let mut table = table;
    for section in sections {
        table = table
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()))
            .as_table_mut()?;
    }
    let parsed = format!("v = {value}")
        .parse::<Table>()
        .ok()
        .and_then(|mut parsed| parsed.remove("v"));
    table.insert(last.clone(), parsed.unwrap_or_else(|| Value::String(value.to_owned())));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, environment: &[(&str, &str)], settings: &[&str]) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headwater.toml");
        std::fs::write(&path, file).unwrap();
        let environment = environment.iter().map(|(k, v)| (k.to_string(), v.to_string()));
        let settings: Vec<_> = settings.iter().map(|s| s.to_string()).collect();
        Config::load(Some(&path), environment, &settings)
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let config = load(
            "[store]\ngroups = 5\ntail_cache = \"1MiB\"\nflush_every = \"2MiB\"\n",
            &[
                ("HEADWATER__STORE__GROUPS", "6"),
                ("HEADWATER__STORE__TAIL_CACHE", "3MiB"),
                ("HOME", "/root"),
            ],
            &["store.groups=7", "broker.mqtt_listen=0.0.0.0:1884"],
        )
        .unwrap();
        assert_eq!(config.store.groups, 7);
        assert_eq!(config.store.tail_cache.0, 3 << 20);
        assert_eq!(config.store.flush_every.0, 2 << 20);
        assert_eq!(config.broker.mqtt_listen.to_string(), "0.0.0.0:1884");
        assert_eq!(config.bridge.http_listen.to_string(), "127.0.0.1:6580");
    }

    #[test]
    fn mistakes_name_the_key() {
        let message = |result: Result<Config, ConfigError>| result.unwrap_err().to_string();
        assert!(message(load("[store]\ngroop = 5\n", &[], &[])).contains("groop"));
        assert!(message(load("", &[], &["store.groups=0"])).contains("store.groups must be 1 to 256"));
        assert!(message(load("", &[], &["groups"])).contains("section.key=value"));
        assert!(message(load("[store\n", &[], &[])).contains("not TOML"));
        assert!(message(load("", &[], &["sql.idle=10"])).contains("has no unit"));
    }
}
