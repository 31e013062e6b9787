//! Tests of the broker over sockets, and of its codec by itself. One test program: linking it takes longer than running most
//! of it.

mod broker;
mod conformance;
mod differential;
mod events;
mod hostile;
mod memory;
mod packets;
mod queues;
mod replay;
mod rumqttc;
mod scram;
mod sessions;
mod shares;
mod support;
mod time;
mod transcripts;
mod websocket;
mod wills;
