//! What the disk does with nothing in front of it.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

const SMALL_BYTES: usize = 4 << 10;
const LARGE_BYTES: usize = 256 << 10;
const SEQUENTIAL_BYTES: usize = 256 << 20;
const DURATION: Duration = Duration::from_secs(1);

/// Appends with fdatasync to growing files, one after the other.
pub struct Raw {
    /// 4 KiB: the least that an acknowledgement can cost.
    pub small: Appends,
    /// 256 KiB: what a turn that merged much can cost.
    pub large: Appends,
}

/// Of one size.
pub struct Appends {
    /// Each append.
    pub bytes: usize,
    /// Appends.
    pub per_s: f64,
    /// Write and sync together.
    pub p50_us: f64,
}

impl Raw {
    /// Measures both, for a second each.
    pub fn measure(folder: &Path) -> Result<Raw> {
        Ok(Raw {
            small: appends(folder, SMALL_BYTES)?,
            large: appends(folder, LARGE_BYTES)?,
        })
    }
}

fn appends(folder: &Path, bytes: usize) -> Result<Appends> {
    let path = folder.join("raw");
    let file = File::create(&path)?;
    let block = vec![0x5a; bytes];
    let (mut times, mut at, began) = (Vec::new(), 0, Instant::now());
    while began.elapsed() < DURATION {
        let start = Instant::now();
        file.write_all_at(&block, at)?;
        file.sync_data()?;
        times.push(start.elapsed());
        at += bytes as u64;
    }
    let elapsed = began.elapsed();
    std::fs::remove_file(path)?;
    times.sort_unstable();
    Ok(Appends {
        bytes,
        per_s: times.len() as f64 / elapsed.as_secs_f64(),
        p50_us: times[times.len() / 2].as_secs_f64() * 1e6,
    })
}

/// 256 MiB in pieces of 1 MiB, one sync at the end.
pub fn sequential_mb_per_s(folder: &Path) -> Result<f64> {
    let path = folder.join("raw");
    let mut file = File::create(&path)?;
    let block = vec![0x5a; 1 << 20];
    let began = Instant::now();
    for _ in 0..SEQUENTIAL_BYTES / block.len() {
        file.write_all(&block)?;
    }
    file.sync_data()?;
    let elapsed = began.elapsed();
    std::fs::remove_file(path)?;
    Ok(SEQUENTIAL_BYTES as f64 / 1e6 / elapsed.as_secs_f64())
}
