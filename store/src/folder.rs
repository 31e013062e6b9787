//! The data folder: who may use it, and what made it.
//!
//! ```text
//! FOLDER/LOCK      held while a process uses the folder
//! FOLDER/FORMAT    "headwater data folder\nformat = 3\ngroups = 4\ncrc32c = b52797c7\n", written first, never changed
//! FOLDER/raft/     raft-engine: the Raft log of all groups
//! FOLDER/state/    RocksDB: tables and record batches
//! ```
//!
//! The checksum in FORMAT covers the lines above it: a wrong number of groups would place every record differently.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::OpenError;

/// The layout this version reads and writes.
const FORMAT: u32 = 3;
const TITLE: &str = "headwater data folder";
const CHECKSUM: &str = "crc32c = ";

/// An open data folder; the lock goes with it.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    groups: u16,
    _lock: Option<File>,
}

impl Folder {
    /// Locks the folder, and checks or writes its format. Nothing else in it is touched.
    pub fn open(path: &Path, groups: u16) -> Result<Folder, OpenError> {
        let io = failed(path);
        fs::create_dir_all(path).map_err(&io)?;
        let format = path.join("FORMAT");
        if !format.exists() && !is_fresh(path).map_err(&io)? {
            return Err(OpenError::Foreign(path.into()));
        }
        let lock = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(path.join("LOCK"))
            .map_err(&io)?;
        try_lock(path, &lock)?;
        if format.exists() {
            match read_format(path)? {
                made if made == groups => {}
                made => {
                    return Err(OpenError::Groups {
                        made,
                        configured: groups,
                    });
                }
            }
        } else {
            write_durably(path, &format, groups).map_err(&io)?;
        }
        let folder = Folder {
            path: path.into(),
            groups,
            _lock: Some(lock),
        };
        folder.refuse_lost_state()?;
        folder.refuse_lost_log()?;
        Ok(folder)
    }

    /// Locks a folder that exists, for reading: not a byte in it is changed.
    pub fn open_existing(path: &Path) -> Result<Folder, OpenError> {
        if !path.try_exists().map_err(failed(path))? {
            return Err(OpenError::Missing(path.into()));
        }
        let lock = match File::open(path.join("LOCK")) {
            Ok(lock) => Some(lock),
            // A copy may come without it.
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(failed(path)(error)),
        };
        if let Some(lock) = &lock {
            try_lock(path, lock)?;
        }
        let groups = read_format(path)?;
        Ok(Folder {
            path: path.into(),
            groups,
            _lock: lock,
        })
    }

    /// RocksDB without its CURRENT would begin anew, and delete the files it does not know.
    pub fn refuse_lost_state(&self) -> Result<(), OpenError> {
        let state = self.state();
        if state.join("CURRENT").exists() || !state.exists() {
            return Ok(());
        }
        for item in fs::read_dir(&state).map_err(failed(&self.path))? {
            let path = item.map_err(failed(&self.path))?.path();
            if path.extension().is_some_and(|extension| extension == "sst") {
                return Err(OpenError::Damaged(format!(
                    "{} is missing, and {} is there",
                    state.join("CURRENT").display(),
                    path.display()
                )));
            }
        }
        Ok(())
    }

    /// The log engine without its files would begin anew. The log is made before the database, so where that is there the
    /// log has been.
    fn refuse_lost_log(&self) -> Result<(), OpenError> {
        if !self.state().join("CURRENT").exists() {
            return Ok(());
        }
        let is_log = |path: PathBuf| path.extension().is_some_and(|extension| extension == "raftlog");
        let found = match fs::read_dir(self.raft()) {
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(failed(&self.path)(error)),
            Ok(items) => items.filter_map(Result::ok).any(|item| is_log(item.path())),
        };
        if found {
            return Ok(());
        }
        Err(OpenError::Damaged(format!(
            "{} has no log files, and {} is there",
            self.raft().display(),
            self.state().display()
        )))
    }

    /// The number of data groups it was made with.
    pub fn groups(&self) -> u16 {
        self.groups
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

fn failed(path: &Path) -> impl Fn(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io {
        path: path.clone(),
        source,
    }
}

fn try_lock(path: &Path, lock: &File) -> Result<(), OpenError> {
    match lock.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(path.into())),
        Err(TryLockError::Error(source)) => Err(failed(path)(source)),
    }
}

/// The number of data groups, from a format that this version reads.
fn read_format(path: &Path) -> Result<u16, OpenError> {
    let bytes = match fs::read(path.join("FORMAT")) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(OpenError::Foreign(path.into())),
        bytes => bytes.map_err(failed(path))?,
    };
    let text = String::from_utf8_lossy(&bytes);
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.split_once('=').filter(|(name, _)| name.trim() == key))
            .map(|(_, value)| value.trim())
    };
    let Some(found) = value("format") else {
        return Err(OpenError::Damaged(format!(
            "{} does not say which format it is",
            path.join("FORMAT").display()
        )));
    };
    let ours = found == FORMAT.to_string();
    // Other versions may end otherwise; what says it is ours has to be whole.
    let whole = text.split_once(CHECKSUM).map(|(covered, crc)| crc == checksum(covered));
    match (whole, ours) {
        (Some(true), true) => {}
        (Some(false), _) | (None, true) => {
            return Err(OpenError::Damaged(format!(
                "{} does not match its checksum",
                path.join("FORMAT").display()
            )));
        }
        (_, false) => {
            return Err(OpenError::Format {
                path: path.into(),
                found: found.to_owned(),
                expected: FORMAT,
            });
        }
    }
    value("groups")
        .and_then(|groups| groups.parse().ok())
        .ok_or_else(|| OpenError::Damaged("FORMAT does not say how many groups there are".to_owned()))
}

fn checksum(covered: &str) -> String {
    format!("{:08x}\n", crc32c::crc32c(covered.as_bytes()))
}

/// The file is whole or absent, whatever happens in between.
fn write_durably(folder: &Path, format: &Path, groups: u16) -> io::Result<()> {
    let covered = format!("{TITLE}\nformat = {FORMAT}\ngroups = {groups}\n");
    let new = folder.join("FORMAT.new");
    let mut file = File::create(&new)?;
    file.write_all(format!("{covered}{CHECKSUM}{}", checksum(&covered)).as_bytes())?;
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
        assert!(matches!(Folder::open_existing(&path), Err(OpenError::Locked(_))));
        drop(folder);
        assert_eq!(Folder::open_existing(&path).unwrap().groups(), 4);
        assert!(matches!(
            Folder::open(&path, 5),
            Err(OpenError::Groups { made: 4, configured: 5 })
        ));
        fs::write(path.join("FORMAT"), "headwater data folder\nformat = 9\ngroups = 4\n").unwrap();
        let error = Folder::open(&path, 4).unwrap_err().to_string();
        assert!(
            error.contains("format 9") && error.contains(&format!("reads format {FORMAT}")),
            "{error}"
        );
    }

    #[test]
    fn what_is_wrong_with_a_folder_is_told_with_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "precious").unwrap();
        let said = |error: OpenError| error.to_string();
        let error = said(Folder::open(&file, 4).unwrap_err());
        assert!(
            error.contains("a file is in its place") && error.contains("--data"),
            "{error}"
        );
        let error = said(Folder::open(Path::new("/proc/nothing/here"), 4).unwrap_err());
        assert!(error.contains("choose a folder with --data"), "{error}");
        let missing = root.path().join("missing");
        let error = said(Folder::open_existing(&missing).unwrap_err());
        assert!(error.contains("does not exist") && !missing.exists(), "{error}");
        let data = root.path().join("data");
        drop(Folder::open(&data, 4).unwrap());
        fs::write(data.join("FORMAT"), "").unwrap();
        assert!(
            matches!(Folder::open(&data, 4), Err(OpenError::Damaged(_))),
            "an empty FORMAT"
        );
    }

    #[test]
    fn a_log_that_is_lost_is_not_begun_anew() {
        let root = tempfile::tempdir().unwrap();
        drop(Folder::open(root.path(), 4).unwrap());
        fs::create_dir(root.path().join("state")).unwrap();
        fs::write(root.path().join("state/CURRENT"), "MANIFEST-000001").unwrap();
        let error = Folder::open(root.path(), 4).unwrap_err().to_string();
        assert!(error.contains("raft has no log files"), "{error}");
        assert!(!root.path().join("raft").exists(), "nothing is made");
        fs::create_dir(root.path().join("raft")).unwrap();
        assert!(Folder::open(root.path(), 4).is_err(), "an empty folder is no log");
        fs::write(root.path().join("raft/0000000000000001.raftlog"), "").unwrap();
        Folder::open(root.path(), 4).expect("a log");
    }

    #[test]
    fn any_flipped_bit_in_the_format_is_found() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data");
        drop(Folder::open(&path, 4).unwrap());
        let whole = fs::read(path.join("FORMAT")).unwrap();
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut damaged = whole.clone();
                damaged[at] ^= 1 << bit;
                fs::write(path.join("FORMAT"), &damaged).unwrap();
                for groups in 0..16 {
                    assert!(
                        matches!(Folder::open(&path, groups), Err(OpenError::Damaged(_))),
                        "byte {at} bit {bit}"
                    );
                }
                assert!(matches!(Folder::open_existing(&path), Err(OpenError::Damaged(_))));
                assert_eq!(fs::read(path.join("FORMAT")).unwrap(), damaged, "nothing is changed");
            }
        }
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("thesis.txt"), "precious").unwrap();
        assert!(matches!(Folder::open(root.path(), 4), Err(OpenError::Foreign(_))));
        assert!(matches!(Folder::open_existing(root.path()), Err(OpenError::Foreign(_))));
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_database_that_lost_its_beginning_is_not_begun_anew() {
        let root = tempfile::tempdir().unwrap();
        drop(Folder::open(root.path(), 4).unwrap());
        fs::create_dir(root.path().join("state")).unwrap();
        Folder::open(root.path(), 4).expect("a start that a crash cut short");
        fs::write(root.path().join("state/000012.sst"), "records").unwrap();
        let error = Folder::open(root.path(), 4).unwrap_err().to_string();
        assert!(error.contains("CURRENT is missing"), "{error}");
    }
}
