//! What can go wrong, one enum per operation.

use std::path::PathBuf;

use crate::ids::{GroupId, NodeId, Offset, RouteRevision, ShardId};

/// Why a data folder could not be opened. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the folder.
    #[error("the data folder {} is in use by another headwater process; stop it, or choose another folder with --data", .0.display())]
    Locked(PathBuf),
    /// Made by a version that this one cannot read.
    #[error(
        "the data folder {} has format {found}, this headwater reads format {expected}; use the headwater that made it, or choose another folder with --data",
        .path.display()
    )]
    Format {
        path: PathBuf,
        found: String,
        expected: u32,
    },
    /// There is something in the folder, and it is not ours.
    #[error("{} is not empty and not a headwater data folder; choose another folder with --data", .0.display())]
    Foreign(PathBuf),
    /// The number of groups is fixed when the folder is made.
    #[error(
        "the data folder was made with store.groups = {made}, the configuration says {configured}; the number is fixed: set it back to {made}"
    )]
    Groups { made: u16, configured: u16 },
    /// The file system refused.
    #[error("cannot use the data folder {}: {source}{}", .path.display(), other_folder(.source))]
    Io { path: PathBuf, source: std::io::Error },
    /// There is no such folder to look at.
    #[error("the data folder {} does not exist; name another one with --data", .0.display())]
    Missing(PathBuf),
    /// RocksDB refused.
    #[error("cannot open the records and tables: {}; `headwater store check` says whether they are damaged", .0.0)]
    Engine(#[from] EngineError),
    /// raft-engine refused.
    #[error("cannot open the raft log: {0}; nothing was deleted")]
    RaftLog(String),
    /// The state on disk contradicts itself.
    #[error("the data folder is damaged: {0}; nothing was deleted; `headwater store check` lists all damage")]
    Damaged(String),
}

/// What to do where the folder itself is the trouble.
fn other_folder(source: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::{AlreadyExists, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem};
    match source.kind() {
        AlreadyExists | NotADirectory => "; a file is in its place: choose another folder with --data",
        NotFound | PermissionDenied | ReadOnlyFilesystem => {
            "; choose a folder with --data that can be made and written, and not one in /proc or the like"
        }
        _ => "",
    }
}

/// An error of the storage engine. After one from a write or a flush the node stops.
#[derive(Debug, Clone, thiserror::Error)]
#[error("storage engine: {}{}", .0, hint(.0))]
pub struct EngineError(pub String);

/// RocksDB's word for what does not match its checksum.
fn hint(message: &str) -> &'static str {
    if message.starts_with("Corruption") {
        "; `headwater store check --full` lists all damage"
    } else {
        ""
    }
}

/// Why a Batch was not committed, or is not known to be.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// A [`crate::Condition`] did not hold. Nothing was applied.
    #[error("a precondition did not hold")]
    Conflict,
    /// The producer has sent this Batch before, and it was applied then.
    #[error("this was written before")]
    Duplicate,
    /// The producer's epoch is over, or it has sent so much since that nobody knows about this one. Nothing was applied.
    #[error("the producer has gone on: its epoch is over, or it has written too much since")]
    ProducerBehind,
    /// The appends were routed by an older catalog than the group's fence. Route again and retry. Nothing was applied.
    #[error("routed with revision {sent}, the group asks for {wanted} or later")]
    StaleRoute { sent: RouteRevision, wanted: RouteRevision },
    /// This node does not lead the group. Nothing was applied.
    #[error("this node does not lead group {group}")]
    NotLeader { group: GroupId, leader: Option<NodeId> },
    /// Larger than one Batch may be. Nothing was applied.
    #[error("the batch has {bytes} bytes, at most {limit} are allowed")]
    TooLarge { bytes: usize, limit: usize },
    /// The disk is nearly full. Nothing was applied.
    #[error("the disk has {free} bytes left, writes are refused below {mark}; free some space")]
    DiskFull { free: u64, mark: u64 },
    /// The outcome is not known: it may still be committed, or never.
    #[error("the outcome is not known: {0}")]
    Indefinite(&'static str),
    /// The store is stopping or has stopped. Nothing was applied.
    #[error("the store has stopped")]
    Stopped,
}

/// Why records could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// Older records are gone.
    #[error("shard {shard} begins at offset {first}, {asked} was asked for")]
    Trimmed {
        shard: ShardId,
        asked: Offset,
        first: Offset,
    },
    /// A stored record batch does not match its checksum.
    #[error(
        "shard {shard}: damaged record batch at offset {offset}: {reason}; `headwater store check --full` lists all damage"
    )]
    Damaged {
        shard: ShardId,
        offset: Offset,
        reason: String,
    },
    /// RocksDB refused.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The store is stopping or has stopped.
    #[error("the store has stopped")]
    Stopped,
}

/// Why a catalog change was refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CatalogError {
    /// The name is taken by something of the same kind, or by a stream being made or dropped right now.
    #[error("{kind} `{name}` already exists")]
    Exists { kind: &'static str, name: String },
    /// There is nothing of that name.
    #[error("{kind} `{name}` does not exist")]
    Missing { kind: &'static str, name: String },
    /// Something else reads or writes it.
    #[error("{kind} `{name}` is used by {user}")]
    Used {
        kind: &'static str,
        name: String,
        user: String,
    },
    /// The default stream and the like.
    #[error("{0}")]
    NotAllowed(String),
    /// The write failed.
    #[error(transparent)]
    Write(#[from] WriteError),
}
