//! The main job from end to end, and what is said when something is wrong.

mod articles;
mod bad_input;
mod bench;
mod clients;
mod command_line;
mod demo;
mod folders;
mod mqtt_transports;
mod scram;
mod views;
mod webhook;
