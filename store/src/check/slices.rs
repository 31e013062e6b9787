//! Records: every record batch matches its checksums and follows the one before it without a gap, up to where the
//! shard's row says that it ends; rows of entries and times lead to batches that are there.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::Findings;
use super::state::{Ledger, group_of};
use crate::engine::{Engine, Family};
use crate::ids::{LogIndex, Offset, ShardId, SliceId};
use crate::keys::{entry_row, key_index, record_batch, time_index};
use crate::record_batch::{RecordBatchError, RecordBatchHeader, decode_records, open_body, parse_header};
use crate::wire::Short;

/// Checks a record batch; `full` decompresses and decodes it as well. Gives its header.
pub fn check_record_batch(batch: &Bytes, full: bool) -> Result<RecordBatchHeader, RecordBatchError> {
    let header = parse_header(batch)?;
    if full {
        decode_records(&header, open_body(batch)?)?;
    }
    Ok(header)
}

/// Record batches of one shard that follow each other in one slice.
#[derive(Debug, Clone, Copy)]
struct Run {
    slice: SliceId,
    from: Offset,
    to: Offset,
}

type Runs = BTreeMap<ShardId, Vec<Run>>;

/// Reads every row of every slice.
pub fn check_all(engine: &dyn Engine, ledger: &Ledger, findings: &mut Findings<'_>) {
    let (mut runs, mut unread) = (Runs::new(), BTreeSet::new());
    for slice in engine.slices() {
        let scanned = engine.scan(Family::Slice(slice), b"", b"", &mut |key, value| {
            let row = SliceRows { engine, ledger, slice };
            if let Err(what) = row.check(key, &Bytes::copy_from_slice(value), &mut runs, findings) {
                findings.problem(place(slice, key), what);
            }
            true
        });
        if let Err(error) = scanned {
            unread.insert(slice);
            findings.problem(
                format!("slice {slice}"),
                format!("{error}; the rows behind it were not read"),
            );
        }
    }
    for shard in ledger.spans.keys() {
        let found = runs.remove(shard).unwrap_or_default();
        let kept = ledger.kept(*shard).filter(|(slice, ..)| !unread.contains(slice));
        compare(*shard, &found, kept, findings);
    }
    for (shard, runs) in runs {
        let run = runs
            .iter()
            .find(|run| ledger.first(shard).is_some_and(|first| run.to > first));
        if let Some(Run { slice, from, to }) = run {
            findings.problem(
                format!("shard {shard}"),
                format!("nothing leads to offsets {from} to {to} in slice {slice}"),
            );
        }
    }
}

/// Reads the first and the last record batch of each span.
pub fn check_ends(engine: &dyn Engine, ledger: &Ledger, findings: &mut Findings<'_>) {
    for shard in ledger.spans.keys().copied() {
        for (slice, from, to) in ledger.kept(shard) {
            let first = batch_before(engine, slice, shard, from, findings);
            if let Err(what) = first.and_then(|end| holds(from, end)) {
                findings.problem(format!("shard {shard} offset {from}, slice {slice}"), what);
            }
            let last = batch_before(engine, slice, shard, Offset(u64::MAX), findings);
            if let Err(what) = last.and_then(|end| ends_at(to, end)) {
                findings.problem(format!("shard {shard} offset {to}, slice {slice}"), what);
            }
        }
    }
}

fn holds(from: Offset, end: Offset) -> Result<(), String> {
    match end > from {
        true => Ok(()),
        false => Err(format!(
            "it is not there; the record batch before it ends at offset {end}"
        )),
    }
}

fn ends_at(to: Offset, end: Offset) -> Result<(), String> {
    match end == to {
        true => Ok(()),
        false => Err(format!("the records should end here, and end at offset {end}")),
    }
}

/// Where the last batch that does not begin after `offset` ends.
fn batch_before(
    engine: &dyn Engine,
    slice: SliceId,
    shard: ShardId,
    offset: Offset,
    findings: &mut Findings<'_>,
) -> Result<Offset, String> {
    let (prefix, key) = (record_batch::prefix(shard), record_batch::key(shard, offset));
    let found = engine.last_at_or_before(Family::Slice(slice), &prefix, &key);
    let (key, batch) = found
        .map_err(|error| error.to_string())?
        .ok_or("there are no records")?;
    let header = check_record_batch(&batch, true).map_err(|error| error.to_string())?;
    findings.summary.record_batches += 1;
    findings.summary.records += u64::from(header.count);
    if record_batch::base_offset(&key) != Ok(header.base_offset) {
        return Err(format!(
            "its batch says that it begins at offset {}",
            header.base_offset
        ));
    }
    Ok(header.base_offset.plus(u64::from(header.count)))
}

struct SliceRows<'a> {
    engine: &'a dyn Engine,
    ledger: &'a Ledger,
    slice: SliceId,
}

impl SliceRows<'_> {
    fn check(&self, key: &[u8], value: &Bytes, runs: &mut Runs, findings: &mut Findings<'_>) -> Result<(), String> {
        let unknown = |Short: Short| "its key does not decode".to_owned();
        match key.first() {
            Some(b'r') => {
                let (shard, base) = (
                    record_batch::shard(key).map_err(unknown)?,
                    record_batch::base_offset(key).map_err(unknown)?,
                );
                let checked = check_record_batch(value, true);
                let header = checked.map_err(|error| format!("shard {shard} offset {base}: {error}"))?;
                if header.base_offset != base {
                    return Err(format!(
                        "shard {shard}: it says that it begins at offset {}",
                        header.base_offset
                    ));
                }
                findings.summary.record_batches += 1;
                findings.summary.records += u64::from(header.count);
                self.note(shard, base, base.plus(u64::from(header.count)), runs);
                Ok(())
            }
            Some(b'e') => {
                let group = group_of(key).map_err(unknown)?;
                let row = entry_row::decode(group, value.clone()).map_err(|error| error.to_string())?;
                let mut appends = row.appends.into_iter();
                appends.try_for_each(|appended| self.leads_to(appended.shard, appended.base))
            }
            Some(b'x') => {
                let shard = record_batch::shard(key).map_err(unknown)?;
                let base = time_index::decode(value.clone()).map_err(|error| error.to_string())?;
                self.leads_to(shard, base)
            }
            Some(b'k') => {
                let shard = record_batch::shard(key).map_err(unknown)?;
                let bases = key_index::decode(key, value.clone()).map_err(|error| error.to_string())?;
                bases.into_iter().try_for_each(|base| self.leads_to(shard, base))
            }
            _ => Err("it is of no known kind".to_owned()),
        }
    }

    fn note(&self, shard: ShardId, from: Offset, to: Offset, runs: &mut Runs) {
        let slice = self.slice;
        let runs = runs.entry(shard).or_default();
        match runs.last_mut() {
            Some(run) if run.slice == slice && run.to == from => run.to = to,
            _ => runs.push(Run { slice, from, to }),
        }
    }

    /// The batch is there, unless it may be gone.
    fn leads_to(&self, shard: ShardId, base: Offset) -> Result<(), String> {
        let kept = self.ledger.first(shard).is_some_and(|first| base >= first);
        let key = record_batch::key(shard, base);
        let found = self.engine.get(Family::Slice(self.slice), &key);
        match found.map_err(|error| error.to_string())? {
            None if kept => Err(format!(
                "it leads to shard {shard} offset {base}, where no record batch begins"
            )),
            _ => Ok(()),
        }
    }
}

fn place(slice: SliceId, key: &[u8]) -> String {
    match (key.first(), group_of(key), entry_row::index(key)) {
        (Some(b'e'), Ok(group), Ok(LogIndex(index))) => format!("slice {slice} row of group {group} entry {index}"),
        (Some(tag), ..) if tag.is_ascii_graphic() => {
            let hex: String = key[1..].iter().map(|byte| format!("{byte:02x}")).collect();
            format!("slice {slice} row {} {hex}", char::from(*tag))
        }
        _ => format!("slice {slice} row {key:02x?}"),
    }
}

/// What must be there of a shard is there, in one run for each span.
fn compare(
    shard: ShardId,
    runs: &[Run],
    kept: impl Iterator<Item = (SliceId, Offset, Offset)>,
    findings: &mut Findings<'_>,
) {
    for (slice, from, to) in kept {
        let holds = |run: &&Run| run.slice == slice && run.from <= from && from < run.to;
        let reached = runs.iter().find(holds).map_or(from, |run| run.to);
        if reached < to {
            findings.problem(
                format!("shard {shard} offset {reached}, slice {slice}"),
                format!("records are missing from here to offset {to}"),
            );
        } else if reached > to {
            findings.problem(
                format!("shard {shard} offset {to}, slice {slice}"),
                format!("records go on to offset {reached}, where none should be"),
            );
        }
    }
}
