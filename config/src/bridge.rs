//! `[bridge]`

use std::net::SocketAddr;

use serde::Deserialize;

use crate::error::ConfigError;
use crate::units::{ByteSize, Millis};

/// The keys of `[bridge]`; `default.toml` says what each is for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BridgeConfig {
    pub http_listen: SocketAddr,
    pub body_max: ByteSize,
    pub header_timeout: Millis,
    pub connections_max: usize,
    pub webhook: WebhookConfig,
}

/// The keys of `[bridge.webhook]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    pub allow_private: Vec<String>,
    pub timeout: Millis,
    pub retry_min: Millis,
    pub retry_max: Millis,
    pub attempts_max: u32,
}

impl BridgeConfig {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        ConfigError::unless(self.body_max.0 >= 1 << 10, "bridge.body_max", "must be at least 1KiB")?;
        ConfigError::unless(
            self.body_max.0 <= 32 << 20,
            "bridge.body_max",
            "must be at most 32MiB, the size of one Batch",
        )?;
        ConfigError::unless(self.connections_max > 0, "bridge.connections_max", "must be at least 1")?;
        ConfigError::unless(
            self.webhook.retry_min.0 > 0,
            "bridge.webhook.retry_min",
            "must be longer than nothing",
        )?;
        ConfigError::unless(
            self.webhook.retry_max >= self.webhook.retry_min,
            "bridge.webhook.retry_max",
            "must be at least bridge.webhook.retry_min",
        )?;
        ConfigError::unless(
            self.webhook.attempts_max > 0,
            "bridge.webhook.attempts_max",
            "must be at least 1",
        )
    }
}
