//! A server process of a test.

use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Instant;

use serde_json::Value;

use super::{PATIENCE, Process, http, wait_for};

/// The program under test.
pub const HEADWATER: &str = env!("CARGO_BIN_EXE_headwater");

/// A running `headwater serve`, killed when dropped. It listens where it listened before when it is started again.
pub struct Server {
    process: Process,
    addresses: Addresses,
    data: PathBuf,
    settings: Vec<String>,
}

/// Where a server listens.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    pub mqtt: SocketAddr,
    pub http: SocketAddr,
}

impl Addresses {
    /// Two free ports, below the range that outgoing connections take theirs from.
    pub fn free() -> Addresses {
        let mut candidates = (0..1000).map(|_| {
            let random = RandomState::new().build_hasher().finish();
            SocketAddr::from(([127, 0, 0, 1], 12_000 + (random % 18_000) as u16))
        });
        let mut free = || {
            candidates
                .find(|address| TcpListener::bind(address).is_ok())
                .expect("a free port")
        };
        Addresses {
            mqtt: free(),
            http: free(),
        }
    }
}

impl Server {
    /// Starts a server on `data` with the settings of the defaults and waits until it is ready.
    pub fn start(data: &Path) -> Server {
        Server::with(data, &[])
    }

    /// The same with `section.key=value` settings.
    pub fn with(data: &Path, settings: &[&str]) -> Server {
        let settings: Vec<_> = settings.iter().map(|setting| setting.to_string()).collect();
        let addresses = Addresses::free();
        let process = Process(
            command(data, addresses, &settings, true)
                .spawn()
                .expect("headwater can be started"),
        );
        let mut server = Server {
            process,
            addresses,
            data: data.into(),
            settings,
        };
        server.ready();
        server
    }

    /// Where it speaks MQTT.
    pub fn mqtt(&self) -> SocketAddr {
        self.addresses.mqtt
    }

    /// Where it speaks HTTP.
    pub fn http(&self) -> SocketAddr {
        self.addresses.http
    }

    /// `http://address/path`
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addresses.http)
    }

    /// kill -9, without waiting for anything that is under way.
    pub fn kill(&mut self) {
        self.process.0.kill().expect("the server can be killed");
        self.process.0.wait().expect("the server can be waited for");
    }

    /// Starts it again after [`Server::kill`], on the same folder and addresses.
    pub fn start_again(&mut self) {
        let mut command = command(&self.data, self.addresses, &self.settings, true);
        self.process = Process(command.spawn().expect("headwater can be started"));
        self.ready();
    }

    /// SIGTERM; the status it ends with.
    pub fn stop(mut self) -> ExitStatus {
        let pid = self.process.0.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs");
        assert!(sent.success());
        self.wait()
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the server to end", || match self.process.0.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}; its log ends: {}", self.log_tail())),
        })
    }

    /// Whether it still runs.
    pub fn assert_alive(&mut self) {
        let status = self.process.0.try_wait().expect("the server can be asked for");
        assert!(
            status.is_none(),
            "the server ended with {status:?}; its log ends: {}",
            self.log_tail()
        );
    }

    /// Runs statements over HTTP; the rows of the last one.
    pub fn sql(&self, statements: &str) -> Vec<Value> {
        let answer = http::sql(self, statements);
        assert_eq!(
            answer.status,
            200,
            "{statements}\n{}\nits log ends: {}",
            answer.body,
            self.log_tail()
        );
        answer.rows()
    }

    /// The one number of a one-row, one-column answer.
    pub fn number(&self, statement: &str) -> u64 {
        let rows = self.sql(statement);
        let number = rows.first().and_then(|row| row.as_object()?.values().next()?.as_u64());
        number.unwrap_or_else(|| panic!("{statement} gave {rows:?}, not a number"))
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(log_path(&self.data)).unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn ready(&mut self) {
        let start = Instant::now();
        loop {
            if let Ok(Some(status)) = self.process.0.try_wait() {
                panic!("the server ended with {status} at its start: {}", self.log_tail());
            }
            if http::get(&self.url("/health/ready")).is_ok_and(|answer| answer.status == 200) {
                return;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "the server is not ready; its log ends: {}",
                self.log_tail()
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// Starts a server that must refuse to serve; what it says.
pub fn refusal(data: &Path, addresses: Addresses, settings: &[&str]) -> String {
    let settings: Vec<_> = settings.iter().map(|setting| setting.to_string()).collect();
    let child = command(data, addresses, &settings, false)
        .spawn()
        .expect("headwater can be started");
    let output = super::cli::finish(child, "a server that refuses to serve");
    assert!(
        !output.status.success(),
        "it should have refused, and ended with {}",
        output.status
    );
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn command(data: &Path, addresses: Addresses, settings: &[String], log_to_file: bool) -> Command {
    let mut command = Command::new(HEADWATER);
    command.arg("serve").arg("--data").arg(data);
    command
        .arg("--mqtt")
        .arg(addresses.mqtt.to_string())
        .arg("--http")
        .arg(addresses.http.to_string());
    for setting in settings {
        command.arg("--set").arg(setting);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if log_to_file {
        let log = File::options()
            .create(true)
            .append(true)
            .open(log_path(data))
            .expect("a log file");
        command.stderr(log);
    }
    command
}

fn log_path(data: &Path) -> PathBuf {
    data.with_extension("log")
}
