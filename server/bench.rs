//! `headwater bench`: a load generator for any MQTT broker, which counts before it boasts.
//!
//! A figure is worth what its count is worth. So every PUBACK is matched to the PUBLISH that it answers by packet id,
//! deliveries can be checked byte for byte, for order, gaps and duplicates, and the exit status is 0 only when all of it
//! was exact. `docs/performance.md` tells the method.
//!
//! - `publish` and `subscribe` are the two runs; `publisher` and `subscriber` are one client each, one task per
//!   connection; `connection` is a socket with the broker's own codec on it.
//! - `window` matches acknowledgements, `pace` keeps the time of an open loop, both without input or output.
//! - `message` is the payload, `topic` its address, `verify` what is wrong with a delivery.
//! - `report` sums up; `observe` looks at the server's process from outside.
//!
//! The generator shares the machine with the server that it measures, so it is made to be cheap: one thread unless told
//! otherwise, reads and writes of many packets at once, nothing computed for a message that is not checked later.
//!
//! It is not: a client that reconnects (a connection that breaks is a finding), or a test of the protocol.

mod connection;
mod limits;
mod message;
mod observe;
mod pace;
mod publish;
mod publisher;
mod report;
mod subscribe;
mod subscriber;
mod target;
mod topic;
mod verify;
mod window;

use std::time::Duration;

use anyhow::Result;
use clap::Subcommand;
use headwater_config::Millis;
use headwater_store::Qos;
use tokio::runtime::{Builder, Runtime};

/// Which of the two.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Publish as fast as the broker acknowledges, or at a rate; with --subscribers, receive it too.
    Publish(publish::PublishArgs),
    /// Receive what other `headwater bench publish` processes send, and check it.
    Subscribe(subscribe::SubscribeArgs),
}

/// Runs it; an error when the count is not exact, after the report is printed.
pub fn run(arguments: BenchArgs) -> Result<()> {
    match arguments.command {
        Command::Publish(arguments) => runtime(arguments.target.threads())?.block_on(publish::run(arguments)),
        Command::Subscribe(arguments) => runtime(arguments.target.threads())?.block_on(subscribe::run(arguments)),
    }
}

/// One thread needs no locks between workers and leaves the other cores to the server.
fn runtime(threads: usize) -> Result<Runtime> {
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    Ok(builder.worker_threads(threads).enable_all().build()?)
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse().map(Millis::duration)
}

fn qos(text: &str) -> Result<Qos, String> {
    match text {
        "0" => Ok(Qos::AtMostOnce),
        "1" => Ok(Qos::AtLeastOnce),
        "2" => Err("the load generator does not speak QoS 2: use 0 or 1".into()),
        _ => Err("use 0 or 1".into()),
    }
}
