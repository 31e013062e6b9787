//! Many clients on one server: what an idle one costs in memory, whether many retained topics and many subscriptions slow
//! anything down, and how long ten thousand devices need that come back together after an hour.
//!
//! `./x bench idle`, `./x bench retained`, `./x bench subscriptions`, `./x bench catchup`. The server is a process of its own
//! with a data folder in the target folder; its memory and what it has read come from `/proc` and `/metrics`. Sizes may be
//! set in the environment, as each mode says.

mod catch_up;
mod client;
mod idle;
#[path = "../publish/machine.rs"]
mod machine;
#[path = "../publish/process.rs"]
mod process;
mod retained;
mod server;
mod subscriptions;

use anyhow::{Context, Result, bail};

/// The program that is measured.
const HEADWATER: &str = env!("CARGO_BIN_EXE_headwater");

fn main() -> Result<()> {
    // `cargo bench` adds `--bench` of its own.
    let mode = std::env::args().skip(1).find(|argument| argument != "--bench");
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    println!("{}\n", machine::describe(folder.path())?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match mode.as_deref() {
            Some("idle") => idle::run(folder.path()).await,
            Some("retained") => retained::run(folder.path()).await,
            Some("subscriptions") => subscriptions::run(folder.path()).await,
            Some("catchup") => catch_up::run(folder.path()).await,
            _ => bail!("say idle, retained, subscriptions or catchup"),
        }
    })?;
    println!("\n{}", machine::load_average()?);
    Ok(())
}

/// A number from the environment.
fn setting(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text} is not a number")),
        Err(_) => Ok(default),
    }
}
