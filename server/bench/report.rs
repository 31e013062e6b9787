//! What a run found, for people and for programs.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail};
use clap::ValueEnum;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::limits::LATENCY_US_MAX;
use super::verify::Findings;

/// How the report is printed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Format {
    /// Lines for people.
    Text,
    /// One object.
    Json,
}

/// The moments of this process as times of day.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    instant: Instant,
    unix: Duration,
}

impl Clock {
    /// Reads both clocks; from here on only the one that is never set.
    pub fn new() -> Clock {
        Clock {
            instant: Instant::now(),
            unix: SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default(),
        }
    }

    /// Microseconds since 1970.
    pub fn unix_us(&self, at: Instant) -> u64 {
        let at = match at.checked_duration_since(self.instant) {
            Some(since) => self.unix + since,
            None => self.unix.saturating_sub(self.instant - at),
        };
        at.as_micros() as u64
    }
}

/// Times, in microseconds with three digits (Gil Tene's HDR histogram), shared by all clients.
#[derive(Debug)]
pub struct Latency(Mutex<Histogram<u64>>);

impl Latency {
    /// None yet.
    pub fn new() -> Latency {
        let histogram = Histogram::new_with_max(LATENCY_US_MAX, 3);
        Latency(Mutex::new(
            histogram.expect("an hour with three digits is within what the histogram can do"),
        ))
    }

    /// One more.
    pub fn record(&self, time: Duration) {
        // A histogram has no state between two additions that a panic could leave behind.
        let mut histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        histogram.saturating_record(time.as_micros() as u64);
    }

    /// All of them; None when there are none.
    pub fn summary(&self) -> Option<LatencyUs> {
        let histogram = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (!histogram.is_empty()).then(|| LatencyUs {
            p50: histogram.value_at_quantile(0.5),
            p90: histogram.value_at_quantile(0.9),
            p99: histogram.value_at_quantile(0.99),
            p99_9: histogram.value_at_quantile(0.999),
            max: histogram.max(),
            mean: histogram.mean(),
        })
    }
}

/// Microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct LatencyUs {
    p50: u64,
    p90: u64,
    p99: u64,
    p99_9: u64,
    max: u64,
    mean: f64,
}

/// What was done and found. Members that say nothing for a run are left out.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The broker.
    pub address: String,
    /// 3.1.1 or 5.0
    pub protocol: &'static str,
    /// Publishing clients; subscribing ones in `bench subscribe`.
    pub clients: u32,
    /// 0 or 1.
    pub qos: u8,
    /// From the first message to the last answer.
    pub elapsed_s: f64,
    /// What was published from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<PublishedReport>,
    /// What was received here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered: Option<DeliveredReport>,
    /// What the server's process used (`--pid`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerReport>,
    /// What is not as it must be; empty when the count is exact.
    pub problems: Vec<String>,
}

/// Messages from here to the broker.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct PublishedReport {
    pub inflight: u16,
    pub payload_bytes: usize,
    /// What was asked for; None for a closed loop.
    pub rate: Option<f64>,
    pub sent: u64,
    pub acknowledged: u64,
    pub refused: u64,
    pub messages_per_s: f64,
    /// To PUBACK, from the intended time when there is a rate.
    pub latency_us: Option<LatencyUs>,
    /// What the generator itself costs.
    pub generator_cpu_us_per_message: f64,
}

/// Messages from the broker to here.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct DeliveredReport {
    pub subscribers: u32,
    /// To all of them together; None when nobody said.
    pub expected: Option<u64>,
    pub received: u64,
    pub messages_per_s: f64,
    /// Whether content and order were looked at.
    pub verified: bool,
    pub missing: u64,
    pub duplicates: u64,
    pub out_of_order: u64,
    pub corrupt: u64,
    /// From (intended) sending to delivery.
    pub latency_us: Option<LatencyUs>,
}

/// Seen from outside.
#[derive(Debug, Serialize)]
#[allow(missing_docs)]
pub struct ServerReport {
    pub pid: u32,
    pub cpu_us_per_message: f64,
    /// Bytes that went to disks for each byte of payload.
    pub write_amplification: f64,
}

impl DeliveredReport {
    /// What findings say beside counts.
    pub fn problems(&self, findings: &Findings, problems: &mut Vec<String>) {
        let counts = [
            (self.missing, "missing"),
            (self.duplicates, "duplicate"),
            (self.out_of_order, "out of order"),
            (self.corrupt, "corrupt"),
        ];
        for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
            problems.push(format!(
                "{count} {} {what}",
                if count == 1 { "delivery is" } else { "deliveries are" }
            ));
        }
        problems.extend(findings.examples.iter().cloned());
    }
}

impl Report {
    /// Prints it on standard output; an error when the count is not exact.
    pub fn conclude(&self, format: Format) -> Result<()> {
        match format {
            Format::Json => println!("{}", serde_json::to_string(self)?),
            Format::Text => print!("{}", self.text()),
        }
        match self.problems.as_slice() {
            [] => Ok(()),
            problems => bail!("the count is not exact: {}", problems.join("; ")),
        }
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{} clients of MQTT {} at {}, QoS {}, {:.2} s\n",
            self.clients, self.protocol, self.address, self.qos, self.elapsed_s
        );
        // Writing to a String cannot fail.
        if let Some(it) = &self.published {
            let loop_kind = match it.rate {
                Some(rate) => format!("open loop at {rate:.0}/s"),
                None => "closed loop".into(),
            };
            _ = writeln!(
                text,
                "load          {loop_kind}, {} in flight each, {} bytes each",
                it.inflight, it.payload_bytes
            );
            _ = writeln!(
                text,
                "published     {}, acknowledged {}, refused {}",
                it.sent, it.acknowledged, it.refused
            );
            _ = writeln!(text, "rate          {:.0} messages/s", it.messages_per_s);
            put_latency(&mut text, "latency", it.latency_us);
            _ = writeln!(
                text,
                "generator     {:.2} us of CPU a message",
                it.generator_cpu_us_per_message
            );
        }
        if let Some(it) = &self.delivered {
            let expected = it.expected.map_or(String::new(), |expected| format!(" of {expected}"));
            let verified = if it.verified {
                "content and order checked"
            } else {
                "counted"
            };
            _ = writeln!(
                text,
                "delivered     {}{expected} to {} subscribers, {verified}",
                it.received, it.subscribers
            );
            _ = writeln!(
                text,
                "              missing {}, duplicates {}, out of order {}, corrupt {}",
                it.missing, it.duplicates, it.out_of_order, it.corrupt
            );
            _ = writeln!(text, "rate          {:.0} deliveries/s", it.messages_per_s);
            put_latency(&mut text, "latency", it.latency_us);
        }
        if let Some(it) = &self.server {
            _ = writeln!(
                text,
                "server        {:.2} us of CPU a message, {:.2} bytes written for each byte of payload",
                it.cpu_us_per_message, it.write_amplification
            );
        }
        text
    }
}

fn put_latency(text: &mut String, name: &str, latency: Option<LatencyUs>) {
    if let Some(us) = latency {
        _ = writeln!(
            text,
            "{name:<13} p50 {} us, p90 {} us, p99 {} us, p99.9 {} us, max {} us",
            us.p50, us.p90, us.p99, us.p99_9, us.max
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_times() {
        let latency = Latency::new();
        assert!(latency.summary().is_none());
        for us in 1..=1000 {
            latency.record(Duration::from_micros(us));
        }
        let summary = latency.summary().unwrap();
        assert_eq!(
            (summary.p50, summary.p90, summary.p99, summary.max),
            (500, 900, 990, 1000)
        );
        latency.record(Duration::from_secs(90));
        let max = latency.summary().unwrap().max;
        assert!(
            (90_000_000..90_100_000).contains(&max),
            "three digits of a minute and a half: {max}"
        );
    }

    #[test]
    fn a_clock_counts_forwards_and_backwards() {
        let clock = Clock::new();
        let now = clock.unix_us(clock.instant);
        assert_eq!(clock.unix_us(clock.instant + Duration::from_millis(5)), now + 5000);
        if let Some(before) = clock.instant.checked_sub(Duration::from_millis(5)) {
            assert_eq!(clock.unix_us(before), now - 5000);
        }
    }
}
