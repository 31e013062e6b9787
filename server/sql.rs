//! `headwater sql`: statements from a person, from `-e`, from a file or from standard input, over HTTP.
//!
//! Rows go to standard output, everything else to standard error. Each statement is sent by itself, at its own line and
//! column, so that a mistake is drawn where it stands in the file.

mod complete;
mod output;
mod session;
mod shell;
mod split;

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use headwater_config::Millis;
use tokio::runtime::{Builder, Runtime};

use crate::client::Client;
use output::{Format, Printer};
use session::Session;
use shell::Turn;
use split::Splitter;

/// How to run SQL.
#[derive(Debug, clap::Args)]
pub struct SqlArgs {
    /// The server.
    #[arg(long, env = "HEADWATER_URL", default_value = "http://127.0.0.1:6580")]
    url: String,
    /// Run these statements and end; may be given several times.
    #[arg(short = 'e', long = "execute", value_name = "STATEMENTS")]
    execute: Vec<String>,
    /// Run the statements of this file and end; `-` is standard input.
    #[arg(short = 'f', long = "file", value_name = "FILE", conflicts_with = "execute")]
    file: Option<PathBuf>,
    /// How rows are printed.
    #[arg(long, value_enum, default_value_t = Format::Ndjson)]
    output: Format,
    /// Stop each statement after this many rows.
    #[arg(long, value_name = "ROWS")]
    limit: Option<u64>,
    /// Stop a statement whose rows do not end after this time, as in 5s.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse().map(Millis::duration)
}

/// Runs until the statements, the input or the person's patience end. An error where one of the given statements failed.
pub fn run(arguments: SqlArgs) -> Result<()> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let client = Client::new(arguments.url);
    let session = Session::new(
        client,
        Printer::new(arguments.output),
        arguments.limit,
        arguments.timeout,
    );
    match (arguments.execute.as_slice(), arguments.file) {
        (texts @ [_, ..], _) => runtime.block_on(run_texts(session, texts)),
        ([], Some(path)) => read(&path).and_then(|text| runtime.block_on(run_texts(session, &[text]))),
        ([], None) if std::io::stdin().is_terminal() => shell::run(&runtime, session),
        ([], None) => run_piped(&runtime, session),
    }
}

fn read(path: &Path) -> Result<String> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Statements that are there as a whole, one text after the other. All are parsed before the first one is sent: a slip in
/// the last one leaves nothing half done.
async fn run_texts(mut session: Session, texts: &[String]) -> Result<()> {
    let mut all = Vec::new();
    for (at, text) in texts.iter().enumerate() {
        let statements = split(text);
        for (number, statement) in statements.iter().enumerate() {
            let place = place((at + 1, texts.len()), (number + 1, statements.len()));
            let parsed = headwater_sql::parse(statement).map(drop).map_err(anyhow::Error::from);
            in_place(parsed, place.as_deref())?;
            all.push((statement.clone(), place));
        }
    }
    for (statement, place) in all {
        in_place(session.run(&statement).await, place.as_deref())?;
    }
    Ok(())
}

/// The statements of a whole text; the last one may lack its semicolon.
fn split(text: &str) -> Vec<String> {
    let mut splitter = Splitter::default();
    splitter.push(text);
    let mut statements: Vec<_> = std::iter::from_fn(|| splitter.next_statement()).collect();
    statements.extend(splitter.rest());
    statements
}

/// `-e 2 of 3, statement 1 of 2`, as far as there are several.
fn place((text, texts): (usize, usize), (number, count): (usize, usize)) -> Option<String> {
    let text = (texts > 1).then(|| format!("-e {text} of {texts}"));
    let statement = (count > 1).then(|| format!("statement {number} of {count}"));
    let parts: Vec<_> = text.into_iter().chain(statement).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn in_place(outcome: Result<()>, place: Option<&str>) -> Result<()> {
    match place {
        Some(place) => outcome.with_context(|| place.to_owned()),
        None => outcome,
    }
}

/// Statements as they come down a pipe: each runs as soon as its semicolon is there.
fn run_piped(runtime: &Runtime, mut session: Session) -> Result<()> {
    let mut splitter = Splitter::default();
    for line in std::io::stdin().lines() {
        let line = line.context("cannot read standard input")?;
        // In a file a line of a string may well begin with a colon.
        match Turn::of_command(&line).filter(|_| !splitter.is_quoted()) {
            Some(Turn::Quit) => return Ok(()),
            Some(_) => {
                eprintln!("{}", shell::HELP);
                continue;
            }
            None => {}
        }
        splitter.push(&line);
        splitter.push("\n");
        while let Some(statement) = splitter.next_statement() {
            runtime.block_on(session.run(&statement))?;
        }
    }
    match splitter.rest() {
        Some(statement) => runtime.block_on(session.run(&statement)),
        None => Ok(()),
    }
}
