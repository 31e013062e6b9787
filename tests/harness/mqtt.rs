//! MQTT from inside a test: bare bytes where a packet must be wrong, and a publisher that is cut off in mid-flight.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rumqttc::{Client, Event, MqttOptions, Outgoing, Packet, QoS};

use super::{PATIENCE, Server, wait_for};

/// A CONNECT of MQTT 3.1.1, clean session, keep alive 60 s, client id `t`.
pub const CONNECT_V4: &[u8] = &[0x10, 0x0d, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60, 0, 1, b't'];
/// The same in MQTT 5.
pub const CONNECT_V5: &[u8] = &[0x10, 0x0e, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 0, 0, 1, b't'];

/// Sends bytes on a new connection and reads until the server closes it; what it had answered.
pub fn answer_until_closed(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.mqtt()).expect("the server accepts connections");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    // It may close while it is still being talked to.
    let _ = stream.write_all(bytes);
    let (mut answer, mut buffer) = (Vec::new(), [0; 1024]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return answer,
            Ok(n) => answer.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return answer,
            Err(error) => panic!("the server should have closed the connection, it answered {answer:02x?}: {error}"),
        }
    }
}

/// A publisher under load: it keeps hundreds of QoS 1 messages in flight, never sends one twice, and ends at the first
/// error, which is the server's death.
pub struct Load {
    acknowledged: Arc<Mutex<Vec<u64>>>,
    thread: JoinHandle<()>,
}

impl Load {
    /// Publishes `payload(n)` to `topic`, where each `n` is the next of `numbers`.
    pub fn start(server: &Server, topic: String, numbers: Arc<AtomicU64>, payload: fn(u64) -> String) -> Load {
        let mut options = MqttOptions::new(
            topic.replace('/', "-"),
            server.mqtt().ip().to_string(),
            server.mqtt().port(),
        );
        options.set_inflight(200);
        let (client, mut connection) = Client::new(options, 200);
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let acks = acknowledged.clone();
        let thread = std::thread::spawn(move || {
            let queued = Arc::new(Mutex::new(std::collections::VecDeque::new()));
            let to_send = queued.clone();
            let publisher = std::thread::spawn(move || {
                loop {
                    // Drawn and queued under one lock, so the order in `queued` is the order of the messages.
                    let mut queue = to_send.lock().expect("no thread panicked");
                    let n = numbers.fetch_add(1, Ordering::Relaxed);
                    queue.push_back(n);
                    drop(queue);
                    if client
                        .publish(topic.clone(), QoS::AtLeastOnce, false, payload(n))
                        .is_err()
                    {
                        return;
                    }
                }
            });
            let mut in_flight = std::collections::HashMap::new();
            for event in connection.iter() {
                match event {
                    Ok(Event::Outgoing(Outgoing::Publish(id))) => {
                        let n = queued
                            .lock()
                            .expect("no thread panicked")
                            .pop_front()
                            .expect("it was queued");
                        in_flight.insert(id, n);
                    }
                    Ok(Event::Incoming(Packet::PubAck(ack))) => {
                        let n = in_flight
                            .remove(&ack.pkid)
                            .expect("only what is in flight is acknowledged");
                        acks.lock().expect("no thread panicked").push(n);
                    }
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
            // The connection's end of the channel goes first, and ends the publisher.
            drop(connection);
            publisher.join().expect("the publisher ends");
        });
        Load { acknowledged, thread }
    }

    /// Waits until this many messages are acknowledged.
    pub fn wait_for_acknowledged(&self, count: usize) {
        wait_for("acknowledgements", || {
            let now = self.acknowledged.lock().expect("no thread panicked").len();
            if now >= count {
                Ok(())
            } else {
                Err(format!("{now} of {count}"))
            }
        });
    }

    /// The acknowledged numbers, in the order of their PUBACKs, once the connection has broken.
    pub fn join(self) -> Vec<u64> {
        self.thread.join().expect("the load ends when the connection breaks");
        std::mem::take(&mut self.acknowledged.lock().expect("no thread panicked"))
    }
}
