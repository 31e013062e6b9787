//! `headwater serve`: configuration, start, signals, stop.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use headwater_config::Config;
use tokio::signal::unix::{SignalKind, signal};

use crate::assemble::Server;
use crate::telemetry;

/// Each flag has its key in the configuration file and its environment variable; the flag wins.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// A TOML file that overrides the defaults (see config/default.toml).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data folder (store.path).
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The MQTT listener (broker.mqtt_listen).
    #[arg(long, value_name = "ADDR")]
    mqtt: Option<SocketAddr>,
    /// The HTTP listener (bridge.http_listen).
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Any key, as in --set store.groups=8; may be given several times.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
}

impl ServeArgs {
    fn load(self) -> Result<Config> {
        let mut config = Config::load(self.config.as_deref(), std::env::vars(), &self.settings)?;
        if let Some(path) = self.data {
            config.store.path = path;
        }
        if let Some(address) = self.mqtt {
            config.broker.mqtt_listen = address;
        }
        if let Some(address) = self.http {
            config.bridge.http_listen = address;
        }
        Ok(config)
    }
}

/// Serves until SIGTERM or SIGINT, or until the store has to stop by itself.
pub fn run(arguments: ServeArgs) -> Result<()> {
    let config = arguments.load()?;
    telemetry::log_to_stderr();
    let metrics = telemetry::install_metrics()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("hw-io")
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let server = Server::start(&config, metrics).await?;
        eprintln!("headwater is ready: MQTT on {}, HTTP on {}", server.mqtt_address(), server.http_address());
        let failure = tokio::select! {
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
            reason = server.store_failed() => Some(reason),
        };
        if let Some(reason) = failure {
            bail!("stopped: {reason}");
        }
        tracing::info!("stopping");
        tokio::select! {
            () = server.stop() => Ok(()),
            _ = terminate.recv() => bail!("stopped by a second signal before everything was drained; nothing acknowledged is lost"),
            _ = interrupt.recv() => bail!("stopped by a second signal before everything was drained; nothing acknowledged is lost"),
        }
    })
}
