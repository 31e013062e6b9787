//! The publish path from socket to disk, beside what this disk can do, and beside other brokers.
//!
//! `./x bench publish` runs Headwater, `./x bench peers` every broker that is installed, interleaved case by case;
//! `./x bench flow` measures the way out (`flow`). Each
//! broker is a process of its own with a data folder in the target folder (a real disk, not a tmpfs) and a loopback
//! port; the load is `headwater bench publish`, so every acknowledgement is counted. Beside each case the disk is measured
//! by itself: speeds drift, ratios last; and the same load goes to a server that does nothing but answer (`nothing`), which
//! is what this machine leaves to any broker. What is printed are the tables of `docs/performance.md`.

mod brokers;
mod disk;
mod flow;
mod machine;
mod nothing;
mod process;
mod session;

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use brokers::{Broker, KINDS, Kind};
use disk::Raw;

/// The program that is measured, and that measures.
const HEADWATER: &str = env!("CARGO_BIN_EXE_headwater");
const CASES: [Case; 7] = [
    Case::tcp(1, 1),
    Case::tcp(1, 64),
    Case::tcp(16, 16),
    Case::tcp(100, 10),
    Case::tcp(100, 64),
    Case::tcp(256, 1),
    // The same without what TCP takes from two cores on both sides.
    Case {
        unix: true,
        ..Case::tcp(256, 1)
    },
];
/// Of so many runs of a case the one with the median rate is told.
const ROUNDS: usize = 3;
const CASE_DURATION: &str = "5s";
const WARM_UP: &str = "2s";
const PAYLOAD_BYTES: &str = "256";

#[derive(Debug, Clone, Copy)]
struct Case {
    clients: u32,
    /// Messages that each client has under way.
    inflight: u32,
    /// Over a Unix socket and not TCP.
    unix: bool,
}

impl Case {
    const fn tcp(clients: u32, inflight: u32) -> Case {
        Case {
            clients,
            inflight,
            unix: false,
        }
    }

    /// Where the load goes. None: the broker has no such door.
    fn url(self, broker: &Broker) -> Option<String> {
        match self.unix {
            true => broker.socket.as_ref().map(|path| format!("unix://{}", path.display())),
            false => Some(format!("mqtt://{}", broker.address)),
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.unix { ", Unix socket" } else { "" };
        write!(f, "{} x {}{way}", self.clients, self.inflight)
    }
}

/// One run of one case.
struct Run {
    report: Value,
    raw: Raw,
}

fn main() -> Result<()> {
    // `cargo bench` adds `--bench` of its own.
    let arguments: Vec<_> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => measure(&[Kind::Headwater, Kind::Nothing]),
        ["peers"] => measure(&KINDS),
        ["flow"] => {
            let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
            println!("{}\n", machine::describe(folder.path())?);
            flow::measure(folder.path())
        }
        [nothing::NOTHING, port, socket] => nothing::serve(port.parse()?, socket),
        [brokers::RUMQTTD, port, _] => brokers::serve_rumqttd(port.parse()?),
        _ => bail!("say nothing, `peers` or `flow`"),
    }
}

fn measure(kinds: &[Kind]) -> Result<()> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    println!("{}\n", machine::describe(folder.path())?);
    println!(
        "sequential write: {:.0} MB/s\n",
        disk::sequential_mb_per_s(folder.path())?
    );
    let mut started = Vec::new();
    for kind in kinds {
        match Broker::start(*kind, folder.path(), true) {
            Ok(broker) => {
                println!("- {}: {}", broker.name(), broker.note);
                started.push(broker);
            }
            Err(reason) => println!("- {}: MISSING: {reason:#}", kind.name()),
        }
    }
    ensure!(!started.is_empty(), "no broker could be started");
    for broker in &started {
        load(broker, Case::tcp(16, 16), WARM_UP).with_context(|| format!("{}: the warm-up failed", broker.name()))?;
    }
    println!("\n{HEAD}");
    for case in CASES {
        let mut runs: Vec<Vec<Run>> = started.iter().map(|_| Vec::new()).collect();
        for _ in 0..ROUNDS {
            for (broker, runs) in started.iter().zip(&mut runs) {
                runs.extend(one(broker, case, folder.path())?);
            }
        }
        for (broker, runs) in started.iter().zip(runs) {
            if case.url(broker).is_none() {
                continue;
            }
            println!("{}", row(broker, case, runs));
        }
    }
    println!("\n{}", machine::load_average()?);
    Ok(())
}

/// None when the broker has no such door, or failed the count; why is said where it happened.
fn one(broker: &Broker, case: Case, folder: &Path) -> Result<Option<Run>> {
    if case.url(broker).is_none() {
        return Ok(None);
    }
    let raw = Raw::measure(folder)?;
    match load(broker, case, CASE_DURATION) {
        Ok(report) => Ok(Some(Run { report, raw })),
        Err(error) => {
            eprintln!("{} {case}: {error:#}", broker.name());
            Ok(None)
        }
    }
}

/// One run of the load generator; its report.
fn load(broker: &Broker, case: Case, duration: &str) -> Result<Value> {
    let output = Command::new(HEADWATER)
        .args(["bench", "publish", "--qos", "1", "--output", "json"])
        .args(["--url", &case.url(broker).context("it has no such door")?])
        .args(["--clients", &case.clients.to_string()])
        .args(["--inflight", &case.inflight.to_string()])
        .args(["--size", PAYLOAD_BYTES, "--duration", duration])
        .args(["--pid", &broker.pid().to_string()])
        .output()?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(serde_json::from_slice(&output.stdout)?)
}

const HEAD: &str = "\
| clients x in flight | broker | messages/s | p50 us | p99 us | rate / raw 4 KiB | p50 / raw 4 KiB | MB/s / raw 256 KiB | server CPU us | written / payload | generator CPU us | raw p50 us |
|---|---|---|---|---|---|---|---|---|---|---|---|";

fn row(broker: &Broker, case: Case, mut runs: Vec<Run>) -> String {
    let rate = |run: &Run| run.report["published"]["messages_per_s"].as_f64().unwrap_or(0.0);
    runs.sort_by(|a, b| rate(a).total_cmp(&rate(b)));
    let Some(run) = runs.get(runs.len() / 2) else {
        return format!("| {case} | {} | failed |", broker.name());
    };
    let number = |pointer: &str| run.report.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN);
    let (p50, p99) = (number("/published/latency_us/p50"), number("/published/latency_us/p99"));
    let mb_per_s = rate(run) * number("/published/payload_bytes") / 1e6;
    format!(
        "| {case} | {} | {:.0} | {p50:.0} | {p99:.0} | {:.2} | {:.2} | {:.2} | {:.1} | {:.2} | {:.1} | {:.0} |",
        broker.name(),
        rate(run),
        rate(run) / run.raw.small.per_s,
        p50 / run.raw.small.p50_us,
        mb_per_s / (run.raw.large.per_s * run.raw.large.bytes as f64 / 1e6),
        number("/server/cpu_us_per_message"),
        number("/server/write_amplification"),
        number("/published/generator_cpu_us_per_message"),
        run.raw.small.p50_us,
    )
}
