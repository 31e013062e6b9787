//! From an accepted socket to a session: CONNECT in time, or out.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use headwater_store::{TopicName, WriteError};
use tokio::time::timeout;

use super::Connection;
use super::finish::linger;
use crate::authentication::{self, Authentication, Failed, Proved, Turn};
use crate::clients::{Client, Gone, Presence};
use crate::cursor::Cursor;
use crate::error::End;
use crate::limits::{FLUSH_WAIT_MS, READ_BYTES_MIN, TAKEOVER_WAIT_MS};
use crate::listener::Shared;
use crate::outbox::Outbox;
use crate::packet::{Connect, DecodeError, Decoder, Packet, PacketId, Reason, Version};
use crate::replay::{Replay, Replayed};
use crate::scram::{METHOD, Verifiers};
use crate::session::{Flight, Source, Subscribed, accept, encode_within, refusal};
use crate::sessions::{Opened, PendingRow, Receiver, SessionError, SourceRow};
use crate::transport::{Guest, Stream};

/// A client's whole stay. What is needed on the way in or on the way out only is boxed: an idle client holds none of it.
pub async fn run(shared: Arc<Shared>, guest: Guest, peer: SocketAddr) {
    let Some(arrival) = Box::pin(arrive(&shared, guest, peer)).await else {
        return;
    };
    let Some((mut connection, _presence)) = Box::pin(admit(shared, arrival)).await else {
        return;
    };
    // A defect that one client finds is that client's end: what it held is given back in order, as at any other end, and
    // everyone else goes on.
    let served = AssertUnwindSafe(connection.serve()).catch_unwind().await;
    let end = served.unwrap_or_else(|_| End::server(Reason::UNSPECIFIED_ERROR, "a defect of the server"));
    Box::pin(connection.depart(&end)).await;
}

/// A client that has sent its CONNECT.
struct Arrival {
    stream: Stream,
    peer: SocketAddr,
    connect: Box<Connect>,
    proved: Option<Proved>,
    decoder: Decoder,
    input: BytesMut,
}

/// Waits for the CONNECT, whatever comes before it, and the client's proof of who it is. None: it did not come in.
async fn arrive(shared: &Shared, guest: Guest, peer: SocketAddr) -> Option<Arrival> {
    let mut input = BytesMut::new();
    let mut decoder = Decoder::new(shared.packet_max);
    let connect = async {
        let (mut stream, source) = guest.enter(shared.packet_max).await.map_err(Failure::Entry)?;
        let came = come_in(shared, &mut stream, &mut decoder, &mut input).await;
        Ok((stream, source.unwrap_or(peer), came))
    };
    let connect = tokio::select! {
        connect = timeout(shared.connect_timeout, connect) => connect,
        () = shared.stopping.cancelled() => return None,
    };
    match connect {
        Ok(Ok((stream, peer, Ok((connect, proved))))) => {
            return Some(Arrival {
                stream,
                peer,
                connect,
                proved,
                decoder,
                input,
            });
        }
        Ok(Ok((mut stream, peer, Err(Failure::Decode(error))))) => {
            shared.refusals.tell(peer, "", &error);
            shared.events.refused(peer, "", error.to_string());
            refuse_garbage(&mut stream, &error).await;
        }
        Ok(Ok((mut stream, peer, Err(Failure::Unproved(connect, (reason, detail)))))) => {
            turn_away(shared, &mut stream, peer, &connect, End::server(reason, detail)).await;
        }
        Ok(Ok((_, _, Err(Failure::Entry(error))))) | Ok(Err(Failure::Entry(error))) => {
            shared.refusals.tell(
                peer,
                "",
                format_args!("no CONNECT, and no handshake before it: {error}"),
            );
        }
        Ok(Ok((_, _, Err(Failure::Closed)))) | Ok(Err(_)) => {}
        Err(_) => shared
            .refusals
            .tell(peer, "", "no CONNECT, or no end of its authentication, in time"),
    }
    None
}

enum Failure {
    Closed,
    /// TLS or WebSocket.
    Entry(std::io::Error),
    Decode(DecodeError),
    /// The client did not prove who it is.
    Unproved(Box<Connect>, Failed),
}

async fn come_in(
    shared: &Shared,
    stream: &mut Stream,
    decoder: &mut Decoder,
    input: &mut BytesMut,
) -> Result<(Box<Connect>, Option<Proved>), Failure> {
    let connect = read_connect(stream, decoder, input).await?;
    let verifiers = shared
        .verifiers
        .as_ref()
        .filter(|_| authentication::method(&connect.properties).as_deref() == Some(METHOD));
    // Other methods are refused with whatever else is wrong with the CONNECT.
    let Some(verifiers) = verifiers else {
        return Ok((connect, None));
    };
    match authenticate(verifiers.clone(), &connect, stream, decoder, input).await {
        Ok(Ok(proved)) => Ok((connect, Some(proved))),
        Ok(Err(failed)) => Err(Failure::Unproved(connect, failed)),
        Err(failure) => Err(failure),
    }
}

/// Sends challenges until the client has proved who it is. It must not send anything else meanwhile [MQTT-3.1.2-30].
async fn authenticate(
    verifiers: Arc<Verifiers>,
    connect: &Connect,
    stream: &mut Stream,
    decoder: &mut Decoder,
    input: &mut BytesMut,
) -> Result<Result<Proved, Failed>, Failure> {
    let mut authentication = match Authentication::begin(verifiers) {
        Ok(authentication) => authentication,
        Err(failed) => return Ok(Err(failed)),
    };
    let mut turn = authentication.first(&connect.properties);
    loop {
        let challenge = match turn {
            Ok(Turn::Proved(proved)) => return Ok(Ok(proved)),
            Ok(Turn::Challenge(packet)) => packet,
            Err(failed) => return Ok(Err(failed)),
        };
        let mut out = BytesMut::new();
        let encoded = encode_within(&challenge, connect.version, connect.packet_max(), &mut out);
        if encoded.is_err() || out.is_empty() {
            let detail = "the client takes no packet as large as the challenge";
            return Ok(Err((Reason::PACKET_TOO_LARGE, detail.into())));
        }
        stream.send(&out).await.map_err(|_| Failure::Closed)?;
        turn = match read_packet(stream, decoder, input).await? {
            Packet::Auth(auth) => authentication.next(&auth),
            Packet::Disconnect(_) => return Err(Failure::Closed),
            _ => Err((
                Reason::PROTOCOL_ERROR,
                "another packet before the authentication was over".into(),
            )),
        };
    }
}

async fn read_connect(
    stream: &mut Stream,
    decoder: &mut Decoder,
    input: &mut BytesMut,
) -> Result<Box<Connect>, Failure> {
    match read_packet(stream, decoder, input).await? {
        Packet::Connect(connect) => Ok(connect),
        _ => Err(Failure::Decode(DecodeError::ConnectFirst)),
    }
}

async fn read_packet(stream: &mut Stream, decoder: &mut Decoder, input: &mut BytesMut) -> Result<Packet, Failure> {
    loop {
        if let Some(packet) = decoder.decode(input).map_err(Failure::Decode)? {
            return Ok(packet);
        }
        match stream.read(input, READ_BYTES_MIN).await {
            Ok(0) | Err(_) => return Err(Failure::Closed),
            Ok(_) => {}
        }
    }
}

/// A client that speaks some MQTT is told that it is not this one [MQTT-3.1.2-2]; anything else just sees the socket
/// close, as both specifications allow.
async fn refuse_garbage(stream: &mut Stream, error: &DecodeError) {
    let DecodeError::ProtocolLevel(level) = error else {
        return;
    };
    let version = if *level > 5 { Version::V5 } else { Version::V3_1_1 };
    let answer = refusal(version, usize::MAX, Reason::UNSUPPORTED_PROTOCOL_VERSION, "");
    send_last(stream, &answer).await;
}

/// Tells a client that it may not come in, and everyone who wants to know.
async fn turn_away(shared: &Shared, stream: &mut Stream, peer: SocketAddr, connect: &Connect, end: End) {
    shared.refusals.tell_end(peer, &connect.client_id, &end);
    shared.metrics.ended(&end);
    let End::Server { reason, detail } = end else { return };
    shared
        .events
        .refused(peer, &connect.client_id, format!("{reason}: {detail}"));
    let refusal = refusal(connect.version, connect.packet_max(), reason, &detail);
    send_last(stream, &refusal).await;
}

async fn send_last(stream: &mut Stream, bytes: &[u8]) {
    let _ = timeout(Duration::from_millis(FLUSH_WAIT_MS), stream.finish(bytes)).await;
    linger(stream).await;
}

/// Says why there is no session. `takes`: the client's version and how large its packets may be.
async fn cannot_open(
    shared: &Shared,
    mut stream: Stream,
    peer: SocketAddr,
    takes: (Version, usize),
    error: &SessionError,
) {
    let (reason, detail) = match error {
        SessionError::Lost => (Reason::SERVER_BUSY, "another connection uses this client id"),
        SessionError::Write(WriteError::DiskFull { .. }) => (Reason::QUOTA_EXCEEDED, "the disk is nearly full"),
        SessionError::Write(WriteError::Stopped) => (Reason::SERVER_SHUTTING_DOWN, "the server is stopping"),
        _ => (Reason::UNSPECIFIED_ERROR, "the session cannot be opened"),
    };
    tracing::warn!(%peer, %error, "a session cannot be opened");
    shared.metrics.ended(&End::server(reason, detail));
    send_last(&mut stream, &refusal(takes.0, takes.1, reason, detail)).await;
}

/// Opens the client's session and answers. The guard lets whoever waits for the client's end go, however its task ends.
async fn admit(shared: Arc<Shared>, arrival: Arrival) -> Option<(Box<Connection>, Presence)> {
    let Arrival {
        mut stream,
        peer,
        connect,
        proved,
        decoder,
        input,
    } = arrival;
    let (version, packet_max) = (connect.version, connect.packet_max());
    let accepted = match accept(&connect, proved, &shared.session_limits, || shared.assign_client_id()) {
        Ok(accepted) => accepted,
        Err((reason, detail)) => {
            turn_away(&shared, &mut stream, peer, &connect, End::server(reason, detail)).await;
            return None;
        }
    };
    drop(connect);
    let client = Arc::new(Client {
        connection: shared.next_connection(),
        client_id: accepted.session.client_id().clone(),
        username: accepted.wish.username.clone(),
        peer,
        version,
        connected_at: shared.store.now(),
        outbox: Outbox::new(shared.outbox_bytes, shared.groups()),
        subscriptions: AtomicUsize::new(0),
        gone: Gone::default(),
    });
    let presence = Presence(client.clone());
    if let Some(previous) = shared.clients.register(&client) {
        let _ = timeout(Duration::from_millis(TAKEOVER_WAIT_MS), previous.gone.wait()).await;
    }
    // Stopping tells all that are registered; one that registers later has to look.
    if shared.stopping.is_cancelled() {
        client.outbox.end(End::shutdown());
    }
    let opened = match shared
        .sessions
        .open(&client.client_id, client.connection, &accepted.wish)
        .await
    {
        Ok(opened) => opened,
        Err(error) => {
            shared.clients.unregister(&client);
            client.gone.tell();
            cannot_open(&shared, stream, peer, (version, packet_max), &error).await;
            return None;
        }
    };
    shared.metrics.connections.increment(1.0);
    tracing::debug!(%peer, client_id = %client.client_id, version = version.as_str(), "connected");
    let session_present = opened.restored.is_some();
    shared
        .events
        .connected(&client, session_present, accepted.wish.expiry_s);
    let connack = accepted.connack(opened.restored.is_some());
    let connection = Connection::new(shared.clone(), client, stream, decoder, accepted.session, input);
    let mut connection = Box::new(connection);
    connection.session.send(&connack, &mut connection.output.ready);
    connection.session.set_names(shared.names.clone());
    connection.take_up(opened);
    Some((connection, presence))
}

impl Connection {
    /// Leaves, after everything that this end asks for.
    async fn depart(&mut self, end: &End) {
        let client = self.client.clone();
        tracing::debug!(peer = %client.peer, client_id = %client.client_id, ?end, "ended");
        self.shared.refusals.tell_end(client.peer, &client.client_id, end);
        self.shared.metrics.ended(end);
        self.finish(end).await;
        self.shared.events.disconnected(&client, end);
        self.shared.metrics.connections.decrement(1.0);
        client.gone.tell();
        if matches!(end, End::Server { .. }) {
            self.linger().await;
        }
    }

    /// Goes on with the session that was opened.
    fn take_up(&mut self, opened: Opened) {
        let Some(held) = opened.held.map(Arc::new) else { return };
        self.held = Some(held.clone());
        let restored = opened.restored;
        if held.is_durable() {
            self.session.set_durable();
            let received = restored.as_ref().map_or(&[][..], |restored| &restored.received);
            self.pipeline
                .remember_with(Receiver::new(self.shared.store.clone(), (*held).clone(), received));
            self.progress
                .save_to(held, self.shared.store.clone(), self.shared.started);
        }
        let Some(restored) = restored else { return };
        let subscribed = |(subscription, since): (_, Vec<_>)| Subscribed {
            subscription,
            since: since.into(),
        };
        let subscriptions: Vec<_> = restored.subscriptions.into_iter().map(subscribed).collect();
        let received = restored.received.iter().map(|(id, _)| *id);
        self.session.restore(subscriptions.clone(), received);
        let flights = restored.progress.pending.into_iter().filter_map(flight).collect();
        let open = self.session.restore_flights(flights, &mut self.output.ready);
        self.pages.resend(open);
        for cursor in self.progress.cursors() {
            if let Some(saved) = restored
                .progress
                .cursors
                .iter()
                .find(|saved| saved.group == cursor.group)
            {
                cursor.clone_from(saved);
            }
        }
        // Nothing is delivered live before what was missed is read.
        self.client.outbox.close();
        for subscribed in &subscriptions {
            self.receive_from(subscribed);
        }
        let cursors: Vec<Cursor> = self.progress.cursors().to_vec();
        self.read_missed(cursors);
        for (text, row) in restored.streams {
            let replay = Replay::parse(&text, &[], row.qos, row.id);
            if let Some(replay) = replay.filter(|replay| self.session.restore_replay(replay)) {
                self.go_on_replaying(Replayed::new(replay, row.cursors), false);
            }
        }
    }
}

fn flight(row: PendingRow) -> Option<(PacketId, Flight)> {
    let source = match row.source {
        SourceRow::Log(at) => Source::Log(at),
        SourceRow::Retained(topic) => Source::Retained(TopicName::new(topic).ok()?),
    };
    let flight = Flight {
        source,
        qos: row.qos,
        retain: row.retain,
        ids: (!row.ids.is_empty()).then(|| row.ids.into()),
        released: row.released,
        giver: None,
    };
    Some((PacketId::new(row.packet_id)?, flight))
}
