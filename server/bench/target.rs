//! Which broker, and how to talk to it.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use headwater_broker::packet::Version;

/// The options that both commands have.
#[derive(Debug, Clone, clap::Args)]
pub struct TargetArgs {
    /// The broker, any broker: mqtt://host:port, or unix:///path of a socket.
    #[arg(long, default_value = "mqtt://127.0.0.1:1883", value_name = "URL")]
    url: String,
    /// The protocol's version.
    #[arg(long, value_enum, default_value_t = Protocol::V3_1_1)]
    protocol: Protocol,
    /// Who to say that the clients are.
    #[arg(long)]
    username: Option<String>,
    /// Its proof.
    #[arg(
        long,
        requires = "username",
        env = "HEADWATER_BENCH_PASSWORD",
        hide_env_values = true
    )]
    password: Option<String>,
    /// Threads that the clients share. One is enough for some hundred thousand messages a second.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Protocol {
    #[value(name = "3.1.1")]
    V3_1_1,
    #[value(name = "5")]
    V5,
}

impl TargetArgs {
    /// Threads to run on.
    pub fn threads(&self) -> usize {
        usize::from(self.threads)
    }

    /// The broker; an error when the URL is none.
    pub fn target(&self) -> Result<Target> {
        Ok(Target {
            address: address(&self.url)?,
            version: match self.protocol {
                Protocol::V3_1_1 => Version::V3_1_1,
                Protocol::V5 => Version::V5,
            },
            username: self.username.clone(),
            password: self.password.clone(),
        })
    }
}

/// A broker.
#[derive(Debug, Clone)]
pub struct Target {
    /// Where it listens.
    pub address: Address,
    /// What CONNECT says.
    pub version: Version,
    /// What CONNECT says, if anything.
    pub username: Option<String>,
    /// What CONNECT says, if anything.
    pub password: Option<String>,
}

/// Where a broker listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `host:port`
    Tcp(String),
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => f.write_str(address),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}

fn address(url: &str) -> Result<Address> {
    match url.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => Ok(Address::Unix(path.into())),
        Some(("unix", _)) => bail!("`{url}` is not a socket: write unix:///path, with the path from the root"),
        Some(("mqtt" | "tcp", rest)) => tcp(url, rest),
        Some((scheme, _)) => bail!("`{url}`: the load generator speaks mqtt:// and unix://, not {scheme}://"),
        None => tcp(url, url),
    }
}

/// `host:port`, where the port may be left out.
fn tcp(url: &str, rest: &str) -> Result<Address> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.is_empty() || rest.contains(['/', '@', '?', ' ']) {
        bail!("`{url}` is not a broker: write mqtt://host:port (and --username, --password)");
    }
    // A colon inside of brackets belongs to an IPv6 address.
    match rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
        Some((_, port)) => {
            port.parse::<u16>()
                .with_context(|| format!("`{url}`: `{port}` is not a port"))?;
            Ok(Address::Tcp(rest.to_owned()))
        }
        None => Ok(Address::Tcp(format!("{rest}:1883"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_host_and_perhaps_a_port_or_a_socket() {
        let cases = [
            ("mqtt://127.0.0.1:1884", Some("127.0.0.1:1884")),
            ("mqtt://broker/", Some("broker:1883")),
            ("broker:99", Some("broker:99")),
            ("mqtt://[::1]", Some("[::1]:1883")),
            ("mqtt://[::1]:5", Some("[::1]:5")),
            ("unix:///run/mqtt.sock", Some("/run/mqtt.sock")),
            ("unix://mqtt.sock", None),
            ("mqtts://broker", None),
            ("mqtt://", None),
            ("mqtt://a:b@broker", None),
            ("mqtt://broker:port", None),
        ];
        for (url, expected) in cases {
            let found = address(url).ok().map(|address| address.to_string());
            assert_eq!(found.as_deref(), expected, "{url}");
        }
    }
}
