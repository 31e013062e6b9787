//! RocksDB's MANIFEST before RocksDB opens it: every record's checksum.
//!
//! RocksDB checks them too, but one flipped bit in a record's type makes it read the same place for ever, and a start
//! that neither goes on nor says why is worse than one that fails. Here that is damage like any other. What a crash cut
//! short, at the end of the file, is left to RocksDB; but a record that is whole and says that it is longer is not cut short.
//!
//! ```text
//! file    blocks of 32 KiB; a record does not cross them
//! record  crc32c u32, masked, of type and data | length u16 | type u8 | data, little-endian
//! type    1 whole, 2 first, 3 middle, 4 last part
//! zeros   up to the end of a block: nothing more in it
//! ```
//!
//! Source: RocksDB's wiki, "Write Ahead Log File Format"; the MANIFEST is written in the same form.

use std::fs;
use std::io;
use std::path::Path;

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
/// The last kind of record that a MANIFEST has.
const LAST_PART: u8 = 4;

/// Why a MANIFEST cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("CURRENT does not name a MANIFEST")]
    Unnamed,
    #[error("{name} is damaged at byte {offset}: {reason}")]
    Damaged {
        name: String,
        offset: usize,
        reason: &'static str,
    },
}

/// Checks the MANIFEST that is in use in `folder`, if there is a database.
pub fn check(folder: &Path) -> Result<(), ManifestError> {
    let current = match fs::read_to_string(folder.join("CURRENT")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        current => current?,
    };
    let name = current.trim_end();
    if !name.starts_with("MANIFEST-") || name.contains('/') {
        return Err(ManifestError::Unnamed);
    }
    let bytes = fs::read(folder.join(name))?;
    match bad_record(&bytes) {
        None => Ok(()),
        Some((offset, reason)) => Err(ManifestError::Damaged {
            name: name.to_owned(),
            offset,
            reason,
        }),
    }
}

/// Where the first record is that is whole and not valid, and what is wrong with it.
fn bad_record(bytes: &[u8]) -> Option<(usize, &'static str)> {
    let blocks = bytes.chunks(BLOCK_BYTES).enumerate();
    blocks
        .filter_map(|(number, block)| {
            let (at, reason) = bad_record_of_block(block)?;
            Some((number * BLOCK_BYTES + at, reason))
        })
        .next()
}

fn bad_record_of_block(block: &[u8]) -> Option<(usize, &'static str)> {
    let mut at = 0;
    while let Some(header) = block.get(at..at + HEADER_BYTES) {
        let [c0, c1, c2, c3, l0, l1, kind] = header.try_into().expect("as long as a header");
        let length = usize::from(u16::from_le_bytes([l0, l1]));
        let checksum = u32::from_le_bytes([c0, c1, c2, c3]);
        if block[at..].iter().all(|byte| *byte == 0) {
            return None;
        }
        if !(1..=LAST_PART).contains(&kind) {
            return Some((at, "no such type of record"));
        }
        let end = at + HEADER_BYTES + length;
        let Some(checked) = block.get(at + HEADER_BYTES - 1..end) else {
            // In the last block a crash may have cut it; in a full one no record can be as long.
            let fits_no_block = block.len() == BLOCK_BYTES;
            let damaged = fits_no_block || is_whole_before_its_end(&block[at + HEADER_BYTES - 1..], checksum);
            return damaged.then_some((at, "the length does not fit"));
        };
        if mask(crc32c::crc32c(checked)) != checksum {
            return Some((at, "the checksum does not match"));
        }
        at = end;
    }
    None
}

/// Type and data match the checksum with less data than the length says: it is the length that is wrong.
fn is_whole_before_its_end(checked: &[u8], checksum: u32) -> bool {
    let mut so_far = 0;
    checked.iter().any(|byte| {
        so_far = crc32c::crc32c_append(so_far, &[*byte]);
        mask(so_far) == checksum
    })
}

/// How RocksDB stores a checksum, so that the checksum of bytes with checksums in them stays a good one.
fn mask(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::rocks::RocksEngine;
    use crate::engine::{Engine, Family, Writes};

    /// A database with a few versions in its MANIFEST, and that MANIFEST.
    fn database(folder: &Path) -> (std::path::PathBuf, Vec<u8>) {
        let engine = RocksEngine::open(folder, 1 << 20).unwrap();
        for round in 0..10u8 {
            let mut writes = Writes::default();
            writes.put(Family::State, vec![round], vec![round]);
            engine.write(writes).unwrap();
            engine.flush().unwrap();
        }
        drop(engine);
        let name = fs::read_to_string(folder.join("CURRENT")).unwrap();
        let path = folder.join(name.trim_end());
        let bytes = fs::read(&path).unwrap();
        (path, bytes)
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let folder = tempfile::tempdir().unwrap();
        check(folder.path()).unwrap();
        let (path, whole) = database(folder.path());
        assert!(whole.len() > 500, "{}", whole.len());
        check(folder.path()).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(bad_record(&damaged).is_some(), "bit {bit}");
        }
        let mut damaged = whole.clone();
        damaged[HEADER_BYTES - 1] ^= 4;
        fs::write(&path, damaged).unwrap();
        let error = check(folder.path()).unwrap_err().to_string();
        assert!(error.contains("damaged at byte 0: no such type of record"), "{error}");
    }

    #[test]
    fn what_a_crash_cut_is_no_damage() {
        let folder = tempfile::tempdir().unwrap();
        let (_, whole) = database(folder.path());
        for end in 0..whole.len() {
            assert_eq!(bad_record(&whole[..end]), None, "cut at {end}");
        }
    }
}
