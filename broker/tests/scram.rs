//! Enhanced authentication with SCRAM-SHA-256 over sockets: on the way in, again while connected, and every way to fail.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bytes::Bytes;
use headwater_broker::packet::*;
use headwater_broker::scram::{self, METHOD, Verifier};
use headwater_broker::{Broker, BrokerError};
use headwater_store::{Header, Qos};

use crate::support::scram::last;
use crate::support::{Client, Server, ack, config, connect, message};

const NONCE: &str = "fyko+d2lbbFgONRv9qkxdawL";

/// A file with the users `ann` (pencil) and `bob` (eraser), open to whom `mode` says.
fn users(folder: &Path, mode: u32) -> String {
    let line = |name, password| scram::line(name, &Verifier::of(password, 4096).unwrap()).unwrap();
    let path = folder.join("users");
    std::fs::write(&path, format!("{}\n{}\n", line("ann", "pencil"), line("bob", "eraser"))).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    format!("broker.scram_users={}", path.display())
}

async fn start(more: &[&str]) -> Server {
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let users = users(folder.path(), 0o600);
    let settings: Vec<&str> = [&[users.as_str()], more].concat();
    Server::start_in(folder, &settings).await
}

fn properties(method: &str, data: Option<&str>) -> Properties {
    let method = Property::AuthenticationMethod(method.into());
    let data = data.map(|data| Property::AuthenticationData(Bytes::copy_from_slice(data.as_bytes())));
    std::iter::once(method).chain(data).collect()
}

fn auth(reason: Reason, data: Option<&str>) -> Packet {
    let properties = properties(METHOD, data);
    Packet::Auth(Auth { reason, properties })
}

fn data(properties: &Properties) -> String {
    let data = properties.find(|property| match property {
        Property::AuthenticationData(data) => Some(data),
        _ => None,
    });
    String::from_utf8(data.expect("there is data").to_vec()).unwrap()
}

fn method(properties: &Properties) -> Option<String> {
    properties.find(|property| match property {
        Property::AuthenticationMethod(method) => Some(method.to_string()),
        _ => None,
    })
}

fn bare(user: &str) -> String {
    format!("n={user},r={NONCE}")
}

/// A client whose CONNECT asks for a method.
async fn ask(server: &Server, method: &str, data: Option<&str>) -> Client {
    let mut client = Client::open(server.address(), Version::V5).await;
    let connect = connect(Version::V5, "c", properties(method, data));
    client.send(&Packet::Connect(Box::new(connect))).await;
    client
}

/// The server's challenge, which is an AUTH 0x18 with the method.
async fn challenge(client: &mut Client) -> String {
    match client.receive().await {
        Some(Packet::Auth(auth)) => {
            assert_eq!(auth.reason, Reason::CONTINUE_AUTHENTICATION);
            assert_eq!(method(&auth.properties).as_deref(), Some(METHOD));
            data(&auth.properties)
        }
        other => panic!("no AUTH but {other:?}"),
    }
}

/// The CONNACK, and then the end if it is a refusal.
async fn connack(client: &mut Client) -> ConnAck {
    match client.receive().await {
        Some(Packet::ConnAck(connack)) => {
            if connack.reason.is_error() {
                assert_eq!(client.receive().await, None);
            }
            connack
        }
        other => panic!("no CONNACK but {other:?}"),
    }
}

/// Answers the challenge, and gives what the server has to answer.
async fn prove(client: &mut Client, user: &str, password: &str) -> String {
    let challenge = challenge(client).await;
    let (last, signature) = last(password, "n,,", &bare(user), &challenge);
    client.send(&auth(Reason::CONTINUE_AUTHENTICATION, Some(&last))).await;
    signature
}

async fn log_in(server: &Server, user: &str, password: &str) -> Result<Client, Reason> {
    let mut client = ask(server, METHOD, Some(&format!("n,,{}", bare(user)))).await;
    let signature = prove(&mut client, user, password).await;
    let connack = connack(&mut client).await;
    if connack.reason.is_error() {
        return Err(connack.reason);
    }
    assert_eq!(method(&connack.properties).as_deref(), Some(METHOD));
    assert_eq!(data(&connack.properties), signature, "the server proves itself too");
    Ok(client)
}

/// Shows 5.0: 4.12.0-2 4.12.0-3 4.12.0-4 4.12.0-5
#[tokio::test(flavor = "multi_thread")]
async fn who_knows_the_password_is_let_in_and_carries_its_name() {
    let server = start(&[]).await;
    let mut client = log_in(&server, "ann", "pencil").await.unwrap();
    client.publish(message("scram/a", Qos::AtLeastOnce, 1, "x")).await;
    client.expect(Packet::PubAck(ack(1))).await;
    let catalog = server.store.catalog().borrow().clone();
    let mut names = Vec::new();
    for shard in catalog.stream("mqtt").unwrap().shard_ids() {
        let (from, _) = server.store.bounds(shard).await.unwrap();
        for batch in server.store.read(shard, from, 1 << 20).await.unwrap() {
            names.extend(
                batch
                    .records_from(from)
                    .unwrap()
                    .into_iter()
                    .map(|(_, record)| record.headers),
            );
        }
    }
    assert_eq!(names, [[Header::ClientId("c".into()), Header::Username("ann".into())]]);
    for (user, password) in [
        ("ann", "pencil2"),
        ("ann", "eraser"),
        ("nobody", "pencil"),
        ("an", "pencil"),
    ] {
        assert_eq!(
            log_in(&server, user, password).await.err(),
            Some(Reason::NOT_AUTHORIZED),
            "{user} {password}"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_nothing_first_is_asked_for_it() {
    let server = start(&[]).await;
    let mut client = ask(&server, METHOD, None).await;
    client.expect(auth(Reason::CONTINUE_AUTHENTICATION, None)).await;
    client
        .send(&auth(
            Reason::CONTINUE_AUTHENTICATION,
            Some(&format!("n,,{}", bare("bob"))),
        ))
        .await;
    prove(&mut client, "bob", "eraser").await;
    assert_eq!(connack(&mut client).await.reason, Reason::SUCCESS);
    server.stop().await;
}

/// Shows 5.0: 4.12.0-1 4.12.0-4
#[tokio::test(flavor = "multi_thread")]
async fn another_method_or_a_message_that_is_none_is_refused() {
    let server = start(&[]).await;
    for method in ["SCRAM-SHA-1", "SCRAM-SHA-256-PLUS", "PLAIN", ""] {
        let mut client = ask(&server, method, Some("n,,n=ann,r=x")).await;
        assert_eq!(
            connack(&mut client).await.reason,
            Reason::BAD_AUTHENTICATION_METHOD,
            "{method}"
        );
    }
    for first in ["p=tls-exporter,,n=ann,r=x", "n,a=bob,n=ann,r=x", "hello", ""] {
        let mut client = ask(&server, METHOD, Some(first)).await;
        assert_eq!(connack(&mut client).await.reason, Reason::NOT_AUTHORIZED, "{first}");
    }
    // The decoder takes no data without a method.
    let lone = Property::AuthenticationData("x".into());
    let mut client = Client::open(server.address(), Version::V5).await;
    let connect = connect(Version::V5, "c", [lone].into_iter().collect());
    client.send(&Packet::Connect(Box::new(connect))).await;
    assert_eq!(client.receive().await, None);
    server.stop().await;
}

/// Shows 5.0: 4.12.0-3 4.12.0-5
#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_right_auth_may_come_before_the_end() {
    let server = start(&[]).await;
    let first = format!("n,,{}", bare("ann"));
    let other_method = Packet::Auth(Auth {
        reason: Reason::CONTINUE_AUTHENTICATION,
        properties: properties("SCRAM-SHA-1", Some("x")),
    });
    let no_method = Packet::Auth(Auth {
        reason: Reason::CONTINUE_AUTHENTICATION,
        properties: Properties::default(),
    });
    let wrong = [
        Packet::PingReq,
        Packet::Publish(message("a/b", Qos::AtLeastOnce, 1, "x")),
        auth(Reason::REAUTHENTICATE, Some(&first)),
        auth(Reason::SUCCESS, Some(&first)),
        other_method,
        no_method,
    ];
    for packet in wrong {
        let mut client = ask(&server, METHOD, Some(&first)).await;
        challenge(&mut client).await;
        client.send(&packet).await;
        assert_eq!(connack(&mut client).await.reason, Reason::PROTOCOL_ERROR, "{packet:?}");
    }
    // A client may go.
    let mut client = ask(&server, METHOD, Some(&first)).await;
    challenge(&mut client).await;
    let (reason, properties) = (Reason::SUCCESS, Properties::default());
    client
        .send(&Packet::Disconnect(Disconnect { reason, properties }))
        .await;
    assert_eq!(client.receive().await, None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_to_connect_holds_for_the_whole_exchange() {
    let server = start(&["broker.connect_timeout=300ms"]).await;
    let mut client = ask(&server, METHOD, Some(&format!("n,,{}", bare("ann")))).await;
    challenge(&mut client).await;
    assert_eq!(client.receive().await, None, "closed without an answer");
    server.stop().await;
}

/// Shows 5.0: 4.12.1-1 4.12.1-2
#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_prove_itself_again_and_must_not_fail() {
    let server = start(&[]).await;
    let first = format!("n,,{}", bare("ann"));
    let mut client = log_in(&server, "ann", "pencil").await.unwrap();
    for id in 1..=2 {
        client.send(&auth(Reason::REAUTHENTICATE, Some(&first))).await;
        // What it does meanwhile goes on.
        client.publish(message("scram/a", Qos::AtLeastOnce, id, "x")).await;
        let signature = prove(&mut client, "ann", "pencil").await;
        let mut answers = [client.receive().await.unwrap(), client.receive().await.unwrap()];
        answers.sort_by_key(|packet| packet.packet_type() as u8);
        assert_eq!(
            answers,
            [Packet::PubAck(ack(id)), auth(Reason::SUCCESS, Some(&signature))]
        );
    }
    let bob = format!("n,,{}", bare("bob"));
    let other_method = Packet::Auth(Auth {
        reason: Reason::REAUTHENTICATE,
        properties: properties("PLAIN", Some(&first)),
    });
    let again = auth(Reason::REAUTHENTICATE, Some(&first));
    let wrong_proof = auth(Reason::CONTINUE_AUTHENTICATION, Some("c=biws,r=x,p=x"));
    // What is sent, and how it ends.
    let cases = [
        (vec![other_method], Reason::PROTOCOL_ERROR),
        (
            vec![auth(Reason::CONTINUE_AUTHENTICATION, Some(&first))],
            Reason::PROTOCOL_ERROR,
        ),
        (vec![auth(Reason::SUCCESS, Some(&first))], Reason::PROTOCOL_ERROR),
        (vec![again.clone(), again.clone()], Reason::PROTOCOL_ERROR),
        (vec![again, wrong_proof], Reason::NOT_AUTHORIZED),
    ];
    for (packets, reason) in cases {
        let mut client = log_in(&server, "ann", "pencil").await.unwrap();
        for packet in &packets {
            client.send(packet).await;
        }
        if packets.len() > 1 {
            challenge(&mut client).await;
        }
        ends_with(&mut client, reason).await;
    }
    for (user, first, password) in [("ann", &first, "eraser"), ("bob", &bob, "eraser")] {
        let mut client = log_in(&server, "ann", "pencil").await.unwrap();
        client.send(&auth(Reason::REAUTHENTICATE, Some(first))).await;
        prove(&mut client, user, password).await;
        ends_with(&mut client, Reason::NOT_AUTHORIZED).await;
    }
    server.stop().await;
}

async fn ends_with(client: &mut Client, reason: Reason) {
    match client.receive().await {
        Some(Packet::Disconnect(disconnect)) => assert_eq!(disconnect.reason, reason),
        other => panic!("no DISCONNECT but {other:?}"),
    }
    assert_eq!(client.receive().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_an_event() {
    let server = start(&[]).await;
    let mut reader = Client::connect(server.address(), Version::V5, "reader").await;
    reader.subscribe("$events/refused", Qos::AtLeastOnce).await;
    assert!(log_in(&server, "nobody", "pencil").await.is_err());
    let event = reader.take().await;
    let text = std::str::from_utf8(&event.payload).unwrap();
    assert!(
        text.contains(r#""client_id":"c""#) && text.contains("0x87 not authorized"),
        "{text}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_may_be_asked_of_everybody() {
    for (settings, wanted) in [
        (&[][..], Reason::SUCCESS),
        (&["broker.scram_required=true"], Reason::NOT_AUTHORIZED),
    ] {
        let server = start(settings).await;
        for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
            let mut client = Client::open(server.address(), version).await;
            let connect = connect(version, "plain", Properties::default());
            client.send(&Packet::Connect(Box::new(connect))).await;
            assert_eq!(connack(&mut client).await.reason, wanted, "{version:?}");
        }
        assert!(log_in(&server, "ann", "pencil").await.is_ok());
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_right_refuses_the_start() {
    let server = Server::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    let setting = users(folder.path(), 0o644);
    let told = Broker::start(server.store.clone(), &config(folder.path(), &[&setting]).broker).await;
    let Err(error @ BrokerError::Users(_)) = told else {
        panic!("it started, or {told:?}");
    };
    assert!(error.to_string().contains("chmod o="), "{error}");
    server.stop().await;
}
