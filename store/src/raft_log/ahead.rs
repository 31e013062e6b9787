//! The log engine's file system, with zeros written ahead of small writes.
//!
//! The engine allocates space ahead, but space that was never written costs a lone writer dear: its sync must also tell
//! the file system's journal that a few blocks now hold data, which is a second write that waits for the first. So a
//! small write that reaches new space puts zeros behind itself, in the same sync; the small writes after it then only
//! overwrite, and their syncs are data and nothing else. Large writes, and files that are used again, need none of it.
//!
//! A crash leaves such zeros behind the last record, as allocated space always did (`log_files` cuts them).

use std::io::{self, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use raft_engine::env::{FileSystem, Permission, WriteExt};

use crate::limits::{AHEAD_BYTES, AHEAD_WRITE_BYTES_MAX};

/// What one write of zeros covers at most. The kernel keeps a larger write as one piece of its cache, and a small write
/// into that piece would later send all of it to the disk.
const PAGE_BYTES: u64 = 4 << 10;
static ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];

/// `inner`, with writers that write ahead.
pub struct AheadFileSystem<F>(pub F);

/// Writes one log file from its beginning to its end.
pub struct AheadWriter<W> {
    inner: W,
    position: u64,
    /// Allocated, and never written to.
    fresh: Range<u64>,
}

impl<F: FileSystem> FileSystem for AheadFileSystem<F> {
    type Handle = F::Handle;
    type Reader = F::Reader;
    type Writer = AheadWriter<F::Writer>;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<F::Handle> {
        self.0.create(path)
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> io::Result<F::Handle> {
        self.0.open(path, permission)
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        self.0.delete(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn new_reader(&self, handle: Arc<F::Handle>) -> io::Result<F::Reader> {
        self.0.new_reader(handle)
    }

    fn new_writer(&self, handle: Arc<F::Handle>) -> io::Result<Self::Writer> {
        Ok(AheadWriter {
            inner: self.0.new_writer(handle)?,
            position: 0,
            fresh: 0..0,
        })
    }
}

impl<W: Write + Seek> AheadWriter<W> {
    /// Zeros behind what was just written; what of them is not written costs nothing but time.
    fn write_ahead(&mut self) -> io::Result<()> {
        let end = self.fresh.end.min(self.position + AHEAD_BYTES as u64);
        while self.fresh.start < end {
            let page = end.min(self.fresh.start / PAGE_BYTES * PAGE_BYTES + PAGE_BYTES);
            let zeros = &ZEROS[..(page - self.fresh.start) as usize];
            if self.inner.write_all(zeros).is_err() {
                break;
            }
            self.fresh.start = page;
        }
        self.inner.seek(SeekFrom::Start(self.position))?;
        Ok(())
    }
}

impl<W: Write + Seek> Write for AheadWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.position += written as u64;
        if self.position > self.fresh.start {
            self.fresh.start = self.position;
            if bytes.len() <= AHEAD_WRITE_BYTES_MAX && self.position < self.fresh.end {
                self.write_ahead()?;
            }
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<W: Seek> Seek for AheadWriter<W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = self.inner.seek(to)?;
        Ok(self.position)
    }
}

impl<W: WriteExt> WriteExt for AheadWriter<W> {
    fn truncate(&mut self, offset: usize) -> io::Result<()> {
        self.inner.truncate(offset)?;
        self.position = offset as u64;
        self.fresh = self.position..self.position;
        Ok(())
    }

    fn allocate(&mut self, offset: usize, bytes: usize) -> io::Result<()> {
        self.inner.allocate(offset, bytes)?;
        let allocated = offset as u64..(offset + bytes) as u64;
        self.fresh = match allocated.start == self.fresh.end {
            true => self.fresh.start..allocated.end,
            false => allocated,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// A file in memory that counts what is written to it.
    #[derive(Default)]
    struct Counted {
        file: Cursor<Vec<u8>>,
        bytes: usize,
    }

    impl Write for Counted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.bytes += bytes.len();
            self.file.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for Counted {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.file.seek(to)
        }
    }

    impl WriteExt for Counted {
        fn truncate(&mut self, offset: usize) -> io::Result<()> {
            self.file.get_mut().truncate(offset);
            self.file.set_position(offset as u64);
            Ok(())
        }

        fn allocate(&mut self, offset: usize, bytes: usize) -> io::Result<()> {
            self.file.get_mut().resize(offset + bytes, 0);
            Ok(())
        }
    }

    fn writer() -> AheadWriter<Counted> {
        AheadWriter {
            inner: Counted::default(),
            position: 0,
            fresh: 0..0,
        }
    }

    #[test]
    fn one_small_write_of_many_pays_for_the_zeros() {
        let mut writer = writer();
        writer.allocate(0, 4 * AHEAD_BYTES).unwrap();
        let record = [7; 100];
        let records = AHEAD_BYTES / record.len();
        for _ in 0..records {
            writer.write_all(&record).unwrap();
        }
        assert_eq!(writer.inner.bytes, records * record.len() + AHEAD_BYTES);
        // The one that leaves the zeros writes new ones.
        writer.write_all(&record).unwrap();
        writer.write_all(&record).unwrap();
        assert_eq!(writer.inner.bytes, (records + 2) * record.len() + 2 * AHEAD_BYTES);
    }

    #[test]
    fn what_is_written_is_what_is_there() {
        let mut writer = writer();
        let mut expected = Vec::new();
        let sizes = [16, 1, 300, AHEAD_WRITE_BYTES_MAX + 1, 5, AHEAD_BYTES * 2, 3, 4000];
        for (n, size) in sizes.into_iter().cycle().take(100).enumerate() {
            if expected.len() + size > writer.inner.file.get_ref().len() {
                let end = writer.inner.file.get_ref().len();
                writer.allocate(end, size.max(AHEAD_BYTES * 3)).unwrap();
            }
            let bytes = vec![n as u8 + 1; size];
            writer.write_all(&bytes).unwrap();
            expected.extend(bytes);
        }
        let (written, behind) = writer.inner.file.get_ref().split_at(expected.len());
        assert!(written == expected && behind.iter().all(|byte| *byte == 0));
        writer.truncate(expected.len()).unwrap();
        writer.write_all(b"end").unwrap();
        assert!(writer.inner.file.get_ref().ends_with(b"end"));
        assert_eq!(writer.inner.file.get_ref().len(), expected.len() + 3);
    }

    #[test]
    fn large_writes_and_used_files_get_no_zeros() {
        let mut writer = writer();
        writer.allocate(0, 4 * AHEAD_BYTES).unwrap();
        let large = vec![1; AHEAD_WRITE_BYTES_MAX + 1];
        writer.write_all(&large).unwrap();
        assert_eq!(writer.inner.bytes, large.len());
        // A file that is used again: nothing of it was allocated just now.
        let mut used = AheadWriter {
            inner: writer.inner,
            position: 0,
            fresh: 0..0,
        };
        used.seek(SeekFrom::Start(0)).unwrap();
        used.write_all(b"again").unwrap();
        assert_eq!(used.inner.bytes, large.len() + 5);
    }
}
