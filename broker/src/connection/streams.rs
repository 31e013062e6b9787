//! Streams and views that the client replays, and questions to views: each has its own reader, which waits at the log's end
//! like everyone else.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytestring::ByteString;
use headwater_store::{Put, ReadError, encode_control, tables};

use super::Connection;
use crate::error::End;
use crate::limits::{DELIVERIES_PER_TURN_MAX, QUESTIONS_MAX};
use crate::listener::Shared;
use crate::outbox::Delivery;
use crate::packet::Reason;
use crate::replay::{Reader, Replay, Replayed};
use crate::sessions::subscription_key;
use crate::views::Question;

type Read = (Reader, Result<Vec<Delivery>, ReadError>);

/// The streams that one client replays, and its questions.
#[derive(Default)]
pub struct Streams {
    replayed: Vec<Stream>,
    asked: Vec<Asked>,
}

type Asked = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Stream {
    text: ByteString,
    /// Some in a durable session.
    replayed: Option<Arc<Replayed>>,
    reading: Pin<Box<dyn Future<Output = Result<Read, ReadError>> + Send>>,
    /// What it gave, until there is room: it is read ahead, or a stream whose page is there would always be faster than one
    /// that has to be read first.
    read: Option<Result<Read, ReadError>>,
}

impl Streams {
    /// Begins to replay, or begins anew.
    pub fn follow(&mut self, shared: &Arc<Shared>, replay: Replay) {
        self.unfollow(&replay.text);
        let (shared, text) = (shared.clone(), replay.text.clone());
        let open = async move { Ok(read(Reader::open(&shared.store, &shared.names, replay).await?).await) };
        let reading = Box::pin(open);
        self.replayed.push(Stream {
            text,
            replayed: None,
            reading,
            read: None,
        });
    }

    fn resume(&mut self, shared: &Shared, text: &ByteString, replayed: Arc<Replayed>) {
        self.unfollow(text);
        let reader = Reader::resume(&shared.store, replayed.clone());
        self.replayed.push(Stream {
            text: text.clone(),
            replayed: Some(replayed),
            reading: Box::pin(async move { Ok(read(reader).await) }),
            read: None,
        });
    }

    /// What is to be saved of the streams of a durable session: those that moved.
    pub fn moved_rows(&self, client_id: &str) -> Vec<Put> {
        let moved = self.replayed.iter().filter_map(|stream| {
            let replayed = stream.replayed.as_ref().filter(|replayed| replayed.has_moved())?;
            Some(Put {
                table: tables::SESSION_STREAM,
                key: subscription_key(client_id, &stream.text),
                value: Some(encode_control(&replayed.row())),
            })
        });
        moved.collect()
    }

    /// Ends the replay of a filter.
    pub fn unfollow(&mut self, text: &str) {
        self.replayed.retain(|stream| stream.text != text);
    }

    /// Begins to answer.
    pub fn ask(&mut self, shared: &Arc<Shared>, question: Question) {
        let (names, publisher, bytes_max) = (shared.names.clone(), shared.publisher.clone(), shared.packet_max);
        self.asked.push(Box::pin(question.answer(names, publisher, bytes_max)));
    }

    /// False while so many questions wait that nothing more should be taken from the client.
    pub fn has_room(&self) -> bool {
        self.asked.len() < QUESTIONS_MAX
    }
}

async fn read(mut reader: Reader) -> Read {
    let read = reader.next().await;
    (reader, read)
}

impl Connection {
    /// Reads a stream in a durable session, from where it has come to.
    pub(super) fn go_on_replaying(&mut self, replayed: Replayed, is_new: bool) {
        let (text, replayed) = (replayed.text().clone(), Arc::new(replayed));
        if is_new {
            self.progress.replayed(&text, Some(encode_control(&replayed.row())));
        }
        self.streams.resume(&self.shared, &text, replayed);
    }

    /// Takes what the readers have, as far as there is room.
    pub(super) fn poll_streams(&mut self, context: &mut Context<'_>) -> bool {
        let waiting = self.streams.asked.len();
        self.streams
            .asked
            .retain_mut(|asked| asked.as_mut().poll(context).is_pending());
        let mut moved = self.streams.asked.len() < waiting;
        let mut without_turn = None;
        for (number, stream) in self.streams.replayed.iter_mut().enumerate() {
            if stream.read.is_none()
                && let Poll::Ready(outcome) = stream.reading.as_mut().poll(context)
            {
                stream.read = Some(outcome);
            }
            if self.deliveries.len() >= DELIVERIES_PER_TURN_MAX / 2 || self.pages.hold_back() {
                without_turn.get_or_insert(number);
                continue;
            }
            let Some(outcome) = stream.read.take() else { continue };
            moved = true;
            match outcome.and_then(|(reader, read)| Ok((reader, read?))) {
                Ok((reader, deliveries)) => {
                    self.deliveries.extend(deliveries);
                    stream.reading = Box::pin(async move { Ok(read(reader).await) });
                }
                Err(error) => {
                    // A reader whose read failed has nothing more to give; the client may ask again.
                    stream.reading = Box::pin(std::future::pending());
                    let gone = matches!(error, ReadError::Stopped);
                    tracing::debug!(client_id = %self.client.client_id, stream = %stream.text, %error, "replay ends");
                    if !gone {
                        let detail = format!("{}: {error}", stream.text);
                        self.client.outbox.end(End::server(Reason::UNSPECIFIED_ERROR, detail));
                    }
                }
            }
        }
        // Those that there was no room for come first next time.
        self.streams.replayed.rotate_left(without_turn.unwrap_or(0));
        moved
    }
}
