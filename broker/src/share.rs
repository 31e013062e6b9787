//! Shared subscriptions: `$share/<name>/<filter>`. Each message goes to one member.
//!
//! A share is what a session is, with many clients in place of one: cursors in the log, messages that are assigned and not
//! acknowledged, an outbox that dispatchers fill, and the log when it is full or when all members were away. It gives a
//! message to a member that has room, in turn; what a member has not acknowledged when it leaves goes to another one. So
//! deliveries are at least once, and shared subscriptions are granted QoS 1 at most.
//!
//! While any durable session is a member, connected or not, the share has rows, in the group of `<name>/<filter>`:
//!
//! ```text
//! SHARE          name/filter                                              cursors, places of what is not acknowledged
//! SHARE_MEMBER   length of name/filter u16 | name/filter | client id      nothing
//! ```

mod rows;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytestring::ByteString;
use headwater_store::{LogIndex, Qos, Store, TopicFilter};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use crate::catch_up::{CatchUp, Own, Read, advance};
use crate::clients::{Client, Gone};
use crate::cursor::{At, Cursor};
use crate::giver::Giver;
use crate::limits::{DELIVERIES_PER_TURN_MAX, PROGRESS_IDLE_MS, PROGRESS_SAVE_MS, SHARE_PAUSE_MS, SHARE_WINDOW_MAX};
use crate::listener::Shared;
use crate::outbox::{Delivery, Outbox, Pushed};
use crate::packet::Version;
use crate::resend::read_message;
use crate::session::Subscription;
use crate::sessions::SessionError;
use crate::subscriptions::Subscriber;

use rows::ShareRow;

/// A connected member.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its connection.
    pub client: Arc<Client>,
    /// As granted.
    pub subscription: Subscription,
}

/// The shares that have a connected member, by `name/filter`.
#[derive(Debug, Default)]
pub struct Shares(tokio::sync::Mutex<HashMap<ByteString, Arc<Share>>>);

/// One share.
#[derive(Debug)]
pub struct Share {
    key: ByteString,
    filter: TopicFilter,
    /// Stands for the share among the subscribers.
    client: Arc<Client>,
    state: Mutex<State>,
    /// A member has room, came or went.
    news: Notify,
}

#[derive(Debug)]
struct State {
    members: Vec<(Member, usize)>,
    /// The member that is asked first next time.
    turn: usize,
    cursors: Vec<Cursor>,
    /// By place: to whom it is assigned, by connection.
    assigned: BTreeMap<Place, (u64, Delivery)>,
    /// Taken back from members that left.
    returned: VecDeque<Delivery>,
    /// It has rows.
    durable: bool,
    moved: bool,
    stopped: bool,
}

/// Orders messages of one topic as they were committed.
type Place = (headwater_store::ShardId, headwater_store::Offset);

impl Shares {
    /// Makes a client a member; a durable session's membership outlives its connection, and is written when this returns.
    /// Dropped before its end, it has done nothing.
    pub async fn join(&self, shared: &Arc<Shared>, member: Member, durable: bool) -> Result<(), SessionError> {
        let key = share_key(&member.subscription);
        let mut shares = self.0.lock().await;
        let share = match shares.get(&key) {
            Some(share) => share.clone(),
            None => {
                let share = Arc::new(Share::open(shared, &key, &member.subscription.filter).await?);
                shares.insert(key.clone(), share.clone());
                tokio::spawn(share.clone().run(shared.clone()));
                share
            }
        };
        if durable {
            share.lock().durable = true;
            rows::save_member(&shared.store, &key, &member.client.client_id, &share.row()).await?;
        }
        let mut state = share.lock();
        let same = |(known, _): &(Member, usize)| known.client.connection == member.client.connection;
        match state.members.iter_mut().find(|known| same(known)) {
            Some((known, _)) => *known = member,
            None => state.members.push((member, 0)),
        }
        drop(state);
        share.news.notify_one();
        Ok(())
    }

    /// A durable session is a member no longer, connected or not.
    pub async fn forget(&self, store: &Store, key: &ByteString, client_id: &str) -> Result<(), SessionError> {
        let shares = self.0.lock().await;
        let share = shares.get(key);
        // Not saved any more, or its row would come back.
        let was_durable = share.is_some_and(|share| std::mem::take(&mut share.lock().durable));
        let gone = rows::forget_member(store, key, client_id).await;
        if let Some(share) = share {
            share.lock().durable = was_durable && !matches!(gone, Ok(true));
        }
        gone.map(drop)
    }

    /// A connection is a member no longer. What it has not acknowledged goes to another one; without any, a share with
    /// rows waits in them.
    pub async fn leave(&self, shared: &Arc<Shared>, subscription: &Subscription, connection: u64) {
        let key = share_key(subscription);
        let mut shares = self.0.lock().await;
        let Some(share) = shares.get(&key).cloned() else { return };
        if !share.take_back(connection) {
            return;
        }
        shares.remove(&key);
        shared.subscriptions.unsubscribe(&share.filter, share.client.connection);
        let durable = share.lock().durable;
        if durable && let Err(error) = rows::save(&shared.store, &key, &share.row()).await {
            tracing::warn!(share = %key, %error, "how far a share has come is not saved");
        }
    }
}

/// `name/filter`: a name has no slash, so it names one share.
pub fn share_key(subscription: &Subscription) -> ByteString {
    let text = subscription.text();
    ByteString::from(text.strip_prefix("$share/").unwrap_or(&text))
}

impl Share {
    /// Goes on where the share was, or begins now.
    async fn open(shared: &Arc<Shared>, key: &ByteString, filter: &TopicFilter) -> Result<Share, SessionError> {
        let row = rows::load(&shared.store, key).await?;
        let client = Arc::new(Client {
            connection: shared.next_connection(),
            client_id: format!("$share/{key}").into(),
            username: None,
            peer: ([0, 0, 0, 0], 0).into(),
            version: Version::V5,
            connected_at: shared.store.now(),
            outbox: Outbox::new(shared.outbox_bytes, shared.groups()),
            subscriptions: AtomicUsize::new(1),
            gone: Gone::default(),
        });
        // What was committed before a share began is not for it; one that waited in rows goes on from them.
        let since = if row.is_none() {
            shared.applied()
        } else {
            Arc::default()
        };
        let fresh = |group| Cursor::new(group, shared.store.applied(group).next());
        let mut cursors: Vec<Cursor> = shared.store.data_groups().map(fresh).collect();
        let mut returned = VecDeque::new();
        let durable = row.is_some();
        if let Some(row) = row {
            client.outbox.close();
            for cursor in &mut cursors {
                if let Some(saved) = row.cursors.iter().find(|saved| saved.group == cursor.group) {
                    cursor.clone_from(saved);
                }
            }
            let store = shared.store.clone();
            let read = move || {
                row.pending
                    .iter()
                    .map(|at| read_message(&store, at))
                    .collect::<Result<Vec<_>, _>>()
            };
            let messages = shared.store.blocking(read).await?;
            returned.extend(
                messages
                    .into_iter()
                    .flatten()
                    .map(|message| Delivery::of(message, Qos::AtLeastOnce)),
            );
        }
        let state = State {
            members: Vec::new(),
            turn: 0,
            cursors,
            assigned: BTreeMap::new(),
            returned,
            durable,
            moved: false,
            stopped: false,
        };
        let share = Share {
            key: key.clone(),
            filter: filter.clone(),
            client,
            state: Mutex::new(state),
            news: Notify::new(),
        };
        shared.subscriptions.subscribe(filter, share.subscriber(since));
        Ok(share)
    }

    fn subscriber(&self, since: Arc<[LogIndex]>) -> Subscriber {
        Subscriber {
            client: self.client.clone(),
            qos: Qos::AtLeastOnce,
            no_local: false,
            retain_as_published: true,
            id: None,
            since,
        }
    }

    /// Groups for which the outbox was too small. Everything before that is assigned.
    fn fallen(&self) -> Vec<Cursor> {
        let fallen = self.client.outbox.take_fallen();
        let mut state = self.lock();
        let mut behind = Vec::new();
        for (group, index) in fallen {
            if let Some(cursor) = state.cursors.iter_mut().find(|cursor| cursor.group == group) {
                cursor.skip_to(index);
                behind.push(cursor.clone());
            }
        }
        behind
    }

    /// A member acknowledged a message, or there was a reason not to deliver it.
    pub fn acknowledge(&self, at: &At) {
        let mut state = self.lock();
        if let Some((connection, _)) = state.assigned.remove(&(at.shard, at.offset)) {
            state.moved = true;
            if let Some((_, outstanding)) = state
                .members
                .iter_mut()
                .find(|(m, _)| m.client.connection == connection)
            {
                *outstanding -= 1;
            }
        }
        drop(state);
        self.news.notify_one();
    }

    /// Takes a member out. True when it was the last one: then nothing more is assigned.
    fn take_back(&self, connection: u64) -> bool {
        let mut state = self.lock();
        state
            .members
            .retain(|(member, _)| member.client.connection != connection);
        let theirs = state.assigned.extract_if(.., |_, (to, _)| *to == connection);
        let theirs: Vec<Delivery> = theirs.map(|(_, (_, delivery))| delivery).collect();
        state.moved |= !theirs.is_empty();
        for delivery in theirs.into_iter().rev() {
            state.returned.push_front(delivery);
        }
        state.stopped = state.members.is_empty();
        let stopped = state.stopped;
        drop(state);
        self.news.notify_one();
        stopped
    }

    /// What is saved of it.
    fn row(&self) -> ShareRow {
        let mut state = self.lock();
        state.moved = false;
        let assigned = state.assigned.values().map(|(_, delivery)| delivery);
        ShareRow {
            cursors: state.cursors.clone(),
            pending: assigned
                .chain(&state.returned)
                .filter_map(|delivery| delivery.message.at)
                .collect(),
        }
    }

    /// Assigns messages until the last member leaves.
    async fn run(self: Arc<Share>, shared: Arc<Shared>) {
        let mut reader = Reader::new(&self, &shared);
        let mut next: Option<Delivery> = None;
        let mut saves = tokio::time::interval(Duration::from_millis(PROGRESS_SAVE_MS));
        saves.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ticks: u64 = 0;
        loop {
            let waiting = next.take().or_else(|| self.lock().returned.pop_front());
            if let Some(delivery) = waiting.or_else(|| reader.queue.pop_front()) {
                match self.assign(delivery) {
                    Assigned::Done => continue,
                    Assigned::Stopped => return,
                    Assigned::NoRoom(delivery) => next = Some(delivery),
                }
            }
            if self.lock().stopped {
                return;
            }
            tokio::select! {
                () = self.news.notified() => {}
                () = reader.refill(&self, &shared), if next.is_none() => {}
                // An outbox may have room again without anyone saying so.
                () = tokio::time::sleep(Duration::from_millis(SHARE_PAUSE_MS)), if next.is_some() => {}
                _ = saves.tick() => {
                    ticks += 1;
                    if next.is_none() && reader.is_idle() && ticks.is_multiple_of(PROGRESS_IDLE_MS / PROGRESS_SAVE_MS) {
                        self.skip_idle(&shared);
                    }
                    self.save(&shared).await;
                }
            }
        }
    }

    /// Moves the cursors over what was for others.
    fn skip_idle(&self, shared: &Shared) {
        let mut state = self.lock();
        if state.returned.is_empty() && advance(&mut state.cursors, &shared.dispatched, &self.client.outbox) {
            state.moved = true;
        }
    }

    async fn save(&self, shared: &Shared) {
        let due = {
            let state = self.lock();
            // Once stopped, the row is the one that the last member left, or that the next share writes.
            state.durable && state.moved && !state.stopped
        };
        if due && let Err(error) = rows::save(&shared.store, &self.key, &self.row()).await {
            self.lock().moved = true;
            tracing::warn!(share = %self.key, %error, "how far a share has come is not saved");
        }
    }

    /// Gives a message to the next member that has room.
    fn assign(self: &Arc<Share>, delivery: Delivery) -> Assigned {
        let mut state = self.lock();
        if state.stopped {
            return Assigned::Stopped;
        }
        let at = delivery.message.at;
        for step in 0..state.members.len() {
            let turn = (state.turn + step) % state.members.len();
            let (member, outstanding) = &mut state.members[turn];
            if *outstanding >= SHARE_WINDOW_MAX {
                continue;
            }
            let options = &member.subscription.options;
            let shared = Delivery {
                qos: delivery.message.qos.min(options.qos),
                retain: delivery.message.retain && options.retain_as_published,
                subscription_ids: member.subscription.id.map(|id| Arc::from([id])),
                giver: Some(Giver::Share(self.clone())),
                ..delivery.clone()
            };
            let waits = shared.qos > Qos::AtMostOnce;
            let connection = member.client.connection;
            match (member.client.outbox.push(shared), at) {
                (Pushed::Queued, Some(at)) if waits => {
                    *outstanding += 1;
                    state.assigned.insert((at.shard, at.offset), (connection, delivery));
                }
                (Pushed::Queued, _) => {}
                // QoS 0 promises nothing.
                (Pushed::Dropped, _) if !waits => {}
                _ => continue,
            }
            state.turn = turn + 1;
            if let Some(at) = at {
                state.moved = true;
                if let Some(cursor) = state.cursors.iter_mut().find(|cursor| cursor.group == at.shard.group) {
                    cursor.take(&at);
                }
            }
            return Assigned::Done;
        }
        Assigned::NoRoom(delivery)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Assigned {
    Done,
    NoRoom(Delivery),
    Stopped,
}

/// Where a share's messages come from.
struct Reader {
    queue: VecDeque<Delivery>,
    catch_up: Option<Box<CatchUp>>,
    /// The catch-up is in there meanwhile.
    reading: Option<Pin<Box<dyn Future<Output = Read> + Send>>>,
    /// The share's subscription alone, while it reads from the log.
    own: Option<Own>,
}

impl Reader {
    fn new(share: &Share, shared: &Shared) -> Reader {
        let mut reader = Reader {
            queue: VecDeque::new(),
            catch_up: None,
            reading: None,
            own: None,
        };
        let cursors = share.lock().cursors.clone();
        let behind = cursors
            .into_iter()
            .filter(|cursor| !share.client.outbox.is_open(cursor.group));
        reader.read_log(share, shared, behind.collect());
        reader
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.catch_up.is_none() && self.reading.is_none()
    }

    fn read_log(&mut self, share: &Share, shared: &Shared, behind: Vec<Cursor>) {
        if behind.is_empty() {
            return;
        }
        let own = self.own.get_or_insert_with(|| {
            let mut own = Own::new(&shared.scans, share.client.connection);
            own.subscribe(&share.filter, share.subscriber(Arc::default()));
            own
        });
        let catch_up = self.catch_up.get_or_insert_with(|| Box::new(CatchUp::new(own)));
        behind.into_iter().for_each(|cursor| catch_up.add(cursor));
    }

    /// Gets the next messages, from the log first; called when all there were are assigned. Dropped while it waits, it
    /// loses nothing.
    async fn refill(&mut self, share: &Share, shared: &Shared) {
        if self.reading.is_none() {
            self.read_log(share, shared, share.fallen());
            let advance =
                |catch_up: &mut Box<CatchUp>| catch_up.advance(&shared.store, &share.client.outbox, &shared.dispatched);
            if !self.catch_up.as_mut().is_some_and(advance) {
                (self.catch_up, self.own) = (None, None);
                let queue = &mut self.queue;
                let take = poll_fn(|context| share.client.outbox.poll_take(context, queue, DELIVERIES_PER_TURN_MAX));
                // A share's outbox has no end.
                let _ = take.await;
                return;
            }
            if let (Some(catch_up), Some(own)) = (self.catch_up.take(), &self.own) {
                self.reading = Some(Box::pin(catch_up.next_page(shared.store.clone(), own.request())));
            }
        }
        let Some(reading) = &mut self.reading else { return };
        let (catch_up, page) = reading.await;
        self.reading = None;
        self.catch_up = Some(catch_up);
        match page {
            Ok(page) => self.queue.extend(page.into_iter().flat_map(|page| page.deliveries)),
            Err(error) => {
                tracing::error!(share = %share.key, %error, "a share cannot read the log");
                tokio::time::sleep(Duration::from_millis(PROGRESS_SAVE_MS)).await;
            }
        }
    }
}
