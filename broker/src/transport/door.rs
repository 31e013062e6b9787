//! Where clients come in: listeners of all kinds, and what a client has to go through before its first packet.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_config::BrokerConfig;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Stream;
use super::proxy::read_header;
use super::websocket::WebSocket;
use crate::error::BrokerError;

/// What a listener speaks below MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// WebSocket over TCP.
    WebSocket,
    /// WebSocket over TLS.
    SecureWebSocket,
    /// A Unix socket.
    Unix,
}

impl Transport {
    /// As in the address of a broker, `mqtt://…`.
    pub fn scheme(self) -> &'static str {
        match self {
            Transport::Tcp => "mqtt",
            Transport::Tls => "mqtts",
            Transport::WebSocket => "ws",
            Transport::SecureWebSocket => "wss",
            Transport::Unix => "mqtt+unix",
        }
    }
}

/// A listener.
#[derive(Debug)]
pub struct Door {
    /// What it speaks.
    pub transport: Transport,
    listener: Listener,
    /// Some for the secure ones.
    tls: Option<Arc<ServerConfig>>,
    /// Clients come through a balancer that says who they are.
    proxied: bool,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

/// A client that has not shown yet that it speaks what the door speaks.
#[derive(Debug)]
pub enum Guest {
    Tcp {
        stream: TcpStream,
        transport: Transport,
        tls: Option<Arc<ServerConfig>>,
        proxied: bool,
    },
    Unix(UnixStream),
}

/// Opens what is configured, plain MQTT first.
pub async fn doors(config: &BrokerConfig) -> Result<Vec<Door>, BrokerError> {
    let wanted = [
        (Transport::Tcp, Some(config.mqtt_listen)),
        (Transport::Tls, config.mqtts_listen.0),
        (Transport::WebSocket, config.ws_listen.0),
        (Transport::SecureWebSocket, config.wss_listen.0),
    ];
    let secure = |transport: &Transport| matches!(transport, Transport::Tls | Transport::SecureWebSocket);
    let tls = match wanted
        .iter()
        .any(|(transport, address)| secure(transport) && address.is_some())
    {
        true => Some(server_config(&config.tls_certificate, &config.tls_key)?),
        false => None,
    };
    let mut doors = Vec::new();
    for (transport, address) in wanted {
        let Some(address) = address else { continue };
        let listener = TcpListener::bind(address).await;
        doors.push(Door {
            transport,
            listener: Listener::Tcp(listener.map_err(|source| BrokerError::Listen { address, source })?),
            tls: tls.clone().filter(|_| secure(&transport)),
            proxied: config.proxy_protocol,
        });
    }
    if !config.unix_listen.as_os_str().is_empty() {
        let path = config.unix_listen.clone();
        let listener = unix(&path).map_err(|source| BrokerError::Socket {
            path: path.clone(),
            source,
        })?;
        doors.push(Door {
            transport: Transport::Unix,
            listener: Listener::Unix(listener, path),
            tls: None,
            proxied: false,
        });
    }
    Ok(doors)
}

impl Door {
    /// The next client, and where it comes from: nowhere for a Unix socket.
    pub async fn accept(&self) -> io::Result<(Guest, SocketAddr)> {
        match &self.listener {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let guest = Guest::Tcp {
                    stream,
                    transport: self.transport,
                    tls: self.tls.clone(),
                    proxied: self.proxied,
                };
                Ok((guest, peer))
            }
            Listener::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Guest::Unix(stream), ([0, 0, 0, 0], 0).into()))
            }
        }
    }

    /// Where it listens; None for a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.listener {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Listener::Unix(_, path) = &self.listener {
            // Left behind it does no harm: the next start sees that nobody listens there.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Guest {
    /// Goes through the PROXY header, TLS and the WebSocket handshake, where there is one. Beside the stream, where the
    /// client really comes from, if a balancer said so.
    pub async fn enter(self, packet_max: usize) -> io::Result<(Stream, Option<SocketAddr>)> {
        let (mut stream, transport, tls, proxied) = match self {
            Guest::Unix(stream) => return Ok((Stream::Unix(stream), None)),
            Guest::Tcp {
                stream,
                transport,
                tls,
                proxied,
            } => (stream, transport, tls, proxied),
        };
        // Acknowledgements are small and are waited for; each write is already everything there is.
        stream.set_nodelay(true)?;
        let source = match proxied {
            true => read_header(&mut stream).await?,
            false => None,
        };
        let stream = match (transport, tls) {
            (Transport::WebSocket, _) => Stream::WebSocket(Box::new(WebSocket::accept(stream, packet_max).await?)),
            (Transport::SecureWebSocket, Some(tls)) => {
                let stream = TlsAcceptor::from(tls).accept(stream).await?;
                Stream::SecureWebSocket(Box::new(WebSocket::accept(stream, packet_max).await?))
            }
            (Transport::Tls, Some(tls)) => Stream::Tls(Box::new(TlsAcceptor::from(tls).accept(stream).await?)),
            _ => Stream::Tcp(stream),
        };
        Ok((stream, source))
    }
}

/// A socket file that nobody listens at any more is taken away.
fn unix(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => match std::os::unix::net::UnixStream::connect(path) {
            Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)
            }
            _ => Err(error),
        },
        bound => bound,
    }
}

fn server_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, BrokerError> {
    let wrong = |path: &Path, reason: String| BrokerError::Tls {
        path: path.into(),
        reason,
    };
    let certificates = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = certificates.map_err(|error| wrong(certificate, error.to_string()))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, error.to_string()))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_no_client_auth())
        .and_then(|builder| builder.with_single_cert(certificates, private));
    config
        .map(Arc::new)
        .map_err(|error| wrong(certificate, error.to_string()))
}
