//! Streams that the client replays: each has its own reader, which waits at the log's end like everyone else.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytestring::ByteString;
use headwater_store::{ReadError, Store};

use super::Connection;
use crate::error::End;
use crate::limits::DELIVERIES_PER_TURN_MAX;
use crate::outbox::Delivery;
use crate::packet::Reason;
use crate::replay::{Reader, Replay};

type Read = (Reader, Result<Vec<Delivery>, ReadError>);

/// The streams that one client replays.
#[derive(Default)]
pub struct Streams(Vec<Stream>);

struct Stream {
    text: ByteString,
    reading: Pin<Box<dyn Future<Output = Result<Read, ReadError>> + Send>>,
}

impl Streams {
    /// Begins to replay, or begins anew.
    pub fn follow(&mut self, store: &Store, replay: Replay) {
        self.unfollow(&replay.text);
        let (store, text) = (store.clone(), replay.text.clone());
        let reading = Box::pin(async move { Ok(read(Reader::open(&store, replay).await?).await) });
        self.0.push(Stream { text, reading });
    }

    /// Ends the replay of a filter.
    pub fn unfollow(&mut self, text: &str) {
        self.0.retain(|stream| stream.text != text);
    }
}

async fn read(mut reader: Reader) -> Read {
    let read = reader.next().await;
    (reader, read)
}

impl Connection {
    /// Takes what the readers have, as far as there is room.
    pub(super) fn poll_streams(&mut self, context: &mut Context<'_>) -> bool {
        let mut moved = false;
        for stream in &mut self.streams.0 {
            if self.deliveries.len() >= DELIVERIES_PER_TURN_MAX / 2 || self.pages.hold_back() {
                break;
            }
            let outcome = match stream.reading.as_mut().poll(context) {
                Poll::Pending => continue,
                Poll::Ready(outcome) => outcome,
            };
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
        moved
    }
}
