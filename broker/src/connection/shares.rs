//! Joining and leaving shares and queues, and finding where a durable session begins to replay a stream: one after the
//! other, because a share may have to read or write its rows first.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{Connection, Step};
use crate::error::End;
use crate::limits::JOINS_MAX;
use crate::packet::Reason;
use crate::replay::{Replay, Replayed, Start, beginnings};
use crate::session::Subscription;
use crate::sessions::SessionError;
use crate::share::{Member, share_key};

type Join = Pin<Box<dyn Future<Output = Result<Option<Replayed>, SessionError>> + Send>>;

/// What is under way, in order.
#[derive(Default)]
pub struct Joins(VecDeque<Join>);

impl Joins {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// False while so many wait that no more packets should be taken.
    pub fn has_room(&self) -> bool {
        self.0.len() < JOINS_MAX
    }
}

impl Connection {
    pub(super) fn join(&mut self, subscription: &Subscription) {
        let shared = self.shared.clone();
        let member = Member {
            client: self.client.clone(),
            subscription: subscription.clone(),
        };
        let durable = self.session.is_durable();
        self.joins.0.push_back(Box::pin(async move {
            shared.shares.join(&shared, member, durable).await.map(|()| None)
        }));
    }

    pub(super) fn leave(&mut self, subscription: &Subscription) {
        let (shared, subscription, client) = (self.shared.clone(), subscription.clone(), self.client.clone());
        let durable = self.session.is_durable();
        self.joins.0.push_back(Box::pin(async move {
            shared.shares.leave(&shared, &subscription, client.connection).await;
            if durable {
                let key = share_key(&subscription);
                shared.shares.forget(&shared.store, &key, &client.client_id).await?;
            }
            Ok(None)
        }));
    }

    pub(super) fn join_queue(&mut self, subscription: &Subscription, starts: Vec<Start>) {
        let (shared, subscription, client) = (self.shared.clone(), subscription.clone(), self.client.clone());
        self.joins.0.push_back(Box::pin(async move {
            let joined = shared.queues.join(&shared, &client, &subscription, &starts);
            joined.await.map(|()| None)
        }));
    }

    pub(super) fn leave_queue(&mut self, subscription: &Subscription) {
        let (shared, subscription, client) = (self.shared.clone(), subscription.clone(), self.client.clone());
        self.joins.0.push_back(Box::pin(async move {
            shared.queues.leave(&subscription, client.connection).await;
            Ok(None)
        }));
    }

    /// Finds the place to begin, which is saved before the SUBACK.
    pub(super) fn replay_durably(&mut self, replay: Replay) {
        let store = self.shared.store.clone();
        self.joins.0.push_back(Box::pin(async move {
            let row = store.catalog().borrow().stream(&replay.stream).cloned();
            let shards = row.iter().flat_map(|row| row.shard_ids()).collect();
            let cursors = beginnings(&store, shards, &replay.starts).await?;
            Ok(Some(Replayed::new(replay, cursors)))
        }));
    }

    pub(super) fn poll_joins(&mut self, context: &mut Context<'_>) -> Step {
        let Some(join) = self.joins.0.front_mut() else {
            return Ok(false);
        };
        let Poll::Ready(outcome) = join.as_mut().poll(context) else {
            return Ok(false);
        };
        self.joins.0.pop_front();
        if let Ok(Some(replayed)) = outcome {
            // It may have been given back meanwhile.
            if self.session.replays(replayed.text()) {
                self.go_on_replaying(replayed, true);
            }
        } else if let Err(error) = outcome {
            tracing::warn!(client_id = %self.client.client_id, %error, "a share or queue cannot be joined or left");
            return Err(End::server(
                Reason::UNSPECIFIED_ERROR,
                "a shared subscription cannot be kept",
            ));
        }
        Ok(true)
    }
}
