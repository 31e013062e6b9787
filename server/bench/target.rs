//! Which broker, and how to talk to it.

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use headwater_broker::packet::Version;

/// The options that both commands have.
#[derive(Debug, Clone, clap::Args)]
pub struct TargetArgs {
    /// The broker, any broker.
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
    /// `host:port`
    pub address: String,
    /// What CONNECT says.
    pub version: Version,
    /// What CONNECT says, if anything.
    pub username: Option<String>,
    /// What CONNECT says, if anything.
    pub password: Option<String>,
}

/// `mqtt://host:port`, where the port may be left out.
fn address(url: &str) -> Result<String> {
    let rest = match url.split_once("://") {
        Some(("mqtt" | "tcp", rest)) => rest,
        Some((scheme, _)) => bail!("`{url}`: the load generator speaks mqtt://, not {scheme}://"),
        None => url,
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    if rest.is_empty() || rest.contains(['/', '@', '?', ' ']) {
        bail!("`{url}` is not a broker: write mqtt://host:port (and --username, --password)");
    }
    // A colon inside of brackets belongs to an IPv6 address.
    match rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
        Some((_, port)) => {
            port.parse::<u16>()
                .with_context(|| format!("`{url}`: `{port}` is not a port"))?;
            Ok(rest.to_owned())
        }
        None => Ok(format!("{rest}:1883")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_host_and_perhaps_a_port() {
        let cases = [
            ("mqtt://127.0.0.1:1884", Some("127.0.0.1:1884")),
            ("mqtt://broker/", Some("broker:1883")),
            ("broker:99", Some("broker:99")),
            ("mqtt://[::1]", Some("[::1]:1883")),
            ("mqtt://[::1]:5", Some("[::1]:5")),
            ("mqtts://broker", None),
            ("mqtt://", None),
            ("mqtt://a:b@broker", None),
            ("mqtt://broker:port", None),
        ];
        for (url, expected) in cases {
            assert_eq!(address(url).ok().as_deref(), expected, "{url}");
        }
    }
}
