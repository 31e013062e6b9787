//! Wills that wait: over restarts, and for what comes of their clients. Those that do not are in `transcripts/will.txt`.

use headwater_broker::packet::*;
use headwater_store::Qos;

use crate::support::{Asks, Client, STAY, Server, message, open, resume, will};

fn delayed(topic: &str, delay_s: u32) -> Option<Will> {
    let properties = [Property::WillDelayInterval(delay_s)].into_iter().collect();
    Some(Will {
        properties,
        ..will(topic)
    })
}

/// Shows 5.0: 3.1.2-8 3.1.3-9
#[tokio::test(flavor = "multi_thread")]
async fn a_will_waits_for_its_delay_over_a_restart_and_not_for_a_client_that_is_back() {
    let server = Server::start(&[]).await;
    for device in ["back", "lost", "short"] {
        let expiry_s = if device == "short" { 1 } else { 600 };
        let delay_s = if device == "short" { 300 } else { 2 };
        let will = delayed(&format!("will/{device}"), delay_s);
        drop(open(&server, device, Asks { will, expiry_s, ..STAY }).await);
    }
    let server = Server::start_in(server.stop().await, &[]).await;
    let mut observer = Client::connect(server.address(), Version::V5, "observer").await;
    observer.subscribe("will/#", Qos::AtLeastOnce).await;
    drop(resume(&server, "back").await);
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.push(observer.take().await.topic.to_string());
    }
    assert_eq!(
        seen,
        ["will/short", "will/lost"],
        "a session's end does not wait for the will's delay"
    );
    observer.silent().await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_session_lets_the_old_ones_will_be_said_first() {
    let server = Server::start(&[]).await;
    let mut observer = Client::connect(server.address(), Version::V5, "observer").await;
    observer.subscribe("will/#", Qos::AtLeastOnce).await;
    let will = delayed("will/device", 300);
    drop(open(&server, "device", Asks { will, ..STAY }).await);
    let anew = Asks {
        clean_start: true,
        ..STAY
    };
    let (mut device, _) = open(&server, "device", anew).await;
    device
        .publish(message("will/device", Qos::AtLeastOnce, 1, "back"))
        .await;
    assert_eq!(observer.message().await.payload, "gone");
    assert_eq!(observer.message().await.payload, "back");
    server.stop().await;
}
