//! MQTT in WebSocket frames: which frames, cut how, under which name. Whole clients are in `tests/end_to_end`.

use futures_util::{SinkExt, StreamExt};
use headwater_broker::Transport;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::{SOON, Server, parse_bytes};

const CONNECT: [&str; 2] = [
    r#"10 [{"MQTT"} 04 02 003c {"ws"}]"#,
    r#"10 [{"MQTT"} 05 02 003c [] {"ws"}]"#,
];

/// Opens a WebSocket and offers `protocols`; with the one that was chosen.
async fn open(
    server: &Server,
    path: &str,
    protocols: &'static str,
) -> Result<(WebSocketStream<TcpStream>, String), Error> {
    let address = server.broker.local_addr_of(Transport::WebSocket).unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    let mut request = format!("ws://{address}{path}").into_client_request()?;
    let offered = HeaderValue::from_static(protocols);
    request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, offered);
    let (socket, response) = tokio_tungstenite::client_async(request, stream).await?;
    let chosen = response
        .headers()
        .get(SEC_WEBSOCKET_PROTOCOL)
        .map(|name| name.to_str().unwrap().to_owned());
    Ok((socket, chosen.unwrap_or_default()))
}

async fn server() -> Server {
    Server::start(&["broker.ws_listen=127.0.0.1:0"]).await
}

/// The bytes of frames until there are `count`, or until the other side closes.
async fn receive(socket: &mut WebSocketStream<TcpStream>, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < count {
        match timeout(SOON, socket.next()).await.expect("an answer in time") {
            Some(Ok(Message::Binary(frame))) => bytes.extend_from_slice(&frame),
            Some(Ok(Message::Text(text))) => panic!("a text frame: {text}"),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => break,
        }
    }
    bytes
}

/// Shows 3.1.1: 6.0.0-1 6.0.0-2 5.0: 6.0.0-1 6.0.0-2
#[tokio::test(flavor = "multi_thread")]
async fn packets_may_be_cut_over_binary_frames_anywhere() {
    let server = server().await;
    for (connect, connack) in CONNECT.into_iter().zip([4, 16]) {
        let bytes = [parse_bytes(connect), vec![0xc0, 0, 0xc0, 0]].concat();
        for cut in 1..bytes.len() {
            let (mut socket, _) = open(&server, "/mqtt", "mqtt").await.unwrap();
            for frame in [&bytes[..cut], &bytes[cut..]] {
                socket.send(Message::Binary(frame.to_vec().into())).await.unwrap();
            }
            let answer = receive(&mut socket, connack + 4).await;
            assert_eq!(answer.len(), connack + 4, "cut after {cut}");
            assert_eq!(answer[connack..], [0xd0, 0, 0xd0, 0]);
        }
    }
    server.stop().await;
}

/// Shows 3.1.1: 6.0.0-1 5.0: 6.0.0-1
#[tokio::test(flavor = "multi_thread")]
async fn a_text_frame_ends_the_connection() {
    let server = server().await;
    for (connect, connack) in CONNECT.into_iter().zip([4, 16]) {
        let (mut socket, _) = open(&server, "/mqtt", "mqtt").await.unwrap();
        socket.send(Message::Binary(parse_bytes(connect).into())).await.unwrap();
        assert_eq!(receive(&mut socket, connack).await.len(), connack);
        socket.send(Message::text("\u{30}\u{0}")).await.unwrap();
        socket.send(Message::Binary(vec![0xc0, 0].into())).await.unwrap();
        let rest = receive(&mut socket, usize::MAX).await;
        assert!(!rest.ends_with(&[0xd0, 0]), "{rest:x?}");
    }
    server.stop().await;
}

/// Shows 3.1.1: 6.0.0-3 6.0.0-4 5.0: 6.0.0-3 6.0.0-4
#[tokio::test(flavor = "multi_thread")]
async fn the_subprotocol_is_mqtt_and_the_path_too() {
    let server = server().await;
    for (offered, chosen) in [
        ("mqtt", "mqtt"),
        ("chat, mqtt", "mqtt"),
        ("mqttv3.1, mqtt", "mqtt"),
        ("mqttv3.1", "mqttv3.1"),
    ] {
        let (_socket, got) = open(&server, "/mqtt", offered).await.unwrap();
        assert_eq!(got, chosen, "{offered}");
    }
    for (path, offered, status) in [
        ("/mqtt", "chat", StatusCode::BAD_REQUEST),
        ("/", "mqtt", StatusCode::NOT_FOUND),
    ] {
        match open(&server, path, offered).await {
            Err(Error::Http(response)) => assert_eq!(response.status(), status),
            other => panic!("{path} {offered}: {other:?}"),
        }
    }
    server.stop().await;
}
