//! The server under measurement.

use std::fs::{File, read_to_string};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::HEADWATER;
use super::process::{Process, free_address};

/// Runs until it is dropped.
pub struct Server {
    /// Where it speaks MQTT.
    pub mqtt: SocketAddr,
    http: SocketAddr,
    process: Process,
}

impl Server {
    /// On a data folder that may exist.
    pub fn start(folder: &Path, settings: &[&str]) -> Result<Server> {
        let (mqtt, http) = (free_address()?, free_address()?);
        let mut command = Command::new(HEADWATER);
        command.args(["serve", "--data"]).arg(folder.join("data"));
        command.args(["--mqtt", &mqtt.to_string(), "--http", &http.to_string()]);
        settings.iter().for_each(|setting| _ = command.args(["--set", setting]));
        let log = File::create(folder.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut process = Process(command.spawn()?);
        process.listens(mqtt)?;
        Ok(Server { mqtt, http, process })
    }

    /// Memory that the process has now: what is its own, without files that are mapped.
    pub fn memory_bytes(&self) -> Result<u64> {
        let status = read_to_string(format!("/proc/{}/status", self.process.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
        let kib: u64 = kib.context("no RssAnon in /proc/PID/status")?.trim().parse()?;
        Ok(kib << 10)
    }

    /// A figure of `/metrics`; 0 for one that was never moved.
    pub fn metric(&self, name: &str) -> Result<f64> {
        let mut stream = TcpStream::connect(self.http)?;
        write!(
            stream,
            "GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let value = answer
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(Ok(0.0), |value| Ok(value.trim().parse()?))
    }
}
