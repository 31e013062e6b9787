//! The moments between two changes on disk, named, so that a test can end the process at each of them over real files.
//! Outside of tests [`reached`] is nothing.

/// A moment at which a process may die.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// The log is about to be written and synced; nobody was answered.
    LogBegins,
    /// It is synced; nobody was answered.
    LogSynced,
    /// An entry's rows are in memory; its writers were not answered.
    EntryApplied,
    /// Rows are about to be flushed.
    FlushBegins,
    /// They are on disk; the log does not know.
    FlushEnds,
    /// How far the log is cut goes into its next write.
    LogCut,
    /// Files of the log that nobody needs are about to go, or to be used again.
    LogPurge,
    /// They are gone.
    LogPurged,
    /// A family was made for a slice; no row names it.
    SliceMade,
    /// A closed slice has its key index, in memory.
    SliceIndexed,
    /// Its rows are flushed; it is about to be merged.
    MergeBegins,
    /// It is merged; its row still says that it is closed.
    MergeEnds,
    /// A slice is hidden, in memory.
    SliceHidden,
    /// That is flushed; its family is about to go.
    DropBegins,
    /// It is gone; its row still says that it is being dropped.
    DropEnds,
    /// At a start, the log's torn end is cut off and not yet synced.
    TailCut,
    /// At a start, the log is in order and nothing is applied.
    LogOpened,
}

/// Says that the process is at `point`.
#[cfg(not(test))]
#[inline(always)]
pub fn reached(_: Point) {}

#[cfg(test)]
pub use tests::reached;

#[cfg(test)]
mod tests;
