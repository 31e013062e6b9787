//! A broker over a store in a temporary folder, and a client that speaks raw bytes.

#![allow(dead_code)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use headwater_broker::Broker;
use headwater_broker::packet::{Connect, Decoder, Packet, Properties, Property, Version, encode};
use headwater_config::Config;
use headwater_store::{Store, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

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
        let config = config(folder.path(), settings);
        let store = tokio::task::spawn_blocking(move || Store::open(&config.store, Arc::new(SystemClock)));
        let store = store.await.unwrap().unwrap();
        let settings = self::config(folder.path(), settings);
        let broker = Broker::start(store.clone(), &settings.broker).await.unwrap();
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
        Client::connect_with(address, version, client_id, &[]).await
    }

    pub async fn connect_with(
        address: SocketAddr,
        version: Version,
        client_id: &str,
        properties: &[Property],
    ) -> Client {
        let mut client = Client::open(address, version).await;
        let properties = properties.iter().cloned().collect();
        client.send(&connect(version, client_id, properties)).await;
        match client.receive().await {
            Some(Packet::ConnAck(connack)) if !connack.reason.is_error() => client,
            other => panic!("no CONNACK but {other:?}"),
        }
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

pub fn connect(version: Version, client_id: &str, properties: Properties) -> Packet {
    Packet::Connect(Box::new(Connect {
        version,
        clean_start: true,
        keep_alive_s: 0,
        client_id: client_id.into(),
        will: None,
        username: None,
        password: None,
        properties,
    }))
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
