//! `./x bench retained`: many retained topics. `TOPICS` (100 000).

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};

use super::client::Client;
use super::server::Server;
use super::setting;

pub async fn run(folder: &Path) -> Result<()> {
    let topics = setting("TOPICS", 100_000)?;
    let server = Server::start(folder, &[])?;
    let (mut publisher, _) = Client::open(server.mqtt, "publisher", 0).await?;
    let topic = |number: u64| format!("site/{}/device/{number}/state", number % 100);
    let message = |number: u64| (topic(number), format!("{{\"state\":{number}}}").into_bytes());
    for what in ["made", "replaced"] {
        let began = Instant::now();
        publisher.publish((0..topics).map(message), true).await?;
        println!(
            "{topics} retained topics {what}: {:.0} a second",
            topics as f64 / began.elapsed().as_secs_f64()
        );
    }
    for (what, filter, expected) in [
        ("one by its name", topic(topics / 2), 1),
        ("one site's", "site/7/device/+/state".to_owned(), topics / 100),
        ("all", "#".to_owned(), topics),
    ] {
        let (mut client, _) = Client::open(server.mqtt, "reader", 0).await?;
        let began = Instant::now();
        client.subscribe(&[filter]).await?;
        client.message().await?;
        let first = began.elapsed();
        for _ in 1..expected {
            ensure!(client.message().await?.retain, "a retained message says that it is one");
        }
        println!(
            "{what}: {expected} retained messages, the first after {:.2} ms, all after {:.1} ms",
            first.as_secs_f64() * 1e3,
            began.elapsed().as_secs_f64() * 1e3
        );
        client.close().await?;
    }
    Ok(())
}
