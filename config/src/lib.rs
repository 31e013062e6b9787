//! Headwater's configuration.
//!
//! `default.toml` holds every key with its unit, default and reason; it is compiled in, and it is the reference.
//! A file given with `--config` overrides it, the environment (`HEADWATER__STORE__GROUPS=8`) overrides the file, and
//! flags (`--set store.groups=8`) override the environment. An unknown key is an error, never ignored.
//!
//! It is not: reloaded while running, global, or a place for anything that the catalog holds.

mod bridge;
mod broker;
mod error;
mod load;
mod sql;
mod store;
mod units;

pub use bridge::{BridgeConfig, WebhookConfig};
pub use broker::BrokerConfig;
pub use error::ConfigError;
pub use load::{Config, DEFAULT_TOML};
pub use sql::SqlConfig;
pub use store::StoreConfig;
pub use units::{ByteSize, Millis};
