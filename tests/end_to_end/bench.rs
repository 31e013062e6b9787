//! The load generator counts exactly, and says so when a broker does not.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use headwater_broker::packet::{
    Ack, ConnAck, Decoder, Packet, PacketId, Properties, Publish, Reason, SubAck, Version, encode,
};
use headwater_store::Qos;
use serde_json::Value;
use tempfile::tempdir;

use crate::harness::Server;
use crate::harness::cli::finish;
use crate::harness::server::HEADWATER;

fn start(address: SocketAddr, command: &str, args: &[&str]) -> std::process::Child {
    Command::new(HEADWATER)
        .args([
            "bench",
            command,
            "--url",
            &format!("mqtt://{address}"),
            "--output",
            "json",
        ])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("headwater can be started")
}

fn publish(address: SocketAddr, args: &[&str]) -> Output {
    finish(start(address, "publish", args), "headwater bench publish")
}

/// The report of a run that must be exact.
fn report(output: &Output) -> Value {
    let text = String::from_utf8_lossy;
    assert!(
        output.status.success(),
        "{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("the report is JSON")
}

#[test]
fn every_acknowledgement_and_delivery_of_a_load_is_counted() {
    let folder = tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    let load = "--clients 4 --inflight 32 --count 4001 --verify --subscribers 3 --topic bench/{client}/{n} --topics 7";
    for protocol in ["3.1.1", "5"] {
        let mut args: Vec<_> = load.split(' ').collect();
        args.extend(["--protocol", protocol]);
        let report = report(&publish(server.mqtt(), &args));
        assert_eq!(report["published"]["acknowledged"], 4001);
        assert_eq!(
            report["published"]["latency_us"]["max"].as_u64().map(|us| us > 0),
            Some(true)
        );
        assert_eq!(report["delivered"]["received"], 3 * 4001);
        assert_eq!(report["problems"], Value::Array(Vec::new()));
    }
    assert_eq!(
        server.number("SELECT COUNT(*) AS n FROM mqtt;"),
        2 * 4001,
        "what was acknowledged is in the log, once"
    );
}

#[test]
fn an_open_loop_and_qos_0_are_counted_too() {
    let folder = tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    let paced = "--clients 3 --inflight 100 --count 600 --rate 2000 --verify";
    assert_eq!(
        report(&publish(server.mqtt(), &paced.split(' ').collect::<Vec<_>>()))["published"]["acknowledged"],
        600
    );
    let fire_and_forget = "--clients 2 --qos 0 --count 500 --rate 2000 --size 1000 --verify";
    let report = report(&publish(server.mqtt(), &fire_and_forget.split(' ').collect::<Vec<_>>()));
    assert_eq!(report["published"]["sent"], 500);
    assert_eq!(report["delivered"]["received"], 500);
}

#[test]
fn a_subscriber_in_another_process_counts_by_itself() {
    let folder = tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    let mut subscriber = start(server.mqtt(), "subscribe", &["--expect", "300"]);
    // It says when its subscription is granted.
    let mut told = [0; "subscribed".len()];
    subscriber
        .stderr
        .as_mut()
        .expect("stderr is piped")
        .read_exact(&mut told)
        .expect("it says something");
    assert_eq!(&told, b"subscribed");
    report(&publish(
        server.mqtt(),
        &["--clients", "3", "--inflight", "8", "--count", "300"],
    ));
    let report = report(&finish(subscriber, "headwater bench subscribe"));
    assert_eq!(report["delivered"]["received"], 300);
    assert_eq!(report["delivered"]["missing"], 0);
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_sent() {
    let nobody: SocketAddr = "127.0.0.1:1".parse().unwrap();
    for (args, reason) in [
        (&["--qos", "2"][..], "does not speak QoS 2"),
        (&["--size", "10"], "96"),
        (&["--topic", "a/#"], "a/#"),
        (&["--rate", "-5"], "above 0"),
        (&["--topics", "5"], "{n}"),
        (&[], "no broker answers at 127.0.0.1:1"),
    ] {
        let output = publish(nobody, args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(reason), "{args:?}: {said}");
    }
}

/// What a broker does wrong with message number [`WRONG_ONE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Nothing,
    LosesADelivery,
    DeliversTwice,
    DeliversLate,
    ChangesAByte,
    LosesAnAcknowledgement,
    AcknowledgesTwice,
    Refuses,
    HangsUp,
}

const WRONG_ONE: usize = 57;

#[test]
fn each_fault_of_a_broker_fails_the_run_and_is_named() {
    let cases: [(Fault, &[&str]); 9] = [
        (Fault::Nothing, &[]),
        (Fault::LosesADelivery, &["1 delivery is missing", "57 is missing"]),
        (Fault::DeliversTwice, &["1 delivery is duplicate", "57 came twice"]),
        (Fault::DeliversLate, &["1 delivery is out of order", "57 came after 58"]),
        (
            Fault::ChangesAByte,
            &["1 delivery is corrupt", "the payload of 57 is changed"],
        ),
        (
            Fault::LosesAnAcknowledgement,
            &["1 acknowledgements are missing", "199 of 200 messages"],
        ),
        (Fault::AcknowledgesTwice, &["packet id 58", "not under way"]),
        (Fault::Refuses, &["199 of 200 messages are acknowledged, 1 refused"]),
        (Fault::HangsUp, &["closed the connection"]),
    ];
    for (fault, reasons) in cases {
        let output = publish(
            fake_broker(fault),
            &[
                "--count",
                "200",
                "--inflight",
                "200",
                "--protocol",
                "5",
                "--verify",
                "--patience",
                "2s",
            ],
        );
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), fault == Fault::Nothing, "{fault:?}: {said}");
        for reason in reasons {
            assert!(said.contains(reason), "{fault:?} should say `{reason}`: {said}");
        }
    }
}

/// A broker that delivers everything to every subscriber and has one fault. It lives as long as the test's process.
fn fake_broker(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let fake = Arc::new(Mutex::new(Fake {
        fault,
        published: 0,
        late: None,
        subscribers: Vec::new(),
    }));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let fake = fake.clone();
            // The generator's disconnection ends it.
            std::thread::spawn(move || _ = converse(stream, &fake));
        }
    });
    address
}

struct Fake {
    fault: Fault,
    published: usize,
    late: Option<Publish>,
    subscribers: Vec<TcpStream>,
}

fn converse(mut stream: TcpStream, fake: &Mutex<Fake>) -> std::io::Result<()> {
    let mut decoder = Decoder::new(1 << 20);
    let (mut buffer, mut chunk) = (BytesMut::new(), [0; 4096]);
    loop {
        while let Some(packet) = decoder.decode(&mut buffer).map_err(std::io::Error::other)? {
            let mut fake = fake.lock().expect("no thread panicked");
            match packet {
                Packet::Connect(_) => write(
                    &mut stream,
                    &Packet::ConnAck(ConnAck {
                        session_present: false,
                        reason: Reason::SUCCESS,
                        properties: Properties::default(),
                    }),
                )?,
                Packet::Subscribe(subscribe) => {
                    write(
                        &mut stream,
                        &Packet::SubAck(SubAck {
                            packet_id: subscribe.packet_id,
                            properties: Properties::default(),
                            reasons: bytes::Bytes::from_static(&[1]),
                        }),
                    )?;
                    fake.subscribers.push(stream.try_clone()?);
                }
                Packet::PingReq => write(&mut stream, &Packet::PingResp)?,
                Packet::Publish(publish) => {
                    let it = fake.published;
                    fake.published += 1;
                    let fault = if it == WRONG_ONE { fake.fault } else { Fault::Nothing };
                    if fault == Fault::HangsUp {
                        return stream.shutdown(std::net::Shutdown::Both);
                    }
                    acknowledge(&mut stream, &publish, fault)?;
                    fake.deliver(publish, fault)?;
                }
                _ => {}
            }
        }
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Ok(());
        }
        buffer.extend_from_slice(&chunk[..read]);
    }
}

fn acknowledge(stream: &mut TcpStream, publish: &Publish, fault: Fault) -> std::io::Result<()> {
    let times = match fault {
        Fault::LosesAnAcknowledgement => 0,
        Fault::AcknowledgesTwice => 2,
        _ => 1,
    };
    for _ in 0..times {
        write(
            stream,
            &Packet::PubAck(Ack {
                packet_id: publish.packet_id.expect("the load has QoS 1"),
                reason: if fault == Fault::Refuses {
                    Reason::QUOTA_EXCEEDED
                } else {
                    Reason::SUCCESS
                },
                properties: Properties::default(),
            }),
        )?;
    }
    Ok(())
}

impl Fake {
    fn deliver(&mut self, mut publish: Publish, fault: Fault) -> std::io::Result<()> {
        publish.packet_id = PacketId::new(self.published as u16);
        publish.qos = Qos::AtLeastOnce;
        let mut deliveries = match fault {
            Fault::LosesADelivery => vec![],
            Fault::DeliversTwice => vec![publish.clone(), publish],
            Fault::DeliversLate => {
                self.late = Some(publish);
                return Ok(());
            }
            Fault::ChangesAByte => {
                let mut payload = publish.payload.to_vec();
                payload[200] ^= 1;
                publish.payload = payload.into();
                vec![publish]
            }
            _ => vec![publish],
        };
        deliveries.extend(self.late.take());
        for delivery in deliveries {
            for subscriber in &mut self.subscribers {
                write(subscriber, &Packet::Publish(delivery.clone()))?;
            }
        }
        Ok(())
    }
}

fn write(stream: &mut TcpStream, packet: &Packet) -> std::io::Result<()> {
    let mut out = BytesMut::new();
    encode(packet, Version::V5, &mut out).map_err(std::io::Error::other)?;
    stream.write_all(&out)
}
