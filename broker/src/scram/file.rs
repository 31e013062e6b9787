//! The file that `broker.scram_users` names: `NAME:VERIFIER` a line, `#` in front of a comment. It stands in for users in
//! the catalog until these are there.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Verifier, Verifiers};
use crate::limits::SCRAM_FILE_BYTES_MAX;

/// Others than its owner and its group may read it, or write it.
const OPEN_TO_OTHERS: u32 = 0o006;

/// Why the file cannot be used. A server does not start then: half of the users would be worse than none.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {}: {source}; broker.scram_users must name a file that this user may read", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    /// Who reads it may try passwords against it, and play the server.
    #[error("everybody may read or write {}; take that away: chmod o= {}", .0.display(), .0.display())]
    Open(PathBuf),
    /// Not a list of people.
    #[error("{} is larger than {SCRAM_FILE_BYTES_MAX} bytes; it should hold NAME:VERIFIER lines", .0.display())]
    Large(PathBuf),
    /// A line that says nothing.
    #[error("{}:{line}: {reason}; make the line with `headwater user scram NAME`", .path.display())]
    Line { path: PathBuf, line: usize, reason: String },
    /// Nobody is in it.
    #[error("{} names nobody; add a line with `headwater user scram NAME`", .0.display())]
    Empty(PathBuf),
}

/// Reads the file.
pub fn load(path: &Path) -> Result<Verifiers, FileError> {
    let read = |source| FileError::Read {
        path: path.into(),
        source,
    };
    let file = File::open(path).map_err(read)?;
    if file.metadata().map_err(read)?.permissions().mode() & OPEN_TO_OTHERS != 0 {
        return Err(FileError::Open(path.into()));
    }
    let mut text = String::new();
    file.take(SCRAM_FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(read)?;
    if text.len() as u64 > SCRAM_FILE_BYTES_MAX {
        return Err(FileError::Large(path.into()));
    }
    let users = parse(&text).map_err(|(line, reason)| FileError::Line {
        path: path.into(),
        line,
        reason,
    })?;
    Verifiers::new(users).ok_or_else(|| FileError::Empty(path.into()))
}

/// The line of a user; or what is wrong with the name.
pub fn line(name: &str, verifier: &Verifier) -> Result<String, String> {
    check_name(name)?;
    Ok(format!("{name}:{verifier}"))
}

/// Name and verifier of each line; or the number of a line, and what is wrong with it.
fn parse(text: &str) -> Result<Vec<(String, Verifier)>, (usize, String)> {
    let mut lines = HashMap::new();
    let mut users = Vec::new();
    for (number, text) in (1..).zip(text.lines()) {
        if text.trim().is_empty() || text.starts_with('#') {
            continue;
        }
        let wrong = |reason: String| (number, reason);
        let (name, verifier) = text.split_once(':').ok_or_else(|| wrong("it has no `:`".into()))?;
        check_name(name).map_err(wrong)?;
        let verifier = Verifier::parse(verifier.trim_end()).map_err(|error| wrong(error.to_string()))?;
        if let Some(before) = lines.insert(name, number) {
            return Err(wrong(format!("`{name}` is in line {before} already")));
        }
        users.push((name.to_owned(), verifier));
    }
    Ok(users)
}

fn check_name(name: &str) -> Result<(), String> {
    let wrong = name.contains(|character: char| character == ':' || character.is_control());
    if wrong || name.is_empty() || name.starts_with('#') || name.trim() != name {
        return Err(format!(
            "`{}` cannot be a user's name: it is empty, or begins with `#`, or begins or ends with a space, or holds `:` or a control character",
            name.escape_debug()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn verifier() -> String {
        Verifier::of("pencil", 4096).unwrap().to_string()
    }

    /// How many users a file with this text and these permissions has.
    fn loaded(text: &str, mode: u32) -> Result<usize, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let place = folder.path().display().to_string();
        load(&path)
            .map(|verifiers| verifiers.by_name.len())
            .map_err(|error| error.to_string().replace(&place, "…"))
    }

    #[test]
    fn lines_are_users() {
        let text = format!("# who\n\nann:{}\nbob, the builder=1:{}\r\n", verifier(), verifier());
        assert_eq!(loaded(&text, 0o600), Ok(2));
        assert_eq!(loaded(&text, 0o640), Ok(2));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let made = verifier();
        let wrong = [
            (
                "ann\n".to_owned(),
                "…/users:1: it has no `:`; make the line with `headwater user scram NAME`",
            ),
            (
                format!("# x\nann:{made}\nann:{made}"),
                "…/users:3: `ann` is in line 2 already",
            ),
            ("ann:pencil".to_owned(), "…/users:1: it is not SCRAM-SHA-256$"),
            (format!(":{made}"), "…/users:1: `` cannot be a user's name"),
            ("# nobody\n".to_owned(), "…/users names nobody"),
        ];
        for (text, expected) in wrong {
            let told = loaded(&text, 0o600).unwrap_err();
            assert!(told.starts_with(expected), "{told}");
        }
        let told = loaded(&format!("ann:{made}"), 0o604).unwrap_err();
        assert_eq!(
            told,
            "everybody may read or write …/users; take that away: chmod o= …/users"
        );
        assert!(load(Path::new("/nowhere/users")).is_err());
    }

    #[test]
    fn a_line_comes_back() {
        let verifier = Verifier::of("pencil", 4096).unwrap();
        let users = parse(&line("ann", &verifier).unwrap()).unwrap();
        assert_eq!(users, [("ann".to_owned(), verifier.clone())]);
        for name in ["", "a:b", " a", "#a", "a\nb"] {
            assert!(line(name, &verifier).is_err(), "{name:?}");
        }
    }
}
