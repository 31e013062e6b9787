//! What a client asks for in CONNECT.

use headwater_broker::packet::*;

use super::{Client, Server};

/// A CONNECT, as far as tests care.
pub struct Asks {
    pub version: Version,
    pub clean_start: bool,
    pub expiry_s: u32,
    pub receive_max: Option<u16>,
    pub will: Option<Will>,
}

/// A session that outlives its connections.
pub const STAY: Asks = Asks {
    version: Version::V5,
    clean_start: false,
    expiry_s: 600,
    receive_max: None,
    will: None,
};

/// One that does not.
pub const CLEAN: Asks = Asks {
    clean_start: true,
    expiry_s: 0,
    ..STAY
};

impl Asks {
    pub fn packet(self, client_id: &str) -> Packet {
        let expiry = (self.expiry_s > 0).then_some(Property::SessionExpiryInterval(self.expiry_s));
        let properties = match self.version {
            Version::V5 => [expiry, self.receive_max.map(Property::ReceiveMaximum)],
            _ => [None, None],
        };
        Packet::Connect(Box::new(Connect {
            clean_start: self.clean_start,
            will: self.will,
            ..connect(self.version, client_id, properties.into_iter().flatten().collect())
        }))
    }
}

/// A clean session's CONNECT, with these properties.
pub fn connect(version: Version, client_id: &str, properties: Properties) -> Connect {
    Connect {
        version,
        clean_start: true,
        keep_alive_s: 0,
        client_id: client_id.into(),
        will: None,
        username: None,
        password: None,
        properties,
    }
}

/// Connects; whether there was a session.
pub async fn open(server: &Server, client_id: &str, asks: Asks) -> (Client, bool) {
    let mut client = Client::open(server.address(), asks.version).await;
    client.send(&asks.packet(client_id)).await;
    match client.receive().await {
        Some(Packet::ConnAck(connack)) if !connack.reason.is_error() => (client, connack.session_present),
        other => panic!("no CONNACK but {other:?}"),
    }
}

/// Goes on with a session that is there.
pub async fn resume(server: &Server, client_id: &str) -> Client {
    let (client, present) = open(server, client_id, STAY).await;
    assert!(present, "there is a session");
    client
}
