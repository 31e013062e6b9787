//! The data folder: who may use it, and what made it.
//!
//! ```text
//! FOLDER/LOCK      held while a process uses the folder
//! FOLDER/FORMAT    "headwater data folder\nformat = 1\ngroups = 4\n", written first and never changed
//! FOLDER/raft/     raft-engine: the Raft log of all groups
//! FOLDER/state/    RocksDB: tables and record batches
//! ```

use std::fs::{self, File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::OpenError;

/// The layout this version reads and writes.
const FORMAT: u32 = 1;
const TITLE: &str = "headwater data folder";

/// An open data folder; the lock goes with it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Locks the folder, and checks or writes its format. Nothing else in it is touched.
    pub fn open(path: &Path, groups: u16) -> Result<Folder, OpenError> {
        let io = |source| OpenError::Io {
            path: path.into(),
            source,
        };
        fs::create_dir_all(path).map_err(io)?;
        let format = path.join("FORMAT");
        if !format.exists() && !is_fresh(path).map_err(io)? {
            return Err(OpenError::Foreign(path.into()));
        }
        let lock = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(path.join("LOCK"))
            .map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Locked(path.into())),
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        if format.exists() {
            check(path, &fs::read_to_string(&format).map_err(io)?, groups)?;
        } else {
            write_durably(path, &format, groups).map_err(io)?;
        }
        Ok(Folder {
            path: path.into(),
            _lock: lock,
        })
    }

    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    pub fn raft(&self) -> PathBuf {
        self.path.join("raft")
    }

    pub fn state(&self) -> PathBuf {
        self.path.join("state")
    }
}

/// Empty, or left by a start that a crash cut short before the format was written.
fn is_fresh(path: &Path) -> std::io::Result<bool> {
    for item in fs::read_dir(path)? {
        let name = item?.file_name();
        if name != "LOCK" && name != "FORMAT.new" {
            return Ok(false);
        }
    }
    Ok(true)
}

fn check(path: &Path, text: &str, groups: u16) -> Result<(), OpenError> {
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.split_once('=').filter(|(name, _)| name.trim() == key))
            .map(|(_, value)| value.trim())
    };
    let found = value("format").unwrap_or("unknown");
    if !text.starts_with(TITLE) || found.parse() != Ok(FORMAT) {
        return Err(OpenError::Format {
            path: path.into(),
            found: found.to_owned(),
            expected: FORMAT,
        });
    }
    let made = value("groups").and_then(|groups| groups.parse().ok());
    match made {
        Some(made) if made == groups => Ok(()),
        Some(made) => Err(OpenError::Groups {
            made,
            configured: groups,
        }),
        None => Err(OpenError::Damaged(
            "FORMAT does not say how many groups there are".to_owned(),
        )),
    }
}

/// The file is whole or absent, whatever happens in between.
fn write_durably(folder: &Path, format: &Path, groups: u16) -> std::io::Result<()> {
    let new = folder.join("FORMAT.new");
    let mut file = File::create(&new)?;
    file.write_all(format!("{TITLE}\nformat = {FORMAT}\ngroups = {groups}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, format)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time_and_only_our_own_format() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data");
        let folder = Folder::open(&path, 4).unwrap();
        assert!(matches!(Folder::open(&path, 4), Err(OpenError::Locked(_))));
        drop(folder);
        assert!(matches!(
            Folder::open(&path, 5),
            Err(OpenError::Groups { made: 4, configured: 5 })
        ));
        fs::write(path.join("FORMAT"), "headwater data folder\nformat = 9\ngroups = 4\n").unwrap();
        let error = Folder::open(&path, 4).unwrap_err().to_string();
        assert!(
            error.contains("format 9") && error.contains("reads format 1"),
            "{error}"
        );
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("thesis.txt"), "precious").unwrap();
        assert!(matches!(Folder::open(root.path(), 4), Err(OpenError::Foreign(_))));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
