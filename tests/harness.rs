//! What the tests of the whole are built from.

pub mod cli;
pub mod clients;
pub mod http;
pub mod mqtt;
pub mod server;

use std::io::{BufRead, BufReader, Read};
use std::process::Child;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

pub use server::Server;

/// How long anything may take before a test gives up on it. Far above what a loaded machine needs: it bounds a hang.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Polls until `ready` gives something; panics with `what` and the last reason when it never does.
pub fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match ready() {
            Ok(value) => return value,
            Err(reason) if start.elapsed() > PATIENCE => panic!("waited {PATIENCE:?} for {what}: {reason}"),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// A process that ends with the test, whatever becomes of the test.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Already ended, or ended here: both are fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines of a pipe as they come.
pub fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}
