//! The driver's inbox: Batches to commit, and news of what it waits for.
//!
//! A Batch that comes while the log is being written has to wait for the end of that write whatever the driver does, so it
//! does not wake the driver. With hundreds of writers of one Batch each that is one wake-up for each fsync and not one for
//! each Batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Instant;

use crate::ids::{GroupId, LogIndex, Term};
use crate::proposal::Proposal;

/// What the driver waits for, or has to know.
#[derive(Debug)]
pub enum Message {
    /// There are Batches to commit.
    Proposals,
    /// These turns are on disk.
    Persisted(Vec<(GroupId, u64)>),
    /// The log could not be written: nothing more may be acknowledged.
    LogFailed(String),
    /// Rows up to these entries are on disk; the log in front of them may go.
    Flushed(Vec<(GroupId, LogIndex, Term)>),
    /// Rows could not be flushed, merged or dropped.
    FlushFailed(String),
    /// Commit what was admitted, then end.
    Stop,
}

/// Where Batches are put for the driver.
#[derive(Debug, Clone)]
pub struct Outlet {
    proposals: Sender<Proposal>,
    messages: Sender<Message>,
    /// The driver waits, and would take a Batch.
    attentive: Arc<AtomicBool>,
}

/// Nobody takes it: the driver has ended.
#[derive(Debug)]
pub struct Ended;

/// The driver's side.
pub struct Inbox {
    proposals: Receiver<Proposal>,
    messages: Receiver<Message>,
    attentive: Arc<AtomicBool>,
    /// Seen on the way to sleep.
    first: Option<Proposal>,
}

/// An inbox, and what leads to it.
pub fn inbox() -> (Outlet, Inbox) {
    let (proposals, waiting) = channel();
    let (messages, news) = channel();
    let attentive = Arc::new(AtomicBool::new(false));
    let outlet = Outlet {
        proposals,
        messages,
        attentive: attentive.clone(),
    };
    let inbox = Inbox {
        proposals: waiting,
        messages: news,
        attentive,
        first: None,
    };
    (outlet, inbox)
}

impl Outlet {
    /// Puts a Batch in line. An error: the driver has ended.
    pub fn propose(&self, proposal: Proposal) -> Result<(), Ended> {
        self.proposals.send(proposal).map_err(|_| Ended)?;
        // Either this sees that the driver waits, or the driver sees the proposal before it does.
        fence(Ordering::SeqCst);
        if self.attentive.load(Ordering::Relaxed) && self.attentive.swap(false, Ordering::Relaxed) {
            // The driver may have ended meanwhile; then the proposal is dropped, which its writer sees.
            let _ = self.messages.send(Message::Proposals);
        }
        Ok(())
    }

    /// Tells the driver. An error: it has ended.
    pub fn tell(&self, message: Message) -> Result<(), Ended> {
        self.messages.send(message).map_err(|_| Ended)
    }
}

impl Inbox {
    /// The next message, for which it waits until `deadline`. `attentive`: proposals are news.
    pub fn wait(&mut self, deadline: Instant, attentive: bool) -> Result<Message, RecvTimeoutError> {
        if attentive {
            self.attentive.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            self.first = self.first.take().or_else(|| self.proposals.try_recv().ok());
        }
        let message = match attentive && self.first.is_some() {
            true => Ok(Message::Proposals),
            false => self
                .messages
                .recv_timeout(deadline.saturating_duration_since(Instant::now())),
        };
        self.attentive.store(false, Ordering::Relaxed);
        message
    }

    /// A message that is there.
    pub fn message(&mut self) -> Option<Message> {
        self.messages.try_recv().ok()
    }

    /// A Batch that is there.
    pub fn proposal(&mut self) -> Option<Proposal> {
        self.first.take().or_else(|| self.proposals.try_recv().ok())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use tokio::sync::{Semaphore, oneshot};

    use super::*;
    use crate::batch::Batch;
    use crate::retention::RetentionClass;

    /// Bounds a hang.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn proposal(group: u16) -> Proposal {
        let admission = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let batch = Batch::new(GroupId(group));
        Proposal::new(batch, |_| RetentionClass::default(), oneshot::channel().0, admission)
    }

    fn groups(inbox: &mut Inbox) -> Vec<u16> {
        std::iter::from_fn(|| inbox.proposal())
            .map(|proposal| proposal.group.0)
            .collect()
    }

    #[test]
    fn proposals_wait_in_order_until_they_are_asked_for() {
        let (outlet, mut inbox) = inbox();
        for group in 1..=3 {
            outlet.propose(proposal(group)).unwrap();
        }
        let nothing = inbox.wait(Instant::now(), false);
        assert!(matches!(nothing, Err(RecvTimeoutError::Timeout)));
        outlet.tell(Message::Stop).unwrap();
        assert!(matches!(
            inbox.wait(Instant::now() + PATIENCE, false),
            Ok(Message::Stop)
        ));
        assert!(matches!(
            inbox.wait(Instant::now() + PATIENCE, true),
            Ok(Message::Proposals)
        ));
        assert_eq!(groups(&mut inbox), [1, 2, 3]);
    }

    #[test]
    fn a_driver_that_waits_for_proposals_is_woken_by_each_first_one() {
        const ROUNDS: usize = 100_000;
        /// Both sides wait a little, differently in each round, so that a proposal meets each moment of going to sleep.
        const MOMENTS: [usize; 2] = [37, 41];
        let (outlet, mut inbox) = inbox();
        let begun = Arc::new(AtomicUsize::new(0));
        let seen = begun.clone();
        let writer = std::thread::spawn(move || {
            for round in 1..=ROUNDS {
                let ready = proposal(1);
                while seen.load(Ordering::Acquire) < round {
                    // Where there is one core, the driver is not on it.
                    std::thread::yield_now();
                }
                (0..round % MOMENTS[0]).for_each(|_| std::hint::spin_loop());
                outlet.propose(ready).unwrap();
            }
        });
        for round in 1..=ROUNDS {
            begun.store(round, Ordering::Release);
            (0..round % MOMENTS[1]).for_each(|_| std::hint::spin_loop());
            let mut taken = 0;
            while taken == 0 {
                let woken = inbox.wait(Instant::now() + PATIENCE, true);
                assert!(woken.is_ok(), "round {round} was slept through");
                taken = groups(&mut inbox).len();
            }
            assert_eq!(taken, 1);
        }
        writer.join().unwrap();
    }
}
