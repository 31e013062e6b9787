//! Who gave a message to a client and keeps its place: a share or a queue, which assigned it to one among several and waits
//! for its acknowledgement, or the replay of a stream in a durable session.

use std::sync::Arc;

use headwater_store::Qos;

use crate::cursor::At;
use crate::queue::Queue;
use crate::replay::Replayed;
use crate::session::Delivered;
use crate::share::Share;

/// One of them.
#[derive(Debug, Clone)]
pub enum Giver {
    Share(Arc<Share>),
    Queue(Arc<Queue>),
    Replay(Arc<Replayed>),
}

impl Giver {
    /// The client of that connection is done with the message at this place.
    pub fn acknowledge(&self, at: &At, connection: u64) {
        match self {
            Giver::Share(share) => share.acknowledge(at),
            Giver::Queue(queue) => queue.acknowledge(at, connection),
            // What is in flight is kept with the session.
            Giver::Replay(_) => {}
        }
    }

    /// Whether what is in flight is the session's to keep.
    pub fn is_replay(&self) -> bool {
        matches!(self, Giver::Replay(_))
    }

    /// The client answered with an error. Section 4.13 of MQTT 5.0 leaves it to the server what that means: a share takes it
    /// as done, as for any subscriber; a queue gives the message to another one.
    pub fn reject(&self, at: &At, connection: u64) {
        match self {
            Giver::Share(share) => share.acknowledge(at),
            Giver::Queue(queue) => queue.reject(at, connection),
            Giver::Replay(_) => {}
        }
    }

    /// What became of the message on its way to the client. Of those that were sent, QoS 1 waits for its acknowledgement;
    /// to a share the client's QoS 0 messages are no matter, because it did not note them.
    pub fn delivered(&self, at: &At, connection: u64, delivered: Delivered, qos: Qos) {
        match (self, delivered) {
            (_, Delivered::WindowFull) | (Giver::Share(_), Delivered::Sent) => {}
            (Giver::Replay(replayed), _) => replayed.take(at),
            (Giver::Queue(_), Delivered::Sent) if qos > Qos::AtMostOnce => {}
            (Giver::Queue(queue), Delivered::Oversize) => queue.reject(at, connection),
            _ => self.acknowledge(at, connection),
        }
    }
}
