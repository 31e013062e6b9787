//! The way out: one publisher to many subscribers at QoS 0, as fast as it goes, and how long a message is under way at 5 000
//! a second, QoS 0 and 1. The target is measured beside mosquitto and rumqttd, which write nothing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::brokers::{Broker, Kind};
use super::disk::Raw;
use super::{HEADWATER, ROUNDS};

const PEERS: [Kind; 3] = [Kind::Headwater, Kind::Mosquitto, Kind::Rumqttd];
/// Subscribers, and messages: some seconds of work for the fastest. It is the rate that is compared, so mosquitto, which would
/// be at it for a minute, gets a tenth.
const FAN_OUT: [(u32, u64); 2] = [(100, 100_000), (1000, 10_000)];
const MOSQUITTO_PART: u64 = 10;
const FAN_OUT_PAYLOAD_BYTES: &str = "96";
const LATENCY_RATE: &str = "5000";
const LATENCY_DURATION: &str = "10s";

/// Runs both, interleaved, and prints the tables.
pub fn measure(folder: &Path) -> Result<()> {
    let mut started = Vec::new();
    for kind in PEERS {
        match Broker::start(kind, folder, false) {
            Ok(broker) => started.push(broker),
            Err(reason) => println!("- {}: MISSING: {reason:#}", kind.name()),
        }
    }
    println!(
        "| subscribers, QoS 0 | broker | deliveries/s | missing of all | server CPU us a delivery |\n|---|---|---|---|---|"
    );
    for (subscribers, messages) in FAN_OUT {
        let messages = |broker: &Broker| match broker.kind {
            Kind::Mosquitto => messages / MOSQUITTO_PART,
            _ => messages,
        };
        for (broker, mut runs) in runs(&started, |broker| fan_out(broker, subscribers, messages(broker))) {
            runs.sort_by(|a, b| {
                number(a, "/delivered/messages_per_s").total_cmp(&number(b, "/delivered/messages_per_s"))
            });
            println!(
                "{}",
                fan_out_row(broker, subscribers, messages(broker), runs.get(runs.len() / 2))
            );
        }
    }
    println!(
        "\n| 5 000 messages/s, to one subscriber | broker | p50 us | p99 us | raw 4 KiB p50 us |\n|---|---|---|---|---|"
    );
    for qos in ["0", "1"] {
        let raw = Raw::measure(folder)?.small.p50_us;
        for (broker, mut runs) in runs(&started, |broker| latency(broker, qos)) {
            runs.sort_by(|a, b| {
                number(a, "/delivered/latency_us/p50").total_cmp(&number(b, "/delivered/latency_us/p50"))
            });
            let of = |pointer: &str| runs.get(runs.len() / 2).map_or(f64::NAN, |run| number(run, pointer));
            println!(
                "| QoS {qos} | {} | {:.0} | {:.0} | {raw:.0} |",
                broker.name(),
                of("/delivered/latency_us/p50"),
                of("/delivered/latency_us/p99"),
            );
        }
    }
    Ok(())
}

/// Each broker's runs, in turn.
fn runs(started: &[Broker], run: impl Fn(&Broker) -> Result<Value>) -> Vec<(&Broker, Vec<Value>)> {
    let mut all: Vec<(&Broker, Vec<Value>)> = started.iter().map(|broker| (broker, Vec::new())).collect();
    for _ in 0..ROUNDS {
        for (broker, runs) in &mut all {
            match run(broker) {
                Ok(report) => runs.push(report),
                Err(error) => eprintln!("{}: {error:#}", broker.name()),
            }
        }
    }
    all
}

fn fan_out(broker: &Broker, subscribers: u32, messages: u64) -> Result<Value> {
    // What a subscriber has no room for is dropped at QoS 0, by every broker, so what is missing is told, not refused.
    load(
        broker,
        &[
            "--qos",
            "0",
            "--subscribers",
            &subscribers.to_string(),
            "--count",
            &messages.to_string(),
            "--size",
            FAN_OUT_PAYLOAD_BYTES,
            "--patience",
            "2s",
        ],
    )
}

fn latency(broker: &Broker, qos: &str) -> Result<Value> {
    load(
        broker,
        &[
            "--qos",
            qos,
            "--subscribers",
            "1",
            "--rate",
            LATENCY_RATE,
            "--duration",
            LATENCY_DURATION,
            "--inflight",
            "100",
        ],
    )
}

/// The report, which is printed also where the count is not exact.
fn load(broker: &Broker, arguments: &[&str]) -> Result<Value> {
    let output = Command::new(HEADWATER)
        .args([
            "bench",
            "publish",
            "--output",
            "json",
            "--url",
            &format!("mqtt://{}", broker.address),
        ])
        .args(["--pid", &broker.pid().to_string()])
        .args(arguments)
        .output()?;
    serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

fn fan_out_row(broker: &Broker, subscribers: u32, messages: u64, run: Option<&Value>) -> String {
    let Some(run) = run else {
        return format!("| 1 to {subscribers} | {} | failed |", broker.name());
    };
    let expected = messages as f64 * f64::from(subscribers);
    format!(
        "| 1 to {subscribers} | {} | {:.0} | {:.2} % | {:.2} |",
        broker.name(),
        number(run, "/delivered/messages_per_s"),
        100.0 * number(run, "/delivered/missing") / expected,
        number(run, "/server/cpu_us_per_message") / f64::from(subscribers),
    )
}

fn number(run: &Value, pointer: &str) -> f64 {
    run.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN)
}
