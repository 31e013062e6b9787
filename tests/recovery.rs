//! kill -9, full disks and damaged ones, and what must be there afterwards.

mod acknowledged;
mod damage;
mod full_disk;
mod many_clients;
mod memory_ack;
mod over_http;
mod sessions;
mod under_load;
