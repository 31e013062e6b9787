//! One MQTT connection of the load: a socket with the broker's own codec, many packets a read and many a write.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context as Waking, Poll, ready};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BytesMut};
use headwater_broker::packet::{
    ConnAck, Connect, Decoder, Disconnect, Packet, PacketId, PacketType, Properties, Property, Reason, Subscribe,
    SubscriptionOptions, Version, encode,
};
use headwater_store::Qos;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::limits::{KEEP_ALIVE_S, PACKET_BYTES_MAX, PING_AFTER, READ_BYTES, TICK, WRITE_BYTES_MAX};
use super::target::{Address, Target};

/// A client that the broker has let in.
pub struct Connection {
    socket: Socket,
    version: Version,
    decoder: Decoder,
    input: BytesMut,
    output: BytesMut,
    ticks: Interval,
    wrote: Instant,
    pings: u32,
    inflight_max: u16,
}

impl Connection {
    /// Connects and waits for CONNACK.
    pub async fn open(target: &Target, client_id: String) -> Result<Connection> {
        let socket = Socket::connect(&target.address)
            .await
            .with_context(|| format!("no broker answers at {}", target.address))?;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connection = Connection {
            socket,
            version: target.version,
            decoder: Decoder::for_version(target.version, PACKET_BYTES_MAX),
            input: BytesMut::new(),
            output: BytesMut::new(),
            ticks,
            wrote: Instant::now(),
            pings: 0,
            inflight_max: u16::MAX,
        };
        connection.send(&Packet::Connect(Box::new(Connect {
            version: target.version,
            clean_start: true,
            keep_alive_s: KEEP_ALIVE_S,
            client_id: client_id.into(),
            will: None,
            username: target.username.clone().map(Into::into),
            password: target.password.clone().map(Into::into),
            properties: Properties::default(),
        })))?;
        match connection.answer().await.context("no CONNACK came")? {
            Packet::ConnAck(connack) => connection.accepted(&connack)?,
            other => bail!("{:?} came instead of CONNACK", other.packet_type()),
        }
        Ok(connection)
    }

    fn accepted(&mut self, connack: &ConnAck) -> Result<()> {
        ensure!(
            connack.reason == Reason::SUCCESS,
            "the broker refused the connection: {}",
            connack.reason
        );
        let receive_maximum = |property| match property {
            Property::ReceiveMaximum(maximum) => Some(maximum),
            _ => None,
        };
        self.inflight_max = connack.properties.find(receive_maximum).unwrap_or(u16::MAX);
        Ok(())
    }

    /// Subscribes to one filter and waits until it is granted.
    pub async fn subscribe(&mut self, filter: &str, qos: Qos) -> Result<()> {
        let options = SubscriptionOptions {
            qos,
            ..SubscriptionOptions::default()
        };
        self.send(&Packet::Subscribe(Subscribe {
            packet_id: PacketId::new(1).context("1 is a packet id")?,
            properties: Properties::default(),
            subscriptions: [(filter.into(), options)].into_iter().collect(),
        }))?;
        match self.answer().await.context("no SUBACK came")? {
            Packet::SubAck(suback) => ensure!(
                suback.reasons[..] == [qos.bits()],
                "the broker did not grant QoS {} for {filter}: {:02x?}",
                qos.bits(),
                &suback.reasons[..]
            ),
            other => bail!("{:?} came instead of SUBACK", other.packet_type()),
        }
        Ok(())
    }

    /// How many unacknowledged messages the broker takes from this client (Receive Maximum, 5.0).
    pub fn inflight_max(&self) -> u16 {
        self.inflight_max
    }

    /// The version that both sides speak.
    pub fn version(&self) -> Version {
        self.version
    }

    /// When the socket last took something.
    pub fn wrote(&self) -> Instant {
        self.wrote
    }

    /// Where packets are written to.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// False when enough waits for the socket.
    pub fn has_room(&self) -> bool {
        self.output.len() < WRITE_BYTES_MAX
    }

    /// Adds a packet to what is to be written.
    pub fn send(&mut self, packet: &Packet) -> Result<()> {
        Ok(encode(packet, self.version, &mut self.output)?)
    }

    /// Asks for a PINGRESP: it comes after the broker has read all that was sent before.
    pub fn ping(&mut self) -> Result<()> {
        self.pings += 1;
        self.send(&Packet::PingReq)
    }

    /// True when each PINGREQ has its PINGRESP.
    pub fn is_answered(&self) -> bool {
        self.pings == 0
    }

    /// The next packet that has arrived. PINGRESP is counted here; DISCONNECT is an error.
    pub fn received(&mut self) -> Result<Option<Packet>> {
        while let Some(packet) = self.decoder.decode(&mut self.input)? {
            match packet {
                Packet::PingResp => self.pings = self.pings.saturating_sub(1),
                Packet::Disconnect(disconnect) => bail!("the broker disconnected the client: {}", disconnect.reason),
                packet => return Ok(Some(packet)),
            }
        }
        Ok(None)
    }

    /// Writes what waits, or reads what has come, or returns because of `wake` or a tick of the clock.
    pub async fn turn(&mut self, wake: impl Future<Output = ()>) -> Result<()> {
        let mut wake = pin!(wake);
        poll_fn(|context| self.poll_turn(context, wake.as_mut())).await
    }

    fn poll_turn(&mut self, context: &mut Waking<'_>, wake: Pin<&mut impl Future<Output = ()>>) -> Poll<Result<()>> {
        if !self.output.is_empty()
            && let Poll::Ready(written) = self.socket.poll_write(context, &self.output)
        {
            self.output.advance(written.context("the connection broke")?);
            self.wrote = Instant::now();
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(read) = self.socket.poll_read(context, &mut self.input) {
            let closed = read.context("the connection broke")? == 0;
            return Poll::Ready(match closed {
                true => Err(anyhow::anyhow!("the broker closed the connection")),
                false => Ok(()),
            });
        }
        if self.input.is_empty() {
            // The next client's read gets this memory while it is in the processor's cache.
            self.input = BytesMut::new();
        }
        if wake.poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if self.ticks.poll_tick(context).is_ready() {
            if self.wrote.elapsed() > PING_AFTER && self.is_answered() {
                self.ping()?;
            }
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    /// DISCONNECT, and the socket is closed.
    pub async fn close(mut self) -> Result<()> {
        self.send(&Packet::Disconnect(Disconnect {
            reason: Reason::SUCCESS,
            properties: Properties::default(),
        }))?;
        match &mut self.socket {
            Socket::Tcp(stream) => finish(stream, &self.output).await,
            Socket::Unix(stream) => finish(stream, &self.output).await,
        }
    }

    async fn answer(&mut self) -> Result<Packet> {
        loop {
            if let Some(packet) = self.received()? {
                return Ok(packet);
            }
            self.turn(std::future::pending()).await?;
        }
    }
}

async fn finish(stream: &mut (impl AsyncWrite + Unpin), output: &[u8]) -> Result<()> {
    stream.write_all(output).await?;
    Ok(stream.shutdown().await?)
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    async fn connect(address: &Address) -> io::Result<Socket> {
        match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream))
            }
            Address::Unix(path) => Ok(Socket::Unix(UnixStream::connect(path).await?)),
        }
    }

    fn poll_write(&mut self, context: &mut Waking<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Socket::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_read(&mut self, context: &mut Waking<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        match self {
            Socket::Tcp(stream) => {
                ready!(stream.poll_read_ready(context))?;
                poll_read(stream, context, input)
            }
            Socket::Unix(stream) => {
                ready!(stream.poll_read_ready(context))?;
                poll_read(stream, context, input)
            }
        }
    }
}

fn poll_read(
    stream: &mut (impl AsyncRead + Unpin),
    context: &mut Waking<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    input.reserve(READ_BYTES);
    pin!(stream.read_buf(input)).poll(context)
}

/// What came where nothing of its kind may come.
pub fn unexpected(packet: PacketType) -> anyhow::Error {
    anyhow::anyhow!("the broker sent {packet:?}, which nothing asked for")
}
