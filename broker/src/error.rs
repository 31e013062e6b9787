//! What can go wrong, one enum per operation, and how a connection ends.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::path::PathBuf;

use headwater_store::{TopicError, WriteError};

use crate::packet::Reason;

/// Why the broker could not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The port is taken, or the address is not ours.
    #[error("cannot listen for MQTT on {address}: {source}; choose another address with --mqtt or broker.mqtt_listen")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
    /// The path is taken, or not ours.
    #[error("cannot listen for MQTT on the socket {}: {source}; choose another path with broker.unix_listen", .path.display())]
    Socket { path: PathBuf, source: std::io::Error },
    /// The certificate or its key cannot be used.
    #[error("cannot use {} for TLS: {reason}; broker.tls_certificate and broker.tls_key must be PEM files that belong together", .path.display())]
    Tls { path: PathBuf, reason: String },
    /// The file of those who may prove who they are.
    #[error("cannot use broker.scram_users: {0}")]
    Users(#[from] crate::scram::FileError),
    /// The store does not give them.
    #[error("cannot read the sessions of clients that are away: {0}")]
    Sessions(#[source] crate::sessions::SessionError),
}

/// Why a message was not published, or is not known to be.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PublishError {
    /// A published record needs a topic.
    #[error("the record has no topic")]
    NoTopic,
    /// The topic is not one that clients may publish to.
    #[error("topics below {0} belong to headwater")]
    Reserved(&'static str),
    /// A question to nobody.
    #[error("there is no view `{0}`")]
    NoView(String),
    /// Its Payload Format Indicator says text.
    #[error("the payload format indicator says UTF-8, and the payload is not")]
    PayloadFormat,
    /// Not a topic name.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The store refused it, or lost track of it.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl PublishError {
    /// The PUBACK's code; None when the outcome is not known or the broker is stopping, where the only honest answer
    /// is none.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            PublishError::NoTopic | PublishError::NoView(_) | PublishError::Topic(_) => {
                Some(Reason::TOPIC_NAME_INVALID)
            }
            PublishError::Reserved(_) => Some(Reason::NOT_AUTHORIZED),
            PublishError::PayloadFormat => Some(Reason::PAYLOAD_FORMAT_INVALID),
            PublishError::Write(WriteError::DiskFull { .. } | WriteError::TooLarge { .. }) => {
                Some(Reason::QUOTA_EXCEEDED)
            }
            PublishError::Write(WriteError::Indefinite(_) | WriteError::Stopped) => None,
            // For whatever reason: nothing was applied.
            PublishError::Write(_) => Some(Reason::IMPLEMENTATION_SPECIFIC_ERROR),
        }
    }
}

/// Why a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The client said goodbye; with its will when it asked for it (0x04).
    Client { with_will: bool },
    /// The socket closed or failed without a goodbye.
    Lost,
    /// The broker ends it. A 5.0 client is told why.
    Server { reason: Reason, detail: Cow<'static, str> },
}

impl End {
    /// The broker ends it for `reason`.
    pub fn server(reason: Reason, detail: impl Into<Cow<'static, str>>) -> End {
        End::Server {
            reason,
            detail: detail.into(),
        }
    }

    /// Another connection came with the same client id.
    pub fn taken_over() -> End {
        End::server(Reason::SESSION_TAKEN_OVER, "another connection uses this client id")
    }

    /// It is that.
    pub fn is_takeover(&self) -> bool {
        matches!(self, End::Server { reason, .. } if *reason == Reason::SESSION_TAKEN_OVER)
    }

    /// The broker stops.
    pub fn shutdown() -> End {
        End::server(Reason::SERVER_SHUTTING_DOWN, "the server is stopping")
    }

    /// Every end but a plain DISCONNECT publishes the will [MQTT-3.1.2-8] [MQTT-3.14.4-3].
    pub fn publishes_will(&self) -> bool {
        !matches!(self, End::Client { with_will: false })
    }

    /// A short name for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            End::Client { .. } => "client",
            End::Lost => "lost",
            End::Server { reason, .. } => reason.name(),
        }
    }
}
