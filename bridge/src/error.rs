//! Why the bridge could not start.

use std::net::SocketAddr;

/// An error of [`crate::Bridge::start`].
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// The HTTP address is taken, or not ours.
    #[error(
        "cannot listen for HTTP on {address}: {source}; choose another address with --http, as in --http 127.0.0.1:6581"
    )]
    Bind {
        address: SocketAddr,
        source: std::io::Error,
    },
    /// The listener has no address: the socket is broken.
    #[error("the HTTP listener has no address: {0}")]
    Listener(std::io::Error),
}
