//! Records into a stream by name, in as few Batches as there are groups; and what became of each when not all went well.
//!
//! INSERT and the publish over HTTP share this. The records of one group are one Batch, so a stream with one shard takes
//! all of them or none. Several groups commit each for itself: there is no transaction across groups, so whoever sends
//! such records has to be told which of them are in.

use std::time::Duration;

use headwater_store::limits::BATCH_BYTES_MAX;
use headwater_store::{
    Append, Batch, Committed, GroupId, Offset, Placement, Producer, Receipt, Record, RouteRevision, ShardId, Store,
    StreamRow, WriteError, retained_put, shard_for,
};
use tokio::time::timeout;

use crate::error::{SqlError, codes};
use crate::limits::ROUTE_RETRIES_MAX;

/// A record on its way.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// What is appended; its key and topic are those of the stream's own rules.
    pub record: Record,
    /// It takes its topic's route, as if it had been published: to the topic's home and copies. The route must lead to
    /// the stream.
    pub published: bool,
}

/// How long a client waits before it is told to come again.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the store to admit a write.
    pub admission: Duration,
    /// For an admitted write to be committed; then its outcome is not known.
    pub commit: Duration,
}

/// Where a record landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its shard.
    pub shard: ShardId,
    /// The first record that was appended together with it.
    pub base: Offset,
    /// How far behind that one it stands.
    pub position: u64,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is committed.
    Committed(Place),
    /// It was committed before, by an earlier attempt of the same name.
    Repeated,
    /// Nothing of it is written.
    NotWritten,
    /// It may be committed, or become so, or not.
    Unknown,
}

/// What became of all of them, in their order.
#[derive(Debug, Clone)]
pub struct Appended {
    /// One for each record.
    pub fates: Vec<Fate>,
    /// Why some are not committed.
    pub error: Option<AppendError>,
}

/// Why records are not written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// The stream or a topic is not what it was taken for.
    #[error(transparent)]
    Refused(#[from] SqlError),
    /// The store.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Patience has run out before anything of it was written.
    #[error("{0}")]
    Overloaded(&'static str),
}

impl From<AppendError> for SqlError {
    fn from(error: AppendError) -> SqlError {
        match error {
            AppendError::Refused(error) => error,
            AppendError::Write(error) => error.into(),
            AppendError::Overloaded(what) => SqlError::new(codes::UNAVAILABLE, what),
        }
    }
}

/// The records of one group, and where in its Batch each of them is.
#[derive(Debug)]
struct Share {
    batch: Batch,
    rows: Vec<Seat>,
}

/// A record's number, and its append and position in the Batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seat {
    row: usize,
    append: usize,
    shard: ShardId,
    position: u64,
}

/// Writes `rows` to the stream; no patience waits as long as it takes. What is written under a name (`once`) and was
/// written under it before is not written again.
pub(crate) async fn append(
    store: &Store,
    stream: &StreamRow,
    rows: &[Outgoing],
    patience: Option<Patience>,
    once: Option<&str>,
) -> Appended {
    let mut appended = Appended {
        fates: vec![Fate::NotWritten; rows.len()],
        error: None,
    };
    let mut left: Vec<usize> = (0..rows.len()).collect();
    for _ in 0..ROUTE_RETRIES_MAX {
        match share_out(store, stream, rows, &left) {
            Ok(mut shares) => {
                for share in &mut shares {
                    share.name(once);
                }
                left = appended.write(store, shares, patience).await;
            }
            Err(error) => appended.error = Some(error),
        }
        if left.is_empty() || appended.error.is_some() {
            return appended;
        }
    }
    appended.error = Some(AppendError::Overloaded(
        "streams are being made and dropped faster than this could be written",
    ));
    appended
}

impl Appended {
    /// Writes the shares, each for itself; gives the records that are to be routed again.
    async fn write(&mut self, store: &Store, shares: Vec<Share>, patience: Option<Patience>) -> Vec<usize> {
        let mut receipts: Vec<(Receipt, Vec<Seat>)> = Vec::with_capacity(shares.len());
        for Share { batch, rows } in shares {
            match submit(store, batch, patience).await {
                Ok(receipt) => receipts.push((receipt, rows)),
                // Those that are on their way are not called back.
                Err(error) => {
                    self.error = Some(error);
                    break;
                }
            }
        }
        let (mut again, mut wanted) = (Vec::new(), RouteRevision(0));
        for (receipt, rows) in receipts {
            let outcome = commit(receipt, patience).await;
            if let Err(WriteError::StaleRoute { wanted: newer, .. }) = outcome {
                again.extend(rows.iter().map(|seat| seat.row));
                wanted = wanted.max(newer);
            } else {
                self.settle(&rows, outcome);
            }
        }
        again.sort_unstable();
        if !again.is_empty() && self.error.is_none() {
            // The routing moved on between the catalog's snapshot and the commit.
            let mut catalog = store.catalog();
            let news = catalog.wait_for(|catalog| catalog.route_revision >= wanted);
            match patience {
                Some(patience) => drop(timeout(patience.admission, news).await),
                None => drop(news.await),
            }
        }
        again
    }

    fn settle(&mut self, rows: &[Seat], outcome: Result<Committed, WriteError>) {
        let outcome = match outcome {
            Err(WriteError::Duplicate) => {
                rows.iter().for_each(|seat| self.fates[seat.row] = Fate::Repeated);
                return;
            }
            outcome => outcome,
        };
        for seat in rows {
            self.fates[seat.row] = match &outcome {
                Ok(committed) => Fate::Committed(Place {
                    shard: seat.shard,
                    base: committed.offsets[seat.append],
                    position: seat.position,
                }),
                Err(WriteError::Indefinite(_)) => Fate::Unknown,
                Err(_) => Fate::NotWritten,
            };
        }
        if let Err(error) = outcome {
            self.error.get_or_insert(AppendError::Write(error));
        }
    }
}

/// One share for each group, in it one append for each shard, in the order of the records. What can be refused is refused
/// here, before anything is written.
fn share_out(
    store: &Store,
    stream: &StreamRow,
    rows: &[Outgoing],
    numbers: &[usize],
) -> Result<Vec<Share>, AppendError> {
    let catalog = store.catalog().borrow().clone();
    let stream = catalog
        .stream(&stream.name)
        .filter(|now| now.id == stream.id)
        .ok_or_else(|| {
            let message = format!("stream `{}` does not exist any more", stream.name);
            SqlError::new(codes::UNKNOWN_STREAM, message)
        })?;
    let mut shares: Vec<Share> = Vec::new();
    for number in numbers {
        let Outgoing { record, published } = &rows[*number];
        match &record.topic {
            Some(topic) if *published => {
                let route = store.route(topic);
                if route.home.stream != stream.id && route.copies.iter().all(|copy| copy.stream != stream.id) {
                    let message = format!("messages on topic `{topic}` do not enter stream `{}`", stream.name);
                    let error = SqlError::new(codes::BAD_TOPIC, message);
                    return Err(error.help("give a `_topic` that the stream captures, or none").into());
                }
                let share = share_of(&mut shares, route.group, route.revision);
                for copy in &route.copies {
                    let copied = Record {
                        copy: true,
                        ..record.clone()
                    };
                    share.push(*copy, copied);
                }
                share.seat(*number, route.home, record.clone());
            }
            _ => {
                let shard = shard_for(stream, record);
                let share = share_of(&mut shares, shard.group, catalog.route_revision);
                // A retained row is of the topic's group, which is the shard's where records are placed by topic.
                if record.retain && stream.placement == Placement::Topic {
                    share.batch.puts.extend(retained_put(record, &[], store.now()));
                }
                share.seat(*number, shard, record.clone());
            }
        }
    }
    let largest = shares.iter().map(|share| share.batch.size_bytes()).max().unwrap_or(0);
    if largest > BATCH_BYTES_MAX {
        return Err(AppendError::Write(WriteError::TooLarge {
            bytes: largest,
            limit: BATCH_BYTES_MAX,
        }));
    }
    Ok(shares)
}

fn share_of(shares: &mut Vec<Share>, group: GroupId, revision: RouteRevision) -> &mut Share {
    let at = shares.iter().position(|share| share.batch.group == group);
    let at = at.unwrap_or_else(|| {
        shares.push(Share {
            batch: Batch::new(group).routed(revision),
            rows: Vec::new(),
        });
        shares.len() - 1
    });
    let share = &mut shares[at];
    // Two of the records may have seen the routing change: the older one decides, and is refused if it is too old.
    share.batch.revision = share.batch.revision.map(|known| known.min(revision));
    share
}

impl Share {
    /// A share is known again by the name of the whole and its first record: the same records fall into the same groups.
    fn name(&mut self, once: Option<&str>) {
        let first = self.rows.first().map_or(0, |seat| seat.row);
        self.batch.producer = once.map(|once| Producer {
            id: format!("{once}/{first}").into(),
            epoch: 0,
            sequence: 0,
        });
    }

    /// Adds a record; gives its append and its position there.
    fn push(&mut self, shard: ShardId, record: Record) -> (usize, u64) {
        let appends = &mut self.batch.appends;
        let at = appends
            .iter()
            .position(|append| append.shard == shard)
            .unwrap_or_else(|| {
                appends.push(Append {
                    shard,
                    records: Vec::new(),
                });
                appends.len() - 1
            });
        appends[at].records.push(record);
        (at, appends[at].records.len() as u64 - 1)
    }

    fn seat(&mut self, row: usize, shard: ShardId, record: Record) {
        let (append, position) = self.push(shard, record);
        self.rows.push(Seat {
            row,
            append,
            shard,
            position,
        });
    }
}

async fn submit(store: &Store, batch: Batch, patience: Option<Patience>) -> Result<Receipt, AppendError> {
    let admitted = match patience {
        Some(patience) => timeout(patience.admission, store.submit(batch)).await,
        None => Ok(store.submit(batch).await),
    };
    Ok(admitted.map_err(|_| AppendError::Overloaded("too many writes are waiting"))??)
}

async fn commit(receipt: Receipt, patience: Option<Patience>) -> Result<Committed, WriteError> {
    let Some(patience) = patience else {
        return receipt.await;
    };
    let late = WriteError::Indefinite("the commit takes too long");
    timeout(patience.commit, receipt).await.unwrap_or(Err(late))
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_store::{LogIndex, StreamId, TimestampMs};

    fn seats(rows: &[usize], group: u16) -> Vec<Seat> {
        let shard = ShardId {
            group: GroupId(group),
            stream: StreamId(7),
            number: group,
        };
        let mut share = Share {
            batch: Batch::new(shard.group),
            rows: Vec::new(),
        };
        rows.iter().for_each(|row| share.seat(*row, shard, Record::new("x")));
        share.rows
    }

    #[test]
    fn each_record_has_the_fate_of_its_group() {
        let mut appended = Appended {
            fates: vec![Fate::NotWritten; 7],
            error: None,
        };
        let committed = Committed {
            index: LogIndex(1),
            timestamp: TimestampMs(0),
            offsets: vec![Offset(40)],
        };
        let first = seats(&[0, 3], 1);
        appended.settle(&first, Ok(committed));
        appended.settle(&seats(&[1, 4], 2), Err(WriteError::Indefinite("leader lost")));
        let elsewhere = WriteError::NotLeader {
            group: GroupId(3),
            leader: None,
        };
        appended.settle(&seats(&[2, 5], 3), Err(elsewhere));
        appended.settle(&seats(&[6], 4), Err(WriteError::Duplicate));
        let place = |position| {
            Fate::Committed(Place {
                shard: first[0].shard,
                base: Offset(40),
                position,
            })
        };
        let (no, unknown) = (Fate::NotWritten, Fate::Unknown);
        assert_eq!(
            appended.fates,
            [place(0), unknown, no, place(1), unknown, no, Fate::Repeated]
        );
        let error = appended.error.map(|error| error.to_string());
        assert_eq!(
            error.as_deref(),
            Some("the outcome is not known: leader lost"),
            "the first one"
        );
    }
}
