//! Over real files: written by raft-engine, copied while it has them open, then damaged.

use super::*;
use crate::raft_log::testing::{copy, cut as cut_log, open_small, read, write};

/// Room for everything a test writes.
const ONE_FILE: u64 = 1 << 20;

/// The folder that kill -9 leaves after `entries` writes of `bytes` bytes each.
fn killed(entries: u64, bytes: usize, file_bytes: u64) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let engine = open_small(&root.path().join("live"), file_bytes);
    (1..=entries).for_each(|index| write(&engine, index, &payload(index, bytes)));
    copy(&root.path().join("live"), &root.path().join("left"));
    root
}

fn payload(index: u64, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (index as usize * 31 + n * 7) as u8 | 1).collect()
}

fn left(root: &tempfile::TempDir) -> PathBuf {
    root.path().join("left")
}

fn newest(folder: &Path) -> LogFile {
    list(folder).unwrap().pop().unwrap()
}

/// Where the valid records of a file begin, and where the last one ends.
fn records(file: &LogFile) -> (Vec<u64>, u64) {
    let (mut begins, mut end) = (Vec::new(), 0);
    scan(file, &mut |event| {
        match event {
            Event::Batch(offset, _) => begins.push(offset),
            Event::Bad(spot) => end = spot.offset,
        }
        true
    })
    .unwrap();
    if end == 0 {
        end = fs::metadata(&file.path).unwrap().len();
    }
    (begins, end)
}

fn flip(file: &LogFile, offset: u64, bit: u32) {
    let mut bytes = fs::read(&file.path).unwrap();
    bytes[offset as usize] ^= 1 << bit;
    fs::write(&file.path, bytes).unwrap();
}

fn indexes(payloads: &[Vec<u8>], bytes: usize) -> Vec<u64> {
    let index_of = |found: &Vec<u8>| (1..=200).find(|index| payload(*index, bytes) == *found);
    payloads
        .iter()
        .map(|found| index_of(found).expect("an entry that was written"))
        .collect()
}

#[test]
fn space_allocated_ahead_is_cut_and_nothing_else() {
    let root = killed(5, 300, ONE_FILE);
    let file = newest(&left(&root));
    let (_, end) = records(&file);
    assert!(
        fs::metadata(&file.path).unwrap().len() > end,
        "a kill leaves what was allocated ahead: {end}"
    );
    assert_eq!(indexes(&read(&left(&root)).unwrap(), 300), [1, 2, 3, 4, 5]);
    assert_eq!(records(&file).1, end);
}

#[test]
fn a_write_cut_short_anywhere_is_cut_off() {
    for zeros_behind in [0, 4096] {
        let root = killed(4, 300, ONE_FILE);
        let (begins, end) = records(&newest(&left(&root)));
        let last = begins[begins.len() - 1];
        for kept in [1, 7, 8, 15, 16, 17, 100, end - last - 1] {
            let folder = root.path().join(format!("cut-{kept}"));
            copy(&left(&root), &folder);
            let file = File::options().write(true).open(newest(&folder).path).unwrap();
            file.set_len(last + kept).unwrap();
            file.set_len(last + kept + zeros_behind).unwrap();
            assert_eq!(
                indexes(&read(&folder).unwrap(), 300),
                [1, 2, 3],
                "{kept} bytes of the last"
            );
        }
    }
}

#[test]
fn a_write_whose_pages_came_out_of_order_is_cut_off() {
    let root = killed(3, 20_000, ONE_FILE);
    let file = newest(&left(&root));
    let (begins, end) = records(&file);
    let mut bytes = fs::read(&file.path).unwrap();
    let last = begins[begins.len() - 1] as usize;
    bytes[last..last + 4096].fill(0);
    assert!(bytes[last + 4096..end as usize].iter().any(|byte| *byte != 0));
    fs::write(&file.path, bytes).unwrap();
    assert_eq!(indexes(&read(&left(&root)).unwrap(), 20_000), [1, 2]);
}

#[test]
fn any_flipped_bit_in_front_of_a_valid_record_is_refused() {
    let root = killed(3, 40, ONE_FILE);
    let file = newest(&left(&root));
    let (begins, _) = records(&file);
    let last = begins[begins.len() - 1];
    let whole = fs::read(&file.path).unwrap();
    for offset in 0..last {
        flip(&file, offset, (offset % 8) as u32);
        let damaged = fs::read(&file.path).unwrap();
        let error = read(&left(&root)).expect_err("damage is refused");
        let expected = begins
            .iter()
            .rev()
            .find(|begin| **begin <= offset)
            .copied()
            .unwrap_or(0);
        assert!(
            error.contains("headwater store check")
                && error.contains(&file.path.display().to_string())
                && error.contains(&format!("damaged at byte {expected}:"))
                && error.contains("a valid record follows"),
            "byte {offset}: {error}"
        );
        assert!(fs::read(&file.path).unwrap() == damaged, "nothing is changed");
        fs::write(&file.path, &whole).unwrap();
    }
}

/// Nobody can tell it from a write that a crash cut short.
#[test]
fn a_flipped_bit_in_the_last_record_takes_it_for_torn() {
    let root = killed(3, 40, ONE_FILE);
    let (begins, end) = records(&newest(&left(&root)));
    for offset in begins[begins.len() - 1]..end {
        let folder = root.path().join(offset.to_string());
        copy(&left(&root), &folder);
        flip(&newest(&folder), offset, (offset % 8) as u32);
        assert_eq!(indexes(&read(&folder).unwrap(), 40), [1, 2], "byte {offset}");
    }
}

#[test]
fn an_older_file_may_not_end_in_anything() {
    let root = killed(30, 300, 4096);
    let files = list(&left(&root)).unwrap();
    let appended: Vec<_> = files.iter().filter(|file| file.queue == Queue::Append).collect();
    assert!(appended.len() > 2, "{appended:?}");
    let older = appended[appended.len() - 2];
    let length = fs::metadata(&older.path).unwrap().len();
    let whole = fs::read(&older.path).unwrap();
    for (what, bytes) in [
        ("short", whole[..whole.len() - 1].to_vec()),
        ("zeros", [&whole[..], &[0; 64]].concat()),
        ("header", whole[..10].to_vec()),
    ] {
        fs::write(&older.path, bytes).unwrap();
        let error = read(&left(&root)).expect_err(what);
        assert!(error.contains("damaged at byte"), "{what}: {error}");
        fs::write(&older.path, &whole).unwrap();
    }
    assert_eq!(fs::metadata(&older.path).unwrap().len(), length);
    assert_eq!(read(&left(&root)).unwrap().len(), 30);
}

#[test]
fn what_an_earlier_life_left_in_a_recycled_file_is_no_record() {
    let root = tempfile::tempdir().unwrap();
    let live = root.path().join("live");
    let engine = open_small(&live, 4096);
    for index in 1..=120 {
        write(&engine, index, &payload(index, 300));
        if index % 10 == 0 {
            cut_log(&engine, index - 5);
        }
    }
    let folder = left(&root);
    copy(&live, &folder);
    let file = newest(&folder);
    assert!(file.number > 8, "files were recycled: {file:?}");
    let (_, end) = records(&file);
    let behind = fs::read(&file.path).unwrap()[end as usize..].to_vec();
    assert!(
        behind.iter().any(|byte| *byte != 0),
        "the recycled file's old records are behind"
    );
    assert_eq!(indexes(&read(&folder).unwrap(), 300), [116, 117, 118, 119, 120]);
}

#[test]
fn a_file_that_a_crash_left_without_its_header_goes() {
    for bytes in [&[][..], &[0; 69], &b"RAFT-LOG-FILE"[..]] {
        let root = killed(3, 40, ONE_FILE);
        let next = left(&root).join("0000000000000002.raftlog");
        // The older file was closed in front of it.
        mend(&left(&root)).unwrap();
        fs::write(&next, bytes).unwrap();
        assert_eq!(indexes(&read(&left(&root)).unwrap(), 40), [1, 2, 3]);
    }
}

#[test]
fn a_long_file_without_a_header_is_damage() {
    let root = killed(3, 40, ONE_FILE);
    mend(&left(&root)).unwrap();
    fs::write(left(&root).join("0000000000000002.raftlog"), [7; 5000]).unwrap();
    let error = read(&left(&root)).expect_err("it had records, or is none of ours");
    assert!(error.contains("longer than a header"), "{error}");
}

#[test]
fn a_file_that_is_missing_is_noticed() {
    let root = killed(30, 300, 4096);
    let files = list(&left(&root)).unwrap();
    let appended: Vec<_> = files.iter().filter(|file| file.queue == Queue::Append).collect();
    fs::remove_file(&appended[1].path).unwrap();
    let error = read(&left(&root)).expect_err("entries are gone");
    assert!(error.contains("those between are gone"), "{error}");
}
