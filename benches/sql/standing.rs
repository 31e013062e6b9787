//! What ten thousand standing filters on one stream cost an event, beside one.
//!
//! Each is a query of its own, `WHERE device = … AND temperature > …`, with its own output stream and cursor: ten for each of
//! a thousand devices, which together let one event in ten through. What writing an event costs is in both: of one filter
//! nothing else could be measured.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use headwater_sql::Engine;
use headwater_store::{Batch, Record};

use super::{DEVICES, PATIENCE, cpu_seconds, execute};

const FILTERS: usize = 10_000;
const EVENTS: usize = 200_000;
const EVENTS_PER_BATCH: usize = 500;
/// Statements on their way at once.
const STATEMENTS: usize = 64;

/// Prints the cost of one event.
pub async fn run(engine: &Engine) -> Result<()> {
    let none = cost_us(engine, 0).await?;
    let one = cost_us(engine, 1).await?;
    let many = cost_us(engine, FILTERS).await?;
    println!(
        "standing filters, CPU an event, writing it included: none {none:.2} us, 1: {one:.2} us, {FILTERS}: {many:.2} us, \
         {:.1} times",
        many / one
    );
    Ok(())
}

/// Of one event on a stream with so many filters, in microseconds of CPU.
async fn cost_us(engine: &Engine, filters: usize) -> Result<f64> {
    let stream = format!("events_{filters}");
    execute(engine, &format!("CREATE STREAM {stream};")).await?;
    let began = Instant::now();
    let numbers: Vec<usize> = (0..filters).collect();
    for some in numbers.chunks(STATEMENTS) {
        try_join_all(some.iter().map(|number| create(engine, &stream, *number))).await?;
    }
    while running(engine, &stream)? < filters {
        ensure!(began.elapsed() < PATIENCE, "the filters do not run");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (began, cpu) = (Instant::now(), cpu_seconds()?);
    write(engine, &stream).await?;
    let expected = (0..EVENTS).map(|event| kept(event, filters)).sum::<usize>() as u64;
    while rows(engine, &stream) < expected {
        ensure!(
            began.elapsed() < PATIENCE,
            "{} of {expected} rows",
            rows(engine, &stream)
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Those that let nothing through are done when they have passed it all.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let cost = (cpu_seconds()? - cpu) * 1e6 / EVENTS as f64;
    let found = rows(engine, &stream);
    ensure!(found == expected, "{found} rows, expected {expected}");
    Ok(cost)
}

async fn create(engine: &Engine, stream: &str, number: usize) -> Result<()> {
    let sql = format!(
        "CREATE STREAM {stream}_{number} AS SELECT device, temperature FROM {stream} \
         WHERE device = 'sensor-{:04}' AND temperature > {};",
        number % DEVICES,
        bound(number)
    );
    execute(engine, &sql).await.map(drop)
}

/// Of the filters of a device each one is a little stricter.
fn bound(number: usize) -> f64 {
    98.0 + (number / DEVICES) as f64 / 5.0
}

fn device(event: usize) -> usize {
    event * 7_919 % DEVICES
}

fn temperature(event: usize) -> f64 {
    (event * 31 % 10_007) as f64 / 100.0
}

/// How many filters let the event through.
fn kept(event: usize, filters: usize) -> usize {
    let of_device = (device(event)..filters).step_by(DEVICES);
    of_device.filter(|number| temperature(event) > bound(*number)).count()
}

async fn write(engine: &Engine, stream: &str) -> Result<()> {
    let catalog = engine.store().catalog().borrow().clone();
    let shard = catalog.stream(stream).context("the stream was just made")?.shard(0);
    let record = |event: usize| {
        let (device, temperature) = (device(event), temperature(event));
        Record::new(format!(
            r#"{{"device":"sensor-{device:04}","temperature":{temperature},"humidity":40.5,"site":"plant-{}","seq":{event}}}"#,
            device % 8
        ))
    };
    for begin in (0..EVENTS).step_by(EVENTS_PER_BATCH) {
        let records = (begin..begin + EVENTS_PER_BATCH).map(record).collect();
        engine
            .store()
            .write(Batch::new(shard.group).append(shard, records))
            .await?;
    }
    Ok(())
}

fn running(engine: &Engine, stream: &str) -> Result<usize> {
    let catalog = engine.store().catalog().borrow().clone();
    let input = catalog.stream(stream).context("the stream was just made")?.id;
    let own = catalog.queries.values().filter(|query| query.inputs.contains(&input));
    Ok(own
        .filter(|query| engine.query_status(query).state == "running")
        .count())
}

/// Put out by all filters on the stream.
fn rows(engine: &Engine, stream: &str) -> u64 {
    let catalog = engine.store().catalog().borrow().clone();
    let input = catalog.stream(stream).map(|stream| stream.id);
    let own = catalog
        .queries
        .values()
        .filter(|query| input.is_some_and(|input| query.inputs.contains(&input)));
    own.map(|query| engine.query_status(query).rows).sum()
}
