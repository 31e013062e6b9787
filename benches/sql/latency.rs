//! From a PUBLISH to the subscriber of a query's result: broker, log, query, log and broker again, one thousand messages a
//! second, QoS 1 in and QoS 0 out. Each message counts from the time at which it was to be sent.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use headwater_broker::Broker;
use headwater_config::Config;
use headwater_sql::Engine;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, Packet, QoS};

use super::execute;

const MESSAGES_PER_SECOND: u64 = 1_000;
const MESSAGES: u64 = 10_000;
/// The first ones warm up.
const SKIPPED: u64 = 1_000;
const PATIENCE: Duration = Duration::from_secs(30);

/// Prints p50 and p99.
pub async fn run(engine: &Engine) -> Result<()> {
    execute(engine, "CREATE STREAM plant FROM TOPIC 'plant/{device}';").await?;
    execute(
        engine,
        "CREATE STREAM hot WITH (TOPIC = 'hot/{device}', QOS = 0) AS SELECT device, sent FROM plant WHERE temp > 20;",
    )
    .await?;
    let mut config = Config::embedded()?;
    config.broker.mqtt_listen = ([127, 0, 0, 1], 0).into();
    let broker = Broker::start(engine.store().clone(), &config.broker).await?;
    let port = broker.local_addr().port();
    let (subscriber, mut results) = client("subscriber", port);
    subscriber.subscribe("hot/#", QoS::AtMostOnce).await?;
    while !matches!(results.poll().await?, Event::Incoming(Packet::SubAck(_))) {}
    let (publisher, mut events) = client("publisher", port);
    let acknowledged = tokio::spawn(async move { while events.poll().await.is_ok() {} });
    let begin = Instant::now();
    let sending = tokio::spawn(publish(publisher, begin));
    let mut latency = Histogram::<u64>::new(3)?;
    for _ in 0..MESSAGES {
        let (number, now) = tokio::time::timeout(PATIENCE, next(&mut results))
            .await
            .context("a result is missing")??;
        if number >= SKIPPED {
            latency.record((now - due(begin, number)).as_micros() as u64)?;
        }
    }
    sending.await??;
    acknowledged.abort();
    broker.stop().await;
    println!(
        "PUBLISH to result at a subscriber, {MESSAGES_PER_SECOND} messages/s: p50 {} us, p99 {} us, most {} us",
        latency.value_at_quantile(0.5),
        latency.value_at_quantile(0.99),
        latency.max()
    );
    Ok(())
}

fn client(name: &str, port: u16) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(name, "127.0.0.1", port);
    options.set_inflight(1_000);
    AsyncClient::new(options, 1_000)
}

/// When a message is to be sent.
fn due(begin: Instant, number: u64) -> Instant {
    begin + Duration::from_micros(number * 1_000_000 / MESSAGES_PER_SECOND)
}

async fn publish(publisher: AsyncClient, begin: Instant) -> Result<()> {
    for number in 0..MESSAGES {
        tokio::time::sleep_until(due(begin, number).into()).await;
        let payload = format!(r#"{{"temp":21.5,"sent":{number}}}"#);
        publisher
            .publish(format!("plant/d{}", number % 100), QoS::AtLeastOnce, false, payload)
            .await?;
    }
    Ok(())
}

/// The number of the message that the next result is of, and when it came.
async fn next(results: &mut EventLoop) -> Result<(u64, Instant)> {
    loop {
        if let Event::Incoming(Packet::Publish(result)) = results.poll().await? {
            let now = Instant::now();
            let row: serde_json::Value = serde_json::from_slice(&result.payload)?;
            let Some(number) = row["sent"].as_u64() else {
                bail!("no number in {row}");
            };
            return Ok((number, now));
        }
    }
}
