//! Many streams on one node, in process: how fast they are made, what an idle one costs in memory, and whether writing to
//! a hundred thousand of them is slower than writing to one at the same rate.
//!
//! `./x bench streams` runs it. `STREAMS` (1 000 000), `RATE` (20 000 records a second) and `SECONDS` (10) may be set.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::stream::{FuturesUnordered, StreamExt};
use headwater_config::{Config, StoreConfig};
use headwater_store::{
    Ack, Batch, Placement, Record, ShardId, Store, StreamForm, StreamOptions, StreamSpec, SystemClock,
};

const PAYLOAD_BYTES: usize = 256;
/// As many streams are written to, at most.
const WRITTEN_MAX: usize = 100_000;
/// Appends handed over together, so that the generator's own wake-ups do not count.
const TICK: Duration = Duration::from_millis(1);

fn main() -> Result<()> {
    let (streams, rate, seconds) = (
        setting("STREAMS", 1_000_000)?,
        setting("RATE", 20_000)?,
        setting("SECONDS", 10)?,
    );
    let folder = tempfile::tempdir_in(std::env::current_dir()?)?;
    let config = StoreConfig {
        path: folder.path().join("data"),
        ..Config::embedded()?.store
    };
    let store = Store::open(&config, Arc::new(SystemClock))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let one = create(&store, "one").await?;
        let before = resident_bytes()?;
        let began = Instant::now();
        let mut shards = Vec::with_capacity(streams.min(WRITTEN_MAX));
        for number in 0..streams {
            let shard = create(&store, &format!("device-{number}")).await?;
            if shards.len() < WRITTEN_MAX {
                shards.push(shard);
            }
        }
        let elapsed = began.elapsed().as_secs_f64();
        let bytes = resident_bytes()?.saturating_sub(before);
        println!(
            "{streams} streams made: {:.0} a second, {} bytes of memory each",
            streams as f64 / elapsed,
            bytes / streams as u64
        );
        let single = write(&store, &[one], rate, seconds).await?;
        let many = write(&store, &shards, rate, seconds).await?;
        print("one stream", &single);
        print(&format!("{} streams", shards.len()), &many);
        println!(
            "p99 of many against one: {:.2}",
            many.p99.as_secs_f64() / single.p99.as_secs_f64()
        );
        store.stop().await;
        anyhow::Ok(())
    })?;
    drop(store);
    let began = Instant::now();
    let store = Store::open(&config, Arc::new(SystemClock))?;
    println!("opened again in {:.2} s", began.elapsed().as_secs_f64());
    runtime.block_on(store.stop());
    Ok(())
}

fn setting(name: &str, default: usize) -> Result<usize> {
    std::env::var(name).map_or(Ok(default), |text| {
        text.parse().with_context(|| format!("{name}={text} is not a number"))
    })
}

async fn create(store: &Store, name: &str) -> Result<ShardId> {
    let spec = StreamSpec {
        name: name.to_owned(),
        placement: Placement::Key,
        shards: 1,
        columns: Vec::new(),
        captures: Vec::new(),
        form: StreamForm::Append,
        options: StreamOptions::default(),
        ack: Ack::default(),
        sql: format!("CREATE STREAM {name}"),
    };
    Ok(store.create_stream(spec).await?.shard(0))
}

struct Measured {
    rate: f64,
    p50: Duration,
    p99: Duration,
}

fn print(case: &str, measured: &Measured) {
    println!(
        "{case}: {:.0} records/s, acknowledged after p50 {} us, p99 {} us",
        measured.rate,
        measured.p50.as_micros(),
        measured.p99.as_micros()
    );
}

/// An open loop: records come at their times whether or not earlier ones are acknowledged, and are timed from then.
async fn write(store: &Store, shards: &[ShardId], rate: usize, seconds: usize) -> Result<Measured> {
    let payload = bytes::Bytes::from(vec![b'x'; PAYLOAD_BYTES]);
    let total = rate * seconds;
    let began = tokio::time::Instant::now();
    let (mut sent, mut times) = (0, Vec::with_capacity(total));
    let mut under_way = FuturesUnordered::new();
    let mut tick = tokio::time::interval(TICK);
    while times.len() < total {
        tokio::select! {
            biased;
            _ = tick.tick(), if sent < total => {
                let due = ((began.elapsed().as_secs_f64() * rate as f64) as usize).min(total);
                while sent < due {
                    let shard = shards[sent % shards.len()];
                    let intended = began + Duration::from_secs_f64(sent as f64 / rate as f64);
                    let batch = Batch::new(shard.group).append(shard, vec![Record::new(payload.clone())]);
                    let receipt = store.submit(batch).await?;
                    under_way.push(async move {
                        let outcome = receipt.await;
                        (intended.elapsed(), outcome)
                    });
                    sent += 1;
                }
            }
            Some((time, outcome)) = under_way.next() => {
                outcome?;
                times.push(time);
            }
        }
    }
    let elapsed = began.elapsed().as_secs_f64();
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    Ok(Measured {
        rate: total as f64 / elapsed,
        p50: at(0.5),
        p99: at(0.99),
    })
}

/// Of this process, as Linux counts it.
fn resident_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line
        .and_then(|line| line.split_whitespace().next())
        .context("no VmRSS in /proc/self/status")?;
    Ok(kibibytes.parse::<u64>()? * 1024)
}
