//! A client that others wrote, in both versions.

use headwater_broker::packet::Version;

use crate::support::{Client, SOON, Server};

/// Shows 3.1.1: 7.0.0-2
#[tokio::test(flavor = "multi_thread")]
async fn rumqttc_gets_along() {
    use rumqttc::v5::mqttbytes::v5::Packet as Packet5;
    let server = Server::start(&[]).await;
    let (host, port) = (server.address().ip().to_string(), server.address().port());
    let (old, mut old_events) = rumqttc::AsyncClient::new(rumqttc::MqttOptions::new("old", &host, port), 10);
    old.subscribe("rq/+", rumqttc::QoS::AtLeastOnce).await.unwrap();
    let options = rumqttc::v5::MqttOptions::new("new", &host, port);
    let (new, mut new_events) = rumqttc::v5::AsyncClient::new(options, 10);
    let exchange = async {
        while !matches!(
            old_events.poll().await.unwrap(),
            rumqttc::Event::Incoming(rumqttc::Packet::SubAck(_))
        ) {}
        new.publish("rq/5", rumqttc::v5::mqttbytes::QoS::AtLeastOnce, false, "five")
            .await
            .unwrap();
        while !matches!(
            new_events.poll().await.unwrap(),
            rumqttc::v5::Event::Incoming(Packet5::PubAck(_))
        ) {}
        loop {
            if let rumqttc::Event::Incoming(rumqttc::Packet::Publish(publish)) = old_events.poll().await.unwrap() {
                return publish.payload;
            }
        }
    };
    assert_eq!(tokio::time::timeout(SOON, exchange).await.unwrap(), "five");
    server.stop().await;
}

/// PUBACKs may come in any order, and what has none comes again.
#[tokio::test(flavor = "multi_thread")]
async fn rumqttc_acknowledges_out_of_order() {
    use rumqttc::{Event, Packet, QoS};
    let server = Server::start(&[]).await;
    let (host, port) = (server.address().ip().to_string(), server.address().port());
    let mut options = rumqttc::MqttOptions::new("manual", &host, port);
    options.set_manual_acks(true).set_clean_session(false);
    let (client, mut events) = rumqttc::AsyncClient::new(options.clone(), 10);
    client.subscribe("order/x", QoS::AtLeastOnce).await.unwrap();
    let address = server.address();
    let first_stay = async {
        while !matches!(events.poll().await.unwrap(), Event::Incoming(Packet::SubAck(_))) {}
        let mut publisher = Client::connect(address, Version::V5, "publisher").await;
        publisher.publish_numbers("order/x", 1..=3).await;
        let mut messages = Vec::new();
        while messages.len() < 3 {
            if let Event::Incoming(Packet::Publish(publish)) = events.poll().await.unwrap() {
                messages.push(publish);
            }
        }
        for at in [2, 0] {
            client.ack(&messages[at]).await.unwrap();
        }
        client.disconnect().await.unwrap();
        while events.poll().await.is_ok() {}
    };
    tokio::time::timeout(SOON, first_stay).await.unwrap();
    let (_client, mut events) = rumqttc::AsyncClient::new(options, 10);
    let again = async {
        loop {
            if let Event::Incoming(Packet::Publish(publish)) = events.poll().await.unwrap() {
                return (publish.payload, publish.dup);
            }
        }
    };
    assert_eq!(tokio::time::timeout(SOON, again).await.unwrap(), ("2".into(), true));
    server.stop().await;
}
