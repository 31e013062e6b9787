//! `[broker]`

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use crate::error::ConfigError;
use crate::units::{ByteSize, Millis, OptionalAddr};

/// The keys of `[broker]`; `default.toml` says what each is for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerConfig {
    pub mqtt_listen: SocketAddr,
    pub mqtts_listen: OptionalAddr,
    pub ws_listen: OptionalAddr,
    pub wss_listen: OptionalAddr,
    pub unix_listen: PathBuf,
    pub proxy_protocol: bool,
    pub tls_certificate: PathBuf,
    pub tls_key: PathBuf,
    pub scram_users: PathBuf,
    pub scram_required: bool,
    pub packet_max: ByteSize,
    pub payload_format_check: bool,
    pub connect_timeout: Millis,
    pub connections_max: usize,
    pub receive_max: u16,
    pub inflight_max: u16,
    pub outbox: ByteSize,
    pub subscriptions_max: usize,
    pub topic_alias_max: u16,
    pub keep_alive_max: Millis,
    pub session_expiry_max: Millis,
    pub session_messages_max: usize,
    pub session_bytes_max: ByteSize,
    pub session_age_max: Millis,
    pub queue_timeout: Millis,
    pub queue_tries: u32,
}

impl BrokerConfig {
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let secure = self.mqtts_listen.0.is_some() || self.wss_listen.0.is_some();
        let files = [&self.tls_certificate, &self.tls_key];
        ConfigError::unless(
            !secure || files.iter().all(|file| !file.as_os_str().is_empty()),
            "broker.tls_certificate",
            "and broker.tls_key must name PEM files for mqtts_listen and wss_listen",
        )?;
        ConfigError::unless(
            !self.scram_required || !self.scram_users.as_os_str().is_empty(),
            "broker.scram_required",
            "asks for broker.scram_users, or nobody could come in",
        )?;
        let packet = (1 << 10)..=268_435_460;
        ConfigError::unless(
            packet.contains(&self.packet_max.0),
            "broker.packet_max",
            "must be 1KiB to 256MiB",
        )?;
        ConfigError::unless(self.receive_max > 0, "broker.receive_max", "must be at least 1")?;
        ConfigError::unless(self.inflight_max > 0, "broker.inflight_max", "must be at least 1")?;
        ConfigError::unless(self.connections_max > 0, "broker.connections_max", "must be at least 1")?;
        ConfigError::unless(
            self.connect_timeout.0 > 0,
            "broker.connect_timeout",
            "must be longer than nothing",
        )?;
        ConfigError::unless(
            self.queue_timeout.0 > 0,
            "broker.queue_timeout",
            "must be longer than nothing",
        )?;
        ConfigError::unless(self.queue_tries > 0, "broker.queue_tries", "must be at least 1")?;
        ConfigError::unless(
            self.keep_alive_max.0 <= 65_535_000,
            "broker.keep_alive_max",
            "must be at most 65535s",
        )?;
        ConfigError::unless(
            self.outbox.0 >= self.packet_max.0,
            "broker.outbox",
            "must hold at least one packet (broker.packet_max)",
        )
    }
}
