//! `./x bench catchup`: devices with narrow durable subscriptions lose their connection together, are away for an hour of
//! traffic that is for others, and come back together. `DEVICES` (10 000), `SECONDS_AWAY` (3 600), `RATE` (5 000 a second;
//! the traffic is published as fast as the server takes it), `WILDCARDS` (0: exact filters; 1: `device/N/#`).

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::client::Client;
use super::server::Server;
use super::setting;

/// Devices that are talked to at the same time: all of them come back at once.
const TOGETHER: usize = 10_000;
const PUBLISHERS: u64 = 16;
const PAYLOAD_BYTES: usize = 200;

pub async fn run(folder: &Path) -> Result<()> {
    let (devices, wildcards) = (setting("DEVICES", 10_000)?, setting("WILDCARDS", 0)? > 0);
    let messages = setting("SECONDS_AWAY", 3_600)? * setting("RATE", 5_000)?;
    let connections_max = format!("broker.connections_max={}", devices + 100);
    let server = Server::start(folder, &[&connections_max])?;
    each_device(devices, 64, async |number| {
        let (mut client, _) = Client::open(server.mqtt, &name(number), 86_400).await?;
        let filter = match wildcards {
            true => format!("device/{number}/#"),
            false => format!("device/{number}/do"),
        };
        client.subscribe(&[filter]).await?;
        client.close().await
    })
    .await?;

    let began = Instant::now();
    // Half of the traffic before and half of it after what is for the devices.
    traffic(&server, messages / 2).await?;
    let (mut publisher, _) = Client::open(server.mqtt, "operator", 0).await?;
    let order = |number| (format!("device/{number}/do"), format!("{number}").into_bytes());
    publisher.publish((0..devices).map(order), false).await?;
    traffic(&server, messages / 2).await?;
    println!(
        "{devices} devices away for {messages} messages to others ({:.0} a second were published)",
        messages as f64 / began.elapsed().as_secs_f64()
    );

    // One alone first: nothing that it needs is in memory yet.
    for what in ["the first one, alone", "another one, alone"] {
        let number = u64::from(what.starts_with("another"));
        let began = Instant::now();
        come_back(&server, number, wildcards).await?;
        println!("{what}: {:.1} ms", began.elapsed().as_secs_f64() * 1e3);
    }
    let read = || {
        let [entries, records] = ["entries", "records"].map(|what| format!("headwater_mqtt_scanned_{what}_total"));
        anyhow::Ok((server.metric(&entries)?, server.metric(&records)?))
    };
    let before = read()?;
    let began = Instant::now();
    each_device(devices - 2, TOGETHER, async |number| {
        come_back(&server, number + 2, wildcards).await
    })
    .await?;
    let elapsed = began.elapsed().as_secs_f64();
    let after = read()?;
    println!(
        "all others together: {elapsed:.1} s until each has its message; {:.1} entries looked at and {:.1} records read for each",
        (after.0 - before.0) / devices as f64,
        (after.1 - before.1) / devices as f64
    );
    Ok(())
}

fn name(number: u64) -> String {
    format!("device-{number}")
}

/// Until its one message is there.
async fn come_back(server: &Server, number: u64, wildcards: bool) -> Result<()> {
    let (mut client, present) = Client::open(server.mqtt, &name(number), 86_400).await?;
    ensure!(present, "device {number} has lost its session");
    let message = client.message().await?;
    ensure!(
        message.payload == number.to_string(),
        "device {number} got {:?} (wildcards: {wildcards})",
        message.payload
    );
    client.close().await
}

async fn each_device(devices: u64, at_once: usize, work: impl AsyncFn(u64) -> Result<()>) -> Result<()> {
    stream::iter(0..devices)
        .map(|number| work(number))
        .buffer_unordered(at_once)
        .try_collect()
        .await
}

async fn traffic(server: &Server, messages: u64) -> Result<()> {
    let publish = |publisher: u64| async move {
        let (mut client, _) = Client::open(server.mqtt, &format!("traffic-{publisher}"), 0).await?;
        let numbers = (0..messages / PUBLISHERS).map(|n| n * PUBLISHERS + publisher);
        let message = |number: u64| {
            let topic = format!("busy/{}/temperature", number % 10_000);
            (topic, format!("{number:0PAYLOAD_BYTES$}").into_bytes())
        };
        client.publish(numbers.map(message), false).await
    };
    stream::iter(0..PUBLISHERS)
        .map(publish)
        .buffer_unordered(PUBLISHERS as usize)
        .try_collect()
        .await
}
