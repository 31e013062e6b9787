//! The command line of Headwater.

mod assemble;
mod bench;
mod client;
mod demo;
mod serve;
mod sql;
mod store;
mod telemetry;
mod user;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;

/// Messages are allocated on one thread and freed on another all day; glibc's allocator takes a lock for that.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// An MQTT broker whose traffic is a replicated log that SQL runs over.
#[derive(Debug, Parser)]
#[command(name = "headwater", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server.
    Serve(serve::ServeArgs),
    /// Run SQL on a server: interactively, from -e, from a file or from standard input.
    Sql(sql::SqlArgs),
    /// Put a load on an MQTT broker, this one or any other, and count exactly.
    Bench(bench::BenchArgs),
    /// Look at a data folder while no server uses it: check it for damage, print what it holds.
    Store(store::StoreArgs),
    /// Make what a server keeps of a user's password.
    User(user::UserArgs),
    /// Replay a year of two cities' temperatures through a running server, and show what its queries find.
    Demo(demo::DemoArgs),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Sql(arguments) => sql::run(arguments),
        Command::Bench(arguments) => bench::run(arguments),
        Command::Store(arguments) => store::run(arguments),
        Command::User(arguments) => user::run(arguments),
        Command::Demo(arguments) => on_runtime(demo::run(arguments)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("headwater: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

fn on_runtime(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

/// The error and its causes in one line; a cause that the text in front of it already tells is left out.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
