//! Messages towards the client: PUBLISH out, and what comes back for it.

use bytes::BytesMut;
use headwater_store::{Qos, TimestampMs};

use super::inflight::{Flight, Source};
use super::{Action, Session};
use crate::outbox::Delivery;
use crate::packet::{Ack, Packet, PacketId, Property, PublishParts, Reason, Version};

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivered {
    /// Its packet is in the buffer.
    Sent,
    /// The client has as many unacknowledged messages as it may have: try again after an acknowledgement.
    WindowFull,
    /// It had expired.
    Expired,
    /// The client said that it does not take packets of that size [MQTT-3.1.2-24].
    Oversize,
}

/// Bytes for the socket.
#[derive(Debug, Default)]
pub struct Output {
    /// To be sent.
    pub ready: BytesMut,
    /// To be sent when the session's state of now is saved.
    pub saved: BytesMut,
}

impl Output {
    /// Bytes of both kinds.
    pub fn len(&self) -> usize {
        self.ready.len() + self.saved.len()
    }
}

impl Session {
    /// Takes back what is in flight, in the order of the first deliveries. The released ones get their PUBREL again, at
    /// once; the others are left to be read and delivered again, and returned.
    pub fn restore_flights(&mut self, flights: Vec<(PacketId, Flight)>, out: &mut BytesMut) -> Vec<(PacketId, Flight)> {
        let (released, open): (Vec<_>, Vec<_>) = flights.iter().cloned().partition(|(_, flight)| flight.released);
        self.inflight.restore(flights);
        for (id, _) in released {
            self.send(&Packet::PubRel(Ack::new(id, Reason::SUCCESS)), out);
        }
        open
    }

    /// What is in flight, in the order of the first deliveries.
    pub fn flights(&self) -> Vec<(PacketId, &Flight)> {
        self.inflight.flights()
    }

    /// Writes one delivery to `out`, unless there is a reason not to.
    pub fn deliver(&mut self, delivery: &Delivery, now: TimestampMs, out: &mut Output) -> Delivered {
        let message = &*delivery.message;
        let expires_in_s = message.expires_in_s(now);
        // What was sent before does not expire any more [MQTT-4.3.3-7].
        if expires_in_s == Some(0) && delivery.resend.is_none() {
            return Delivered::Expired;
        }
        let packet_id = match (delivery.qos, delivery.resend) {
            (Qos::AtMostOnce, _) => None,
            (_, Some(id)) => match self.inflight.resend(id) {
                true => Some(id),
                false => return Delivered::WindowFull,
            },
            _ => match self.inflight.take(flight_of(delivery)) {
                Some(id) => Some(id),
                None => return Delivered::WindowFull,
            },
        };
        // What is sent again was saved before it was sent first.
        let wait = self.durable && delivery.qos == Qos::ExactlyOnce && delivery.resend.is_none();
        self.scratch.clear();
        let mut topic = message.topic.as_str();
        if self.version == Version::V5 {
            expires_in_s
                .map(Property::MessageExpiryInterval)
                .iter()
                .for_each(|p| p.put(&mut self.scratch));
            for id in delivery.subscription_ids.iter().flat_map(|ids| ids.iter()) {
                Property::SubscriptionIdentifier(*id).put(&mut self.scratch);
            }
            // A packet that waits may not introduce an alias: one that overtakes it would use it.
            let alias = if wait {
                None
            } else {
                self.outbound_aliases.alias(&message.topic)
            };
            if let Some((alias, known)) = alias {
                Property::TopicAlias(alias).put(&mut self.scratch);
                topic = if known { "" } else { topic };
            }
        }
        let shared = if self.version == Version::V5 {
            message.properties()
        } else {
            &[]
        };
        let parts = PublishParts {
            version: self.version,
            dup: delivery.resend.is_some(),
            qos: delivery.qos,
            retain: delivery.retain,
            topic,
            packet_id,
            properties: [shared, &self.scratch],
            payload: &message.payload,
        };
        let buffer = if wait { &mut out.saved } else { &mut out.ready };
        if parts.size() > self.packet_max || parts.put(buffer).is_err() {
            self.outbound_aliases.forget(&message.topic, topic);
            match delivery.resend {
                Some(id) => self.give_up(id, out),
                None => drop(packet_id.map(|id| self.inflight.forget(id))),
            }
            return Delivered::Oversize;
        }
        Delivered::Sent
    }

    /// A message of an earlier connection cannot be sent again: it is gone from the log, or it is too large now. A QoS 2
    /// message may have arrived, so its packet id has to be released before it can stand for another one.
    pub fn give_up(&mut self, id: PacketId, out: &mut Output) {
        if self.inflight.release(id) {
            self.send(&Packet::PubRel(Ack::new(id, Reason::SUCCESS)), &mut out.saved);
        } else {
            self.inflight.forget(id);
        }
    }

    /// PUBREC: the message is the client's. With an error it does not want it, and there is nothing to release.
    pub(super) fn pubrec(&mut self, ack: &Ack, actions: &mut Vec<Action>) {
        let id = ack.packet_id;
        if ack.reason.is_error() {
            self.inflight.forget(id);
        } else if self.inflight.release(id) {
            actions.push(Action::SendSaved(Packet::PubRel(Ack::new(id, Reason::SUCCESS))));
        } else {
            actions.push(Action::Send(Packet::PubRel(Ack::new(
                id,
                Reason::PACKET_IDENTIFIER_NOT_FOUND,
            ))));
        }
    }

    /// Whether a packet that is to wait for a save does so.
    pub fn is_durable(&self) -> bool {
        self.durable
    }
}

fn flight_of(delivery: &Delivery) -> Flight {
    let message = &delivery.message;
    Flight {
        source: match message.at {
            Some(at) => Source::Log(at),
            None => Source::Retained(message.topic.clone()),
        },
        qos: delivery.qos,
        retain: delivery.retain,
        ids: delivery.subscription_ids.clone(),
        released: false,
        giver: delivery.giver.clone(),
    }
}
