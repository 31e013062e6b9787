//! Where a SELECT stands: alone, in CREATE … AS, or inside another one; and what all SELECTs of a statement share.

use std::cell::Cell;

use headwater_store::StreamRow;

use crate::ast;
use crate::error::{SqlError, codes};
use crate::limits::SOURCES_MAX;
use crate::plan::bind::routing::Output;
use crate::plan::bind::{Binder, select};
use crate::plan::physical::{Emit, Start};
use crate::span::Span;

/// See above.
#[derive(Clone)]
pub struct Context<'a> {
    /// The names of WITH that are known here, the nearest last.
    names: Vec<(&'a str, &'a ast::Select)>,
    /// When the outermost SELECT speaks.
    pub emit: Emit,
    /// What it writes, if it writes a stream.
    pub output: Option<&'a Output<'a>>,
    /// Where all of it begins, as the outermost SELECT says.
    start: Option<&'a ast::Start>,
    shared: &'a Shared,
}

/// What all SELECTs of a statement share.
#[derive(Debug, Default)]
pub struct Shared {
    sources: Cell<usize>,
    /// Where a ROW_NUMBER stands.
    pub ranked: Cell<Option<Span>>,
}

impl<'a> Context<'a> {
    /// Of the outermost SELECT.
    pub fn new(select: &'a ast::Select, emit: Emit, output: Option<&'a Output<'a>>, shared: &'a Shared) -> Context<'a> {
        Context {
            names: Vec::new(),
            emit,
            output,
            start: select.start.as_ref(),
            shared,
        }
    }

    /// With the names that the SELECT gives to subqueries.
    pub fn with(&self, select: &'a ast::Select) -> Context<'a> {
        let mut inside = self.clone();
        let named = select
            .with
            .iter()
            .map(|named| (named.name.text.as_str(), &named.select));
        inside.names.extend(named);
        inside
    }

    /// The subquery of that name, and what is known inside of it: only what stands before it.
    pub fn named(&self, name: &str) -> Option<(&'a ast::Select, Context<'a>)> {
        let at = self.names.iter().rposition(|(known, _)| *known == name)?;
        let mut inside = self.clone();
        inside.names.truncate(at);
        Some((self.names[at].1, inside))
    }

    /// A query cannot read what it writes.
    pub fn refuse_own(&self, name: &ast::Name) -> Result<(), SqlError> {
        match self.output {
            Some(output) if output.name.text == name.text => Err(SqlError::new(
                codes::FEEDS_ITSELF,
                format!("`{}` would read what it writes", output.name.text),
            )
            .at(name.span)
            .help("give the new stream another name")),
            _ => Ok(()),
        }
    }

    /// Counts a stream that is read.
    pub fn count(&self, span: Span) -> Result<(), SqlError> {
        let count = self.shared.sources.get() + 1;
        self.shared.sources.set(count);
        match self.start {
            Some(start) if count == 2 && matches!(start.kind, ast::StartKind::Offset(_)) => {
                let message = "an offset is of one stream, and a join has two";
                return Err(SqlError::new(codes::BAD_START, message)
                    .at(start.span)
                    .help("name a time: FROM TIMESTAMP '…'"));
            }
            _ => {}
        }
        if count <= SOURCES_MAX {
            return Ok(());
        }
        let message = format!("a query reads at most {SOURCES_MAX} streams, each as often as it is named");
        Err(SqlError::new(codes::TOO_DEEP, message)
            .at(span)
            .help("make streams of its parts with CREATE STREAM … AS"))
    }

    /// A ROW_NUMBER stands there.
    pub fn ranked(&self, span: Span) {
        self.shared.ranked.set(Some(span));
    }

    /// Where the streams of a topic filter are read from.
    pub fn start_of_topics(&self) -> Result<Start, SqlError> {
        match self.start {
            Some(start) if matches!(start.kind, ast::StartKind::Offset(_)) => {
                let message = "the messages of a topic filter lie in several streams, each with its own offsets";
                Err(SqlError::new(codes::BAD_START, message)
                    .at(start.span)
                    .help("name a time: FROM TIMESTAMP '…'"))
            }
            Some(start) => select::place_of_time(start),
            None => Ok(self.usual_start(false)),
        }
    }

    /// Where a stream is read from.
    pub fn start(&self, binder: &Binder<'_>, stream: &StreamRow) -> Result<Start, SqlError> {
        let of_view = binder.is_view(stream);
        if let Some(start) = self.start {
            if of_view && self.output.is_none() {
                return Err(
                    SqlError::not_supported("reading a view from another time than now", start.span)
                        .help(format!("its changes are a stream: SELECT … FROM {}$log", stream.name)),
                );
            }
            return select::place(start, stream);
        }
        Ok(self.usual_start(of_view))
    }

    /// Views and tables hold all there is, and are made of all there is.
    fn usual_start(&self, of_view: bool) -> Start {
        let all = of_view || self.output.is_some_and(|output| output.view.is_some());
        match self.emit != Emit::AtEnd && !all {
            true => Start::Latest,
            false => Start::Earliest,
        }
    }
}
