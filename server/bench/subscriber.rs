//! One subscribing client: counts, times and, where asked to, checks what comes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use headwater_broker::packet::{Ack, Packet, Properties, Publish, Reason};
use tokio::sync::watch;

use super::connection::{Connection, unexpected};
use super::message::Message;
use super::report::{Clock, Latency};
use super::verify::Verifier;

/// Until when a subscriber goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Nobody knows yet.
    Open,
    /// Until so many messages are here, or nothing has come for as long as patience lasts: since the last one, and
    /// before the first one since `since`, where there is one.
    Count { messages: u64, since: Option<Instant> },
    /// Until now.
    Now,
}

/// A subscribed client.
pub struct Subscriber {
    connection: Connection,
    patience: Duration,
    clock: Clock,
    latency: Arc<Latency>,
    verifier: Option<Verifier>,
    received: u64,
    /// Without those that came before or were never sent.
    distinct: u64,
    progress: Option<Instant>,
}

/// What came.
pub struct Received {
    /// PUBLISH packets.
    pub received: u64,
    /// Messages: without duplicates and such.
    pub distinct: u64,
    /// When the last one came.
    pub ended: Option<Instant>,
    /// To ask for the findings.
    pub verifier: Option<Verifier>,
    /// Why it ended early.
    pub problem: Option<String>,
}

impl Subscriber {
    /// From a connection that has its SUBACK.
    pub fn new(
        connection: Connection,
        patience: Duration,
        clock: Clock,
        latency: Arc<Latency>,
        verifier: Option<Verifier>,
    ) -> Subscriber {
        Subscriber {
            connection,
            patience,
            clock,
            latency,
            verifier,
            received: 0,
            distinct: 0,
            progress: None,
        }
    }

    /// Receives until the goal is reached. The goal's sender outlives it.
    pub async fn run(mut self, mut goal: watch::Receiver<Goal>) -> Received {
        let mut problem = None;
        match self.receive(&mut goal).await {
            // All is counted; a broker that does not take the goodbye loses nothing.
            Ok(()) => _ = self.connection.close().await,
            Err(error) => problem = Some(format!("a subscriber: {error:#}")),
        }
        Received {
            received: self.received,
            distinct: self.distinct,
            ended: self.progress,
            verifier: self.verifier,
            problem,
        }
    }

    async fn receive(&mut self, goal: &mut watch::Receiver<Goal>) -> Result<()> {
        let mut barrier = None;
        loop {
            self.take()?;
            let over = match *goal.borrow_and_update() {
                Goal::Open => false,
                Goal::Count { messages, since } => self.distinct >= messages || self.is_over(self.progress.max(since)),
                Goal::Now => true,
            };
            // What the broker still has for us, such as a duplicate, comes before the answer to a ping.
            if over && barrier.is_none() {
                barrier = Some(Instant::now());
                self.connection.ping()?;
            }
            if barrier.is_some() && (self.connection.is_answered() || self.is_over(barrier)) {
                return Ok(());
            }
            let changed = async {
                // An error would mean that the run is gone, and this task with it.
                let _ = goal.changed().await;
            };
            self.connection.turn(changed).await?;
        }
    }

    fn is_over(&self, since: Option<Instant>) -> bool {
        since.is_some_and(|since| since.elapsed() > self.patience)
    }

    fn take(&mut self) -> Result<()> {
        let mut arrived = None;
        while let Some(packet) = self.connection.received()? {
            let Packet::Publish(publish) = packet else {
                return Err(unexpected(packet.packet_type()));
            };
            let now = *arrived.get_or_insert_with(Instant::now);
            self.delivered(&publish, now)?;
        }
        self.progress = arrived.or(self.progress);
        Ok(())
    }

    fn delivered(&mut self, publish: &Publish, now: Instant) -> Result<()> {
        self.received += 1;
        let is_new = match &mut self.verifier {
            Some(verifier) => verifier.check(&publish.topic, &publish.payload),
            None => true,
        };
        self.distinct += u64::from(is_new);
        if let Some((message, _)) = Message::read(&publish.payload) {
            let waited_us = self.clock.unix_us(now).saturating_sub(message.sent_us);
            self.latency.record(Duration::from_micros(waited_us));
        }
        let Some(packet_id) = publish.packet_id else {
            return Ok(());
        };
        self.connection.send(&Packet::PubAck(Ack {
            packet_id,
            reason: Reason::SUCCESS,
            properties: Properties::default(),
        }))
    }
}
