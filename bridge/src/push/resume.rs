//! Changes that outlive their connection: who lost it comes back with `Last-Event-ID` and goes on where it was.
//!
//! While nobody reads, the query is held back by its own bounded rows and the log keeps what it has still to read. Kept
//! here are only the events that were handed to a connection lately, since nobody knows which of them arrived
//! (decision 17). The feed of a query is never held by a connection, which may hang on a socket that is dead: it is
//! locked for each poll, so that another connection can take it over at any moment.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use headwater_sql::{RowStream, SqlError};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::sent::Sent;
use crate::limits::{AWAY_MAX, PIECE_BYTES, RESUME_BYTES_MAX, RESUME_PAUSE, RESUME_SHARES_MIN, RESUME_TIME};
use crate::problem::{Problem, codes};

/// The queries whose changes can be resumed, by the random part of their ids.
#[derive(Debug)]
pub(crate) struct Resumable {
    queries: Mutex<Queries>,
    /// Bytes of sent events that each may keep.
    share: AtomicUsize,
}

#[derive(Debug, Default)]
struct Queries {
    running: HashMap<String, Query>,
    /// Those that nobody reads, in the order in which they were left.
    away: VecDeque<String>,
}

#[derive(Debug)]
struct Query {
    feed: Arc<Mutex<Feed>>,
    /// What was asked for, as a hash.
    statements: u64,
    /// Cancelled when another connection takes over.
    connection: CancellationToken,
    /// The connection has ended.
    left: Option<Instant>,
}

impl Resumable {
    /// None yet.
    pub(crate) fn new() -> Arc<Resumable> {
        Arc::new(Resumable {
            queries: Mutex::default(),
            share: AtomicUsize::new(RESUME_BYTES_MAX / RESUME_SHARES_MIN),
        })
    }

    /// Changes that begin, for their first connection; `about` is what the event that says so tells. `statements` is a hash
    /// of what was asked for.
    pub(crate) fn begin(
        self: &Arc<Self>,
        rows: RowStream,
        about: &Value,
        statements: u64,
    ) -> Result<Connection, SqlError> {
        let mut bits = [0; 16];
        getrandom::fill(&mut bits).map_err(|error| SqlError::internal(format!("no random numbers: {error}")))?;
        let name = URL_SAFE_NO_PAD.encode(bits);
        let taken_over = CancellationToken::new();
        let feed = Arc::new(Mutex::new(Feed::new(name.clone(), rows, about)));
        let query = Query {
            feed: feed.clone(),
            statements,
            connection: taken_over.clone(),
            left: None,
        };
        let mut queries = self.lock();
        queries.running.insert(name.clone(), query);
        self.divide(&queries);
        Ok(Connection {
            queries: self.clone(),
            name,
            feed,
            taken_over,
            next: 0,
            over: false,
        })
    }

    /// Goes on behind the event `id`. None: it was the last. `statements` is a hash of what is asked for, if anything is.
    pub(crate) fn resume(
        self: &Arc<Self>,
        id: &str,
        statements: Option<u64>,
        now: Instant,
    ) -> Result<Option<Connection>, Problem> {
        let (name, number) = id
            .split_once('.')
            .and_then(|(name, number)| Some((name, number.parse::<u64>().ok()?)))
            .ok_or_else(|| Problem::new(codes::BAD_PARAMETER, "last-event-id is no id of an event of changes"))?;
        self.end_late(now);
        let mut queries = self.lock();
        let query = queries.running.get_mut(name).ok_or_else(|| {
            lost("there is no such query any more: it was left for too long, or the server restarted")
        })?;
        if statements.is_some_and(|asked| asked != query.statements) {
            let detail = "last-event-id is of other statements than these";
            return Err(Problem::new(codes::BAD_PARAMETER, detail));
        }
        let feed = query.feed.clone();
        let state = lock(&feed);
        if number >= state.sent.end() {
            let detail = "last-event-id is of an event that was never sent";
            return Err(Problem::new(codes::BAD_PARAMETER, detail));
        }
        let next = number + 1;
        if next < state.sent.begin() {
            drop(state);
            queries.remove(name);
            self.divide(&queries);
            return Err(lost(
                "more events were under way when the connection broke than are kept",
            ));
        }
        if state.rows.is_none() && next == state.sent.end() {
            return Ok(None);
        }
        // Under the lock of the feed, so that the other connection takes nothing more from it.
        query.connection.cancel();
        query.connection = CancellationToken::new();
        query.left = None;
        let taken_over = query.connection.clone();
        drop(state);
        queries.away.retain(|away| away != name);
        Ok(Some(Connection {
            queries: self.clone(),
            name: name.to_owned(),
            feed,
            taken_over,
            next,
            over: false,
        }))
    }

    /// Ends the queries that nobody came back to.
    pub(crate) fn end_late(&self, now: Instant) {
        let mut queries = self.lock();
        while let Some(name) = queries.away.front() {
            let left = queries.running.get(name).and_then(|query| query.left);
            let is_late = left.is_none_or(|left| now.duration_since(left) >= RESUME_TIME);
            if !is_late && queries.away.len() <= AWAY_MAX {
                break;
            }
            let name = name.clone();
            queries.remove(&name);
        }
        self.divide(&queries);
    }

    /// Ends all of them: a query that is held back would hold up the end of the engine.
    pub(crate) fn end_all(&self) {
        *self.lock() = Queries::default();
    }

    fn leave(&self, name: &str, connection: &CancellationToken, now: Instant) {
        // Cancelled under the lock: by whoever has it now.
        let mut queries = self.lock();
        let Some(query) = queries.running.get_mut(name).filter(|_| !connection.is_cancelled()) else {
            return;
        };
        query.left = Some(now);
        queries.away.push_back(name.to_owned());
        drop(queries);
        self.end_late(now);
    }

    /// Each may keep as much as the others. Halved when there are twice as many, and then all let go of what is too much.
    fn divide(&self, queries: &Queries) {
        let shares = queries.running.len().next_power_of_two().max(RESUME_SHARES_MIN);
        let share = RESUME_BYTES_MAX / shares;
        if self.share.swap(share, Ordering::Relaxed) > share {
            for query in queries.running.values() {
                lock(&query.feed).sent.keep(share);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queries> {
        lock(&self.queries)
    }
}

impl Queries {
    fn remove(&mut self, name: &str) {
        self.away.retain(|away| away != name);
        if let Some(query) = self.running.remove(name) {
            query.connection.cancel();
        }
    }
}

fn lost(detail: &str) -> Problem {
    Problem::new(codes::LOST, detail).help("ask again without last-event-id: it begins anew")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The changes of one query, and what was sent of them.
#[derive(Debug)]
struct Feed {
    name: String,
    /// None: there are no more, and the event that says so is among those sent.
    rows: Option<RowStream>,
    sent: Sent,
}

impl Feed {
    fn new(name: String, rows: RowStream, about: &Value) -> Feed {
        let mut feed = Feed {
            name,
            rows: Some(rows),
            sent: Sent::default(),
        };
        let pause_ms = RESUME_PAUSE.as_millis();
        let mut out = format!("retry: {pause_ms}\n");
        feed.event(&mut out, 0, "changes", &about.to_string());
        feed.sent.push(out.into(), 1);
        feed
    }

    /// The events from `next` on, some of them; None after the last one.
    fn poll_next(&mut self, next: &mut u64, share: usize, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if *next == self.sent.end() && self.rows.is_some() {
            ready!(self.poll_rows(context));
        }
        let piece = self.sent.from(*next).map(|(piece, end)| {
            *next = end;
            piece
        });
        self.sent.keep(share);
        Poll::Ready(piece)
    }

    /// Takes the rows that are there.
    fn poll_rows(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (mut out, mut end) = (String::new(), self.sent.end());
        while let Some(rows) = &mut self.rows
            && out.len() < PIECE_BYTES
        {
            match rows.poll_next(context) {
                Poll::Pending if out.is_empty() => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(Some(Ok(row))) => self.event(&mut out, end, "", &row),
                Poll::Ready(Some(Err(error))) => {
                    self.rows = None;
                    self.event(&mut out, end, "error", &Problem::from(error).to_json().to_string());
                }
                Poll::Ready(None) => {
                    self.rows = None;
                    self.event(&mut out, end, "end", &json!({}).to_string());
                }
            }
            end += 1;
        }
        self.sent.push(out.into(), end - self.sent.end());
        Poll::Ready(())
    }

    /// A row has no event name.
    fn event(&self, out: &mut String, number: u64, event: &str, data: &str) {
        out.extend(["id: ", &self.name, ".", &number.to_string(), "\n"]);
        if !event.is_empty() {
            out.extend(["event: ", event, "\n"]);
        }
        out.extend(["data: ", data, "\n\n"]);
    }
}

/// One connection that reads a query's changes. Dropping it leaves the query alone until somebody comes back.
#[derive(Debug)]
pub(crate) struct Connection {
    queries: Arc<Resumable>,
    name: String,
    feed: Arc<Mutex<Feed>>,
    taken_over: CancellationToken,
    /// The number of the event that comes next.
    next: u64,
    over: bool,
}

impl Connection {
    /// Some events; None at the end, or when another connection goes on. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        let Connection {
            queries,
            feed,
            taken_over,
            next,
            ..
        } = self;
        let piece = tokio::select! {
            biased;
            () = taken_over.cancelled() => Err(()),
            piece = poll_fn(|context| {
                let mut feed = lock(feed);
                // It may have been taken over since that was looked at.
                match taken_over.is_cancelled() {
                    true => Poll::Ready(Err(())),
                    false => feed.poll_next(next, queries.share.load(Ordering::Relaxed), context).map(Ok),
                }
            }) => piece,
        };
        piece.unwrap_or_else(|()| {
            self.over = true;
            let problem = Problem::new(codes::LOST, "another connection goes on with this query");
            Some(format!("event: error\ndata: {}\n\n", problem.to_json()).into())
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.queries.leave(&self.name, &self.taken_over, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_sql::{Engine, Outcome};
    use headwater_store::{Store, SystemClock};
    use std::time::Duration;

    /// An engine with a stream, and who keeps its changes.
    struct World {
        engine: Engine,
        resumable: Arc<Resumable>,
        store: Store,
        _folder: tempfile::TempDir,
    }

    impl World {
        async fn new() -> World {
            let folder = tempfile::tempdir().unwrap();
            let path = format!("store.path={}", folder.path().join("data").display());
            let config = headwater_config::Config::load(None, [], &[path, "store.groups=1".to_owned()]).unwrap();
            let opened = config.store.clone();
            let store = tokio::task::spawn_blocking(move || Store::open(&opened, Arc::new(SystemClock)));
            let store = store.await.unwrap().unwrap();
            let engine = Engine::start(store.clone(), &config.sql, Arc::new(|_, _, _| Ok(()))).unwrap();
            engine.execute("CREATE STREAM s;").await.unwrap();
            World {
                engine,
                resumable: Resumable::new(),
                store,
                _folder: folder,
            }
        }

        async fn begin(&self) -> Connection {
            let outcomes = self.engine.execute("SELECT * FROM s EMIT CHANGES;").await.unwrap();
            let Some(Outcome::Changes(rows)) = outcomes.into_iter().next() else {
                panic!("no changes");
            };
            self.resumable.begin(rows, &json!({}), 7).unwrap()
        }

        fn running(&self) -> usize {
            self.resumable.lock().running.len()
        }

        async fn stop(self) {
            self.resumable.end_all();
            self.engine.stop().await;
            self.store.stop().await;
        }
    }

    fn id(connection: &Connection) -> String {
        format!("{}.0", connection.name)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_query_waits_for_its_client_so_long_and_no_longer() {
        let world = World::new().await;
        let connection = world.begin().await;
        let id = id(&connection);
        let resume = |now| world.resumable.resume(&id, Some(7), now);
        world.resumable.end_late(Instant::now() + 10 * RESUME_TIME);
        assert_eq!(world.running(), 1, "it is not away");
        drop(connection);
        let left = Instant::now();
        let back = resume(left + RESUME_TIME - Duration::from_secs(1)).unwrap();
        world.resumable.end_late(left + 10 * RESUME_TIME);
        assert_eq!(world.running(), 1, "it is back");
        drop(back);
        assert_eq!(
            resume(Instant::now() + RESUME_TIME)
                .unwrap_err()
                .detail()
                .split(':')
                .next(),
            Some("there is no such query any more")
        );
        assert_eq!(world.running(), 0);
        world.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_too_many_that_wait_the_first_to_leave_ends() {
        let world = World::new().await;
        let mut ids = Vec::new();
        for _ in 0..=AWAY_MAX {
            let connection = world.begin().await;
            ids.push(id(&connection));
        }
        assert_eq!(world.running(), AWAY_MAX);
        let now = Instant::now();
        assert!(world.resumable.resume(&ids[0], None, now).is_err());
        let back = world.resumable.resume(&ids[1], None, now).unwrap();
        let another = world.begin().await;
        drop((another, back));
        assert_eq!(world.running(), AWAY_MAX);
        assert!(
            world.resumable.resume(&ids[1], None, now).unwrap().is_some(),
            "it left last"
        );
        assert!(world.resumable.resume(&ids[2], None, now).is_err());
        world.stop().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn all_together_keep_so_much() {
        let world = World::new().await;
        let mut connections = Vec::new();
        for n in 1..=2 * RESUME_SHARES_MIN {
            connections.push(world.begin().await);
            let mut feed = lock(&connections[n - 1].feed);
            feed.sent.push(
                Bytes::from(vec![b'x'; RESUME_BYTES_MAX / RESUME_SHARES_MIN / 2 - 1024]),
                1,
            );
        }
        let kept = |connection: &Connection| {
            let feed = lock(&connection.feed);
            feed.sent.end() - feed.sent.begin()
        };
        assert!(connections.iter().all(|connection| kept(connection) == 2));
        let one_more = world.begin().await;
        assert!(
            connections.iter().all(|connection| kept(connection) == 0),
            "a quarter each"
        );
        drop(one_more);
        world.stop().await;
    }
}
