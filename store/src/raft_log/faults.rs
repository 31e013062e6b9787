//! A file system for the log engine that fails when it is told to: a write that stops half-way, a sync that fails, a
//! disk that is full. Unarmed it is the real one, so every test of the store runs over it.

use std::collections::HashMap;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use raft_engine::env::{DefaultFileSystem, FileSystem, Handle, Permission, WriteExt};

type Inner = DefaultFileSystem;

/// What goes wrong from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// A write puts half of its bytes down and fails, and so do all after it.
    ShortWrite,
    /// A sync fails; what was written may or may not be there.
    Sync,
    /// No more space: no file grows.
    Full,
}

#[derive(Debug, Clone)]
pub struct Switch(Arc<Mutex<Fault>>);

impl Switch {
    pub fn set(&self, fault: Fault) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    fn get(&self) -> Fault {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

static SWITCHES: LazyLock<Mutex<HashMap<PathBuf, Switch>>> = LazyLock::new(Mutex::default);

/// The switch of a log folder, before or after it is opened.
pub fn switch(folder: &Path) -> Switch {
    let mut switches = SWITCHES.lock().unwrap_or_else(PoisonError::into_inner);
    let off = || Switch(Arc::new(Mutex::new(Fault::None)));
    switches.entry(folder.to_owned()).or_insert_with(off).clone()
}

pub fn file_system(folder: &Path) -> FaultyFileSystem {
    FaultyFileSystem(switch(folder))
}

pub struct FaultyFileSystem(Switch);

pub struct FaultyHandle {
    inner: Arc<<Inner as FileSystem>::Handle>,
    switch: Switch,
}

pub struct FaultyWriter {
    inner: <Inner as FileSystem>::Writer,
    switch: Switch,
}

impl FaultyFileSystem {
    fn handle(&self, inner: <Inner as FileSystem>::Handle) -> FaultyHandle {
        FaultyHandle {
            inner: Arc::new(inner),
            switch: self.0.clone(),
        }
    }
}

impl FileSystem for FaultyFileSystem {
    type Handle = FaultyHandle;
    type Reader = <Inner as FileSystem>::Reader;
    type Writer = FaultyWriter;

    fn create<P: AsRef<Path>>(&self, path: P) -> io::Result<FaultyHandle> {
        DefaultFileSystem.create(path).map(|inner| self.handle(inner))
    }

    fn open<P: AsRef<Path>>(&self, path: P, permission: Permission) -> io::Result<FaultyHandle> {
        DefaultFileSystem.open(path, permission).map(|inner| self.handle(inner))
    }

    fn delete<P: AsRef<Path>>(&self, path: P) -> io::Result<()> {
        DefaultFileSystem.delete(path)
    }

    fn rename<P: AsRef<Path>>(&self, from: P, to: P) -> io::Result<()> {
        DefaultFileSystem.rename(from, to)
    }

    fn new_reader(&self, handle: Arc<FaultyHandle>) -> io::Result<Self::Reader> {
        DefaultFileSystem.new_reader(handle.inner.clone())
    }

    fn new_writer(&self, handle: Arc<FaultyHandle>) -> io::Result<FaultyWriter> {
        Ok(FaultyWriter {
            inner: DefaultFileSystem.new_writer(handle.inner.clone())?,
            switch: self.0.clone(),
        })
    }
}

impl Handle for FaultyHandle {
    fn truncate(&self, offset: usize) -> io::Result<()> {
        self.inner.truncate(offset)
    }

    fn file_size(&self) -> io::Result<usize> {
        self.inner.file_size()
    }

    fn sync(&self) -> io::Result<()> {
        match self.switch.get() {
            Fault::Sync => Err(io::Error::other("the sync failed")),
            _ => self.inner.sync(),
        }
    }
}

impl Write for FaultyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.switch.get() {
            Fault::ShortWrite => {
                self.inner.write_all(&bytes[..bytes.len() / 2])?;
                Err(io::Error::other("the write stopped half-way"))
            }
            // raft-engine knows a full disk by this word.
            Fault::Full => Err(io::Error::other("nospace")),
            Fault::None | Fault::Sync => self.inner.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Read for FaultyWriter {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.inner.read(bytes)
    }
}

impl Seek for FaultyWriter {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

impl WriteExt for FaultyWriter {
    fn truncate(&mut self, offset: usize) -> io::Result<()> {
        self.inner.truncate(offset)
    }

    fn allocate(&mut self, offset: usize, bytes: usize) -> io::Result<()> {
        match self.switch.get() {
            Fault::Full => Err(io::Error::other("nospace")),
            _ => self.inner.allocate(offset, bytes),
        }
    }
}
