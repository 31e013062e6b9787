//! A broker over a store in a temporary folder, and a client that speaks raw bytes.

mod asks;
mod gate;
pub mod generate;
mod packets;
pub mod scram;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use headwater_broker::Broker;
use headwater_broker::packet::*;
use headwater_config::Config;
use headwater_store::{Clock, Qos, Store, StreamSpec, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub use asks::{Asks, CLEAN, STAY, connect, open, resume};
pub use gate::Gate;
pub use packets::{PACKET_MAX, ack, decode, encoded, expiry_s, id, message, number, will};

/// How long anything that should happen may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(5);

pub struct Server {
    pub broker: Broker,
    pub store: Store,
    pub folder: Arc<tempfile::TempDir>,
}

impl Server {
    pub async fn start(settings: &[&str]) -> Server {
        Server::start_in(Arc::new(tempfile::tempdir().unwrap()), settings).await
    }

    pub async fn start_in(folder: Arc<tempfile::TempDir>, settings: &[&str]) -> Server {
        Server::start_with(folder, settings, Arc::new(SystemClock)).await
    }

    pub async fn start_with(folder: Arc<tempfile::TempDir>, settings: &[&str], clock: Arc<dyn Clock>) -> Server {
        let config = config(folder.path(), settings);
        let settings = config.store;
        let store = tokio::task::spawn_blocking(move || Store::open(&settings, clock));
        let store = store.await.unwrap().unwrap();
        let broker = Broker::start(store.clone(), &config.broker).await.unwrap();
        Server { broker, store, folder }
    }

    pub fn address(&self) -> SocketAddr {
        self.broker.local_addr()
    }

    pub async fn stop(self) -> Arc<tempfile::TempDir> {
        self.broker.stop().await;
        self.store.stop().await;
        self.folder
    }
}

pub fn config(folder: &Path, settings: &[&str]) -> Config {
    let path = format!("store.path={}", folder.join("data").display());
    let base = [path.as_str(), "broker.mqtt_listen=127.0.0.1:0", "store.free_disk_min=0"];
    let settings: Vec<String> = base.iter().chain(settings).map(|setting| setting.to_string()).collect();
    Config::load(None, [], &settings).unwrap()
}

/// A client of packets over a socket.
pub struct Client {
    pub stream: TcpStream,
    pub version: Version,
    decoder: Decoder,
    input: BytesMut,
}

impl Client {
    pub async fn open(address: SocketAddr, version: Version) -> Client {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Client {
            stream,
            version,
            decoder: Decoder::for_version(version, 1 << 28),
            input: BytesMut::new(),
        }
    }

    /// Opens a clean session.
    pub async fn connect(address: SocketAddr, version: Version, client_id: &str) -> Client {
        let mut client = Client::open(address, version).await;
        client.send(&Asks { version, ..CLEAN }.packet(client_id)).await;
        match client.receive().await {
            Some(Packet::ConnAck(connack)) if !connack.reason.is_error() => client,
            other => panic!("no CONNACK but {other:?}"),
        }
    }

    /// Subscribes, and gets what it asked for.
    pub async fn subscribe(&mut self, filter: &str, qos: Qos) {
        assert_eq!(self.try_subscribe(filter, qos).await, Reason(qos.bits()), "{filter}");
    }

    /// Subscribes; the SUBACK's code.
    pub async fn try_subscribe(&mut self, filter: &str, qos: Qos) -> Reason {
        let options = SubscriptionOptions {
            qos,
            ..SubscriptionOptions::default()
        };
        let packet = Subscribe {
            packet_id: PacketId::new(1).unwrap(),
            properties: Properties::default(),
            subscriptions: [(filter.into(), options)].into_iter().collect(),
        };
        self.send(&Packet::Subscribe(packet)).await;
        match self.receive().await {
            Some(Packet::SubAck(suback)) => Reason(suback.reasons[0]),
            other => panic!("no SUBACK but {other:?}"),
        }
    }

    /// Sends a PUBLISH.
    pub async fn publish(&mut self, message: Publish) {
        self.send(&Packet::Publish(message)).await;
    }

    /// Publishes numbers with QoS 1, under packet ids that are the same, and waits for each PUBACK.
    pub async fn publish_numbers(&mut self, topic: &str, numbers: RangeInclusive<u16>) {
        for number in numbers {
            let payload = number.to_string();
            self.publish(message(topic, Qos::AtLeastOnce, number, payload)).await;
            self.expect(Packet::PubAck(ack(number))).await;
        }
    }

    /// What comes next is this.
    pub async fn expect(&mut self, packet: Packet) {
        assert_eq!(self.receive().await, Some(packet));
    }

    /// What comes next is a message.
    pub async fn message(&mut self) -> Publish {
        match self.receive().await {
            Some(Packet::Publish(publish)) => publish,
            other => panic!("no message but {other:?}"),
        }
    }

    /// The same, acknowledged if it is at QoS 1.
    pub async fn take(&mut self) -> Publish {
        let message = self.message().await;
        self.acknowledge(&message).await;
        message
    }

    /// The next message, not acknowledged; None when none comes within `wait_ms`.
    pub async fn next_within(&mut self, wait_ms: u64) -> Option<Publish> {
        match self.receive_within(Duration::from_millis(wait_ms)).await? {
            Packet::Publish(publish) => Some(publish),
            other => panic!("no message but {other:?}"),
        }
    }

    /// Sends the PUBACK of a QoS 1 message.
    pub async fn acknowledge(&mut self, message: &Publish) {
        if let Some(packet_id) = message.packet_id {
            self.send(&Packet::PubAck(ack(packet_id.get()))).await;
        }
    }

    /// Nothing comes, and the connection lives.
    pub async fn silent(&mut self) {
        assert_eq!(self.receive_within(Duration::from_millis(200)).await, None);
        self.send(&Packet::PingReq).await;
        self.expect(Packet::PingResp).await;
    }

    pub async fn send(&mut self, packet: &Packet) {
        let mut out = BytesMut::new();
        encode(packet, self.version, &mut out).unwrap();
        self.stream.write_all(&out).await.unwrap();
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next packet; None when the broker closed the connection.
    pub async fn receive(&mut self) -> Option<Packet> {
        loop {
            if let Some(packet) = self
                .decoder
                .decode(&mut self.input)
                .expect("the broker sends valid packets")
            {
                return Some(packet);
            }
            match timeout(SOON, self.stream.read_buf(&mut self.input))
                .await
                .expect("an answer in time")
            {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Exactly `count` bytes, or as many as come before the end.
    pub async fn receive_bytes(&mut self, count: usize) -> Vec<u8> {
        while self.input.len() < count {
            match timeout(SOON, self.stream.read_buf(&mut self.input)).await {
                Err(_) | Ok(Ok(0) | Err(_)) => break,
                Ok(Ok(_)) => {}
            }
        }
        let count = count.min(self.input.len());
        self.input.split_to(count).to_vec()
    }

    /// None when the broker closes the connection without another byte; else what it does instead.
    pub async fn receive_end(&mut self) -> Option<String> {
        if !self.input.is_empty() {
            return Some(format!("{:x?}", self.input));
        }
        match timeout(SOON, self.stream.read_buf(&mut self.input)).await {
            Ok(Ok(0) | Err(_)) => None,
            Ok(Ok(_)) => Some(format!("{:x?}", self.input)),
            Err(_) => Some("nothing".to_owned()),
        }
    }

    /// What arrives within `wait`, for tests that nothing does.
    pub async fn receive_within(&mut self, wait: Duration) -> Option<Packet> {
        timeout(wait, self.receive()).await.ok().flatten()
    }
}

/// A stream without columns that captures these topics.
pub fn stream(name: &str, captures: &[&str]) -> StreamSpec {
    StreamSpec {
        captures: captures.iter().map(|capture| (*capture).into()).collect(),
        ..StreamSpec::new(name)
    }
}

/// Reads hex with quoted text in it: `30 07 0003 "a/b" "hi"`, which is also `30 [{"a/b"} "hi"]`: what stands in `[]` has
/// its length before it as a variable byte integer, what stands in `{}` as two bytes.
pub fn parse_bytes(text: &str) -> Vec<u8> {
    let mut around = Vec::new();
    let mut bytes = Vec::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' => {}
            '"' => bytes.extend(
                characters
                    .by_ref()
                    .take_while(|next| *next != '"')
                    .collect::<String>()
                    .bytes(),
            ),
            '[' | '{' => around.push((character, std::mem::take(&mut bytes))),
            ']' | '}' => {
                let (opened, outer) = around.pop().unwrap_or_else(|| panic!("too much is closed in {text}"));
                assert_eq!(opened, if character == ']' { '[' } else { '{' }, "{text}");
                let inner = std::mem::replace(&mut bytes, outer);
                match character {
                    ']' => put_variable(&mut bytes, inner.len()),
                    _ => bytes.extend(u16::try_from(inner.len()).unwrap().to_be_bytes()),
                }
                bytes.extend(inner);
            }
            high => {
                let pair: String = [Some(high), characters.next()].into_iter().flatten().collect();
                bytes.push(u8::from_str_radix(&pair, 16).unwrap_or_else(|_| panic!("not hex: {pair} in {text}")));
            }
        }
    }
    assert!(around.is_empty(), "something is not closed in {text}");
    bytes
}

fn put_variable(out: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
