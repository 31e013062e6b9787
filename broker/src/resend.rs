//! What an earlier connection of a session delivered and the client has not acknowledged: read again, to be sent again
//! with DUP, in the order of the first deliveries and before anything new [MQTT-4.4.0-1] [MQTT-4.6.0-1].

use std::collections::VecDeque;
use std::sync::Arc;

use headwater_store::{LogIndex, ReadError, Record, Store, StoredBatch, group_for_topic, tables};

use crate::change;
use crate::cursor::At;
use crate::limits::RESEND_PAGE_MESSAGES;
use crate::outbox::{Delivery, Outgoing};
use crate::packet::PacketId;
use crate::replay::placed;
use crate::retained;
use crate::session::{Flight, Source};

/// Messages to be sent again.
#[derive(Debug)]
pub struct Resend(VecDeque<(PacketId, Flight)>);

/// Some of them.
#[derive(Debug, Default)]
pub struct Page {
    /// In order.
    pub deliveries: Vec<Delivery>,
    /// Those whose message is not there any more.
    pub gone: Vec<PacketId>,
}

impl Resend {
    /// These, in this order.
    pub fn new(flights: Vec<(PacketId, Flight)>) -> Resend {
        Resend(flights.into())
    }

    /// Whether all have been read.
    pub fn is_done(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads the next ones. Blocks.
    pub fn next_page(&mut self, store: &Store) -> Result<Page, ReadError> {
        let mut page = Page::default();
        for _ in 0..RESEND_PAGE_MESSAGES {
            let Some((id, flight)) = self.0.pop_front() else { break };
            let message = match &flight.source {
                Source::Log(at) if at.index == LogIndex(0) => read_replayed(store, at)?,
                Source::Log(at) => read_message(store, at)?,
                Source::Retained(topic) => {
                    let group = group_for_topic(topic.as_str(), store.data_groups().count() as u16);
                    let row = store.table(group, tables::RETAINED).get(topic.as_str().as_bytes())?;
                    let record = row.and_then(|row| retained::from_row(topic.clone(), &row));
                    record.and_then(|record| Outgoing::new(record, None)).map(Arc::new)
                }
            };
            match message {
                Some(message) => page.deliveries.push(Delivery {
                    message,
                    qos: flight.qos,
                    resend: Some(id),
                    retain: flight.retain,
                    subscription_ids: flight.ids,
                    giver: None,
                }),
                None => page.gone.push(id),
            }
        }
        Ok(page)
    }
}

/// The message at a place of the log; None if it is not there any more. Blocks.
pub fn read_message(store: &Store, at: &At) -> Result<Option<Arc<Outgoing>>, ReadError> {
    let Some(mut record) = read_record(store, at)? else {
        return Ok(None);
    };
    if let Some(stream) = store.catalog().borrow().stream_by_id(at.shard.stream) {
        change::tell(&mut record, &stream.name, at.shard, at.offset);
    }
    Ok(Outgoing::new(record, Some(*at)).map(Arc::new))
}

/// The same for one that a replay gave, which belongs to no entry: it says where it was found.
fn read_replayed(store: &Store, at: &At) -> Result<Option<Arc<Outgoing>>, ReadError> {
    let record = read_record(store, at)?;
    let catalog = store.catalog().borrow().clone();
    let stream = catalog.stream_by_id(at.shard.stream);
    let message = record.and_then(|record| placed(&stream?.name, at.shard, at.offset, record));
    Ok(message.map(Arc::new))
}

/// The same as a record.
pub fn read_record(store: &Store, at: &At) -> Result<Option<Record>, ReadError> {
    let batches = store.read_now(at.shard, at.offset, 1)?;
    let holds = |batch: &&StoredBatch| batch.base <= at.offset && at.offset < batch.end();
    let Some(batch) = batches.first().filter(holds) else {
        return Ok(None);
    };
    let mut records = batch.records_from(at.offset)?.into_iter();
    let record = records.next().filter(|(offset, _)| *offset == at.offset);
    Ok(record.map(|(_, record)| record))
}
