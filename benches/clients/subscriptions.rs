//! `./x bench subscriptions`: many subscriptions. `SUBSCRIPTIONS` (100 000), a thousand for each client; one in ten has a
//! wildcard.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use super::client::Client;
use super::server::Server;
use super::setting;

const EACH: u64 = 1000;
const MESSAGES: u64 = 50_000;

pub async fn run(folder: &Path) -> Result<()> {
    let clients = setting("SUBSCRIPTIONS", 100_000)?.div_ceil(EACH);
    let server = Server::start(folder, &[])?;
    let (mut publisher, _) = Client::open(server.mqtt, "publisher", 0).await?;
    let alone = rate(&mut publisher, "nobody").await?;
    let before = server.memory_bytes()?;
    let began = Instant::now();
    let mut subscribed = Vec::new();
    for number in 0..clients {
        let (mut client, _) = Client::open(server.mqtt, &format!("subscriber-{number}"), 0).await?;
        let filter = |n: u64| match n % 10 {
            0 => format!("site/{number}/device/{n}/+"),
            _ => format!("site/{number}/device/{n}/state"),
        };
        client.subscribe(&(0..EACH).map(filter).collect::<Vec<_>>()).await?;
        subscribed.push(client);
    }
    let (count, elapsed) = (clients * EACH, began.elapsed().as_secs_f64());
    let bytes = server.memory_bytes()?.saturating_sub(before);
    println!(
        "{count} subscriptions made: {:.0} a second, {} bytes of memory each",
        count as f64 / elapsed,
        bytes / count
    );
    let among = rate(&mut publisher, "nobody").await?;
    println!("publishing what nobody gets: {alone:.0} a second without them, {among:.0} a second with them");
    let began = Instant::now();
    let site = clients / 2;
    let topics = (0..EACH).map(|n| (format!("site/{site}/device/{n}/state"), b"1".to_vec()));
    publisher.publish(topics, false).await?;
    let receiver = &mut subscribed[site as usize];
    for _ in 0..EACH {
        receiver.message().await?;
    }
    println!(
        "{EACH} messages for one of the clients: {:.1} ms",
        began.elapsed().as_secs_f64() * 1e3
    );
    Ok(())
}

async fn rate(publisher: &mut Client, topic: &str) -> Result<f64> {
    let began = Instant::now();
    publisher
        .publish(
            (0..MESSAGES).map(|n| (format!("{topic}/{}", n % 1000), b"x".to_vec())),
            false,
        )
        .await?;
    Ok(MESSAGES as f64 / began.elapsed().as_secs_f64())
}
