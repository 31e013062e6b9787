//! Windows and joins against a few lines that do the same to a whole list, over generated events and whatever cuts them
//! into steps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use headwater_store::{
    Ack, Catalog, GroupId, Offset, Placement, Record, ShardId, StreamForm, StreamId, StreamOptions, StreamRow,
    StreamState, TimestampMs,
};
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::Pipeline;
use crate::ast::StatementKind;
use crate::change::RecordId;
use crate::limits::JOIN_PIECE_BYTES;
use crate::operator::Place;
use crate::parse::parse;
use crate::plan::Binder;
use crate::step::{Committed, State, Stop};
use crate::types::TimestampUs;
use crate::watermark::{WatermarkRules, Watermarks, advance_to};

const SECOND_US: i64 = 1_000_000;
/// Later than any event.
const END_S: i64 = 1_000_000;

/// An event of stream 1 or 2: which, its key, its time in seconds.
type Event = (u64, u8, i64);

fn stream(id: u64, name: &str) -> StreamRow {
    StreamRow {
        id: StreamId(id),
        name: name.to_owned(),
        state: StreamState::Active,
        placement: Placement::Key,
        shards: vec![GroupId(1)],
        columns: Vec::new(),
        captures: Vec::new(),
        form: StreamForm::Append,
        options: StreamOptions {
            timestamp: Some("at".to_owned()),
            delay_ms: Some(0),
            ..StreamOptions::default()
        },
        query: None,
        created_at_ms: 0,
        sql: String::new(),
        ack: Ack::default(),
    }
}

fn shard(id: u64) -> ShardId {
    ShardId {
        group: GroupId(1),
        stream: StreamId(id),
        number: 0,
    }
}

fn pipeline(sql: &str) -> Pipeline {
    pipeline_at(sql, &Place::Here)
}

fn pipeline_at(sql: &str, place: &Place) -> Pipeline {
    let mut catalog = Catalog::default();
    for row in [stream(1, "l"), stream(2, "r")] {
        catalog.stream_names.insert(row.id, row.name.clone());
        catalog.streams.insert(row.name.clone(), Arc::new(row));
    }
    let statements = parse(sql).unwrap();
    let StatementKind::Select(select) = &statements[0].kind else {
        panic!("{sql} is no SELECT");
    };
    let plan = Binder::new(&catalog, sql).select(select).unwrap().plan;
    let rules = WatermarkRules {
        delay_us: 0,
        idle_us: i64::MAX,
        future_skew_us: i64::MAX,
        silence: crate::plan::physical::Silence::Elapsed,
    };
    let marks = |(_, source): (_, &crate::plan::physical::Source)| {
        let shards = [(shard(source.stream.0), TimestampUs::MIN)];
        Some(Watermarks::new(rules, shards, TimestampUs::MIN, TimestampUs(0)))
    };
    let state = State::load(0, Committed::Memory(BTreeMap::new()), []).unwrap();
    let watermarks = plan.sources().map(marks).collect();
    Pipeline::new(&plan, place, state, watermarks).unwrap()
}

fn record((offset, (stream, key, at)): (usize, &Event)) -> (RecordId, Record) {
    let payload = format!(r#"{{"k":{key},"v":{offset},"at":{}}}"#, at * 1_000);
    let id = RecordId {
        shard: shard(*stream),
        offset: Offset(offset as u64),
    };
    let record = Record {
        timestamp: TimestampMs(END_S * 1_000),
        ..Record::new(payload)
    };
    (id, record)
}

/// The rows that a query puts out over the events, cut into steps after so many of them each.
fn run(sql: &str, events: &[Event], cuts: &[usize]) -> Vec<String> {
    let mut pipeline = pipeline(sql);
    let mut records: Vec<_> = events.iter().enumerate().map(record).collect();
    for stream in [1, 2] {
        let id = RecordId {
            shard: shard(stream),
            offset: Offset(u64::MAX),
        };
        records.push((id, advance_to(TimestampUs(END_S * SECOND_US))));
    }
    let mut rows = Vec::new();
    let (mut rest, mut cuts) = (&records[..], cuts.iter().cycle());
    while !rest.is_empty() {
        // Steps of one source each: which of two sources a step reads first is no promise.
        let same = rest.iter().take_while(|(id, _)| id.shard == rest[0].0.shard).count();
        let (step, later) = rest.split_at(cuts.next().map_or(1, |cut| (*cut).clamp(1, same)));
        rest = later;
        pipeline.apply(step, TimestampUs(0)).unwrap();
        let mut more = true;
        while more {
            let finished = pipeline.finish(TimestampUs(0), false, usize::MAX).unwrap();
            assert!(finished.errors.is_empty() && finished.shared_errors.is_empty());
            rows.extend(
                finished
                    .rows
                    .into_iter()
                    .map(|row| row.payload.unwrap_or_default().to_string()),
            );
            more = finished.more;
        }
    }
    rows
}

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort_unstable();
    rows
}

fn events(streams: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Vec<Event>> {
    // Nearly in order, with stragglers: time goes on with the number of the event.
    let event = (streams, 0..3_u8, -25..10_i64);
    prop::collection::vec(event, 0..60).prop_map(|events| {
        let at = |(number, (stream, key, off)): (usize, Event)| (stream, key, (2 * number as i64 + off).max(0));
        events.into_iter().enumerate().map(at).collect()
    })
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1..12_usize, 1..6)
}

/// The events of one stream with the watermark before each.
fn with_frontier(events: &[Event], stream: u64) -> impl Iterator<Item = (usize, Event, i64)> + '_ {
    let mut watermark = i64::MIN;
    let own = events.iter().enumerate().filter(move |(_, event)| event.0 == stream);
    own.map(move |(number, event)| {
        let before = watermark;
        watermark = watermark.max(event.2);
        (number, *event, before)
    })
}

fn time(seconds: i64) -> String {
    crate::calendar::format_timestamp(seconds * SECOND_US)
}

/// However late the step comes that finds a period over.
#[test]
fn what_a_period_held_goes_before_the_change_that_follows_it() {
    for (emit, rows) in [
        ("PERIODIC", [vec![], vec![r#"{"k":0,"n":1}"#], vec![r#"{"k":0,"n":2}"#]]),
        ("ON SILENCE", [vec![], vec![r#"{"k":0,"n":1}"#], vec![]]),
    ] {
        let sql = format!("SELECT k, COUNT(*) AS n FROM l GROUP BY k EMIT {emit} INTERVAL 10 SECOND");
        let mut pipeline = pipeline(&sql);
        for (number, (seconds, rows)) in [1, 12, 21].into_iter().zip(rows).enumerate() {
            let now = TimestampUs(seconds * SECOND_US);
            if number < 2 {
                pipeline.apply(&[record((number, &(1, 0, 0)))], now).unwrap();
            }
            let finished = pipeline.finish(now, false, usize::MAX).unwrap();
            let found: Vec<_> = finished.rows.into_iter().filter_map(|row| row.payload).collect();
            assert_eq!(found, rows, "{emit} at {seconds} s");
        }
    }
}

/// So many rows of each stream, all of one key and time.
fn of_one_key(rows: usize) -> Vec<(RecordId, Record)> {
    let event = |number: usize| (number, (1 + (number % 2) as u64, 1, 0));
    (0..2 * rows)
        .map(event)
        .map(|(number, event)| record((number, &event)))
        .collect()
}

const PAIRS: &str = "SELECT l.v AS l, r.v AS r FROM l JOIN r ON l.k = r.k WITHIN (INTERVAL 6 SECOND) EMIT CHANGES";

#[test]
fn the_pairs_of_a_hot_key_are_passed_on_in_pieces() {
    const ROWS: usize = 300;
    let mut pipeline = pipeline(PAIRS);
    let (mut pieces, mut rows) = (0, 0);
    let mut more = pipeline.begin(&of_one_key(ROWS), TimestampUs(0)).unwrap();
    while more {
        let piece = pipeline.take_rows();
        let bytes: usize = piece.iter().map(|row| row.size_bytes()).sum();
        assert!(bytes < 2 * JOIN_PIECE_BYTES, "{bytes}");
        (pieces, rows) = (pieces + 1, rows + piece.len());
        more = pipeline.go_on(TimestampUs(0)).unwrap();
    }
    rows += pipeline.take_rows().len();
    assert_eq!(rows, ROWS * ROWS);
    assert!(pieces > 1, "{pieces}");
}

#[test]
fn a_task_that_is_told_to_stop_does_not_work_off_its_pairs() {
    let mut pipeline = pipeline(PAIRS);
    let stop = CancellationToken::new();
    pipeline.give_up_at(stop.clone());
    let records = of_one_key(300);
    assert!(pipeline.begin(&records, TimestampUs(0)).unwrap(), "all were one piece");
    stop.cancel();
    let stopped = pipeline.go_on(TimestampUs(0));
    assert!(matches!(stopped, Err(Stop::GivenUp)), "{stopped:?}");
    let stopped = pipeline.apply(&records, TimestampUs(0));
    assert!(matches!(stopped, Err(Stop::GivenUp)), "{stopped:?}");
}

#[test]
fn a_step_whose_pairs_fit_no_batch_is_given_up() {
    let output = Arc::new(stream(3, "out"));
    let group = GroupId(1);
    let mut pipeline = pipeline_at(PAIRS, &Place::Group { output, group });
    let stopped = pipeline.apply(&of_one_key(1_000), TimestampUs(0));
    assert!(matches!(stopped, Err(Stop::TooLarge)), "{stopped:?}");
}

proptest! {
    #[test]
    fn hopping_windows_take_exactly_what_was_in_time(events in events(1..=1), cuts in cuts()) {
        let mut windows: BTreeMap<(u8, i64), (usize, usize)> = BTreeMap::new();
        for (number, (_, key, at), frontier) in with_frontier(&events, 1) {
            for start in ((at - 9).div_euclid(4) * 4..=at).step_by(4) {
                if start + 10 > at && start + 10 > frontier {
                    let (count, total) = windows.entry((key, start)).or_default();
                    (*count, *total) = (*count + 1, *total + number);
                }
            }
        }
        let row = |((key, start), (n, total)): ((u8, i64), (usize, usize))| {
            format!(r#"{{"k":{key},"window_start":"{}","n":{n},"total":{total},"high":"#, time(start))
        };
        let expected = sorted(windows.into_iter().map(row).collect());
        let sql = "SELECT k, window_start, COUNT(*) AS n, SUM(v) AS total, MAX(v) AS high FROM l
                   GROUP BY k, HOPPING (INTERVAL 10 SECOND, INTERVAL 4 SECOND) EMIT FINAL";
        let rows = run(sql, &events, &cuts);
        prop_assert_eq!(&rows, &run(sql, &events, &[1]), "whatever the steps are");
        let without_high = |row: &String| row.split_inclusive("\"high\":").next().unwrap_or_default().to_owned();
        prop_assert_eq!(sorted(rows.iter().map(without_high).collect()), expected);
    }

    #[test]
    fn sessions_are_what_one_list_would_make_of_them(events in events(1..=1), cuts in cuts()) {
        const GAP: i64 = 5;
        // Per key: first, last + gap, how many.
        let mut sessions: BTreeMap<u8, Vec<(i64, i64, usize)>> = BTreeMap::new();
        for (_, (_, key, at), frontier) in with_frontier(&events, 1) {
            let of_key = sessions.entry(key).or_default();
            let meets = |(start, end, _): &(i64, i64, usize)| *start <= at + GAP && *end >= at && *end >= frontier;
            let (met, mut others): (Vec<_>, Vec<_>) = of_key.iter().copied().partition(meets);
            if at + GAP < frontier && met.iter().all(|(start, ..)| *start > at) {
                continue;
            }
            let one = met.iter().fold((at, at + GAP, 1), |one, met| (one.0.min(met.0), one.1.max(met.1), one.2 + met.2));
            others.push(one);
            *of_key = others;
        }
        let row = |(key, (start, end, n)): (u8, (i64, i64, usize))| {
            format!(r#"{{"k":{key},"window_start":"{}","window_end":"{}","n":{n}}}"#, time(start), time(end))
        };
        let all = sessions.into_iter().flat_map(|(key, of_key)| of_key.into_iter().map(move |session| (key, session)));
        let expected = sorted(all.map(row).collect());
        let sql = "SELECT k, window_start, window_end, COUNT(*) AS n FROM l GROUP BY k, SESSION (INTERVAL 5 SECOND) EMIT FINAL";
        let rows = run(sql, &events, &cuts);
        prop_assert_eq!(&rows, &run(sql, &events, &[1]), "whatever the steps are");
        prop_assert_eq!(sorted(rows), expected);
    }

    #[test]
    fn a_full_join_brings_each_pair_once_and_each_lonely_row_once(events in events(1..=2), cuts in cuts()) {
        const WITHIN: i64 = 6;
        let mut late = BTreeSet::new();
        let mut frontier = BTreeMap::new();
        for stream in [1, 2] {
            for (number, (_, _, at), before) in with_frontier(&events, stream) {
                frontier.insert(number, before);
                if at + WITHIN < before {
                    late.insert(number);
                }
            }
        }
        let (mut expected, mut matched) = (Vec::new(), BTreeSet::new());
        let shown = |left: Option<usize>, right: Option<usize>| {
            let show = |side: Option<usize>| side.map_or("null".to_owned(), |number| number.to_string());
            format!(r#"{{"l":{},"r":{}}}"#, show(left), show(right))
        };
        for (number, (stream, key, at)) in events.iter().enumerate().filter(|(number, _)| !late.contains(number)) {
            for (earlier, (other, their_key, their_at)) in events[..number].iter().enumerate() {
                let waits = !late.contains(&earlier) && their_at + WITHIN >= frontier[&number];
                if stream != other && key == their_key && (at - their_at).abs() <= WITHIN && waits {
                    let (left, right) = if *stream == 1 { (number, earlier) } else { (earlier, number) };
                    expected.push(shown(Some(left), Some(right)));
                    matched.extend([number, earlier]);
                }
            }
        }
        for (number, (stream, ..)) in events.iter().enumerate() {
            if !late.contains(&number) && !matched.contains(&number) {
                expected.push(if *stream == 1 { shown(Some(number), None) } else { shown(None, Some(number)) });
            }
        }
        let sql = "SELECT l.v AS l, r.v AS r FROM l FULL JOIN r ON l.k = r.k WITHIN (INTERVAL 6 SECOND) EMIT CHANGES";
        prop_assert_eq!(sorted(run(sql, &events, &cuts)), sorted(expected));
    }
}
