//! What a query's result changes, as MQTT 5 clients are told it: the user properties `op` and `seq` (decision 13).

use headwater_store::{Change, Header, Offset, Record, ShardId};

/// Insert, update or delete.
const OP: &str = "op";
/// The record id.
const SEQ: &str = "seq";

/// Says what the record changes and where it is, if it is a result.
pub fn tell(record: &mut Record, stream: &str, shard: ShardId, offset: Offset) {
    let op = match record.change {
        None => return,
        Some(Change::Insert) => "insert",
        Some(Change::Update) => "update",
        Some(Change::Delete) => "delete",
    };
    let seq = format!("{stream}:{}:{offset}", shard.number);
    let told = [(OP, op.into()), (SEQ, seq.into())];
    record
        .headers
        .extend(told.map(|(name, value)| Header::User(name.into(), value)));
}
