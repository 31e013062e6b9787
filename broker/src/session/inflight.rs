//! Deliveries that wait for their acknowledgements, by packet id: QoS 1 for a PUBACK, QoS 2 for PUBREC and PUBCOMP.
//!
//! Packet ids outlive the connection with their session, the window does not: what is sent again counts again.

use std::collections::VecDeque;
use std::sync::Arc;

use headwater_store::{Qos, TopicName};

use crate::cursor::At;
use crate::giver::Giver;
use crate::packet::PacketId;

/// One delivery that is not done.
#[derive(Debug, Clone)]
pub struct Flight {
    /// Where its message can be read again.
    pub source: Source,
    /// 1 or 2.
    pub qos: Qos,
    /// RETAIN as it was sent.
    pub retain: bool,
    /// Subscription identifiers as they were sent.
    pub ids: Option<Arc<[u32]>>,
    /// PUBREC has come: the message is the client's, and only PUBREL and PUBCOMP are left.
    pub released: bool,
    /// The share or queue that assigned it, and keeps it.
    pub giver: Option<Giver>,
}

impl Flight {
    /// What to tell the share or queue that assigned it.
    pub fn into_given(self) -> Option<(Giver, At)> {
        match (self.giver, self.source) {
            (Some(giver), Source::Log(at)) => Some((giver, at)),
            _ => None,
        }
    }
}

/// Where a message in flight is read again after a reconnect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A record.
    Log(At),
    /// The retained message of a topic.
    Retained(TopicName),
}

/// What is in flight towards one client.
#[derive(Debug)]
pub struct Inflight {
    window: u16,
    /// Sent by this connection and not acknowledged: at most the window.
    outstanding: u16,
    /// Ids up to here have been handed out before.
    issued: u16,
    free: VecDeque<PacketId>,
    /// By id - 1.
    slots: Vec<Option<Slot>>,
    /// The order of the next first delivery.
    next_order: u64,
}

#[derive(Debug)]
struct Slot {
    flight: Flight,
    order: u64,
    /// It counts towards the window.
    counts: bool,
}

impl Inflight {
    /// At most `window` messages at once.
    pub fn new(window: u16) -> Inflight {
        Inflight {
            window,
            outstanding: 0,
            issued: 0,
            free: VecDeque::new(),
            slots: Vec::new(),
            next_order: 0,
        }
    }

    /// Takes back what an earlier connection left, in the order of the first deliveries. None of it counts towards the
    /// window until it is sent again.
    pub fn restore(&mut self, flights: Vec<(PacketId, Flight)>) {
        self.issued = flights.iter().map(|(id, _)| id.get()).max().unwrap_or(0);
        self.slots.resize_with(usize::from(self.issued), || None);
        for (id, flight) in flights {
            self.put(id, flight, false);
        }
        let free = (1..=self.issued).filter_map(PacketId::new);
        self.free = free.filter(|id| self.slots[slot(*id)].is_none()).collect();
    }

    /// True when another message may be sent.
    pub fn has_room(&self) -> bool {
        self.outstanding < self.window
    }

    /// Gives `flight` a packet id. A freed id goes to the back of the queue, so that a client which acknowledges twice
    /// hits another message as late as possible. None when the window is full.
    pub fn take(&mut self, flight: Flight) -> Option<PacketId> {
        if !self.has_room() {
            return None;
        }
        let id = match self.free.pop_front() {
            Some(id) => id,
            None => {
                self.issued = self.issued.checked_add(1)?;
                self.slots.push(None);
                PacketId::new(self.issued)?
            }
        };
        self.put(id, flight, true);
        self.outstanding += 1;
        Some(id)
    }

    fn put(&mut self, id: PacketId, flight: Flight, counts: bool) {
        let order = self.next_order;
        self.next_order += 1;
        self.slots[slot(id)] = Some(Slot { flight, order, counts });
    }

    /// A message of an earlier connection is sent again: it counts from now on. False when the window is full.
    pub fn resend(&mut self, id: PacketId) -> bool {
        let room = self.has_room();
        match self.slots.get_mut(slot(id)).and_then(Option::as_mut) {
            Some(slot) if room && !slot.counts => {
                slot.counts = true;
                self.outstanding += 1;
                true
            }
            _ => false,
        }
    }

    /// PUBACK. One that answers no QoS 1 message is ignored.
    pub fn acknowledge(&mut self, id: PacketId) -> Option<Flight> {
        let is_qos_1 = |slot: &mut Slot| slot.flight.qos == Qos::AtLeastOnce;
        let slot = self.slots.get_mut(slot(id))?.take_if(is_qos_1)?;
        self.free(id, slot.counts);
        Some(slot.flight)
    }

    /// PUBREC. False when it answers nothing.
    pub fn release(&mut self, id: PacketId) -> bool {
        match self.slots.get_mut(slot(id)).and_then(Option::as_mut) {
            Some(slot) if slot.flight.qos == Qos::ExactlyOnce => {
                slot.flight.released = true;
                true
            }
            _ => false,
        }
    }

    /// PUBCOMP. One that answers no PUBREL is ignored.
    pub fn complete(&mut self, id: PacketId) -> bool {
        self.get(id).is_some_and(|flight| flight.released) && self.forget(id)
    }

    /// Takes a packet id back, whatever it stood for.
    pub fn forget(&mut self, id: PacketId) -> bool {
        let Some(slot) = self.slots.get_mut(slot(id)).and_then(Option::take) else {
            return false;
        };
        self.free(id, slot.counts);
        true
    }

    fn free(&mut self, id: PacketId, counts: bool) {
        self.outstanding -= u16::from(counts);
        self.free.push_back(id);
    }

    /// What a packet id stands for.
    pub fn get(&self, id: PacketId) -> Option<&Flight> {
        Some(&self.slots.get(slot(id))?.as_ref()?.flight)
    }

    /// Everything but what shares and queues keep, in the order of the first deliveries.
    pub fn flights(&self) -> Vec<(PacketId, &Flight)> {
        let mut slots: Vec<_> = self
            .slots
            .iter()
            .enumerate()
            .filter_map(|(at, slot)| Some((PacketId::new(at as u16 + 1)?, slot.as_ref()?)))
            .collect();
        slots.sort_unstable_by_key(|(_, slot)| slot.order);
        let own = slots
            .into_iter()
            .filter(|(_, slot)| slot.flight.giver.as_ref().is_none_or(Giver::is_replay));
        own.map(|(id, slot)| (id, &slot.flight)).collect()
    }
}

fn slot(id: PacketId) -> usize {
    usize::from(id.get()) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u16) -> PacketId {
        PacketId::new(number).unwrap()
    }

    fn flight(qos: Qos) -> Flight {
        Flight {
            source: Source::Retained(TopicName::new("a").unwrap()),
            qos,
            retain: false,
            ids: None,
            released: false,
            giver: None,
        }
    }

    /// Shows 3.1.1: 2.3.1-4 4.3.2-1 5.0: 2.2.1-4 4.3.2-1
    #[test]
    fn ids_are_unique_until_acknowledged_and_acknowledged_once() {
        let mut inflight = Inflight::new(3);
        let one = || flight(Qos::AtLeastOnce);
        assert_eq!([1, 2, 3].map(id), [(); 3].map(|()| inflight.take(one()).unwrap()));
        assert_eq!(inflight.take(one()), None);
        assert!(inflight.acknowledge(id(2)).is_some());
        assert!(inflight.acknowledge(id(2)).is_none());
        assert!(inflight.acknowledge(id(9)).is_none());
        assert!(!inflight.release(id(1)), "PUBREC for QoS 1");
        assert_eq!(inflight.take(one()), Some(id(2)));
        assert_eq!(inflight.take(one()), None, "a second PUBACK frees nothing");
    }

    /// Shows 3.1.1: 2.3.1-4 4.3.3-1 5.0: 2.2.1-4 4.3.3-1 4.3.3-5
    #[test]
    fn a_qos_2_id_is_free_after_both_answers_only() {
        let mut inflight = Inflight::new(1);
        assert_eq!(inflight.take(flight(Qos::ExactlyOnce)), Some(id(1)));
        assert!(inflight.acknowledge(id(1)).is_none(), "PUBACK for QoS 2");
        assert!(!inflight.complete(id(1)), "PUBCOMP before PUBREC");
        assert!(
            inflight.release(id(1)) && inflight.release(id(1)),
            "PUBREC may come twice"
        );
        assert_eq!(inflight.take(flight(Qos::AtLeastOnce)), None);
        assert!(inflight.complete(id(1)));
        assert_eq!(inflight.take(flight(Qos::AtLeastOnce)), Some(id(1)));
    }

    #[test]
    fn what_was_restored_keeps_its_ids_and_order_and_counts_when_it_is_sent_again() {
        let mut inflight = Inflight::new(2);
        let released = Flight {
            released: true,
            ..flight(Qos::ExactlyOnce)
        };
        inflight.restore(vec![(id(4), flight(Qos::AtLeastOnce)), (id(2), released)]);
        let ids: Vec<_> = inflight.flights().into_iter().map(|(id, _)| id.get()).collect();
        assert_eq!(ids, [4, 2]);
        assert!(inflight.resend(id(4)) && !inflight.resend(id(4)));
        assert_eq!(inflight.take(flight(Qos::AtLeastOnce)), Some(id(1)));
        assert_eq!(inflight.take(flight(Qos::AtLeastOnce)), None, "the window is full");
        assert!(inflight.complete(id(2)));
        assert_eq!(
            inflight.take(flight(Qos::AtLeastOnce)),
            None,
            "what did not count makes no room"
        );
        assert!(inflight.acknowledge(id(4)).is_some());
        assert_eq!(inflight.take(flight(Qos::AtLeastOnce)), Some(id(3)));
    }
}
