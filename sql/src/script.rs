//! A text of statements, carried out one after the other, at the pace of whoever takes the answers.

use std::collections::VecDeque;

use crate::ast::{Statement, StatementKind};
use crate::engine::Engine;
use crate::error::{SqlError, codes};
use crate::outcome::Outcome;
use crate::parse::parse;
use crate::plan::Settings;
use crate::span::Span;

/// The statements of a text, all of them parsed before the first one is carried out.
#[derive(Debug)]
pub struct Script {
    source: String,
    waiting: VecDeque<Statement>,
    count: usize,
    settings: Settings,
}

impl Script {
    /// Parses the text. `SELECT … EMIT` must be the last statement: its rows do not end.
    pub fn new(source: impl Into<String>) -> Result<Script, SqlError> {
        let source = source.into();
        let statements = parse(&source)?;
        refuse_early_push(&statements).map_err(|error| error.locate(&source))?;
        Ok(Script {
            count: statements.len(),
            waiting: statements.into(),
            source,
            settings: Settings::default(),
        })
    }

    /// Whether the rows of the last statement do not end.
    pub fn is_endless(&self) -> bool {
        self.waiting.back().is_some_and(|statement| emit(statement).is_some())
    }

    /// Whether it is a SELECT whose rows do not end, with nothing before it but SET: it changes nothing.
    pub fn only_listens(&self) -> bool {
        let early = self.waiting.iter().rev().skip(1);
        self.is_endless()
            && early
                .into_iter()
                .all(|statement| matches!(statement.kind, StatementKind::Set(_)))
    }
}

impl Engine {
    /// Carries out the next statement; None when there is none left. An error says which statement it was. Rows are read
    /// as they are taken: who takes those of a statement before the next step has what stood there before it.
    pub async fn step(&self, script: &mut Script) -> Option<Result<Outcome, SqlError>> {
        let statement = script.waiting.pop_front()?;
        let outcome = match &statement.kind {
            StatementKind::Set(set) => script.settings.set(set).map(|settings| {
                script.settings = settings;
                Outcome::Done {
                    message: format!("{} set", set.name.text),
                    warnings: Vec::new(),
                }
            }),
            _ => self.statement(&statement, &script.source, script.settings).await,
        };
        let (number, count) = (script.count - script.waiting.len(), script.count);
        Some(outcome.map_err(|error| error.locate(&script.source).in_statement(number, count)))
    }

    /// Carries out all statements of a text in order and gives an answer for each; the first error ends it. Rows that end
    /// are read, all of them, before the next statement is carried out, so that it cannot change them.
    pub async fn execute(&self, sql: &str) -> Result<Vec<Outcome>, SqlError> {
        let mut script = Script::new(sql)?;
        let mut outcomes = Vec::with_capacity(script.count);
        while let Some(outcome) = self.step(&mut script).await {
            outcomes.push(match outcome? {
                Outcome::Rows(rows) if !script.waiting.is_empty() => Outcome::Rows(rows.gathered().await?),
                outcome => outcome,
            });
        }
        Ok(outcomes)
    }
}

/// Where the EMIT of a statement stands, if it has one.
fn emit(statement: &Statement) -> Option<Span> {
    match &statement.kind {
        StatementKind::Select(select) => Some(select.emit?.span),
        _ => None,
    }
}

fn refuse_early_push(statements: &[Statement]) -> Result<(), SqlError> {
    let Some((_, early)) = statements.split_last() else {
        return Ok(());
    };
    match early.iter().find_map(emit) {
        Some(span) => Err(
            SqlError::new(codes::ENDLESS, "a SELECT with EMIT does not end: nothing can follow it")
                .at(span)
                .help("put it last, or leave out EMIT to read what is stored now"),
        ),
        None => Ok(()),
    }
}
