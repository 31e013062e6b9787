//! Files that are damaged, torn, or were rewritten.

use super::*;

/// A filter's, at least; RocksDB's other blocks are longer.
const SHORTEST_BLOCK_BYTES: usize = 30;

#[test]
fn a_flipped_bit_in_the_raft_log_is_found() {
    let made = Made::new();
    let file = &newest_log(&made.path());
    let whole = fs::read(file).unwrap();
    for at in [20, 200, whole.len() / 2, whole.len() - 2_000] {
        let mut damaged = whole.clone();
        damaged[at] ^= 4;
        fs::write(file, damaged).unwrap();
        let (problems, _) = problems(&made.path(), false);
        assert!(
            problems
                .iter()
                .any(|problem| problem.contains(&file.display().to_string()) && problem.contains("byte")),
            "{problems:?}"
        );
    }
}

/// It looks like what a crash leaves, but the rows know better.
#[test]
fn a_log_that_ends_before_the_rows_is_found() {
    let made = Made::new();
    let file = crate::log_files::list(&made.path().join("raft"))
        .unwrap()
        .pop()
        .unwrap();
    let mut begins = Vec::new();
    crate::log_files::scan(&file, &mut |event| {
        if let crate::log_files::Event::Batch(offset, _) = event {
            begins.push(offset);
        }
        true
    })
    .unwrap();
    let open = fs::File::options().write(true).open(&file.path).unwrap();
    open.set_len(begins[begins.len() / 2]).unwrap();
    let (problems, summary) = problems(&made.path(), false);
    assert_eq!(summary.torn_bytes, 0);
    assert!(
        problems.iter().any(|problem| problem.contains("rows are applied to")),
        "{problems:?}"
    );
}

#[test]
fn a_torn_write_is_told_and_is_no_problem() {
    let made = Made::new();
    let file = &newest_log(&made.path());
    let mut bytes = fs::read(file).unwrap();
    bytes.extend_from_slice(&[0, 0, 0, 0, 0, 9, 9, 0, 7]);
    fs::write(file, bytes).unwrap();
    let (problems, summary) = problems(&made.path(), true);
    assert_eq!((problems.len(), summary.torn_bytes), (0, 9), "{problems:?}");
}

/// Every file of RocksDB that holds something, and the log it writes for people set aside. Of the MANIFEST each bit is
/// flipped in [`crate::manifest`].
#[test]
fn a_flipped_bit_in_any_file_of_the_database_is_found() {
    let made = Made::new();
    let mut files: Vec<_> = contents(&made.path().join("state")).into_iter().collect();
    files.sort_by_key(|(_, whole)| whole.len());
    let is_table = |path: &Path| path.extension().is_some_and(|extension| extension == "sst");
    let tables: Vec<&PathBuf> = files
        .iter()
        .map(|(path, _)| path)
        .filter(|path| is_table(path))
        .collect();
    let (smallest, largest) = (tables[0].clone(), tables[tables.len() - 1].clone());
    let mut seen = BTreeMap::new();
    for (path, whole) in files {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let (kind, step) = match name.split_once(['.', '-']) {
            // No block is so short that none of its bytes is among them.
            Some((_, "sst")) if path == smallest || path == largest => ("sst", SHORTEST_BLOCK_BYTES),
            Some((_, "sst")) => ("sst", whole.len() / 3),
            Some(("MANIFEST", _)) => ("MANIFEST", whole.len() / 50),
            None if name == "CURRENT" => ("CURRENT", 1),
            _ => continue,
        };
        *seen.entry(kind).or_insert(0) += 1;
        // What stands behind the rows is at the end, and is not large.
        for at in (0..whole.len()).rev().step_by(step).take(60) {
            let mut damaged = whole.clone();
            damaged[at] ^= 16;
            fs::write(&path, damaged).unwrap();
            let (problems, _) = problems(&made.path(), true);
            assert!(!problems.is_empty(), "{name} byte {at} of {}", whole.len());
            // What was not read is not called missing.
            let says = |text: &str| problems.iter().any(|problem| problem.contains(text));
            assert!(
                !says("were not read") || !(says("are missing") || says("rows are applied to")),
                "{name} byte {at} of {}: {problems:?}",
                whole.len()
            );
        }
        fs::write(&path, whole).unwrap();
    }
    assert!(seen.len() == 3 && seen["sst"] >= 2, "{seen:?}");
    assert_eq!(problems(&made.path(), true).0.len(), 0);
}

/// Compares with the log engine's own replay.
fn assert_replayed(folder: &Path, groups: usize) {
    let files = crate::log_files::list(folder).unwrap();
    let logs = raft::load(&files).unwrap();
    assert_eq!(logs.len(), groups);
    let engine = crate::raft_log::open(folder).unwrap();
    for (group, log) in logs {
        let region = u64::from(group.0) + 1;
        let first = (!log.entries.is_empty()).then_some(log.first);
        assert_eq!(engine.first_index(region), first, "group {group}");
        let last = engine.last_index(region).unwrap_or(log.cut.index.0);
        assert_eq!(log.last(), LogIndex(last), "group {group}");
        assert_eq!(Cut::load(&engine, group).unwrap(), log.cut, "group {group}");
    }
}

#[test]
fn the_raft_log_is_replayed_as_the_log_engine_replays_it() {
    let made = Made::new();
    assert_replayed(&made.killed().join("raft"), 5);
    assert_replayed(&made.path().join("raft"), 5);
}

/// An idle group's entries are moved to the rewrite queue when the files they lie in are to go.
#[test]
fn what_the_log_engine_rewrote_is_replayed() {
    use crate::raft_log::testing::{cut, open_small, write, write_of};

    let root = tempfile::tempdir().unwrap();
    let live = root.path().join("live");
    let engine = open_small(&live, 4096);
    for index in 1..=3 {
        write_of(&engine, GroupId(2), index, b"idle");
    }
    for index in 1..=200 {
        write(&engine, index, &[index as u8; 300]);
        if index % 10 == 0 {
            cut(&engine, index - 5);
        }
    }
    let left = root.path().join("left");
    copy(&live, &left);
    let files = crate::log_files::list(&left).unwrap();
    let rewritten = files
        .iter()
        .filter(|file| file.queue == crate::log_files::Queue::Rewrite);
    let bytes: u64 = rewritten.map(|file| fs::metadata(&file.path).unwrap().len()).sum();
    assert!(bytes > 200, "{bytes} bytes were rewritten");
    assert!(
        files
            .iter()
            .all(|file| file.number > 1 || file.queue == crate::log_files::Queue::Rewrite)
    );
    assert_eq!(raft::load(&files).unwrap()[&GroupId(2)].entries.len(), 3);
    assert_replayed(&left, 2);
}

/// RocksDB takes it for a crash, and would delete what it does not find named.
#[test]
fn a_manifest_that_lost_its_end_is_refused_before_a_file_is_deleted() {
    // Seldom enough that what the earlier end names is still there.
    let made = Made::flushing(60_000);
    let state = made.killed().join("state");
    let current = fs::read_to_string(state.join("CURRENT")).unwrap();
    let manifest = state.join(current.trim());
    let whole = fs::read(&manifest).unwrap();
    let mut refused = 0;
    for lost in [whole.len() / 8, whole.len() / 4, whole.len() / 2] {
        fs::write(&manifest, &whole[..whole.len() - lost]).unwrap();
        let tables = |contents: BTreeMap<PathBuf, Vec<u8>>| -> Vec<PathBuf> {
            let names = contents.into_keys();
            names
                .filter(|path| path.extension().is_some_and(|extension| extension == "sst"))
                .collect()
        };
        let before = tables(contents(&state));
        let mut config = Config::embedded().unwrap().store;
        config.path = made.killed();
        let error = Store::open(&config, Arc::new(SystemClock))
            .expect_err("rows are gone")
            .to_string();
        assert!(error.contains("headwater store check"), "{error}");
        eprintln!("{lost}: {error}");
        refused += usize::from(error.contains("end at entry"));
        assert_eq!(tables(contents(&state)), before);
    }
    assert!(
        refused > 0,
        "RocksDB notices by itself, and this guards against nothing"
    );
    fs::write(&manifest, &whole).unwrap();
    let mut config = Config::embedded().unwrap().store;
    config.path = made.killed();
    Store::open(&config, Arc::new(SystemClock)).expect("nothing was lost");
}
