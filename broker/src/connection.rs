//! One task per client: bytes to packets, packets to the session, its actions to the rest; and everything for the
//! client back into one write.
//!
//! The task is a state machine that is polled: each wake-up first collects what is ready (outcomes of published
//! messages, deliveries, retained messages) into one buffer, writes it with one system call, then reads a large piece
//! and takes it as far as it goes. Nothing it waits for can hold the other sides up: while the log asks for patience
//! the client is not read from, but its deliveries and acknowledgements go on.

mod finish;
mod handshake;
mod pages;
mod progress;
mod shares;
mod streams;

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::catch_up;
use crate::clients::Client;
use crate::cursor::Cursor;
use crate::error::End;
use crate::limits::{
    DELIVERIES_KEPT, DELIVERIES_PER_TURN_MAX, READ_BYTES_MAX, READ_BYTES_MIN, RETAINED_SCANS_MAX, TAKEOVER_READS_MAX,
    WRITE_BYTES_HIGH,
};
use crate::listener::Shared;
use crate::outbox::Delivery;
use crate::packet::{Decoder, Packet, Reason};
use crate::pipeline::{Answer, Lost, Outcome, Pipeline};
use crate::publish::Origin;
use crate::replay::Start;
use crate::retained::Scan;
use crate::session::{Action, Delivered, Output, Session, Subscribed, Subscription};
use crate::sessions::Held;
use crate::subscriptions::Subscriber;
use crate::transport::Stream;

use pages::Pages;
use progress::Progress;
use shares::Joins;
use streams::Streams;

pub use handshake::run;

/// A client that has been let in.
struct Connection {
    shared: Arc<Shared>,
    client: Arc<Client>,
    stream: Stream,
    decoder: Decoder,
    session: Session,
    pipeline: Pipeline,
    input: BytesMut,
    /// Free space for the next read.
    read_bytes: usize,
    output: Output,
    /// Taken from the outbox or read, not yet made into packets.
    deliveries: VecDeque<Delivery>,
    /// What is still to be read for the client.
    pages: Pages,
    progress: Progress,
    /// Shares that are being joined or left, in order.
    joins: Joins,
    streams: Streams,
    /// Some if the session has rows.
    held: Option<Arc<Held>>,
    keep_alive: Option<Pin<Box<Sleep>>>,
    last_packet: Instant,
    /// Reused from turn to turn.
    actions: Vec<Action>,
    outcomes: Vec<(Option<Answer>, Outcome)>,
}

/// Whether a step did something, or why the connection ends.
type Step = Result<bool, End>;

impl Connection {
    fn new(
        shared: Arc<Shared>,
        client: Arc<Client>,
        stream: Stream,
        decoder: Decoder,
        session: Session,
        input: BytesMut,
    ) -> Connection {
        let origin = Origin {
            client_id: client.client_id.clone(),
            username: client.username.clone(),
        };
        let now = Instant::now();
        let cursor = |group| Cursor::new(group, shared.store.applied(group).next());
        Connection {
            progress: Progress::new(shared.store.data_groups().map(cursor).collect()),
            held: None,
            pipeline: Pipeline::new(shared.publisher.clone(), origin, shared.subscriptions.clone()),
            keep_alive: session.keep_alive().map(|limit| Box::pin(sleep_until(now + limit))),
            shared,
            client,
            stream,
            decoder,
            session,
            input,
            read_bytes: READ_BYTES_MIN,
            output: Output::default(),
            deliveries: VecDeque::new(),
            pages: Pages::default(),
            joins: Joins::default(),
            streams: Streams::default(),
            last_packet: now,
            actions: Vec::new(),
            outcomes: Vec::new(),
        }
    }

    /// Serves the client until one side ends it.
    async fn serve(&mut self) -> End {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        match self.poll_steps(context) {
            Ok(()) => Poll::Pending,
            Err(end) if end.is_takeover() => Poll::Ready(self.hear_out(context).unwrap_or(end)),
            Err(end) => Poll::Ready(end),
        }
    }

    /// Another connection has the client id. What this one's client had sent before that counts, whoever of the two the server
    /// gets to first: what it acknowledged does not come again, and its will is not said if it said goodbye, as a client has
    /// that comes back at once.
    fn hear_out(&mut self, context: &mut Context<'_>) -> Option<End> {
        for _ in 0..TAKEOVER_READS_MAX {
            match self.poll_read(context) {
                Ok(true) => {}
                Err(goodbye @ End::Client { .. }) => return Some(goodbye),
                Ok(false) | Err(_) => return None,
            }
        }
        None
    }

    fn poll_steps(&mut self, context: &mut Context<'_>) -> Result<(), End> {
        loop {
            let mut moved = self.poll_pipeline(context)?;
            moved |= self.poll_pages(context);
            moved |= self.poll_streams(context);
            moved |= self.poll_outbox(context)?;
            moved |= self.poll_joins(context)?;
            moved |= self.poll_progress(context)?;
            moved |= self.poll_write(context)?;
            moved |= self.poll_read(context)?;
            if !moved {
                self.rest();
                return self.poll_keep_alive(context);
            }
        }
    }

    /// There is nothing to do: buffers that are empty are given back, because most connections are idle most of the time. One
    /// that is not makes them again, once for each wake-up.
    fn rest(&mut self) {
        if self.output.ready.is_empty() {
            self.output.ready = BytesMut::new();
        }
        if self.deliveries.is_empty() && self.deliveries.capacity() > DELIVERIES_KEPT {
            self.deliveries = VecDeque::new();
        }
        self.pages.rest();
        (self.actions, self.outcomes) = (Vec::new(), Vec::new());
    }

    /// Outcomes of published messages become PUBACKs, PUBRECs and PUBCOMPs.
    fn poll_pipeline(&mut self, context: &mut Context<'_>) -> Step {
        let moved = self.pipeline.poll(context, &mut self.outcomes);
        let (mut acknowledged, mut refused) = (0, 0);
        for (answer, outcome) in self.outcomes.drain(..) {
            match (&outcome, answer) {
                (Ok(()), Some(Answer::Ack(_) | Answer::Rec(_))) => acknowledged += 1,
                (Ok(()), _) => {}
                (Err(error), _) => {
                    refused += 1;
                    tracing::debug!(client_id = %self.client.client_id, %error, "message not published");
                }
            }
            if let Some(answer) = answer {
                self.session.acknowledge(answer, &outcome, &mut self.output.ready)?;
            }
        }
        if let Some(lost) = self.pipeline.take_lost() {
            let Lost { messages, error } = lost;
            self.shared.metrics.acknowledged_lost.increment(messages);
            tracing::error!(client_id = %self.client.client_id, messages, %error, "acknowledged from memory, and then not committed");
        }
        if acknowledged > 0 {
            self.shared.metrics.acknowledged_messages.increment(acknowledged);
        }
        if refused > 0 {
            self.shared.metrics.refused_messages.increment(refused);
        }
        Ok(moved)
    }

    /// Deliveries become PUBLISH packets, as far as the client's window and the write buffer go.
    fn poll_outbox(&mut self, context: &mut Context<'_>) -> Step {
        let room = match self.output.len() < WRITE_BYTES_HIGH && !self.pages.hold_back() {
            true => DELIVERIES_PER_TURN_MAX.saturating_sub(self.deliveries.len()),
            false => 0,
        };
        let taken = match self.client.outbox.poll_take(context, &mut self.deliveries, room) {
            Poll::Ready(Err(end)) => return Err(end),
            Poll::Ready(Ok(())) => true,
            Poll::Pending => false,
        };
        let moved = self.send_deliveries() | taken;
        if !moved && self.deliveries.is_empty() {
            return Ok(self.read_fallen());
        }
        Ok(moved)
    }

    fn send_deliveries(&mut self) -> bool {
        if self.deliveries.is_empty() {
            return false;
        }
        let (mut sent, mut expired, mut oversize) = (0, 0, 0);
        let now = self.shared.store.now();
        while self.output.len() < WRITE_BYTES_HIGH {
            let Some(delivery) = self.deliveries.front() else { break };
            let delivered = self.session.deliver(delivery, now, &mut self.output);
            match delivered {
                Delivered::WindowFull => break,
                Delivered::Sent => sent += 1,
                Delivered::Expired => expired += 1,
                Delivered::Oversize => oversize += 1,
            }
            match (&delivery.giver, &delivery.message.at) {
                (None, Some(at)) => self.progress.take(at),
                (None, None) => self.progress.moved(),
                (Some(giver), Some(at)) => {
                    giver.delivered(at, self.client.connection, delivered, delivery.qos);
                    if giver.is_replay() {
                        self.progress.moved();
                    }
                }
                (Some(_), None) => {}
            }
            self.deliveries.pop_front();
        }
        let metrics = &self.shared.metrics;
        for (counter, count) in [
            (&metrics.delivered_messages, sent),
            (&metrics.expired_messages, expired),
            (&metrics.oversize_messages, oversize),
        ] {
            if count > 0 {
                counter.increment(count);
            }
        }
        sent + expired + oversize > 0
    }

    /// Saves what has to be, or is due.
    fn poll_progress(&mut self, context: &mut Context<'_>) -> Step {
        let (dispatched, outbox) = (&self.shared.dispatched, &self.client.outbox);
        let idle = self.deliveries.is_empty() && self.pages.is_idle();
        let advance = |cursors: &mut [Cursor]| idle && catch_up::advance(cursors, dispatched, outbox);
        let Output { ready, saved } = &mut self.output;
        // A SUBACK waits for the share that it speaks of.
        if !self.joins.is_empty() {
            return Ok(false);
        }
        let streams = || self.streams.moved_rows(&self.client.client_id);
        self.progress
            .poll(context, &self.session, saved, ready, advance, streams)
    }

    /// One write for everything that came together.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Step {
        let mut moved = false;
        while !self.output.ready.is_empty() {
            match self.stream.poll_write(context, &self.output.ready) {
                Poll::Ready(Ok(0) | Err(_)) => return Err(End::Lost),
                Poll::Ready(Ok(written)) => {
                    self.output.ready.advance(written);
                    self.shared.metrics.sent_bytes.increment(written as u64);
                    moved = true;
                }
                Poll::Pending => return Ok(moved),
            }
        }
        if let Poll::Ready(Err(_)) = self.stream.poll_flush(context) {
            return Err(End::Lost);
        }
        Ok(moved)
    }

    /// False while something else has to move first: the log, the socket's other direction, an older client's window.
    /// Never for retained messages: what they wait for, free packet ids, comes with the packets that are read.
    fn may_read(&self) -> bool {
        !self.pipeline.is_busy()
            && self.output.len() < WRITE_BYTES_HIGH
            && self.session.may_receive()
            && self.progress.has_room()
            && self.joins.has_room()
            && self.streams.has_room()
    }

    /// Takes the packets that are there, then reads once more.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Step {
        let mut moved = self.take_packets()?;
        if !self.may_read() {
            return Ok(moved);
        }
        match self.stream.poll_read(context, &mut self.input, self.read_bytes) {
            Poll::Pending => {
                if self.input.is_empty() {
                    self.input = BytesMut::new();
                }
                return Ok(moved);
            }
            Poll::Ready(Ok(0) | Err(_)) => return Err(End::Lost),
            Poll::Ready(Ok(read)) => {
                self.shared.metrics.received_bytes.increment(read as u64);
                self.read_bytes = match read {
                    _ if self.input.len() == self.input.capacity() => (self.read_bytes * 2).min(READ_BYTES_MAX),
                    _ if read < self.read_bytes / 4 => (self.read_bytes / 2).max(READ_BYTES_MIN),
                    _ => self.read_bytes,
                };
                moved = true;
            }
        }
        Ok(self.take_packets()? | moved)
    }

    /// Decodes and carries out all packets in the buffer, and closes the chunk that their messages make.
    fn take_packets(&mut self) -> Step {
        let (mut taken, mut messages) = (0u64, 0);
        let ended = loop {
            if !self.may_read() {
                break None;
            }
            match self.decoder.decode(&mut self.input) {
                Ok(Some(packet)) => {
                    taken += 1;
                    if matches!(packet, Packet::PubAck(_) | Packet::PubRec(_) | Packet::PubComp(_)) {
                        self.progress.moved();
                    }
                    if let Err(end) = self.session.receive(packet, &mut self.actions) {
                        break Some(end);
                    }
                    messages += self.act();
                }
                Ok(None) => break None,
                Err(error) => break Some(End::server(error.reason(), error.to_string())),
            }
        };
        // What came before the packet that ended it still counts.
        messages += self.act();
        self.pipeline.seal();
        if messages > 0 {
            self.shared.metrics.received_messages.increment(messages);
        }
        if let Some(end) = ended {
            return Err(end);
        }
        if taken > 0 {
            self.last_packet = Instant::now();
        }
        Ok(taken > 0)
    }

    /// Carries out what the session asks for; returns how many messages were among it.
    fn act(&mut self) -> u64 {
        let mut messages = 0;
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                Action::Publish { message, answer } => {
                    messages += 1;
                    self.shared.metrics.tally(self.pipeline.push(message, answer));
                }
                Action::Refuse { answer, error } => {
                    messages += 1;
                    self.pipeline.refuse(answer, error);
                }
                Action::Release(packet_id) => self.pipeline.release(packet_id),
                Action::Subscribe(subscription) => self.subscribe(subscription),
                Action::Consume(subscription, starts) => self.consume(subscription, starts),
                Action::Unsubscribe(subscription) => self.unsubscribe(&subscription),
                Action::Acknowledged(giver, at) => giver.acknowledge(&at, self.client.connection),
                Action::Rejected(giver, at) => giver.reject(&at, self.client.connection),
                Action::Replay(replay) => {
                    self.shared.events.subscribed(&self.client, &replay.text, replay.qos);
                    match self.session.is_durable() && !replay.view {
                        true => self.replay_durably(replay),
                        false => self.streams.follow(&self.shared, replay),
                    }
                }
                Action::Ask(question, answer) => {
                    messages += 1;
                    self.pipeline.settle(answer);
                    self.streams.ask(&self.shared, question);
                }
                Action::EndReplay(text) => {
                    self.shared.events.unsubscribed(&self.client, &text);
                    self.streams.unfollow(&text);
                    self.progress.replayed(&text, None);
                }
                Action::Send(packet) => self.session.send(&packet, &mut self.output.ready),
                Action::SendSaved(packet) => self.send_saved(&packet),
                Action::SendRetained(subscription) if subscription.is_sys() => {
                    self.deliveries.extend(self.shared.sys.for_subscription(&subscription));
                }
                Action::SendRetained(subscription) => {
                    if self.pages.scans() >= RETAINED_SCANS_MAX {
                        let detail = "too many subscriptions wait for their retained messages";
                        self.client.outbox.end(End::server(Reason::QUOTA_EXCEEDED, detail));
                        continue;
                    }
                    let client_id = self.client.client_id.clone();
                    self.pages.scan(Scan::new(&self.shared.store, subscription, client_id));
                }
            }
        }
        self.actions = actions;
        messages
    }

    fn send_saved(&mut self, packet: &Packet) {
        match self.session.is_durable() {
            true => self.session.send(packet, &mut self.output.saved),
            false => self.session.send(packet, &mut self.output.ready),
        }
    }

    fn subscribe(&mut self, subscription: Subscription) {
        let since = match subscription.share {
            Some(_) => Arc::default(),
            None => self.session.since(&subscription.filter, || self.shared.applied()),
        };
        let subscribed = Subscribed { subscription, since };
        self.tell_subscribed(&subscribed.subscription);
        self.receive_from(&subscribed);
        self.progress.subscribed(&subscribed);
        self.count_subscriptions();
    }

    fn consume(&mut self, subscription: Subscription, starts: Vec<Start>) {
        self.join_queue(&subscription, starts);
        self.tell_subscribed(&subscription);
        let since = Arc::default();
        self.progress.subscribed(&Subscribed { subscription, since });
        self.count_subscriptions();
    }

    /// From now on the client gets what this subscription matches.
    fn receive_from(&mut self, subscribed: &Subscribed) {
        if subscribed.subscription.is_queue() {
            return self.join_queue(&subscribed.subscription, Vec::new());
        }
        if subscribed.subscription.share.is_some() {
            return self.join(&subscribed.subscription);
        }
        let (filter, subscriber) = (&subscribed.subscription.filter, subscriber(&self.client, subscribed));
        if let Some(own) = self.pages.own() {
            own.subscribe(filter, subscriber.clone());
        }
        self.shared.subscriptions.subscribe(filter, subscriber);
    }

    fn unsubscribe(&mut self, subscription: &Subscription) {
        self.progress.unsubscribed(&subscription.text());
        self.shared.events.unsubscribed(&self.client, &subscription.text());
        self.count_subscriptions();
        if subscription.is_queue() {
            return self.leave_queue(subscription);
        }
        if subscription.share.is_some() {
            return self.leave(subscription);
        }
        if let Some(own) = self.pages.own() {
            own.unsubscribe(&subscription.filter);
        }
        self.shared
            .subscriptions
            .unsubscribe(&subscription.filter, self.client.connection);
    }

    fn tell_subscribed(&self, subscription: &Subscription) {
        let (text, qos) = (subscription.text(), subscription.options.qos);
        self.shared.events.subscribed(&self.client, &text, qos);
    }

    fn count_subscriptions(&self) {
        let count = self.session.subscriptions().len();
        self.client.subscriptions.store(count, Ordering::Relaxed);
    }

    /// Ends a client that was silent for one and a half times its keep alive. While it is not read from, its silence
    /// is not its own.
    fn poll_keep_alive(&mut self, context: &mut Context<'_>) -> Result<(), End> {
        let paused = !self.may_read();
        let (Some(sleep), Some(limit)) = (&mut self.keep_alive, self.session.keep_alive()) else {
            return Ok(());
        };
        while sleep.as_mut().poll(context).is_ready() {
            if paused {
                self.last_packet = Instant::now();
            }
            let deadline = self.last_packet + limit;
            if deadline <= Instant::now() {
                return Err(End::server(
                    Reason::KEEP_ALIVE_TIMEOUT,
                    "no packet within one and a half keep alives",
                ));
            }
            sleep.as_mut().reset(deadline);
        }
        Ok(())
    }
}

fn subscriber(client: &Arc<Client>, subscribed: &Subscribed) -> Subscriber {
    let Subscribed { subscription, since } = subscribed;
    Subscriber {
        client: client.clone(),
        qos: subscription.options.qos,
        no_local: subscription.options.no_local,
        retain_as_published: subscription.options.retain_as_published,
        id: subscription.id,
        since: since.clone(),
    }
}
