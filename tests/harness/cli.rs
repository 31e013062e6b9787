//! `headwater sql` as a person at a pipe uses it.

use std::io::Write;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Instant;

use super::server::HEADWATER;
use super::{PATIENCE, Process, Server, lines};

/// Runs statements with `-e`; everything it said and its status.
pub fn execute(server: &Server, statements: &str) -> Output {
    let child = command(server)
        .args(["-e", statements])
        .stdin(Stdio::null())
        .spawn()
        .expect("headwater can be started");
    finish(child, "headwater sql -e")
}

/// A session that is open until dropped.
pub struct Session {
    _process: Process,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl Session {
    /// Starts one.
    pub fn open(server: &Server) -> Session {
        let mut child = command(server)
            .stdin(Stdio::piped())
            .spawn()
            .expect("headwater can be started");
        let input = child.stdin.take().expect("stdin is piped");
        let lines = lines(child.stdout.take().expect("stdout is piped"));
        Session {
            _process: Process(child),
            input,
            lines,
        }
    }

    /// Types a line.
    pub fn type_line(&mut self, line: &str) {
        writeln!(self.input, "{line}")
            .and_then(|()| self.input.flush())
            .expect("the session reads what is typed");
    }

    /// The next line of rows, if one comes within a moment.
    pub fn row_soon(&self) -> Option<String> {
        self.lines.recv_timeout(std::time::Duration::from_millis(200)).ok()
    }

    /// The next line of rows.
    pub fn row(&self, what: &str) -> String {
        self.lines
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|error| panic!("waited for {what}: {error}"))
    }
}

fn command(server: &Server) -> Command {
    let mut command = Command::new(HEADWATER);
    command
        .args(["sql", "--url", &server.url("")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Waits for a process to end, and kills it when it does not.
pub fn finish(mut child: Child, what: &str) -> Output {
    let start = Instant::now();
    // Someone has to read while it runs, else it stops at a full pipe.
    let drain = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let _ = pipe.read_to_end(&mut bytes);
            }
            bytes
        })
    };
    let stdout = drain(child.stdout.take().map(|pipe| Box::new(pipe) as _));
    let stderr = drain(child.stderr.take().map(|pipe| Box::new(pipe) as _));
    let status = loop {
        match child.try_wait().expect("a child can be asked for") {
            Some(status) => break Some(status),
            None if start.elapsed() > PATIENCE => break None,
            None => std::thread::sleep(std::time::Duration::from_millis(10)),
        }
    };
    if status.is_none() {
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
    }
    let (stdout, stderr) = (stdout.join().expect("stdout"), stderr.join().expect("stderr"));
    let Some(status) = status else {
        let text = String::from_utf8_lossy;
        panic!(
            "{what} did not end within {PATIENCE:?}; it said:\n{}\n{}",
            text(&stdout),
            text(&stderr)
        );
    };
    Output { status, stdout, stderr }
}
