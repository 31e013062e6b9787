//! Rows that are missing, damaged, or do not agree with each other.

use super::*;

#[test]
fn a_missing_record_batch_is_found() {
    let made = Made::new();
    let mut gone = None;
    made.plant(|engine, writes| {
        let (shard, (slice, bases)) = some_shard(engine);
        writes.delete(Family::Slice(slice), record_batch::key(shard, bases[2]));
        gone = Some((shard, bases[2]));
    });
    let (shard, base) = gone.unwrap();
    let (problems, _) = problems(&made.path(), true);
    let missing = format!("shard {shard} offset {base}");
    assert!(
        problems
            .iter()
            .any(|problem| problem.starts_with(&missing) && problem.contains("missing")),
        "{problems:?}"
    );
    assert!(
        problems.iter().any(|problem| problem.contains("it leads to")),
        "its entry's row: {problems:?}"
    );
}

#[test]
fn a_last_record_batch_that_is_missing_is_found_by_a_quick_check() {
    let made = Made::new();
    made.plant(|engine, writes| {
        let (shard, (slice, bases)) = some_shard(engine);
        writes.delete(Family::Slice(slice), record_batch::key(shard, *bases.last().unwrap()));
    });
    let (problems, _) = problems(&made.path(), false);
    assert!(
        problems.len() == 1 && problems[0].contains("the records should end here"),
        "{problems:?}"
    );
}

#[test]
fn a_damaged_record_batch_is_found() {
    let made = Made::new();
    made.plant(|engine, writes| {
        let (shard, (slice, bases)) = some_shard(engine);
        let key = record_batch::key(shard, bases[2]);
        let mut batch = engine.get(Family::Slice(slice), &key).unwrap().unwrap().to_vec();
        *batch.last_mut().unwrap() ^= 1;
        writes.put(Family::Slice(slice), key, batch);
    });
    let (problems, _) = problems(&made.path(), true);
    assert!(
        problems[0].contains("the body does not match its checksum"),
        "{problems:?}"
    );
}

#[test]
fn rows_that_lead_nowhere_are_found() {
    let made = Made::new();
    made.plant(|engine, writes| {
        let (shard, (slice, bases)) = some_shard(engine);
        let inside = Offset(bases[3].0 + 1_000_000);
        let row = entry_row::EntryRow {
            time: TimestampMs(1),
            appends: vec![entry_row::Appended {
                shard,
                base: inside,
                keys: KeyHashes::default(),
                prefixes: KeyHashes::default(),
            }],
        };
        let key = entry_row::key(shard.group, LogIndex(1 << 40));
        writes.put(Family::Slice(slice), key, entry_row::encode(&row));
        let key = time_index::key(shard, TimestampMs(5));
        writes.put(Family::Slice(slice), key, time_index::encode(inside));
    });
    let (problems, _) = problems(&made.path(), true);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems.iter().all(|problem| problem.contains("it leads to shard")),
        "{problems:?}"
    );
}

#[test]
fn an_end_that_does_not_agree_is_found() {
    for more in [true, false] {
        let made = Made::new();
        made.plant(|engine, writes| {
            let (id, _) = some_shard(engine);
            let mut row = shard::decode(engine.get(Family::State, &shard::key(id)).unwrap().unwrap()).unwrap();
            row.end = if more { row.end.plus(3) } else { Offset(row.end.0 - 1) };
            writes.put(Family::State, shard::key(id), shard::encode(&row));
        });
        let problem = one_problem(&made.path());
        let expected = if more {
            "records are missing from here"
        } else {
            "where none should be"
        };
        assert!(problem.contains(expected), "{problem}");
        assert_eq!(
            problems(&made.path(), false).0.len(),
            1,
            "the quick check finds it as well"
        );
    }
}

#[test]
fn records_that_nothing_leads_to_are_found() {
    let made = Made::new();
    made.plant(|engine, writes| {
        let (id, _) = some_shard(engine);
        let prefix = span::prefix(id);
        let mut keys = Vec::new();
        engine
            .scan(Family::State, &prefix, &prefix, &mut |key, _| {
                keys.push(key.to_vec());
                true
            })
            .unwrap();
        keys.into_iter().for_each(|key| writes.delete(Family::State, key));
    });
    let problem = one_problem(&made.path());
    assert!(problem.contains("nothing leads to offsets 0 to"), "{problem}");
}

#[test]
fn an_applied_index_beyond_the_log_or_before_its_cut_is_found() {
    for (index, expected) in [
        (1 << 40, "rows are applied to 1099511627776"),
        (0, "rows are applied to 0"),
    ] {
        let made = Made::new();
        made.plant(|engine, writes| {
            let group = GroupId(1);
            let row = engine.get(Family::State, &applied::key(group)).unwrap().unwrap();
            let row = applied::Applied {
                index: LogIndex(index),
                ..applied::decode(row).unwrap()
            };
            writes.put(Family::State, applied::key(group), applied::encode(&row));
        });
        let problem = one_problem(&made.path());
        assert!(
            problem.starts_with("raft log of group 1") && problem.contains(expected),
            "{problem}"
        );
    }
}

#[test]
fn a_row_of_no_known_kind_is_found() {
    let made = Made::new();
    made.plant(|_, writes| {
        writes.put(Family::State, b"zz".to_vec(), "");
        writes.put(Family::State, [&b"o"[..], &[1; 11]].concat(), "short");
    });
    let (problems, _) = problems(&made.path(), false);
    assert_eq!(
        problems,
        [
            "state row o 0101010101010101010101: it does not decode",
            "state row z 7a: it does not decode"
        ]
    );
}
