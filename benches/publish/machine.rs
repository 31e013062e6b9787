//! What the figures were measured on: without it they mean nothing.

use std::path::Path;

use anyhow::Result;

/// Processor, memory, kernel, file system and load, as a list.
pub fn describe(folder: &Path) -> Result<String> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':'))
            .map_or("unknown".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism()?;
    Ok(format!(
        "- {cores} cores of {}, memory {}\n- Linux {}\n- data on {}\n- {}",
        field(&read("/proc/cpuinfo"), "model name"),
        field(&read("/proc/meminfo"), "MemTotal"),
        read("/proc/sys/kernel/osrelease").trim(),
        file_system(&read("/proc/mounts"), folder),
        load_average()?
    ))
}

/// What else is going on: above the number of our own processes, the figures are of a shared machine.
pub fn load_average() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(format!(
        "load average {}",
        text.split(' ').take(3).collect::<Vec<_>>().join(" ")
    ))
}

/// Device and type of the mount with the longest path that holds the folder.
fn file_system(mounts: &str, folder: &Path) -> String {
    let fields = |line: &'_ str| -> Option<(String, usize)> {
        let mut fields = line.split(' ');
        let (device, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        folder
            .starts_with(path)
            .then(|| (format!("{device} ({kind})"), path.len()))
    };
    let found = mounts.lines().filter_map(fields).max_by_key(|(_, length)| *length);
    found.map_or("an unknown file system".into(), |(text, _)| text)
}
