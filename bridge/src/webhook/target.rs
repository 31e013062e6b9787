//! Where a webhook may connect to, and the connection.
//!
//! Whoever may write SQL chooses the URL, so the URL must not reach what only this machine or its network can reach
//! (server-side request forgery). The name is resolved here, each address is checked, and the connection is made to
//! exactly the address that was checked: a name that resolves to something else a moment later changes nothing.
//! Redirects are not followed. `bridge.webhook.allow_private` lists the exceptions, by name or by address.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use headwater_sql::ConnectorError;
use http_body_util::Full;
use hyper::Uri;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::limits::WEBHOOK_CONNECT_TIMEOUT;
use crate::webhook::address::is_public;
use crate::webhook::tls;

/// The host of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// To be resolved. Lower case, without a last dot.
    Name(String),
    /// Written as an address.
    Address(IpAddr),
}

impl Host {
    /// From the host part of an authority; an IPv6 address stands in brackets.
    pub(crate) fn parse(text: &str) -> Option<Host> {
        if let Some(inner) = text.strip_prefix('[') {
            return inner
                .strip_suffix(']')?
                .parse()
                .ok()
                .map(|address| Host::Address(IpAddr::V6(address)));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Some(Host::Address(IpAddr::V4(address)));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        (!name.is_empty()).then_some(Host::Name(name))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Name(name) => f.write_str(name),
            Host::Address(address) => address.fmt(f),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Not a failure of the far side: nothing is sent until the configuration or the name changes.
    #[error("{}; {}", not_public(host, *address), how_to_allow(host))]
    Refused { host: String, address: IpAddr },
    #[error("cannot resolve {host}: {source}")]
    Resolve { host: String, source: io::Error },
    #[error("{0} has no address")]
    NoAddress(String),
    #[error("cannot connect to {address}: {source}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("no connection to {0} within {seconds} s", seconds = WEBHOOK_CONNECT_TIMEOUT.as_secs())]
    Timeout(String),
    #[error("TLS with {host}: {source}")]
    Tls { host: String, source: io::Error },
    #[error("no HTTP with {host}: {source}")]
    Http { host: String, source: hyper::Error },
}

fn not_public(host: &str, address: IpAddr) -> String {
    if host == address.to_string() {
        format!("{address} is not a public address")
    } else {
        format!("{host} is {address}, which is not a public address")
    }
}

fn how_to_allow(host: &str) -> String {
    format!("to allow it add \"{host}\" to bridge.webhook.allow_private")
}

impl ConnectError {
    /// As a refusal of the option that names the target.
    pub(crate) fn of_option(&self, option: &str) -> ConnectorError {
        match self {
            ConnectError::Refused { host, address } => {
                ConnectorError::value(option, not_public(host, *address)).help(how_to_allow(host))
            }
            other => ConnectorError::value(option, other.to_string()),
        }
    }
}

/// The exceptions to the rule.
#[derive(Debug, Clone, Default)]
pub(crate) struct Allowed {
    hosts: Arc<[Host]>,
}

impl Allowed {
    /// From `bridge.webhook.allow_private`: names and addresses, IPv6 with or without brackets.
    pub(crate) fn new(entries: &[String]) -> Allowed {
        let host = |entry: &String| match entry.parse::<Ipv6Addr>() {
            Ok(address) => Some(Host::Address(IpAddr::V6(address))),
            Err(_) => Host::parse(entry),
        };
        Allowed {
            hosts: entries.iter().filter_map(host).collect(),
        }
    }

    /// Refuses a host that is private by how it is written, without looking anything up.
    pub(crate) fn check_written(&self, host: &Host) -> Result<(), ConnectError> {
        let address = match host {
            Host::Address(address) => *address,
            // RFC 6761: these never lead anywhere else.
            Host::Name(name) if name == "localhost" || name.ends_with(".localhost") => Ipv4Addr::LOCALHOST.into(),
            Host::Name(_) => return Ok(()),
        };
        match self.permits(host, address) {
            true => Ok(()),
            false => Err(ConnectError::Refused {
                host: host.to_string(),
                address,
            }),
        }
    }

    /// Whether `address`, to which `host` resolved, may be connected to.
    fn permits(&self, host: &Host, address: IpAddr) -> bool {
        is_public(address) || self.hosts.contains(host) || self.hosts.contains(&Host::Address(address))
    }
}

/// Opens a connection to the host of `uri`, which is `host`.
pub(crate) async fn connect(
    uri: &Uri,
    host: &Host,
    allowed: &Allowed,
) -> Result<SendRequest<Full<Bytes>>, ConnectError> {
    timeout(WEBHOOK_CONNECT_TIMEOUT, connect_untimed(uri, host, allowed))
        .await
        .unwrap_or_else(|_| Err(ConnectError::Timeout(host.to_string())))
}

async fn connect_untimed(uri: &Uri, host: &Host, allowed: &Allowed) -> Result<SendRequest<Full<Bytes>>, ConnectError> {
    let tls = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let addresses = resolve(host, port, allowed).await?;
    let stream = open(host, &addresses).await?;
    stream.set_nodelay(true).ok();
    if !tls {
        return handshake(stream, host).await;
    }
    let stream = tls::connect(stream, host, tls::mozilla_roots())
        .await
        .map_err(|source| ConnectError::Tls {
            host: host.to_string(),
            source,
        })?;
    handshake(stream, host).await
}

/// The addresses that may be connected to. One forbidden address among public ones is left out, not a reason to refuse.
async fn resolve(host: &Host, port: u16, allowed: &Allowed) -> Result<Vec<SocketAddr>, ConnectError> {
    let found: Vec<SocketAddr> = match host {
        Host::Address(address) => vec![SocketAddr::new(*address, port)],
        Host::Name(name) => match tokio::net::lookup_host((name.as_str(), port)).await {
            Ok(found) => found.collect(),
            Err(source) => {
                return Err(ConnectError::Resolve {
                    host: host.to_string(),
                    source,
                });
            }
        },
    };
    let permitted: Vec<_> = found
        .iter()
        .copied()
        .filter(|found| allowed.permits(host, found.ip()))
        .collect();
    match (permitted.is_empty(), found.first()) {
        (false, _) => Ok(permitted),
        (true, Some(first)) => Err(ConnectError::Refused {
            host: host.to_string(),
            address: first.ip(),
        }),
        (true, None) => Err(ConnectError::NoAddress(host.to_string())),
    }
}

async fn open(host: &Host, addresses: &[SocketAddr]) -> Result<TcpStream, ConnectError> {
    let mut failed = ConnectError::NoAddress(host.to_string());
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(source) => {
                failed = ConnectError::Connect {
                    address: *address,
                    source,
                }
            }
        }
    }
    Err(failed)
}

async fn handshake<S>(stream: S, host: &Host) -> Result<SendRequest<Full<Bytes>>, ConnectError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let shaken = http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = shaken.map_err(|source| ConnectError::Http {
        host: host.to_string(),
        source,
    })?;
    // Ends when the sender is dropped or the far side closes; its error shows up at the next request.
    tokio::spawn(async move { connection.await.ok() });
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_by_name_or_by_address() {
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let hooks = Host::parse("Hooks.Internal.").unwrap();
        let permits = |entry: &str, host: &Host| Allowed::new(&[entry.to_owned()]).permits(host, loopback);
        assert!(permits("hooks.internal", &hooks));
        assert!(permits("127.0.0.1", &hooks));
        assert!(!permits("other.internal", &hooks));
        assert!(!permits("internal", &hooks));
        assert!(!permits("10.0.0.1", &hooks));
        assert!(!Allowed::default().permits(&hooks, loopback));
        let v6 = Host::parse("[::1]").unwrap();
        for entry in ["::1", "[::1]"] {
            assert!(Allowed::new(&[entry.to_owned()]).permits(&v6, IpAddr::V6(Ipv6Addr::LOCALHOST)));
        }
    }

    #[tokio::test]
    async fn odd_spellings_of_loopback_are_resolved_before_they_are_checked() {
        for host in [
            "localhost",
            "127.1",
            "0x7f.0.0.1",
            "2130706433",
            "[::ffff:127.0.0.1]",
            "0",
        ] {
            let host = Host::parse(host).unwrap();
            // Where the resolver does not know a spelling, that is as good.
            match resolve(&host, 80, &Allowed::default()).await {
                Err(ConnectError::Refused { .. } | ConnectError::Resolve { .. }) => {}
                other => panic!("{host}: {other:?}"),
            }
        }
    }
}
