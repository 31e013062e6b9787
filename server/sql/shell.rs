//! The interactive session: a prompt with history, completion and statements over several lines.

use std::path::PathBuf;

use anyhow::{Context, Result};
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{Config, Editor};
use tokio::runtime::Runtime;

use crate::sql::complete::Assistant;
use crate::sql::session::Session;
use crate::sql::split::Splitter;

/// What `:h` shows.
pub const HELP: &str = "\
Command
  :h                        help command
  :q                        quit cli
  show queries              list all queries
  terminate query <id>      terminate query by id
  terminate query all       terminate all queries
  <sql>                     run sql

A statement ends with `;` and may take several lines. TAB completes keywords and streams.
Ctrl-C ends a SELECT … EMIT CHANGES, or empties the line; Ctrl-D quits.";

const HISTORY_ENTRIES_MAX: usize = 10_000;

/// Reads and runs statements until `:q` or Ctrl-D.
pub fn run(runtime: &Runtime, mut session: Session) -> Result<()> {
    let config = Config::builder()
        .max_history_size(HISTORY_ENTRIES_MAX)?
        .history_ignore_space(true)
        .build();
    let mut editor: Editor<Assistant, FileHistory> = Editor::with_config(config).context("cannot use this terminal")?;
    editor.set_helper(Some(Assistant::new(session.client().clone(), runtime.handle().clone())));
    let history = history_path();
    if let Some(path) = &history {
        // The first session has none.
        let _ = editor.load_history(path);
    }
    eprintln!(
        "headwater {} at {}\n{HELP}\n",
        env!("CARGO_PKG_VERSION"),
        session.client().url()
    );
    loop {
        match editor.readline("> ") {
            Ok(line) if line.trim() == ":q" => break,
            Ok(line) if line.trim().is_empty() => {}
            Ok(line) if line.trim_start().starts_with(':') => command(line.trim()),
            Ok(line) => {
                // A secret is not for a file.
                if !line.to_ascii_uppercase().contains("SECRET") {
                    editor.add_history_entry(line.trim())?;
                }
                runtime.block_on(statements(&mut session, &line));
            }
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error).context("cannot read from this terminal"),
        }
    }
    if let Some(Err(error)) = history.map(|path| editor.save_history(&path)) {
        eprintln!("the history could not be saved: {error}");
    }
    Ok(())
}

fn command(line: &str) {
    if line != ":h" {
        eprintln!("`{line}` is not a command");
    }
    eprintln!("{HELP}");
}

/// Runs what was typed; a mistake is shown and ends what was typed with it, Ctrl-C ends it without a word.
async fn statements(session: &mut Session, text: &str) {
    let mut splitter = Splitter::default();
    splitter.push(text);
    while let Some(statement) = splitter.next_statement() {
        tokio::select! {
            outcome = session.run(&statement) => if let Err(error) = outcome {
                eprintln!("{error:#}");
                return;
            },
            _ = tokio::signal::ctrl_c() => {
                eprintln!();
                return;
            }
        }
    }
}

/// `$XDG_STATE_HOME/headwater/history` where that is set, else `~/.headwater_history`.
fn history_path() -> Option<PathBuf> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(state) = variable("XDG_STATE_HOME") {
        let folder = state.join("headwater");
        return std::fs::create_dir_all(&folder).is_ok().then(|| folder.join("history"));
    }
    variable("HOME").map(|home| home.join(".headwater_history"))
}
