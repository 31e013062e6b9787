//! The protocol's state for one client: packets in, actions out. No socket, no clock of its own, no store.
//!
//! The connection feeds it packets and carries out the [`Action`]s in order; it gives it deliveries and the outcomes
//! of what the client published, and gets bytes for the socket. Bytes come in two kinds: those that may be sent at once,
//! and, in a session that outlives its connection, those that may be sent when what they stand for is saved: a QoS 2
//! message with its packet id, a PUBREL.

mod alias;
mod connect;
mod inbound;
mod inflight;
mod outbound;
mod subscribe;
mod words;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use bytestring::ByteString;

use crate::authentication::Identity;
use crate::cursor::At;
use crate::error::{End, PublishError};
use crate::giver::Giver;
use crate::packet::{Auth, Disconnect, Packet, PacketId, Properties, Property, Reason, Version};
use crate::pipeline::Answer;
use crate::publish::Message;
use crate::replay::{Replay, Start};
use crate::views::{Names, Question};

use alias::{InboundAliases, OutboundAliases};
use inbound::{Received, Stage};
use inflight::Inflight;
use words::reason_string;

pub use connect::{SessionLimits, accept, refusal};
pub use inflight::{Flight, Source};
pub use outbound::{Delivered, Output};
pub use subscribe::{Subscribed, Subscription};
pub use words::encode_within;

/// What the connection is to do, in order.
#[derive(Debug)]
pub enum Action {
    /// Commit a message, then report it to [`Session::acknowledge`] if it wants an answer.
    Publish { message: Message, answer: Option<Answer> },
    /// A message that is refused. Its outcome waits for its turn: acknowledgements keep the order of the messages.
    Refuse {
        answer: Option<Answer>,
        error: PublishError,
    },
    /// Forget that this QoS 2 message was received, then report it to [`Session::acknowledge`].
    Release(PacketId),
    /// Add or replace a subscription.
    Subscribe(Subscription),
    /// Become a consumer of a queue, which begins there if it is new.
    Consume(Subscription, Vec<Start>),
    /// Take one away.
    Unsubscribe(Subscription),
    /// Read a stream from a place on; the same filter begins anew.
    Replay(Replay),
    /// Publish what a view answers.
    Ask(Question, Option<Answer>),
    /// Read it no longer.
    EndReplay(ByteString),
    /// Tell a share or queue that its message at this place was acknowledged.
    Acknowledged(Giver, At),
    /// The same with an error.
    Rejected(Giver, At),
    /// Send this.
    Send(Packet),
    /// Send this when what came before it is saved.
    SendSaved(Packet),
    /// Then send the retained messages that this subscription matches.
    SendRetained(Subscription),
}

/// One client's protocol state, from its CONNECT to its end.
#[derive(Debug)]
pub struct Session {
    version: Version,
    client_id: ByteString,
    keep_alive: Option<Duration>,
    /// How long the session outlives the connection, in seconds; `u32::MAX` is for ever.
    expiry_s: u32,
    expiry_max_s: u32,
    /// It does, so its state is saved.
    durable: bool,
    /// The client wants reason strings.
    problem_information: bool,
    receive_max: u16,
    /// Its messages that are not acknowledged to the end: PUBACK or PUBCOMP.
    unacknowledged: usize,
    /// Its messages that wait for the log.
    in_log: usize,
    /// Its QoS 2 messages, until their PUBCOMP.
    received: HashMap<PacketId, Received>,
    inbound_aliases: InboundAliases,
    outbound_aliases: OutboundAliases,
    inflight: Inflight,
    /// The client's Maximum Packet Size.
    packet_max: usize,
    /// A payload that says it is text has to be.
    payload_format_check: bool,
    subscriptions_max: usize,
    /// Boxed: most clients have one or two, and the smallest table has room for three.
    subscriptions: HashMap<Box<str>, Box<Subscribed>>,
    filters_bytes: usize,
    /// The streams and views that it replays, by filter.
    replays: HashSet<ByteString>,
    /// What streams and views there are.
    names: Option<Arc<Names>>,
    /// Who it has proved to be.
    identity: Option<Box<Identity>>,
    /// Reused for the properties that one delivery does not share with others.
    scratch: BytesMut,
}

impl Session {
    /// Given or assigned.
    pub fn client_id(&self) -> &ByteString {
        &self.client_id
    }

    /// After how long without a packet the client counts as lost: one and a half times its keep alive
    /// [MQTT-3.1.2-22]. None when it is off.
    pub fn keep_alive(&self) -> Option<Duration> {
        self.keep_alive
    }

    /// How long the session outlives the connection, in seconds, as of now.
    pub fn expiry_s(&self) -> u32 {
        self.expiry_s
    }

    /// What it is subscribed to.
    pub fn subscriptions(&self) -> impl ExactSizeIterator<Item = &Subscribed> {
        self.subscriptions.values().map(Box::as_ref)
    }

    /// From now on its state is saved: see [`Action::SendSaved`].
    pub fn set_durable(&mut self) {
        self.durable = true;
    }

    /// Lets it look which streams and views there are.
    pub fn set_names(&mut self, names: Arc<Names>) {
        self.names = Some(names);
    }

    /// Takes back what an earlier connection left: subscriptions, and QoS 2 messages that it stored.
    pub fn restore(&mut self, subscriptions: Vec<Subscribed>, received: impl Iterator<Item = PacketId>) {
        for subscribed in subscriptions {
            let text = subscribed.subscription.text();
            self.filters_bytes += text.len();
            self.subscriptions.insert((&*text).into(), Box::new(subscribed));
        }
        let stored = Received {
            stage: Stage::Stored,
            counts: false,
        };
        self.received = received.map(|id| (id, stored)).collect();
    }

    /// Takes back a stream that an earlier connection replayed. False when it is not there any more.
    pub fn restore_replay(&mut self, replay: &Replay) -> bool {
        let exists = self.names.as_ref().is_some_and(|names| replay.exists(&names.catalog()));
        self.filters_bytes += if exists { replay.text.len() } else { 0 };
        exists && self.replays.insert(replay.text.clone())
    }

    /// Whether it replays this, still.
    pub fn replays(&self, text: &ByteString) -> bool {
        self.replays.contains(text)
    }

    /// False while a client before 5.0, which knows no Receive Maximum, has as many messages on the way into the log as a
    /// newer one might: it is slowed by not reading on.
    pub fn may_receive(&self) -> bool {
        self.version == Version::V5 || self.in_log < usize::from(self.receive_max)
    }

    /// Takes one packet. An error ends the connection.
    pub fn receive(&mut self, packet: Packet, actions: &mut Vec<Action>) -> Result<(), End> {
        match packet {
            Packet::Publish(publish) => self.publish(publish, actions),
            Packet::PubAck(ack) => {
                // Out of order is fine, and one that is not expected does no harm: it may be late.
                let flight = self.inflight.acknowledge(ack.packet_id);
                if let Some((giver, at)) = flight.and_then(Flight::into_given) {
                    actions.push(match ack.reason.is_error() {
                        true => Action::Rejected(giver, at),
                        false => Action::Acknowledged(giver, at),
                    });
                }
                Ok(())
            }
            Packet::PubRec(ack) => {
                self.pubrec(&ack, actions);
                Ok(())
            }
            Packet::PubComp(ack) => {
                self.inflight.complete(ack.packet_id);
                Ok(())
            }
            Packet::PubRel(ack) => self.pubrel(ack.packet_id, actions),
            Packet::Subscribe(subscribe) => self.subscribe(subscribe, actions),
            Packet::Unsubscribe(unsubscribe) => {
                self.unsubscribe(unsubscribe, actions);
                Ok(())
            }
            Packet::PingReq => {
                actions.push(Action::Send(Packet::PingResp));
                Ok(())
            }
            Packet::Disconnect(disconnect) => Err(self.disconnect(&disconnect)),
            Packet::Auth(auth) => self.authenticate(&auth, actions),
            Packet::Connect(_) => Err(protocol_error("a second CONNECT")),
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                Err(protocol_error("a packet that only a server sends"))
            }
        }
    }

    /// A re-authentication, which must not fail [MQTT-4.12.1-2].
    fn authenticate(&mut self, auth: &Auth, actions: &mut Vec<Action>) -> Result<(), End> {
        let Some(identity) = &mut self.identity else {
            return Err(protocol_error("AUTH without an authentication method in CONNECT"));
        };
        let answer = identity
            .take(auth)
            .map_err(|(reason, detail)| End::server(reason, detail))?;
        actions.push(Action::Send(answer));
        Ok(())
    }

    fn disconnect(&mut self, disconnect: &Disconnect) -> End {
        let expiry_s = disconnect.properties.find(|property| match property {
            Property::SessionExpiryInterval(seconds) => Some(seconds),
            _ => None,
        });
        if let Some(expiry_s) = expiry_s {
            if expiry_s > 0 && self.expiry_s == 0 {
                return protocol_error("a session expiry interval in DISCONNECT after none in CONNECT");
            }
            self.expiry_s = expiry_s.min(self.expiry_max_s);
        }
        End::Client {
            with_will: disconnect.reason != Reason::SUCCESS,
        }
    }

    /// Writes a packet that the client is to get, if it takes packets of that size.
    pub fn send(&self, packet: &Packet, out: &mut BytesMut) {
        if let Err(error) = encode_within(packet, self.version, self.packet_max, out) {
            tracing::warn!(client_id = %self.client_id, %error, "a packet could not be encoded");
        }
    }

    /// Writes what a 5.0 client is told when the broker ends the connection; older clients just see it close.
    pub fn goodbye(&self, end: &End, out: &mut BytesMut) {
        if let (End::Server { reason, detail }, Version::V5) = (end, self.version) {
            let properties = self.reason_string(detail);
            self.send(
                &Packet::Disconnect(Disconnect {
                    reason: *reason,
                    properties,
                }),
                out,
            );
        }
    }

    fn reason_string(&self, detail: &str) -> Properties {
        reason_string(detail, self.problem_information)
    }
}

fn protocol_error(detail: &'static str) -> End {
    End::server(Reason::PROTOCOL_ERROR, detail)
}

#[cfg(test)]
mod tests;
