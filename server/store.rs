//! `headwater store`: a data folder looked at while no server uses it.

use std::fmt::Write as _;
use std::io::{BufWriter, Write, stdout};
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use headwater_store::{
    DumpFilter, DumpWhat, Dumped, DumpedItem, GroupId, Header, Offline, Record, ShardId, Summary, TimestampMs,
};
use serde_json::{Map, Value, json};

#[derive(Debug, Args)]
pub struct StoreArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a data folder for damage. Nothing in it is changed; exit status 1 when there is a problem.
    Check(CheckArgs),
    /// Print what a data folder holds as JSON, a line each, as of the last flush.
    Dump(DumpArgs),
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The data folder.
    #[arg(long, value_name = "DIR", default_value = "headwater-data")]
    data: PathBuf,
    /// Read every record batch, instead of the first and the last of each part of a shard.
    #[arg(long)]
    full: bool,
}

#[derive(Debug, Args)]
struct DumpArgs {
    /// The data folder.
    #[arg(long, value_name = "DIR", default_value = "headwater-data")]
    data: PathBuf,
    /// What to print.
    #[arg(long, value_enum, default_value_t = What::Records)]
    what: What,
    /// Only this group; 0 is the catalog's.
    #[arg(long)]
    group: Option<u16>,
    /// Only this stream's records: its name or its id.
    #[arg(long, value_name = "NAME|ID")]
    stream: Option<String>,
    /// Only this shard of each stream.
    #[arg(long)]
    shard: Option<u16>,
    /// The first offset of each shard; with entries and raft, the first index.
    #[arg(long, value_name = "OFFSET", default_value_t = 0)]
    from: u64,
    /// Lines to print at most.
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// The records of streams.
    Records,
    /// What each entry appended.
    Entries,
    /// The rows of tables.
    Tables,
    /// The Raft log.
    Raft,
}

/// Runs one of the commands.
pub fn run(arguments: StoreArgs) -> Result<()> {
    match arguments.command {
        Command::Check(arguments) => check(&arguments),
        Command::Dump(arguments) => dump(arguments),
    }
}

fn check(arguments: &CheckArgs) -> Result<()> {
    let folder = Offline::open(&arguments.data)?;
    let mut out = stdout().lock();
    // Somebody who reads only the beginning of the list has what he wants; the outcome is told by the exit code.
    let summary = folder.check(arguments.full, &mut |problem| drop(writeln!(out, "{problem}")));
    drop(writeln!(out, "{}", told(&summary, arguments.full)));
    match summary.problems {
        0 => Ok(()),
        1 => bail!("1 problem in {}; nothing was changed", arguments.data.display()),
        many => bail!("{many} problems in {}; nothing was changed", arguments.data.display()),
    }
}

fn told(summary: &Summary, full: bool) -> String {
    let mut text = format!(
        "{} groups; raft log: {} files, {} entries, {} of them not flushed yet; {} table rows; {} slices, {} shards; {} {} record batches with {} records",
        summary.groups,
        summary.log_files,
        summary.log_entries,
        summary.log_entries_unflushed,
        summary.table_rows,
        summary.slices,
        summary.shards,
        if full { "all" } else { "looked at" },
        summary.record_batches,
        summary.records,
    );
    if summary.torn_bytes > 0 {
        let bytes = summary.torn_bytes;
        let _ = write!(
            text,
            "\nbehind the last record of the raft log are {bytes} bytes of half a write, or of a recycled file's earlier life; \
             the next start cuts them off"
        );
    }
    text
}

fn dump(arguments: DumpArgs) -> Result<()> {
    let folder = Offline::open(&arguments.data)?;
    let filter = DumpFilter {
        group: arguments.group.map(GroupId),
        stream: arguments.stream,
        shard: arguments.shard,
        from: arguments.from,
    };
    let what = match arguments.what {
        What::Records => DumpWhat::Records,
        What::Entries => DumpWhat::Entries,
        What::Tables => DumpWhat::Tables,
        What::Raft => DumpWhat::Raft,
    };
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    if left == 0 {
        return Ok(());
    }
    let mut out = BufWriter::new(stdout().lock());
    let mut written = Ok(());
    folder.dump(what, &filter, &mut |row| {
        written = writeln!(out, "{}", line(row));
        left -= 1;
        left > 0 && written.is_ok()
    })?;
    match written.and_then(|()| out.flush()) {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn line(row: Dumped) -> Value {
    match row {
        Dumped::Record {
            shard,
            stream,
            offset,
            record,
        } => {
            let mut line = Map::new();
            line.insert("stream".into(), stream.map_or(Value::Null, Value::from));
            line.insert(
                "id".into(),
                format!("{}:{}:{offset}", shard.stream, shard.number).into(),
            );
            line.insert("group".into(), shard.group.0.into());
            put_record(&mut line, &record);
            line.into()
        }
        Dumped::Entry {
            group,
            index,
            slice,
            time,
            appends,
        } => {
            let appends: Vec<_> = appends
                .into_iter()
                .map(|(shard, base)| at(shard, "base", base.0))
                .collect();
            json!({"group": group.0, "index": index.0, "slice": slice.0, "time": time.0, "appends": appends})
        }
        Dumped::Table {
            group,
            table,
            key,
            value,
        } => {
            let mut line = Map::new();
            line.insert("group".into(), group.0.into());
            line.insert("table".into(), table.0.into());
            put_bytes(&mut line, "key", &key);
            put_bytes(&mut line, "value", &value);
            line.into()
        }
        Dumped::RaftGroup {
            group,
            term,
            commit,
            cut,
            last,
        } => json!({"group": group.0, "term": term.0, "commit": commit.0, "cut": cut.0, "last": last.0}),
        Dumped::RaftEntry {
            group,
            index,
            term,
            time,
            items,
            file,
            offset,
        } => json!({
            "group": group.0, "index": index.0, "term": term.0, "time": time.map(|time: TimestampMs| time.0),
            "items": items.into_iter().map(item).collect::<Vec<_>>(), "file": file, "byte": offset,
        }),
    }
}

fn item(item: DumpedItem) -> Value {
    let appends: Vec<_> = item
        .appends
        .into_iter()
        .map(|(shard, count)| at(shard, "records", count))
        .collect();
    let trims: Vec<_> = item
        .trims
        .into_iter()
        .map(|(shard, first)| at(shard, "first", first.0))
        .collect();
    let puts = item.puts.iter().map(|(table, key)| {
        let mut put = Map::new();
        put.insert("table".into(), table.0.into());
        put_bytes(&mut put, "key", key);
        Value::from(put)
    });
    json!({"conditions": item.conditions, "appends": appends, "trims": trims, "puts": puts.collect::<Vec<_>>()})
}

fn at(shard: ShardId, name: &str, number: u64) -> Value {
    json!({"stream": shard.stream.0, "shard": shard.number, name: number})
}

fn put_record(line: &mut Map<String, Value>, record: &Record) {
    line.insert("timestamp".into(), record.timestamp.0.into());
    if let Some(key) = &record.key {
        put_bytes(line, "key", key);
    }
    if let Some(topic) = &record.topic {
        line.insert("topic".into(), topic.as_str().into());
    }
    match &record.payload {
        Some(payload) => put_bytes(line, "payload", payload),
        None => drop(line.insert("payload".into(), Value::Null)),
    }
    line.insert("qos".into(), record.qos.bits().into());
    line.insert("retain".into(), record.retain.into());
    line.insert("copy".into(), record.copy.into());
    if !record.headers.is_empty() {
        line.insert("headers".into(), record.headers.iter().map(header).collect());
    }
}

fn header(header: &Header) -> Value {
    match header {
        Header::ClientId(text) => json!({"client_id": &**text}),
        Header::Username(text) => json!({"username": &**text}),
        Header::PublishedAt(time) => json!({"published_at": time.0}),
        Header::Utf8Payload => json!({"utf8_payload": true}),
        Header::MessageExpiry(seconds) => json!({"message_expiry_s": seconds}),
        Header::ContentType(text) => json!({"content_type": &**text}),
        Header::ResponseTopic(text) => json!({"response_topic": &**text}),
        Header::CorrelationData(data) => {
            let mut header = Map::new();
            put_bytes(&mut header, "correlation_data", data);
            header.into()
        }
        Header::User(name, value) => json!({"user": [&**name, &**value]}),
        Header::DeliveredBy(node, boot) => json!({"delivered_by": [node.0, boot.0]}),
    }
}

/// As text where it is text, else `NAME_hex`.
fn put_bytes(line: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => line.insert(name.into(), text.into()),
        Err(_) => line.insert(
            format!("{name}_hex"),
            bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
                .into(),
        ),
    };
}
