//! What a query costs, from stored records to committed results, beside a few lines of plain Rust that do the same to
//! records in memory: ratios are what counts, the machine's speed drifts.
//!
//! `./x bench sql` runs it. The engine has one thread; `taskset -c 0` keeps the log and its fsync on that core too. Each
//! query reads 2 000 000 records of about 150 bytes that are already in a stream; its results are counted and compared
//! with the reference's, so that a fast wrong answer is no answer. Then come standing filters ([`standing`]) and the way from
//! a PUBLISH to a subscriber of its result ([`latency`]). Names behind `--` choose among `filter`, `window`, `standing` and
//! `latency`.

mod latency;
mod standing;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use headwater_config::{Config, Millis};
use headwater_sql::{Engine, Outcome};
use headwater_store::{Batch, Record, Store, SystemClock};
use serde::Deserialize;

/// As in the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RECORDS: usize = 2_000_000;
const DEVICES: usize = 1_000;
const RECORDS_PER_BATCH: usize = 5_000;
/// 2026-01-01T00:00:00Z; one record a millisecond.
const BEGIN_MS: i64 = 1_767_225_600_000;
const WINDOW_MS: i64 = 10_000;
const PATIENCE: Duration = Duration::from_secs(600);

/// One question, in SQL and in Rust.
struct Case {
    name: &'static str,
    sql: &'static str,
    reference: fn(&[Bytes]) -> Result<usize>,
}

const CASES: [Case; 2] = [
    Case {
        name: "filter",
        sql: "CREATE STREAM filter AS SELECT device, temperature, humidity FROM readings WHERE temperature > 20 \
              EMIT CHANGES FROM BEGINNING;",
        reference: filter,
    },
    Case {
        name: "window",
        sql: "CREATE STREAM \"window\" AS SELECT device, window_start, AVG(temperature) AS mean, MAX(temperature) AS high \
              FROM readings GROUP BY device, TUMBLING (INTERVAL 10 SECOND) EMIT FINAL FROM BEGINNING;",
        reference: window,
    },
];

fn main() -> Result<()> {
    let folder = tempfile::tempdir_in(std::env::current_dir()?)?;
    let mut config = Config::embedded()?;
    config.store.path = folder.path().join("data");
    config.sql.threads = 1;
    config.sql.cursor_save_every = Millis(20);
    let store = Store::open(&config.store, Arc::new(SystemClock))?;
    let engine = Engine::start(store.clone(), &config.sql, Arc::new(|_, _, _| Ok(())))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let payloads: Vec<Bytes> = (0..RECORDS).map(payload).collect();
    let bytes: usize = payloads.iter().map(Bytes::len).sum();
    // cargo bench adds an option of its own.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|name| !name.starts_with("--"))
        .collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    runtime.block_on(async {
        let cases: Vec<_> = CASES.iter().filter(|case| is_wanted(case.name)).collect();
        if !cases.is_empty() {
            fill(&engine, &payloads).await?;
            println!("{RECORDS} records of {} bytes, {DEVICES} devices", bytes / RECORDS);
            println!(
                "{:>8} {:>10} {:>12} {:>12} {:>14} {:>8}",
                "case", "results", "records/s", "cpu s", "plain Rust/s", "ratio"
            );
        }
        for case in cases {
            measure(&engine, case, &payloads).await?;
        }
        if is_wanted("standing") {
            standing::run(&engine).await?;
        }
        if is_wanted("latency") {
            latency::run(&engine).await?;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    runtime.block_on(async {
        engine.stop().await;
        store.stop().await;
    });
    Ok(())
}

async fn measure(engine: &Engine, case: &Case, payloads: &[Bytes]) -> Result<()> {
    let began = Instant::now();
    let expected = (case.reference)(payloads)?;
    let reference = RECORDS as f64 / began.elapsed().as_secs_f64();
    let (began, cpu_began) = (Instant::now(), cpu_seconds()?);
    execute(engine, case.sql).await?;
    caught_up(engine, case.name).await?;
    let (elapsed, cpu) = (began.elapsed(), cpu_seconds()? - cpu_began);
    let results = count(engine, case.name).await?;
    ensure!(
        results == expected,
        "{}: {results} results, the reference has {expected}",
        case.name
    );
    let rate = RECORDS as f64 / elapsed.as_secs_f64();
    println!(
        "{:>8} {results:>10} {rate:>12.0} {cpu:>12.2} {reference:>14.0} {:>8.2}",
        case.name,
        rate / reference
    );
    execute(engine, &format!("DROP STREAM \"{}\" FORCE;", case.name)).await?;
    Ok(())
}

/// About 150 bytes, as a sensor sends them.
fn payload(number: usize) -> Bytes {
    let device = number * 7_919 % DEVICES;
    let mut text = String::with_capacity(160);
    // Writing into a String cannot fail.
    let _ = write!(
        text,
        r#"{{"device":"sensor-{device:04}","ts":{},"temperature":{:.2},"humidity":{:.1},"site":"plant-{}","firmware":"2.14.3","battery":{},"seq":"{number:08}"}}"#,
        BEGIN_MS + number as i64,
        15.0 + (number * 31 % 1_500) as f64 / 100.0,
        30.0 + (number * 17 % 500) as f64 / 10.0,
        device % 8,
        40 + number % 60,
    );
    Bytes::from(text)
}

async fn fill(engine: &Engine, payloads: &[Bytes]) -> Result<()> {
    execute(
        engine,
        "CREATE STREAM readings WITH (TIMESTAMP = ts, DELAY = INTERVAL 0 SECOND);",
    )
    .await?;
    let store = engine.store();
    let catalog = store.catalog().borrow().clone();
    let shard = catalog.stream("readings").context("the stream was just made")?.shard(0);
    for chunk in payloads.chunks(RECORDS_PER_BATCH) {
        let records = chunk.iter().map(|payload| Record::new(payload.clone())).collect();
        store.write(Batch::new(shard.group).append(shard, records)).await?;
    }
    // The last window closes when something later comes.
    let last = format!(
        r#"{{"device":"sensor-0000","ts":{},"temperature":0,"humidity":0}}"#,
        BEGIN_MS + RECORDS as i64 + WINDOW_MS
    );
    store
        .write(Batch::new(shard.group).append(shard, vec![Record::new(last)]))
        .await?;
    Ok(())
}

async fn execute(engine: &Engine, sql: &str) -> Result<Vec<Outcome>> {
    Ok(engine.execute(sql).await?)
}

/// Waits until the query has committed what it makes of the last record.
async fn caught_up(engine: &Engine, query: &str) -> Result<()> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let catalog = engine.store().catalog().borrow().clone();
        let row = catalog.queries.get(query).context("the query was just made")?;
        let status = engine.query_status(row);
        ensure!(status.state != "failed", "{query} failed: {:?}", status.last_error);
        // Told after each step is committed.
        if status.records as usize > RECORDS {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    bail!("{query} is not done after {PATIENCE:?}")
}

async fn count(engine: &Engine, stream: &str) -> Result<usize> {
    let outcomes = execute(engine, &format!("SELECT COUNT(*) AS n FROM \"{stream}\";")).await?;
    let Some(Outcome::Rows(rows)) = outcomes.into_iter().next() else {
        bail!("a SELECT gives rows");
    };
    let rows = rows.collect().await?;
    let row: serde_json::Value = serde_json::from_str(rows.first().context("COUNT gives one row")?)?;
    Ok(row["n"].as_u64().context("a number")? as usize)
}

/// User and system time of this process, from /proc.
fn cpu_seconds() -> Result<f64> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name, in brackets, may hold spaces.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks: f64 = fields
        .get(11..13)
        .context("utime and stime")?
        .iter()
        .filter_map(|field| field.parse::<f64>().ok())
        .sum();
    Ok(ticks / TICKS_PER_SECOND)
}

#[derive(Deserialize)]
struct Reading<'a> {
    device: &'a str,
    ts: i64,
    temperature: f64,
    humidity: f64,
}

/// Makes the same JSON rows; gives how many.
fn filter(payloads: &[Bytes]) -> Result<usize> {
    let mut out: Vec<String> = Vec::new();
    for payload in payloads {
        let reading: Reading<'_> = serde_json::from_slice(payload)?;
        if reading.temperature > 20.0 {
            let (device, temperature, humidity) = (reading.device, reading.temperature, reading.humidity);
            out.push(format!(
                r#"{{"device":"{device}","temperature":{temperature},"humidity":{humidity}}}"#
            ));
        }
    }
    Ok(std::hint::black_box(out).len())
}

fn window(payloads: &[Bytes]) -> Result<usize> {
    let mut out: Vec<String> = Vec::new();
    let mut open: BTreeMap<i64, std::collections::HashMap<String, (f64, f64, u64)>> = BTreeMap::new();
    let close = |start: i64, devices: std::collections::HashMap<String, (f64, f64, u64)>, out: &mut Vec<String>| {
        for (device, (sum, high, count)) in devices {
            let mean = sum / count as f64;
            out.push(format!(
                r#"{{"device":"{device}","window_start":{start},"mean":{mean},"high":{high}}}"#
            ));
        }
    };
    for payload in payloads {
        let reading: Reading<'_> = serde_json::from_slice(payload)?;
        let start = reading.ts - reading.ts.rem_euclid(WINDOW_MS);
        let devices = open.entry(start).or_default();
        match devices.get_mut(reading.device) {
            Some((sum, high, count)) => {
                (*sum, *high, *count) = (*sum + reading.temperature, high.max(reading.temperature), *count + 1);
            }
            None => {
                let temperature = reading.temperature;
                devices.insert(reading.device.to_owned(), (temperature, temperature, 1));
            }
        }
        while let Some(over) = open.first_entry().filter(|entry| entry.key() + WINDOW_MS <= reading.ts) {
            let (start, devices) = over.remove_entry();
            close(start, devices, &mut out);
        }
    }
    for (start, devices) in open {
        close(start, devices, &mut out);
    }
    Ok(std::hint::black_box(out).len())
}
