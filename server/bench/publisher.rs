//! One publishing client: fills its window, matches what comes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use headwater_broker::packet::{Ack, Packet, PublishParts, Reason};
use headwater_store::Qos;
use tokio::sync::Notify;

use super::connection::{Connection, unexpected};
use super::message::{Filler, Message};
use super::pace::{Next, Schedule};
use super::report::{Clock, Latency};
use super::topic::Template;
use super::window::Window;

/// What all clients of a run have in common.
pub struct Load {
    /// Names this run in its payloads.
    pub run: u32,
    /// Where to.
    pub template: Template,
    /// What payloads are filled up with.
    pub filler: Arc<Filler>,
    /// Each payload's size.
    pub payload_bytes: usize,
    /// 0 or 1.
    pub qos: Qos,
    /// How long nothing may happen while something is awaited.
    pub patience: Duration,
    /// Turns moments into the payload's time.
    pub clock: Clock,
    /// From (intended) sending to PUBACK.
    pub latency: Latency,
}

/// A connected client that has not begun.
pub struct Publisher {
    connection: Connection,
    load: Arc<Load>,
    client: u32,
    window: Window,
    published: Published,
    progress: Instant,
    topic: String,
    payload: Vec<u8>,
}

/// How it went.
#[derive(Debug, Default, Clone)]
pub struct Published {
    /// PUBLISH packets.
    pub sent: u64,
    /// PUBACKs that say success (QoS 1).
    pub acknowledged: u64,
    /// PUBACKs that say otherwise (5.0).
    pub refused: u64,
    /// Why, of the first one.
    pub reason: Option<Reason>,
    /// When the last acknowledgement came, or for QoS 0 the last PINGRESP.
    pub ended: Option<Instant>,
    /// Why it ended early.
    pub problem: Option<String>,
}

/// What a client waits for.
enum Idle {
    /// The socket.
    Socket,
    /// Its next message's time, or the socket.
    Time,
    /// The last answers.
    Answers,
}

impl Publisher {
    /// `inflight` is cut to what the broker takes.
    pub fn new(connection: Connection, load: Arc<Load>, client: u32, inflight: u16) -> Publisher {
        Publisher {
            window: Window::new(inflight.min(connection.inflight_max())),
            connection,
            load,
            client,
            published: Published::default(),
            progress: Instant::now(),
            topic: String::new(),
            payload: Vec::new(),
        }
    }

    /// Publishes until the schedule ends and every answer is there. `due` wakes it in an open loop.
    pub async fn run(mut self, schedule: Schedule, due: Arc<Notify>) -> Published {
        match self.publish(&schedule, &due).await {
            Ok(()) => {
                self.published.ended = Some(self.progress);
                // The count is complete; a broker that does not take the goodbye loses nothing.
                let _ = self.connection.close().await;
            }
            Err(error) => self.published.problem = Some(format!("client {}: {error:#}", self.client)),
        }
        self.published
    }

    async fn publish(&mut self, schedule: &Schedule, due: &Notify) -> Result<()> {
        self.progress = Instant::now();
        self.load
            .template
            .render(self.client, schedule.number(0), &mut self.topic);
        let mut barrier = false;
        loop {
            let now = Instant::now();
            let idle = self.fill(schedule, now)?;
            if let Idle::Answers = idle {
                // For QoS 0 the only answer there is; for QoS 1 it costs nothing and finds acknowledgements too many.
                if self.window.unacknowledged() == 0 && !barrier {
                    barrier = true;
                    self.connection.ping()?;
                }
                if barrier && self.connection.is_answered() {
                    if self.load.qos == Qos::AtMostOnce {
                        self.progress = now;
                    }
                    return Ok(());
                }
            }
            if self.load.qos == Qos::AtMostOnce {
                // That the socket takes what it is given is all the progress there is to see.
                self.progress = self.progress.max(self.connection.wrote());
            }
            ensure!(
                matches!(idle, Idle::Time) || now - self.progress < self.load.patience,
                "nothing came for {:?}, {} acknowledgements are missing",
                self.load.patience,
                self.window.unacknowledged()
            );
            match idle {
                Idle::Time => self.connection.turn(due.notified()).await?,
                _ => self.connection.turn(std::future::pending()).await?,
            }
            self.take()?;
        }
    }

    /// Makes packets as far as schedule, window and buffer allow.
    fn fill(&mut self, schedule: &Schedule, now: Instant) -> Result<Idle> {
        loop {
            let intended = match schedule.next(self.published.sent, now) {
                Next::End => return Ok(Idle::Answers),
                Next::Wait if self.window.unacknowledged() == 0 => {
                    self.progress = now;
                    return Ok(Idle::Time);
                }
                Next::Wait => return Ok(Idle::Time),
                Next::Send(intended) => intended,
            };
            if !self.connection.has_room() || !self.window.has_room() {
                return Ok(Idle::Socket);
            }
            self.put(schedule, intended)?;
        }
    }

    fn put(&mut self, schedule: &Schedule, intended: Instant) -> Result<()> {
        let (load, seq) = (&self.load, self.published.sent);
        if !load.template.is_fixed() {
            load.template.render(self.client, schedule.number(seq), &mut self.topic);
        }
        let message = Message {
            run: load.run,
            client: self.client,
            seq,
            sent_us: load.clock.unix_us(intended),
        };
        self.payload.clear();
        message.put(&load.filler, load.payload_bytes, &mut self.payload);
        let parts = PublishParts {
            version: self.connection.version(),
            dup: false,
            qos: load.qos,
            retain: false,
            topic: &self.topic,
            packet_id: (load.qos != Qos::AtMostOnce).then(|| self.window.send(intended)),
            properties: [&[], &[]],
            payload: &self.payload,
        };
        parts.put(self.connection.output())?;
        self.published.sent += 1;
        Ok(())
    }

    /// Matches what has arrived.
    fn take(&mut self) -> Result<()> {
        let mut arrived = None;
        while let Some(packet) = self.connection.received()? {
            let Packet::PubAck(ack) = packet else {
                return Err(unexpected(packet.packet_type()));
            };
            let now = *arrived.get_or_insert_with(Instant::now);
            self.acknowledged(&ack, now)?;
        }
        self.progress = arrived.unwrap_or(self.progress);
        Ok(())
    }

    fn acknowledged(&mut self, ack: &Ack, now: Instant) -> Result<()> {
        let Some(sent) = self.window.acknowledge(ack.packet_id) else {
            bail!(
                "the broker acknowledged packet id {}, which is not under way: twice, or never sent",
                ack.packet_id.get()
            );
        };
        self.load.latency.record(now.saturating_duration_since(sent));
        if ack.reason.is_error() {
            self.published.refused += 1;
            self.published.reason.get_or_insert(ack.reason);
        } else {
            self.published.acknowledged += 1;
        }
        Ok(())
    }
}
