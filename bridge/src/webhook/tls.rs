//! TLS towards webhooks: the certificate must be for the host of the URL, and be signed by a root that Mozilla trusts.

use std::io;
use std::sync::{Arc, LazyLock};

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::webhook::target::Host;

/// Mozilla's roots, which are compiled in.
pub(crate) fn mozilla_roots() -> Arc<ClientConfig> {
    static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
        client_config(RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        })
    });
    CONFIG.clone()
}

fn client_config(roots: RootCertStore) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// Shakes hands as a client.
pub(crate) async fn connect(
    stream: TcpStream,
    host: &Host,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, io::Error> {
    let name = match host {
        Host::Address(address) => ServerName::IpAddress((*address).into()),
        Host::Name(name) => ServerName::try_from(name.clone()).map_err(io::Error::other)?,
    };
    TlsConnector::from(config).connect(name, stream).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;
    use tokio_rustls::rustls::ServerConfig;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

    /// A certificate for `hooks.test`, signed by the CA beside it.
    const CA: &[u8] = include_bytes!("../../tests/data/tls/ca.pem");
    const CERTIFICATE: &[u8] = include_bytes!("../../tests/data/tls/server.pem");
    const KEY: &[u8] = include_bytes!("../../tests/data/tls/server.key");

    async fn shake(host: &str, config: Arc<ClientConfig>) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let certificate = CertificateDer::from_pem_slice(CERTIFICATE).unwrap();
        let key = PrivateKeyDer::from_pem_slice(KEY).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let far_side = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(mut stream) = acceptor.accept(stream).await {
                // Until the client goes.
                let _ = stream.read(&mut [0; 1]).await;
            }
        });
        let stream = TcpStream::connect(address).await.unwrap();
        let shaken = connect(stream, &Host::parse(host).unwrap(), config).await;
        let outcome = shaken.map(drop).map_err(|error| error.to_string());
        far_side.await.unwrap();
        outcome
    }

    #[tokio::test]
    async fn only_the_host_of_the_url_with_a_trusted_root_will_do() {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(CA).unwrap()).unwrap();
        let config = client_config(roots);
        assert_eq!(shake("hooks.test", config.clone()).await, Ok(()));
        let wrong_name = shake("other.test", config).await.unwrap_err();
        assert!(wrong_name.contains("not valid for name"), "{wrong_name}");
        let unknown = shake("hooks.test", mozilla_roots()).await.unwrap_err();
        assert!(unknown.contains("UnknownIssuer"), "{unknown}");
    }
}
