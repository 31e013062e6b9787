//! MQTT over TLS, WebSocket and both, by clients that nobody here wrote; and over a Unix socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::tempdir;

use crate::harness::clients::script;
use crate::harness::mqtt::{CONNECT_V4, answer_until_closed};
use crate::harness::server::{Addresses, refusal};
use crate::harness::{PATIENCE, Server};

/// A certificate for 127.0.0.1 that signs itself, and its key.
fn certificate(folder: &Path) -> (PathBuf, PathBuf) {
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=localhost",
        ])
        .args(["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-out"])
        .arg(&certificate)
        .arg("-keyout")
        .arg(&key)
        .output()
        .expect("openssl runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (certificate, key)
}

#[test]
fn tls_and_websockets() {
    let folder = tempdir().unwrap();
    let (certificate, key) = certificate(folder.path());
    let (Addresses { mqtt: tls, http: ws }, Addresses { mqtt: wss, .. }) = (Addresses::free(), Addresses::free());
    let settings = [
        format!("broker.mqtts_listen={tls}"),
        format!("broker.ws_listen={ws}"),
        format!("broker.wss_listen={wss}"),
        format!("broker.tls_certificate={}", certificate.display()),
        format!("broker.tls_key={}", key.display()),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let server = Server::with(&folder.path().join("data"), &settings);
    let pem = certificate.to_str().expect("a plain path");
    for (transport, address, pem) in [("tls", tls, pem), ("ws", ws, "-"), ("wss", wss, pem)] {
        let port = address.port().to_string();
        script(&server, "paho_transports.py", &[transport, &port, pem]);
        if transport != "tls" {
            script(
                &server,
                "mqttjs_transports.js",
                &[&format!("{transport}://{address}/mqtt"), pem],
            );
        }
    }
    // Whoever does not speak what a port speaks is let go, and harms nobody.
    for address in [tls, ws, wss] {
        let mut stream = std::net::TcpStream::connect(address).expect("the port is open");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.write_all(CONNECT_V4).expect("it can be written to");
        let _ = stream.read_to_end(&mut Vec::new());
    }
    script(&server, "paho_transports.py", &["ws", &ws.port().to_string(), "-"]);
}

#[test]
fn a_unix_socket_also_after_a_kill() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("mqtt.sock");
    let setting = format!("broker.unix_listen={}", path.display());
    let mut server = Server::with(&folder.path().join("data"), &[&setting]);
    for _ in 0..2 {
        let mut stream = UnixStream::connect(&path).expect("the socket is there");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream
            .write_all(&[CONNECT_V4, &[0xc0, 0]].concat())
            .expect("it can be written to");
        let mut answer = [0; 6];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, [0x20, 2, 0, 0, 0xd0, 0]);
        server.kill();
        server.start_again();
    }
}

#[test]
fn behind_a_balancer_everyone_has_to_come_through_it() {
    let folder = tempdir().unwrap();
    let server = Server::with(&folder.path().join("data"), &["broker.proxy_protocol=true"]);
    let mut stream = std::net::TcpStream::connect(server.mqtt()).expect("the port is open");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    let header = b"PROXY TCP4 10.0.0.7 127.0.0.1 8080 1883\r\n";
    stream
        .write_all(&[header, CONNECT_V4].concat())
        .expect("it can be written to");
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(answer, [0x20, 2, 0, 0]);
    assert_eq!(answer_until_closed(&server, CONNECT_V4), b"", "no header, no answer");
}

#[test]
fn a_certificate_that_is_not_there_is_named() {
    let folder = tempdir().unwrap();
    let settings = [
        "broker.mqtts_listen=127.0.0.1:0",
        "broker.tls_certificate=/nowhere/certificate.pem",
        "broker.tls_key=/nowhere/key.pem",
    ];
    let said = refusal(&folder.path().join("data"), Addresses::free(), &settings);
    assert!(
        said.contains("/nowhere/certificate.pem") && said.contains("broker.tls_key"),
        "{said}"
    );
    let said = refusal(&folder.path().join("data"), Addresses::free(), &settings[..1]);
    assert!(said.contains("broker.tls_certificate"), "{said}");
}
