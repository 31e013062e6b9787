//! `./x bench idle`: memory of a connection that does nothing. `CONNECTIONS` (10 000).

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::client::Client;
use super::server::Server;
use super::setting;

/// Connections that are opened at the same time.
const CONNECTS_AT_ONCE: usize = 32;
/// After this long everything that came with connecting is done and given back.
const SETTLE: Duration = Duration::from_secs(5);

pub async fn run(folder: &Path) -> Result<()> {
    let count = setting("CONNECTIONS", 10_000)?;
    for (what, expiry_s, subscribed) in [
        ("clean sessions", 0, false),
        ("clean sessions, one subscription each", 0, true),
        ("durable sessions, one subscription each", 3600, true),
    ] {
        let folder = folder.join(what.replace([' ', ','], "-"));
        std::fs::create_dir(&folder)?;
        // One more for those that the bench itself makes.
        let connections_max = format!("broker.connections_max={}", count + 100);
        let server = Server::start(&folder, &[&connections_max])?;
        // What the first clients make is made once for all.
        let warm = connect(&server, "warm", 200, expiry_s, subscribed).await?;
        drop(warm);
        tokio::time::sleep(SETTLE).await;
        let before = server.memory_bytes()?;
        let clients = connect(&server, "idle", count, expiry_s, subscribed).await?;
        tokio::time::sleep(SETTLE).await;
        let bytes = server.memory_bytes()?.saturating_sub(before);
        println!("{count} {what}: {:.2} KiB each", bytes as f64 / count as f64 / 1024.0);
        drop(clients);
    }
    Ok(())
}

async fn connect(server: &Server, name: &str, count: u64, expiry_s: u32, subscribed: bool) -> Result<Vec<Client>> {
    let connect = |number| async move {
        let (mut client, _) = Client::open(server.mqtt, &format!("{name}-{number}"), expiry_s).await?;
        if subscribed {
            client.subscribe(&[format!("{name}/{number}/do")]).await?;
        }
        anyhow::Ok(client)
    };
    stream::iter(0..count)
        .map(connect)
        .buffer_unordered(CONNECTS_AT_ONCE)
        .try_collect()
        .await
}
