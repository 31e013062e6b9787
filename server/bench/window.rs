//! Which messages are on their way: an acknowledgement is matched by its packet id, or it is a finding.

use std::collections::VecDeque;
use std::time::Instant;

use headwater_broker::packet::PacketId;

/// Messages that were sent and not yet acknowledged.
///
/// Ids go round through all 65 535, not through the few that `inflight` needs: so a broker that acknowledges twice names
/// an id that nothing is sent under, and is found out.
#[derive(Debug)]
pub struct Window {
    inflight_max: usize,
    unacknowledged: usize,
    /// The id of the first slot.
    first: u16,
    /// One slot for each id from `first` on; None when it is acknowledged and an earlier one is not.
    slots: VecDeque<Option<Instant>>,
}

const IDS: usize = u16::MAX as usize;

impl Window {
    /// Nothing sent yet. `inflight_max` is at least 1.
    pub fn new(inflight_max: u16) -> Window {
        Window {
            inflight_max: usize::from(inflight_max),
            unacknowledged: 0,
            first: 1,
            slots: VecDeque::new(),
        }
    }

    /// Whether another message may be sent.
    pub fn has_room(&self) -> bool {
        self.unacknowledged < self.inflight_max && self.slots.len() < IDS
    }

    /// The next message's id; `sent` is when its latency begins. Only while there is room.
    pub fn send(&mut self, sent: Instant) -> PacketId {
        assert!(self.has_room(), "the caller asks for room first");
        let id = advanced(self.first, self.slots.len());
        self.slots.push_back(Some(sent));
        self.unacknowledged += 1;
        PacketId::new(id).expect("ids go from 1 to 65535")
    }

    /// When the message with this id was sent; None when none is under way under it.
    pub fn acknowledge(&mut self, id: PacketId) -> Option<Instant> {
        let at = (usize::from(id.get()) + IDS - usize::from(self.first)) % IDS;
        let sent = self.slots.get_mut(at)?.take()?;
        self.unacknowledged -= 1;
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first = advanced(self.first, 1);
        }
        Some(sent)
    }

    /// Messages without their acknowledgement.
    pub fn unacknowledged(&self) -> usize {
        self.unacknowledged
    }
}

/// `steps` ids further; after 65 535 comes 1.
fn advanced(id: u16, steps: usize) -> u16 {
    ((usize::from(id) - 1 + steps) % IDS + 1) as u16
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use super::*;

    #[test]
    fn acknowledgements_in_any_order_find_their_message() {
        let began = Instant::now();
        let mut window = Window::new(100);
        let mut model: HashMap<PacketId, Instant> = HashMap::new();
        let mut acknowledged = Vec::new();
        // Far enough that ids go round more than once, with a late one out of each ten.
        for number in 0..200_000u64 {
            while !window.has_room() {
                let id = *model.keys().min_by_key(|id| u64::from(id.get()) * 7919 % 101).unwrap();
                assert_eq!(window.acknowledge(id), model.remove(&id));
                acknowledged.push(id);
            }
            let sent = began + Duration::from_micros(number);
            let id = window.send(sent);
            assert_eq!(model.insert(id, sent), None, "an id is not used while it is under way");
            assert_eq!(window.unacknowledged(), model.len());
        }
        for (id, sent) in model {
            assert_eq!(window.acknowledge(id), Some(sent));
        }
        assert_eq!(window.unacknowledged(), 0);
    }

    #[test]
    fn a_second_acknowledgement_and_one_for_nothing_are_told() {
        let mut window = Window::new(2);
        let (first, second) = (window.send(Instant::now()), window.send(Instant::now()));
        assert!(!window.has_room());
        assert!(window.acknowledge(second).is_some());
        assert_eq!(window.acknowledge(second), None, "twice, while an earlier one waits");
        assert!(window.acknowledge(first).is_some());
        assert_eq!(window.acknowledge(first), None, "twice");
        assert_eq!(window.acknowledge(PacketId::new(40_000).unwrap()), None, "never sent");
    }
}
