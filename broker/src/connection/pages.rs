//! What a connection reads for its client, page by page: messages to be sent again, retained messages, the log. One page
//! is read at a time, on the store's read pool, when what was read before is sent or nearly so.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use headwater_store::{ReadError, Store};

use super::{Connection, subscriber};
use crate::catch_up::{self, CatchUp, Own};
use crate::cursor::Cursor;
use crate::error::End;
use crate::limits::DELIVERIES_PER_TURN_MAX;
use crate::outbox::Delivery;
use crate::packet::{PacketId, Reason};
use crate::resend::{self, Resend};
use crate::retained::Scan;
use crate::session::{Flight, Subscribed};

/// What is still to be read.
#[derive(Default)]
pub struct Pages {
    /// First of all.
    resend: Option<Resend>,
    /// Retained messages, one subscription after the other.
    scans: VecDeque<Scan>,
    /// The groups that are read from the log.
    catch_up: Option<Box<CatchUp>>,
    /// The subscriptions of this client alone, while it reads from the log.
    own: Option<Box<Own>>,
    reading: Option<Reading>,
}

struct Reading {
    page: Pin<Box<dyn Future<Output = Page> + Send>>,
    /// What is in the outbox is newer than some of it.
    holds_back: bool,
}

/// A page, and what it was read from.
enum Page {
    Resend(Resend, Result<resend::Page, ReadError>),
    Retained(Scan, Result<Vec<Delivery>, ReadError>),
    Log(Box<CatchUp>, Result<Option<catch_up::Page>, ReadError>),
}

impl Pages {
    /// Messages of an earlier connection, to be sent again.
    pub fn resend(&mut self, flights: Vec<(PacketId, Flight)>) {
        self.resend = (!flights.is_empty()).then(|| Resend::new(flights));
    }

    /// Retained messages, after those that wait already.
    pub fn scan(&mut self, scan: Scan) {
        self.scans.push_back(scan);
    }

    /// How many subscriptions wait for their retained messages.
    pub fn scans(&self) -> usize {
        self.scans.len()
    }

    /// Gives back what an idle client does not need.
    pub fn rest(&mut self) {
        if self.scans.is_empty() {
            self.scans = VecDeque::new();
        }
    }

    /// Where changes of the subscriptions have to be told to, besides everyone's.
    pub fn own(&mut self) -> Option<&mut Own> {
        self.own.as_deref_mut()
    }

    /// True while the outbox has to wait, because what is being read is older and may not come last.
    pub fn hold_back(&self) -> bool {
        self.resend.is_some()
            || self.reading.as_ref().is_some_and(|reading| reading.holds_back)
            || self.catch_up.as_ref().is_some_and(|catch_up| catch_up.is_closing())
    }

    /// True when nothing is read from the log, or sent again.
    pub fn is_idle(&self) -> bool {
        self.resend.is_none() && self.reading.is_none() && self.catch_up.is_none()
    }

    fn start(&mut self, store: &Store, waiting: usize) -> bool {
        let (reader, store) = (store.clone(), store.clone());
        let (page, holds_back): (Pin<Box<dyn Future<Output = Page> + Send>>, bool) =
            if let Some(mut resend) = self.resend.take_if(|_| waiting == 0) {
                let read = move || {
                    let page = resend.next_page(&reader);
                    Page::Resend(resend, page)
                };
                (Box::pin(async move { store.blocking(read).await }), true)
            } else if self.resend.is_some() {
                return false;
            } else if let Some(mut scan) = (waiting == 0).then(|| self.scans.pop_front()).flatten() {
                let read = move || {
                    let page = scan.next_page(&reader);
                    Page::Retained(scan, page)
                };
                (Box::pin(async move { store.blocking(read).await }), true)
            } else if let Some(own) = &self.own
                && let Some(catch_up) = self.catch_up.take_if(|_| waiting < DELIVERIES_PER_TURN_MAX / 2)
            {
                let holds_back = catch_up.is_closing();
                let read = catch_up.next_page(store, own.request());
                let page = async move {
                    let (catch_up, page) = read.await;
                    Page::Log(catch_up, page)
                };
                (Box::pin(page), holds_back)
            } else {
                return false;
            };
        self.reading = Some(Reading { page, holds_back });
        true
    }
}

impl Connection {
    /// Reads the next page when there is room for what it brings.
    pub(super) fn poll_pages(&mut self, context: &mut Context<'_>) -> bool {
        if let Some(reading) = &mut self.pages.reading {
            let Poll::Ready(page) = reading.page.as_mut().poll(context) else {
                return false;
            };
            self.pages.reading = None;
            self.take_page(page);
            return true;
        }
        if let Some(catch_up) = &mut self.pages.catch_up
            && !catch_up.advance(&self.shared.store, &self.client.outbox, &self.shared.dispatched)
        {
            self.pages.catch_up = None;
            self.pages.own = None;
        }
        self.pages.start(&self.shared.store, self.deliveries.len())
    }

    fn take_page(&mut self, page: Page) {
        let failed = match page {
            Page::Resend(resend, Ok(page)) => {
                page.gone
                    .into_iter()
                    .for_each(|id| self.session.give_up(id, &mut self.output));
                self.deliveries.extend(page.deliveries);
                self.pages.resend = Some(resend).filter(|resend| !resend.is_done());
                return;
            }
            Page::Retained(scan, Ok(deliveries)) => {
                self.deliveries.extend(deliveries);
                if !scan.is_done() {
                    self.pages.scans.push_front(scan);
                }
                return;
            }
            Page::Log(catch_up, Ok(page)) => {
                self.pages.catch_up = Some(catch_up);
                if let Some(page) = page {
                    self.take_log_page(page);
                }
                return;
            }
            // The rest of the retained messages of one subscription; everything else goes on.
            Page::Retained(_, Err(error)) => {
                tracing::error!(client_id = %self.client.client_id, %error, "retained messages cannot be read");
                return;
            }
            Page::Resend(_, Err(error)) | Page::Log(_, Err(error)) => error,
        };
        tracing::error!(client_id = %self.client.client_id, error = %failed, "the session cannot read the log");
        let detail = "what the session missed cannot be read";
        self.client.outbox.end(End::server(Reason::UNSPECIFIED_ERROR, detail));
    }

    fn take_log_page(&mut self, page: catch_up::Page) {
        if page.skipped > 0 {
            self.shared.metrics.skipped_messages.increment(page.skipped);
            tracing::info!(client_id = %self.client.client_id, skipped = page.skipped, "beyond the session's limits");
        }
        if page.deliveries.is_empty() && self.deliveries.is_empty() {
            let mut cursors = self.progress.cursors().iter_mut();
            if let Some(cursor) = cursors.find(|cursor| cursor.group == page.group) {
                cursor.skip_to(page.next);
            }
            self.progress.moved();
        }
        self.deliveries.extend(page.deliveries);
    }

    /// From now on the log is read from these cursors, until what they are behind of is read.
    pub(super) fn read_log(&mut self, cursors: Vec<Cursor>) {
        let own = self.pages.own.get_or_insert_with(|| {
            let mut own = Own::new(&self.shared.scans, self.client.connection);
            let not_shared = |subscribed: &&Subscribed| !subscribed.subscription.competes();
            for subscribed in self.session.subscriptions().filter(not_shared) {
                own.subscribe(&subscribed.subscription.filter, subscriber(&self.client, subscribed));
            }
            Box::new(own)
        });
        let catch_up = self.pages.catch_up.get_or_insert_with(|| Box::new(CatchUp::new(own)));
        cursors.into_iter().for_each(|cursor| catch_up.add(cursor));
    }

    /// A session that was away gets what it missed, within its limits.
    pub(super) fn read_missed(&mut self, cursors: Vec<Cursor>) {
        self.read_log(cursors);
        if let Some(catch_up) = &mut self.pages.catch_up {
            catch_up.limit(self.shared.backlog, &self.shared.store);
        }
    }

    /// Groups for which the outbox was too small are read from the log.
    pub(super) fn read_fallen(&mut self) -> bool {
        if self.pages.reading.is_some() {
            return false;
        }
        let fallen = self.client.outbox.take_fallen();
        let mut behind = Vec::new();
        for (group, index) in &fallen {
            if let Some(cursor) = self.progress.cursors().iter_mut().find(|cursor| cursor.group == *group) {
                // Everything before that entry was in the outbox, and is delivered.
                cursor.skip_to(*index);
                behind.push(cursor.clone());
            }
        }
        if !behind.is_empty() {
            self.read_log(behind);
        }
        !fallen.is_empty()
    }
}
