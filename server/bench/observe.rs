//! A process seen from outside: how much processor time it took, and how much it wrote.

use std::time::Duration;

use anyhow::{Context, Result};

/// Linux counts `utime` and `stime` in hundredths of a second, on every machine (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

/// What a process has used since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// In user and in kernel mode, all threads.
    pub cpu: Duration,
    /// What it caused to be written to disks (`write_bytes`), not what it passed to `write`.
    pub written_bytes: u64,
}

impl Usage {
    /// Of a process of this machine.
    pub fn of(pid: u32) -> Result<Usage> {
        let read = |file: &str| {
            let path = format!("/proc/{pid}/{file}");
            std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {path} (--pid must be a process of this user)"))
        };
        let cpu = cpu(&read("stat")?).with_context(|| format!("/proc/{pid}/stat is not what Linux writes"))?;
        let written_bytes =
            written(&read("io")?).with_context(|| format!("/proc/{pid}/io is not what Linux writes"))?;
        Ok(Usage { cpu, written_bytes })
    }

    /// What was used between two looks.
    pub fn since(self, earlier: Usage) -> Usage {
        Usage {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
        }
    }
}

/// Fields 14 and 15 of proc_pid_stat(5). The name, field 2, may hold spaces and brackets.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let ticks: u32 = fields.next()?.parse::<u32>().ok()? + fields.next()?.parse::<u32>().ok()?;
    Some(TICK * ticks)
}

fn written(io: &str) -> Option<u64> {
    io.lines()
        .find_map(|line| line.strip_prefix("write_bytes: "))?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_linux_writes() {
        let stat = "4242 (a ) b) S 1 4242 4242 0 -1 4194560 7 0 0 0 150 30 0 0 20 0 9 0 123 456 78";
        assert_eq!(cpu(stat), Some(Duration::from_millis(1800)));
        let io = "rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: 5\nwrite_bytes: 4096\ncancelled_write_bytes: 0\n";
        assert_eq!(written(io), Some(4096));
        assert_eq!(cpu("4242 (a"), None);
    }

    #[test]
    fn this_process_can_be_seen() {
        assert!(Usage::of(std::process::id()).is_ok());
        assert!(Usage::of(u32::MAX).is_err(), "there is no such process");
    }
}
