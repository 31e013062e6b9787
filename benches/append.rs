//! Committed appends against this disk's raw limit, measured in the same run: ratios are what counts, the machine's
//! speed drifts. In process, without sockets: what the log itself costs.
//!
//! `./x bench` runs it. Each case prints appends a second, the time of one append (p50, p99), and both as ratios to an
//! append of 4 KiB with fdatasync to a growing file.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::stream::{FuturesOrdered, StreamExt};
use headwater_config::{Config, StoreConfig};
use headwater_store::{Record, Store, SystemClock, TopicName};

const PAYLOAD_BYTES: usize = 256;
const CASE_DURATION: Duration = Duration::from_secs(3);
/// Clients, and appends each has under way.
const CASES: [(usize, usize); 6] = [(1, 1), (1, 64), (16, 16), (100, 10), (100, 64), (256, 1)];

/// One case's outcome.
struct Measured {
    rate: f64,
    p50: Duration,
    p99: Duration,
}

fn main() -> Result<()> {
    let folder = tempfile::tempdir_in(std::env::current_dir()?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    println!(
        "{:>12} {:>12} {:>10} {:>10} {:>10} {:>10}",
        "case", "appends/s", "p50 us", "p99 us", "rate/raw", "p50/raw"
    );
    let config = StoreConfig {
        path: folder.path().join("data"),
        ..Config::embedded()?.store
    };
    let store = Store::open(&config, Arc::new(SystemClock))?;
    for (clients, inflight) in CASES {
        // Beside every case, because other work on the machine changes what the disk can do.
        let raw = raw_fdatasync(&folder.path().join("raw"))?;
        let measured = runtime.block_on(appends(&store, clients, inflight))?;
        print("raw fdatasync", &raw, &raw);
        print(&format!("{clients} x {inflight}"), &measured, &raw);
    }
    runtime.block_on(store.stop());
    Ok(())
}

fn print(case: &str, measured: &Measured, raw: &Measured) {
    println!(
        "{case:>12} {:>12.0} {:>10.0} {:>10.0} {:>10.2} {:>10.2}",
        measured.rate,
        measured.p50.as_secs_f64() * 1e6,
        measured.p99.as_secs_f64() * 1e6,
        measured.rate / raw.rate,
        measured.p50.as_secs_f64() / raw.p50.as_secs_f64(),
    );
}

/// 4 KiB appended and synced, one after the other, to a growing file.
fn raw_fdatasync(path: &Path) -> Result<Measured> {
    let mut file = File::create(path)?;
    file.write_all(b"")?;
    let block = [0x5a; 4096];
    let began = Instant::now();
    let mut times = Vec::new();
    while began.elapsed() < CASE_DURATION / 3 {
        let start = Instant::now();
        file.write_all_at(&block, times.len() as u64 * block.len() as u64)?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    Ok(summed_up(times, began.elapsed()))
}

fn summed_up(mut times: Vec<Duration>, elapsed: Duration) -> Measured {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    Measured {
        rate: times.len() as f64 / elapsed.as_secs_f64(),
        p50: at(0.5),
        p99: at(0.99),
    }
}

async fn appends(store: &Store, clients: usize, inflight: usize) -> Result<Measured> {
    let submitted = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|client| tokio::spawn(client_loop(store.clone(), client, inflight, submitted.clone(), began)))
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    let elapsed = began.elapsed();
    ensure!(
        times.len() as u64 == submitted.load(Ordering::Relaxed),
        "every append is answered"
    );
    Ok(summed_up(times, elapsed))
}

async fn client_loop(
    store: Store,
    client: usize,
    inflight: usize,
    submitted: Arc<AtomicU64>,
    began: Instant,
) -> Result<Vec<Duration>> {
    let topic = TopicName::new(format!("bench/{client}"))?;
    let payload = bytes::Bytes::from(vec![b'x'; PAYLOAD_BYTES]);
    let mut under_way = FuturesOrdered::new();
    let mut times = Vec::new();
    loop {
        while under_way.len() < inflight && began.elapsed() < CASE_DURATION {
            let record = Record {
                topic: Some(topic.clone()),
                ..Record::new(payload.clone())
            };
            let start = Instant::now();
            let receipt = store.submit(store.route(&topic).batch(record)).await?;
            submitted.fetch_add(1, Ordering::Relaxed);
            under_way.push_back(async move { (start, receipt.await) });
        }
        match under_way.next().await {
            Some((start, committed)) => {
                committed?;
                times.push(start.elapsed());
            }
            None => return Ok(times),
        }
    }
}
