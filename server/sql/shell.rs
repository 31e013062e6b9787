//! The interactive session: a prompt with history, completion and statements over several lines.
//!
//! It reads line by line, with another prompt inside a statement, so that a command works on any line: somebody who does
//! not know what is missing still gets out.

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
  show queries;             list all queries
  terminate query <id>;     terminate query by id
  terminate query all;      terminate all queries
  <sql>;                    run sql

A statement ends with `;` and may take several lines: `|` asks for the rest of it. TAB completes keywords and streams.
Ctrl-C ends a SELECT … EMIT CHANGES, or drops what is typed; Ctrl-D quits.";

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
    let mut typed = Typed::default();
    loop {
        let line = match editor.readline(typed.prompt()) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                typed = Typed::default();
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error).context("cannot read from this terminal"),
        };
        match typed.line(&line) {
            Turn::Quit => break,
            Turn::Help => eprintln!("{HELP}"),
            Turn::Unknown => eprintln!("`{}` is not a command\n{HELP}", line.trim()),
            Turn::More => {}
            Turn::Run(text) => {
                // A secret is not for a file.
                if !text.to_ascii_uppercase().contains("SECRET") {
                    editor.add_history_entry(text.trim())?;
                }
                runtime.block_on(statements(&mut session, &text));
            }
        }
    }
    if let Some(Err(error)) = history.map(|path| editor.save_history(&path)) {
        eprintln!("the history could not be saved: {error}");
    }
    Ok(())
}

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// `:h`
    Help,
    /// `:q`
    Quit,
    /// Any other word behind a colon.
    Unknown,
    /// Nothing yet: a statement is not finished, or not begun.
    More,
    /// Whole statements.
    Run(String),
}

impl Turn {
    /// What a line asks for if it is a command. A statement's line may begin with `::`, the cast.
    pub fn of_command(line: &str) -> Option<Turn> {
        let word = line.trim().strip_prefix(':').filter(|word| !word.starts_with(':'))?;
        Some(match word {
            "h" | "help" => Turn::Help,
            "q" | "quit" => Turn::Quit,
            _ => Turn::Unknown,
        })
    }
}

/// The lines of a statement that is not finished.
#[derive(Debug, Default)]
struct Typed(String);

impl Typed {
    fn prompt(&self) -> &'static str {
        if self.0.is_empty() { "> " } else { "| " }
    }

    fn line(&mut self, line: &str) -> Turn {
        if let Some(turn) = Turn::of_command(line) {
            return turn;
        }
        self.0.extend([line, "\n"]);
        let mut splitter = Splitter::default();
        splitter.push(&self.0);
        let mut whole = 0;
        while splitter.next_statement().is_some() {
            whole += 1;
        }
        match (splitter.is_blank(), whole) {
            (false, _) => Turn::More,
            (true, 0) => {
                self.0.clear();
                Turn::More
            }
            (true, _) => Turn::Run(std::mem::take(&mut self.0)),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_ends_with_its_semicolon_and_commands_work_on_any_line() {
        let mut typed = Typed::default();
        for (prompt, line, turn) in [
            ("> ", "", Turn::More),
            ("> ", "-- nothing", Turn::More),
            ("> ", ":q", Turn::Quit),
            ("> ", "SHOW STREAMS; -- all", Turn::Run("SHOW STREAMS; -- all\n".into())),
            ("> ", "SELECT ';", Turn::More),
            ("| ", ":h", Turn::Help),
            ("| ", " :q ", Turn::Quit),
            ("| ", ":r", Turn::Unknown),
            ("| ", "' FROM s", Turn::More),
            ("| ", "; SHOW", Turn::More),
            (
                "| ",
                "QUERIES;",
                Turn::Run("SELECT ';\n' FROM s\n; SHOW\nQUERIES;\n".into()),
            ),
            ("> ", "SELECT a", Turn::More),
            (
                "| ",
                "::INTEGER FROM s;",
                Turn::Run("SELECT a\n::INTEGER FROM s;\n".into()),
            ),
        ] {
            assert_eq!(typed.prompt(), prompt, "before {line:?}");
            assert_eq!(typed.line(line), turn, "{line:?}");
        }
    }
}
