//! The Raft log's files before the log engine opens them: is what they end with the trace of a write that a crash cut
//! short, or is the disk damaged?
//!
//! raft-engine can cut a file at its first bad record, or refuse it. Neither will do: after a kill the newest file
//! always ends in something that is no record (space allocated ahead, half a write), and cutting at a damaged record in
//! front of good ones would drop entries that were acknowledged. So the files are read here first, with every checksum:
//!
//! - Only the newest file of a queue may end in something invalid. The log thread writes and syncs one batch at a time,
//!   so what a crash leaves behind the last sync is at most one batch, of which any part may be there: no valid record
//!   comes after it. That is cut, and told.
//! - A bad spot with a valid record behind it, or in an older file, is damage. Nothing is changed, and the start fails.
//!
//! One case is left that nobody can tell apart: the very last record, damaged by the disk after it was synced.

mod batch;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::kill_points::{Point, reached};
pub use batch::{Batch, BatchError, Item, MARK_KEY, Mark};
use batch::{BatchHeader, FILE_HEADER_BYTES, HEADER_BYTES, check_file_header};

/// What is read ahead.
const READ_BYTES: usize = 1 << 20;

/// raft-engine's two queues: what was appended, and what was kept of files that were about to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Queue {
    Rewrite,
    Append,
}

/// One log file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogFile {
    pub queue: Queue,
    /// Rises by one from file to file.
    pub number: u64,
    pub path: PathBuf,
}

/// A place where no valid record is, though the file goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadSpot {
    pub offset: u64,
    pub reason: BatchError,
    /// Where the next valid record begins.
    pub next: Option<u64>,
    /// Bytes from `offset` to the next record or the end of the file, and whether all are 0.
    pub bytes: u64,
    pub zeros: bool,
}

impl BadSpot {
    /// Whether a crash may have left it, in the newest file of a queue. A file's header is synced before anything else
    /// is written to it.
    pub fn may_be_torn(&self) -> bool {
        self.next.is_none() && (self.offset > 0 || self.bytes <= FILE_HEADER_BYTES as u64)
    }
}

/// Why the log's files cannot be used as they are. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum LogFilesError {
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{} is damaged at byte {}: {}, and {}, so this is no write that a crash cut short; \
         `headwater store check` lists all damage",
        .file.path.display(), .spot.offset, .spot.reason, behind(.spot)
    )]
    Damaged { file: LogFile, spot: BadSpot },
}

fn behind(spot: &BadSpot) -> String {
    match spot.next {
        Some(next) => format!("a valid record follows at byte {next}"),
        None if spot.offset == 0 => "it is longer than a header".to_owned(),
        None => "newer files follow".to_owned(),
    }
}

/// All log files of a folder, oldest first, the rewrite queue in front. A folder that is not there has none.
pub fn list(folder: &Path) -> io::Result<Vec<LogFile>> {
    let mut files = Vec::new();
    let items = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        items => items?,
    };
    for item in items {
        let path = item?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let queue = match name.split_once('.') {
            Some((_, "raftlog")) => Queue::Append,
            Some((_, "rewrite")) => Queue::Rewrite,
            _ => continue,
        };
        if let Some(number) = name.split('.').next().and_then(|number| number.parse().ok()) {
            files.push(LogFile { queue, number, path });
        }
    }
    files.sort();
    Ok(files)
}

/// Whether the file at `n` of a [`list`] is its queue's newest.
pub fn is_newest(files: &[LogFile], n: usize) -> bool {
    files.get(n + 1).is_none_or(|next| next.queue != files[n].queue)
}

/// Cuts the traces of writes that a crash cut short, and refuses anything worse before a byte is changed.
pub fn mend(folder: &Path) -> Result<(), LogFilesError> {
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| LogFilesError::Io { path, source }
    };
    let files = list(folder).map_err(at(folder))?;
    let mut torn = Vec::new();
    for (n, file) in files.iter().enumerate() {
        let newest = is_newest(&files, n);
        let mut spots = Vec::new();
        scan(file, &mut |event| {
            if let Event::Bad(spot) = event {
                spots.push(spot);
            }
            // One is enough to refuse.
            spots.is_empty()
        })
        .map_err(at(&file.path))?;
        match spots.pop() {
            Some(spot) if newest && spot.may_be_torn() => torn.push((file, spot)),
            Some(spot) => {
                return Err(LogFilesError::Damaged {
                    file: file.clone(),
                    spot,
                });
            }
            None => {}
        }
    }
    for (file, spot) in torn {
        cut(file, &spot).map_err(at(&file.path))?;
    }
    Ok(())
}

/// Ends a file in front of a bad spot; a file that has not even its header goes, for nothing was ever written to it.
fn cut(file: &LogFile, spot: &BadSpot) -> io::Result<()> {
    let (path, offset, bytes) = (file.path.display(), spot.offset, spot.bytes);
    if offset == 0 {
        tracing::warn!(%path, bytes, "a log file that a crash left without its header is removed");
        fs::remove_file(&file.path)?;
        return match file.path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        };
    }
    if spot.zeros {
        tracing::debug!(%path, offset, bytes, "space that was allocated ahead is cut off");
    } else {
        tracing::info!(
            %path,
            offset,
            bytes,
            "behind the last record of the raft log is half a write, or what the file held in an earlier life; it was never \
             acknowledged and is cut off"
        );
    }
    let open = File::options().write(true).open(&file.path)?;
    open.set_len(offset)?;
    reached(Point::TailCut);
    open.sync_all()
}

/// Reads single batches that a [`scan`] found.
pub struct BatchReader {
    file: LogFile,
    window: Window,
}

impl BatchReader {
    pub fn open(file: &LogFile) -> io::Result<BatchReader> {
        Ok(BatchReader {
            file: file.clone(),
            window: Window::open(&file.path)?,
        })
    }

    /// The valid batch at `offset`.
    pub fn read(&mut self, offset: u64) -> io::Result<Batch> {
        let found = batch_at(&mut self.window, offset, self.file.number)?;
        let (_, batch) = found.map_err(io::Error::other)?;
        Ok(batch)
    }
}

/// What [`scan`] finds.
#[derive(Debug)]
pub enum Event {
    /// A valid batch at an offset.
    Batch(u64, Batch),
    /// No valid batch.
    Bad(BadSpot),
}

/// Reads a file from its begin, over bad spots, until `visit` returns false.
pub fn scan(file: &LogFile, visit: &mut dyn FnMut(Event) -> bool) -> io::Result<()> {
    let mut window = Window::open(&file.path)?;
    let header = window.at(0, FILE_HEADER_BYTES)?;
    let mut offset = 0;
    let mut found = check_file_header(&header);
    loop {
        if let Err(reason) = found {
            let next = next_batch(&mut window, offset + 1, file.number)?;
            let end = next.unwrap_or(window.length);
            let zeros = window.all_zeros(offset, end)?;
            let bad = BadSpot {
                offset,
                reason,
                next,
                bytes: end - offset,
                zeros,
            };
            if !visit(Event::Bad(bad)) || next.is_none() {
                return Ok(());
            }
            offset = end;
        } else if offset == 0 {
            offset = FILE_HEADER_BYTES as u64;
        }
        if offset >= window.length {
            return Ok(());
        }
        found = match batch_at(&mut window, offset, file.number)? {
            Ok((length, batch)) => {
                if !visit(Event::Batch(offset, batch)) {
                    return Ok(());
                }
                offset += length;
                Ok(())
            }
            Err(reason) => Err(reason),
        };
    }
}

fn batch_at(window: &mut Window, offset: u64, number: u64) -> io::Result<Result<(u64, Batch), BatchError>> {
    let header = match BatchHeader::parse(&window.at(offset, HEADER_BYTES)?) {
        Ok(header) if header.length as u64 > window.length - offset => return Ok(Err(BatchError::Length)),
        Ok(header) => header,
        Err(error) => return Ok(Err(error)),
    };
    let bytes = window.at(offset, header.length)?;
    if bytes.len() < header.length {
        return Ok(Err(BatchError::Length));
    }
    Ok(header.decode(&bytes, number).map(|batch| (header.length as u64, batch)))
}

/// The first valid batch at `from` or behind. It is looked for at every byte: the damaged record's own length may be
/// what is damaged.
fn next_batch(window: &mut Window, from: u64, number: u64) -> io::Result<Option<u64>> {
    let mut offset = from.max(FILE_HEADER_BYTES as u64);
    loop {
        let ahead = window.at(offset, READ_BYTES)?;
        let mut looked_at = 0;
        for (n, header) in ahead.windows(HEADER_BYTES).enumerate() {
            let here = offset + n as u64;
            if BatchHeader::parse(header).is_ok() && batch_at(window, here, number)?.is_ok() {
                return Ok(Some(here));
            }
            looked_at = n as u64 + 1;
        }
        if looked_at == 0 {
            return Ok(None);
        }
        offset += looked_at;
    }
}

/// A part of a file in memory.
struct Window {
    file: File,
    length: u64,
    start: u64,
    bytes: Bytes,
}

impl Window {
    fn open(path: &Path) -> io::Result<Window> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Window {
            file,
            length,
            start: 0,
            bytes: Bytes::new(),
        })
    }

    /// `count` bytes at `offset`, fewer at the end of the file.
    fn at(&mut self, offset: u64, count: usize) -> io::Result<Bytes> {
        let left = usize::try_from(self.length.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = count.min(left);
        let covers = |window: &Window| {
            let from = usize::try_from(offset.checked_sub(window.start)?).ok()?;
            let end = from.checked_add(count)?;
            (end <= window.bytes.len()).then(|| window.bytes.slice(from..end))
        };
        if let Some(bytes) = covers(self) {
            return Ok(bytes);
        }
        let mut bytes = vec![0; count.max(READ_BYTES).min(left)];
        self.file.read_exact_at(&mut bytes, offset)?;
        (self.start, self.bytes) = (offset, bytes.into());
        Ok(covers(self).unwrap_or_default())
    }

    fn all_zeros(&mut self, from: u64, to: u64) -> io::Result<bool> {
        let mut offset = from;
        while offset < to {
            let count = usize::try_from(to - offset).unwrap_or(READ_BYTES).min(READ_BYTES);
            let bytes = self.at(offset, count)?;
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            offset += bytes.len() as u64;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
