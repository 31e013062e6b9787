//! A small MQTT 5 client: packets over a socket.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::BytesMut;
use headwater_broker::packet::{
    Ack, Connect, Decoder, Disconnect, Packet, PacketId, Properties, Property, Publish, Reason, Subscribe,
    SubscriptionOptions, Version, encode,
};
use headwater_store::Qos;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long anything may take before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(600);

pub struct Client {
    stream: TcpStream,
    decoder: Decoder,
    input: BytesMut,
}

impl Client {
    /// Connects; `expiry_s` keeps the session. Whether there was one is the other half.
    pub async fn open(address: SocketAddr, client_id: &str, expiry_s: u32) -> Result<(Client, bool)> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut client = Client {
            stream,
            decoder: Decoder::for_version(Version::V5, 1 << 20),
            input: BytesMut::new(),
        };
        let expiry = (expiry_s > 0).then_some(Property::SessionExpiryInterval(expiry_s));
        let connect = Connect {
            version: Version::V5,
            clean_start: expiry_s == 0,
            keep_alive_s: 0,
            client_id: client_id.into(),
            will: None,
            username: None,
            password: None,
            properties: expiry.into_iter().collect(),
        };
        client.send(&[Packet::Connect(Box::new(connect))]).await?;
        match client.receive().await? {
            Packet::ConnAck(connack) if !connack.reason.is_error() => Ok((client, connack.session_present)),
            other => bail!("no CONNACK but {other:?}"),
        }
    }

    /// Subscribes to all of these with QoS 1.
    pub async fn subscribe(&mut self, filters: &[String]) -> Result<()> {
        let options = SubscriptionOptions {
            qos: Qos::AtLeastOnce,
            ..SubscriptionOptions::default()
        };
        let subscriptions = filters.iter().map(|filter| (filter.as_str().into(), options)).collect();
        let packet_id = PacketId::new(1).context("1 is a packet id")?;
        let properties = Properties::default();
        let subscribe = Subscribe {
            packet_id,
            properties,
            subscriptions,
        };
        self.send(&[Packet::Subscribe(subscribe)]).await?;
        match self.receive().await? {
            Packet::SubAck(suback) if suback.reasons.iter().all(|code| *code < 0x80) => Ok(()),
            other => bail!("no SUBACK but {other:?}"),
        }
    }

    /// Publishes all with QoS 1, some hundreds on the way at once, and waits for their acknowledgements.
    pub async fn publish(&mut self, messages: impl IntoIterator<Item = (String, Vec<u8>)>, retain: bool) -> Result<()> {
        let mut messages = messages.into_iter().peekable();
        while messages.peek().is_some() {
            let packet = |(number, (topic, payload)): (u16, (String, Vec<u8>))| {
                Packet::Publish(Publish {
                    dup: false,
                    qos: Qos::AtLeastOnce,
                    retain,
                    topic: topic.into(),
                    packet_id: PacketId::new(number),
                    properties: Properties::default(),
                    payload: payload.into(),
                })
            };
            let chunk: Vec<_> = (1..=500).zip(messages.by_ref()).map(packet).collect();
            self.send(&chunk).await?;
            for _ in &chunk {
                match self.receive().await? {
                    Packet::PubAck(ack) if !ack.reason.is_error() => {}
                    other => bail!("no PUBACK but {other:?}"),
                }
            }
        }
        Ok(())
    }

    /// The next message, acknowledged.
    pub async fn message(&mut self) -> Result<Publish> {
        let Packet::Publish(publish) = self.receive().await? else {
            bail!("something else than a message")
        };
        if let Some(packet_id) = publish.packet_id {
            let (reason, properties) = (Reason::SUCCESS, Properties::default());
            self.send(&[Packet::PubAck(Ack {
                packet_id,
                reason,
                properties,
            })])
            .await?;
        }
        Ok(publish)
    }

    /// Says goodbye.
    pub async fn close(mut self) -> Result<()> {
        let (reason, properties) = (Reason::SUCCESS, Properties::default());
        self.send(&[Packet::Disconnect(Disconnect { reason, properties })])
            .await
    }

    async fn send(&mut self, packets: &[Packet]) -> Result<()> {
        let mut out = BytesMut::new();
        for packet in packets {
            encode(packet, Version::V5, &mut out)?;
        }
        Ok(self.stream.write_all(&out).await?)
    }

    async fn receive(&mut self) -> Result<Packet> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.input)? {
                return Ok(packet);
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.input));
            if read.await.context("nothing comes")?? == 0 {
                bail!("the server closed the connection");
            }
        }
    }
}
