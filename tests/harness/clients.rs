//! MQTT clients that nobody here wrote, as processes: mosquitto, paho for Python, MQTT.js.

use std::process::{Command, Output, Stdio};
use std::sync::mpsc::Receiver;

use super::cli::finish;
use super::{PATIENCE, Process, Server, lines};

/// A running, subscribed `mosquitto_sub`.
pub struct MosquittoSub {
    _process: Process,
    lines: Receiver<String>,
}

impl MosquittoSub {
    /// Returns when the server has granted the subscriptions.
    pub fn start(server: &Server, filters: &[&str]) -> MosquittoSub {
        // -d tells of the SUBACK, on the same pipe as the messages, which stdbuf empties line by line.
        let mut command = mosquitto(server, &["stdbuf", "-oL", "mosquitto_sub"]);
        command.args(["-d", "-v", "-q", "1"]).stderr(Stdio::null());
        for filter in filters {
            command.args(["-t", filter]);
        }
        let mut child = command
            .spawn()
            .expect("mosquitto_sub can be started (./x test installs it)");
        let lines = lines(child.stdout.take().expect("stdout is piped"));
        let subscriber = MosquittoSub {
            _process: Process(child),
            lines,
        };
        while !subscriber.line("its SUBACK").starts_with("Subscribed") {}
        subscriber
    }

    /// The next message as `topic payload`.
    pub fn message(&self, what: &str) -> String {
        loop {
            let line = self.line(what);
            if !line.starts_with("Client ") {
                return line;
            }
        }
    }

    fn line(&self, what: &str) -> String {
        self.lines
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|error| panic!("mosquitto_sub waited for {what}: {error}"))
    }
}

/// Publishes one message with `mosquitto_pub`.
pub fn mosquitto_pub(server: &Server, topic: &str, payload: &str, more: &[&str]) {
    let mut command = mosquitto(server, &["mosquitto_pub"]);
    command.args(["-q", "1", "-t", topic, "-m", payload]).args(more);
    let child = command
        .spawn()
        .expect("mosquitto_pub can be started (./x test installs it)");
    assert_success(&finish(child, "mosquitto_pub"));
}

fn mosquitto(server: &Server, program: &[&str]) -> Command {
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).args([
        "-h",
        &server.mqtt().ip().to_string(),
        "-p",
        &server.mqtt().port().to_string(),
    ]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs `tests/clients/<script>` with the server's address and `args`; it fails by its exit status.
pub fn script(server: &Server, script: &str, args: &[&str]) -> String {
    let path = format!("{}/tests/clients/{script}", env!("CARGO_MANIFEST_DIR"));
    let interpreter = match script.rsplit('.').next() {
        Some("py") => std::env::var("HEADWATER_TEST_PYTHON").unwrap_or_else(|_| "/usr/bin/python3".into()),
        _ => "node".into(),
    };
    let child = Command::new(&interpreter)
        .arg(&path)
        .args([server.mqtt().ip().to_string(), server.mqtt().port().to_string()])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{interpreter}: {error} (./x test installs it)"));
    let output = finish(child, script);
    assert_success(&output);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn assert_success(output: &Output) {
    let text = String::from_utf8_lossy;
    assert!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
}
