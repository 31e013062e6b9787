//! Packet ids of QoS 1 deliveries that wait for their PUBACK.

use std::collections::VecDeque;

use crate::packet::PacketId;

/// Hands out packet ids 1 to `window`. A freed id goes to the back of the queue, so that a client which acknowledges
/// twice hits another message as late as possible.
#[derive(Debug)]
pub struct Inflight {
    window: u16,
    /// Ids up to here have been handed out before.
    issued: u16,
    free: VecDeque<PacketId>,
    /// By id - 1.
    used: Vec<bool>,
}

impl Inflight {
    /// At most `window` messages at once.
    pub fn new(window: u16) -> Inflight {
        Inflight {
            window,
            issued: 0,
            free: VecDeque::new(),
            used: Vec::new(),
        }
    }

    /// A free packet id.
    pub fn take(&mut self) -> Option<PacketId> {
        let id = match self.free.pop_front() {
            Some(id) => id,
            None => {
                let id = PacketId::new(self.issued.checked_add(1).filter(|id| *id <= self.window)?)?;
                self.issued = id.get();
                self.used.push(false);
                id
            }
        };
        self.used[usize::from(id.get()) - 1] = true;
        Some(id)
    }

    /// Takes a packet id back; one that is not out is ignored.
    pub fn release(&mut self, id: PacketId) {
        if let Some(used) = self.used.get_mut(usize::from(id.get()) - 1)
            && std::mem::take(used)
        {
            self.free.push_back(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u16) -> PacketId {
        PacketId::new(number).unwrap()
    }

    #[test]
    fn ids_are_unique_until_released_and_released_once() {
        let mut inflight = Inflight::new(3);
        assert_eq!([1, 2, 3].map(id), [(); 3].map(|()| inflight.take().unwrap()));
        assert_eq!(inflight.take(), None);
        inflight.release(id(2));
        inflight.release(id(2));
        inflight.release(id(9));
        assert_eq!(inflight.take(), Some(id(2)));
        assert_eq!(inflight.take(), None, "a second PUBACK frees nothing");
    }
}
