//! `headwater user`: what a server keeps of a user's password.

use std::io::{IsTerminal, Write, stderr, stdin};

use anyhow::{Result, anyhow, bail};
use clap::{Args, Subcommand};
use headwater_broker::scram::{self, Verifier};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

#[derive(Debug, Args)]
pub struct UserArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a user's line for the file that broker.scram_users names. The password is asked for, or read from standard
    /// input: arguments are there for everybody on the machine to see.
    Scram(ScramArgs),
}

#[derive(Debug, Args)]
struct ScramArgs {
    /// The user's name.
    name: String,
    /// How hard a password is to guess from the line, and how long a client computes to log in; at least 4096.
    #[arg(long, value_name = "N", default_value_t = 4096)]
    iterations: u32,
}

/// Runs one of the commands.
pub fn run(arguments: UserArgs) -> Result<()> {
    let Command::Scram(ScramArgs { name, iterations }) = arguments.command;
    let password = match stdin().is_terminal() {
        true => asked_for(&name)?,
        false => read_line()?,
    };
    let verifier = Verifier::of(&password, iterations)?;
    println!("{}", scram::line(&name, &verifier).map_err(|reason| anyhow!(reason))?);
    Ok(())
}

/// Twice, because nobody sees what is typed.
fn asked_for(name: &str) -> Result<String> {
    let shown = tcgetattr(stdin())?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(stdin(), OptionalActions::Now, &hidden)?;
    let typed = prompt(&format!("Password of {name}: ")).and_then(|first| Ok((first, prompt("Once more: ")?)));
    tcsetattr(stdin(), OptionalActions::Now, &shown)?;
    let (first, second) = typed?;
    if first != second {
        bail!("these were two different passwords");
    }
    Ok(first)
}

fn prompt(words: &str) -> Result<String> {
    eprint!("{words}");
    stderr().flush()?;
    let line = read_line();
    eprintln!();
    line
}

fn read_line() -> Result<String> {
    let mut line = String::new();
    if stdin().read_line(&mut line)? == 0 {
        bail!("no password came on standard input");
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
