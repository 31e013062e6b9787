//! MQTT clients that nobody here wrote, as processes: mosquitto, paho for Python, MQTT.js.

use std::io::{Read, Write};
use std::process::{Child, Command, Output, Stdio};
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
        MosquittoSub::with(server, filters, &[])
    }

    /// The same with more arguments.
    pub fn with(server: &Server, filters: &[&str], more: &[&str]) -> MosquittoSub {
        // -d tells of the SUBACK, on the same pipe as the messages, which stdbuf empties line by line.
        let mut command = mosquitto(server, &["stdbuf", "-oL", "mosquitto_sub"]);
        command.args(["-d", "-v", "-q", "1"]).args(more).stderr(Stdio::null());
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

/// Asks with `mosquitto_rr`, lets `respond` answer, and gives what it printed.
pub fn mosquitto_rr(server: &Server, topic: &str, response: &str, payload: &str, respond: impl FnOnce()) -> String {
    let mut command = mosquitto(server, &["mosquitto_rr"]);
    command.args(["-q", "1", "-t", topic, "-e", response, "-m", payload]);
    let child = command
        .spawn()
        .expect("mosquitto_rr can be started (./x test installs it)");
    respond();
    let output = finish(child, "mosquitto_rr");
    assert_success(&output);
    String::from_utf8_lossy(&output.stdout).into_owned()
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

/// Publishes each line as a message with QoS 1, on one connection.
pub fn mosquitto_publish_lines(server: &Server, topic: &str, lines: &[String]) {
    let mut command = mosquitto(server, &["mosquitto_pub"]);
    command.args(["-q", "1", "-t", topic, "-l"]).stdin(Stdio::piped());
    let mut child = command
        .spawn()
        .expect("mosquitto_pub can be started (./x test installs it)");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin
        .write_all((lines.join("\n") + "\n").as_bytes())
        .expect("mosquitto_pub reads its input");
    drop(stdin);
    assert_success(&finish(child, "mosquitto_pub"));
}

/// Runs `mosquitto_sub` in the session that the server keeps for `client_id`, until `more` ends it; the payloads.
pub fn mosquitto_sub_session(
    server: &Server,
    version: &str,
    client_id: &str,
    topic: &str,
    more: &[&str],
) -> Vec<String> {
    let mut command = mosquitto(server, &["mosquitto_sub"]);
    command
        .args(["-V", version, "-c", "-i", client_id, "-q", "1", "-t", topic])
        .args(more);
    if version == "mqttv5" {
        command.args(["-x", "3600"]);
    }
    let child = command
        .spawn()
        .expect("mosquitto_sub can be started (./x test installs it)");
    let output = finish(child, "mosquitto_sub");
    assert_success(&output);
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(str::to_owned).collect()
}

/// A script that runs until a line comes on its standard input.
pub struct Running(Child);

/// Starts `tests/clients/<script>` and returns when it says that it is running.
pub fn running_script(server: &Server, script: &str, args: &[&str]) -> Running {
    let mut child = script_command(server, script, args)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{script}: {error} (./x test installs what it needs)"));
    // Byte by byte: what follows the line stays in the pipe.
    let stdout = child.stdout.as_mut().expect("stdout is piped");
    let (mut line, mut byte) = (Vec::new(), [0]);
    while line.last() != Some(&b'\n') && stdout.read(&mut byte).is_ok_and(|read| read == 1) {
        line.push(byte[0]);
    }
    if line != b"running\n" {
        assert_success(&finish(child, script));
        panic!("{script} does not say that it is running");
    }
    Running(child)
}

impl Running {
    /// Tells it to come to its end; what it says then.
    pub fn finish(mut self) -> String {
        let mut stdin = self.0.stdin.take().expect("stdin is piped");
        // One that has ended already is shown with its reason below.
        let _ = stdin.write_all(b"stop\n");
        drop(stdin);
        let output = finish(self.0, "the script");
        assert_success(&output);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Runs `tests/clients/<script>` with the server's address and `args`; it fails by its exit status.
pub fn script(server: &Server, script: &str, args: &[&str]) -> String {
    let child = script_command(server, script, args)
        .spawn()
        .unwrap_or_else(|error| panic!("{script}: {error} (./x test installs what it needs)"));
    let output = finish(child, script);
    assert_success(&output);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn script_command(server: &Server, script: &str, args: &[&str]) -> Command {
    let path = format!("{}/tests/clients/{script}", env!("CARGO_MANIFEST_DIR"));
    let interpreter = match script.rsplit('.').next() {
        Some("py") => std::env::var("HEADWATER_TEST_PYTHON").unwrap_or_else(|_| "/usr/bin/python3".into()),
        _ => "node".into(),
    };
    let mut command = Command::new(&interpreter);
    command
        .arg(&path)
        .args([server.mqtt().ip().to_string(), server.mqtt().port().to_string()])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
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
