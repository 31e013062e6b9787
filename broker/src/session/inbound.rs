//! What the client publishes: from PUBLISH to the last acknowledgement that it gets.

use bytes::{BufMut, BytesMut};
use headwater_store::{Qos, TopicName, WriteError};

use super::{Action, Session, protocol_error};
use crate::error::{End, PublishError};
use crate::packet::{Ack, Packet, PacketId, Property, Publish, Reason, Version};
use crate::pipeline::Answer;
use crate::publish::{Message, reserved_topic};
use crate::views::Question;

/// A QoS 2 message of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) stage: Stage,
    /// It counts towards the Receive Maximum: it came over this connection.
    pub(super) counts: bool,
}

/// What a PUBLISH is for.
enum Topic {
    Public(TopicName),
    View(Question),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// On its way into the log.
    Storing,
    /// Stored; PUBREC was sent.
    Stored,
    /// PUBREL came.
    Releasing,
}

impl Session {
    pub(super) fn publish(&mut self, publish: Publish, actions: &mut Vec<Action>) -> Result<(), End> {
        let answer = match (publish.qos, publish.packet_id) {
            (_, None) => None,
            (Qos::ExactlyOnce, Some(id)) => match self.received.get(&id).map(|received| received.stage) {
                // Sent again because PUBREC did not arrive: the message is ours already.
                Some(Stage::Stored) => {
                    actions.push(Action::Send(Packet::PubRec(Ack::new(id, Reason::SUCCESS))));
                    return Ok(());
                }
                // Its PUBREC is still to come.
                Some(Stage::Storing) => return Ok(()),
                Some(Stage::Releasing) => return Err(protocol_error("a packet id that is still in use")),
                None => Some(Answer::Rec(id)),
            },
            (_, Some(id)) => Some(Answer::Ack(id)),
        };
        if answer.is_some() {
            if self.version == Version::V5 && self.unacknowledged >= usize::from(self.receive_max) {
                let detail = format!("more than {} unacknowledged messages", self.receive_max);
                return Err(End::server(Reason::RECEIVE_MAXIMUM_EXCEEDED, detail));
            }
            self.unacknowledged += 1;
            self.in_log += 1;
        }
        if let Some(Answer::Rec(id)) = answer {
            let (stage, counts) = (Stage::Storing, true);
            self.received.insert(id, Received { stage, counts });
        }
        let topic = match self.topic_of(&publish)?.and_then(|topic| self.public(topic, &publish)) {
            Ok(Topic::Public(topic)) => topic,
            Ok(Topic::View(question)) => {
                actions.push(Action::Ask(question, answer));
                return Ok(());
            }
            Err(error) => {
                actions.push(Action::Refuse { answer, error });
                return Ok(());
            }
        };
        if self.payload_format_check && !has_its_format(&publish) {
            let error = PublishError::PayloadFormat;
            actions.push(Action::Refuse { answer, error });
            return Ok(());
        }
        let (payload, qos, retain) = (publish.payload, publish.qos, publish.retain);
        let message = Message {
            topic,
            payload,
            qos,
            retain,
            properties: publish.properties,
        };
        actions.push(Action::Publish { message, answer });
        Ok(())
    }

    pub(super) fn pubrel(&mut self, id: PacketId, actions: &mut Vec<Action>) -> Result<(), End> {
        match self.received.get_mut(&id) {
            Some(received) => match received.stage {
                Stage::Storing => return Err(protocol_error("a PUBREL before its PUBREC")),
                Stage::Stored => {
                    received.stage = Stage::Releasing;
                    self.in_log += 1;
                    actions.push(Action::Release(id));
                }
                // Its PUBCOMP is still to come.
                Stage::Releasing => {}
            },
            None => actions.push(Action::Send(Packet::PubComp(Ack::new(
                id,
                Reason::PACKET_IDENTIFIER_NOT_FOUND,
            )))),
        }
        Ok(())
    }

    /// The topic that a PUBLISH names, directly or by its alias. The inner error refuses the message only.
    fn topic_of(&mut self, publish: &Publish) -> Result<Result<TopicName, PublishError>, End> {
        let mut alias = None;
        for property in publish.properties.iter() {
            match property {
                Property::TopicAlias(number) => alias = Some(number),
                Property::SubscriptionIdentifier(_) => {
                    return Err(protocol_error("a subscription identifier in a PUBLISH from a client"));
                }
                _ => {}
            }
        }
        if publish.topic.is_empty() {
            return self.inbound_aliases.topic(alias.unwrap_or(0)).map(Ok);
        }
        let topic = match TopicName::new(publish.topic.clone()) {
            Ok(topic) => topic,
            Err(error) => return Ok(Err(error.into())),
        };
        if let Some(alias) = alias {
            self.inbound_aliases.set(alias, &topic)?;
        }
        Ok(Ok(topic))
    }

    /// Clients publish nothing to reserved topics, by whatever alias, but they may ask a view.
    fn public(&self, topic: TopicName, publish: &Publish) -> Result<Topic, PublishError> {
        let Some(name) = reserved_topic(&topic) else {
            return Ok(Topic::Public(topic));
        };
        let question = Question::of(topic.as_str(), publish).ok_or(PublishError::Reserved(name))?;
        match self.names.as_ref().is_some_and(|names| names.is_view(question.view())) {
            true => Ok(Topic::View(question)),
            false => Err(PublishError::NoView(question.view().to_owned())),
        }
    }

    /// The outcome of a message or its release, in the order of the packets. Writes the answer to `out`. A client before
    /// 5.0 can only be told of a success, so a message that was not committed ends its connection unacknowledged.
    pub fn acknowledge(
        &mut self,
        answer: Answer,
        outcome: &Result<(), PublishError>,
        out: &mut BytesMut,
    ) -> Result<(), End> {
        self.in_log = self.in_log.saturating_sub(1);
        let reason = match outcome {
            Ok(()) => Reason::SUCCESS,
            Err(PublishError::Write(WriteError::Conflict)) => return Err(End::taken_over()),
            Err(error) => match error.reason() {
                // Only a message can be refused; its release has to be done.
                Some(reason) if self.version == Version::V5 && !matches!(answer, Answer::Comp(_)) => reason,
                Some(reason) => return Err(End::server(reason, error.to_string())),
                None => return Err(End::server(Reason::IMPLEMENTATION_SPECIFIC_ERROR, error.to_string())),
            },
        };
        self.note_answer(answer, reason == Reason::SUCCESS);
        let (first_byte, packet_id) = match answer {
            Answer::Ack(id) => (0x40, id),
            Answer::Rec(id) => (0x50, id),
            Answer::Comp(id) => (0x70, id),
        };
        if reason == Reason::SUCCESS {
            let [high, low] = packet_id.get().to_be_bytes();
            out.put_slice(&[first_byte, 2, high, low]);
            return Ok(());
        }
        let detail = outcome.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let properties = self.reason_string(&detail);
        let ack = Ack {
            packet_id,
            reason,
            properties,
        };
        let packet = match answer {
            Answer::Ack(_) => Packet::PubAck(ack),
            Answer::Rec(_) | Answer::Comp(_) => Packet::PubRec(ack),
        };
        self.send(&packet, out);
        Ok(())
    }

    /// Moves a QoS 2 message on, and gives back its part of the Receive Maximum at its end.
    fn note_answer(&mut self, answer: Answer, good: bool) {
        let done = match answer {
            Answer::Ack(_) => true,
            Answer::Rec(id) if good => {
                if let Some(received) = self.received.get_mut(&id) {
                    received.stage = Stage::Stored;
                }
                false
            }
            Answer::Rec(id) | Answer::Comp(id) => self.received.remove(&id).is_some_and(|received| received.counts),
        };
        self.unacknowledged = self.unacknowledged.saturating_sub(usize::from(done));
    }
}

/// The payload is what the Payload Format Indicator says [MQTT 5.0, 3.3.2.3.2].
fn has_its_format(publish: &Publish) -> bool {
    let says_text = publish
        .properties
        .find(|property| matches!(property, Property::PayloadFormatIndicator(true)).then_some(()));
    says_text.is_none() || std::str::from_utf8(&publish.payload).is_ok()
}
