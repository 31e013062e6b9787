//! [`SqlError`]: the one error a user of SQL sees, drawn with a caret or given as JSON.
//!
//! It is made deep inside the parser or the binder with a span only; whoever holds the text of the statement adds the
//! line to draw with [`SqlError::locate`]. Codes are stable: a number is never given another meaning.

use std::fmt::{self, Write as _};
use std::ops::Deref;

use headwater_store::{CatalogError, ReadError, WriteError};
use serde_json::{Value, json};

use crate::limits::ERROR_LINE_CHARS_MAX;
use crate::span::Span;

/// What sort of mistake it is. HTTP answers with the status in parentheses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The text is not a statement (400).
    Syntax,
    /// It is a statement, and it makes no sense or is not supported (422).
    Semantic,
    /// It names something that does not exist (404).
    NotFound,
    /// It contradicts what exists (409).
    Conflict,
    /// The store cannot serve it now; try again (503).
    Unavailable,
    /// A defect of Headwater or of its disk (500).
    Internal,
}

impl ErrorKind {
    /// The word used in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::Syntax => "syntax",
            ErrorKind::Semantic => "semantic",
            ErrorKind::NotFound => "not_found",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Internal => "internal",
        }
    }

    /// The status HTTP answers with.
    pub fn http_status(self) -> u16 {
        match self {
            ErrorKind::Syntax => 400,
            ErrorKind::Semantic => 422,
            ErrorKind::NotFound => 404,
            ErrorKind::Conflict => 409,
            ErrorKind::Unavailable => 503,
            ErrorKind::Internal => 500,
        }
    }
}

/// A stable number for one sort of mistake, shown as `HW1001`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// Never reused.
    pub number: u16,
    /// What sort of mistake it stands for.
    pub kind: ErrorKind,
    /// What it stands for, in a few words.
    pub about: &'static str,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HW{:04}", self.number)
    }
}

macro_rules! codes {
    ($($name:ident = $number:literal $kind:ident $about:literal;)*) => {
        /// The registry of codes. `docs/sql.md` lists the same ones; a test compares them.
        pub mod codes {
            use super::{Code, ErrorKind};
            $(
                #[doc = $about]
                pub const $name: Code = Code { number: $number, kind: ErrorKind::$kind, about: $about };
            )*
            /// All of them, by number.
            pub const ALL: &[Code] = &[$($name),*];
        }
    };
}

codes! {
    UNEXPECTED = 1001 Syntax "something else is expected at this place";
    BAD_CHARACTER = 1002 Syntax "a character that no statement contains";
    UNTERMINATED = 1003 Syntax "a string, quoted name or comment that is not closed";
    BAD_LITERAL = 1004 Syntax "a number, interval, date, timestamp or JSON text that cannot be read";
    TOO_DEEP = 1005 Syntax "an expression nested too deeply";
    TOO_LONG = 1006 Syntax "a text longer than statements may be";
    WRITTEN_TWICE = 1007 Syntax "a clause or option written twice";
    NOT_SUPPORTED = 1100 Semantic "a construct that is not supported yet";
    UNKNOWN_COLUMN = 2001 Semantic "a column that does not exist";
    UNKNOWN_FUNCTION = 2002 Semantic "a function that does not exist";
    WRONG_ARGUMENTS = 2003 Semantic "a function called with the wrong number of arguments";
    WRONG_TYPE = 2004 Semantic "a value of the wrong type";
    NOT_GROUPED = 2005 Semantic "a column that is neither grouped nor aggregated";
    FINAL_WITHOUT_WINDOW = 2006 Semantic "EMIT FINAL without a window";
    MISPLACED_AGGREGATE = 2007 Semantic "an aggregate where none can stand";
    UNKNOWN_OPTION = 2008 Semantic "a WITH option that does not exist, or not here";
    BAD_OPTION = 2009 Semantic "a WITH option with a value it cannot have";
    BAD_TOPIC = 2010 Semantic "a topic, topic filter or topic template that is not valid";
    DUPLICATE_NAME = 2011 Semantic "a name given twice";
    BAD_NAME = 2012 Semantic "a name that cannot be given";
    FEEDS_ITSELF = 2013 Semantic "a query that would read what it writes";
    WRONG_COUNT = 2014 Semantic "as many values as columns are needed";
    NOT_NULL = 2015 Semantic "NULL for a column that is NOT NULL";
    NOT_CONSTANT = 2016 Semantic "an expression where only a constant can stand";
    BAD_WINDOW = 2017 Semantic "a window that cannot be computed";
    BAD_START = 2018 Semantic "a start position that does not exist";
    ENDLESS = 2019 Semantic "a statement after a SELECT that does not end";
    UNKNOWN_STREAM = 3001 NotFound "a stream that does not exist";
    UNKNOWN_QUERY = 3002 NotFound "a query that does not exist";
    UNKNOWN_CONNECTOR = 3003 NotFound "a connector that does not exist";
    EXISTS = 3101 Conflict "the name is taken";
    IN_USE = 3102 Conflict "something else uses it";
    NOT_ALLOWED = 3103 Conflict "this thing cannot be changed so";
    UNAVAILABLE = 4001 Unavailable "the store cannot serve this now";
    DISK_FULL = 4002 Unavailable "the disk is nearly full, writes are refused";
    INDEFINITE = 4003 Unavailable "it is not known whether the write was committed";
    TOO_LARGE = 4101 Semantic "a record larger than a write may be";
    TRIMMED = 4102 Conflict "records that are not stored any more";
    BAD_RECORD = 4103 Conflict "a record that cannot be read stopped the query (ON_ERROR = 'fail')";
    PARTLY_WRITTEN = 4104 Conflict "a write of which only a part was committed";
    INTERNAL = 5000 Internal "a defect of Headwater";
    DAMAGED = 5001 Internal "stored data that cannot be read";
}

/// The line of the statement that an error points at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Byte offset in the text.
    pub offset: usize,
    /// Length in bytes.
    pub length: usize,
    /// The line, or as much of it around the place as is worth drawing.
    pub text: String,
    /// Where in `text` the caret stands, in characters from 0.
    pub caret: usize,
    /// Carets to draw.
    pub width: usize,
}

/// Everything there is to say about a mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Stable.
    pub code: Code,
    /// One line, lower case, no full stop.
    pub message: String,
    /// Where in the text.
    pub span: Option<Span>,
    /// The line to draw, once the text is known.
    pub location: Option<Location>,
    /// More about what was found.
    pub detail: Option<String>,
    /// What to do.
    pub help: Option<String>,
    /// Which of several statements failed: its number from 1, and how many there are.
    pub statement: Option<(usize, usize)>,
}

/// An error of a statement. See the module's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlError(Box<Report>);

impl Deref for SqlError {
    type Target = Report;

    fn deref(&self) -> &Report {
        &self.0
    }
}

impl SqlError {
    /// An error without a place.
    pub fn new(code: Code, message: impl Into<String>) -> SqlError {
        let message = message.into();
        SqlError(Box::new(Report {
            code,
            message,
            span: None,
            location: None,
            detail: None,
            help: None,
            statement: None,
        }))
    }

    /// A construct that a later version will run.
    pub fn not_supported(what: impl fmt::Display, span: Span) -> SqlError {
        SqlError::new(codes::NOT_SUPPORTED, format!("{what} is not supported yet")).at(span)
    }

    /// A defect: something that a user cannot cause.
    pub fn internal(message: impl Into<String>) -> SqlError {
        SqlError::new(codes::INTERNAL, message)
    }

    /// Points at a place, unless the error points somewhere already.
    pub fn at(mut self, span: Span) -> SqlError {
        self.0.span.get_or_insert(span);
        self
    }

    /// Points at another place: that of the text in which the mistake was found.
    pub fn moved_to(mut self, span: Span) -> SqlError {
        self.0.span = Some(span);
        self.0.location = None;
        self
    }

    /// Says more about what was found.
    pub fn detail(mut self, detail: impl Into<String>) -> SqlError {
        self.0.detail = Some(detail.into());
        self
    }

    /// Says what to do.
    pub fn help(mut self, help: impl Into<String>) -> SqlError {
        self.0.help = Some(help.into());
        self
    }

    /// Says what to do, if there is something to say.
    pub fn help_if(self, help: Option<impl Into<String>>) -> SqlError {
        match help {
            Some(help) => self.help(help),
            None => self,
        }
    }

    /// Adds the line to draw. `source` is the text that the span counts in.
    pub fn locate(mut self, source: &str) -> SqlError {
        if self.0.location.is_none() {
            self.0.location = self.0.span.map(|span| Location::find(source, span));
        }
        self
    }

    /// Says which of `count` statements it was.
    pub fn in_statement(mut self, number: usize, count: usize) -> SqlError {
        self.0.statement = (count > 1).then_some((number, count));
        self
    }

    /// What sort of mistake it is.
    pub fn kind(&self) -> ErrorKind {
        self.code.kind
    }

    /// The same structure as [`fmt::Display`] draws.
    pub fn to_json(&self) -> Value {
        let mut object = json!({
            "code": self.code.to_string(),
            "kind": self.kind().as_str(),
            "message": self.message,
        });
        if let Some(at) = &self.location {
            object["location"] = json!({
                "line": at.line, "column": at.column, "offset": at.offset, "length": at.length, "text": at.text,
            });
        }
        if let Some(detail) = &self.detail {
            object["detail"] = json!(detail);
        }
        if let Some(help) = &self.help {
            object["help"] = json!(help);
        }
        if let Some((number, count)) = self.statement {
            object["statement"] = json!({ "number": number, "of": count });
        }
        object["text"] = json!(self.to_string());
        object
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.message)?;
        let mut gutter = 1;
        if let Some(at) = &self.location {
            gutter = at.line.to_string().len();
            write!(f, "\n{:gutter$} |\n{} | {}\n{:gutter$} | ", "", at.line, at.text, "")?;
            (0..at.caret).try_for_each(|_| f.write_char(' '))?;
            (0..at.width).try_for_each(|_| f.write_char('^'))?;
        }
        let note = |f: &mut fmt::Formatter<'_>, name: &str, text: &str| write!(f, "\n{:gutter$} = {name}: {text}", "");
        if let Some(detail) = &self.detail {
            note(f, "detail", detail)?;
        }
        if let Some(help) = &self.help {
            note(f, "help", help)?;
        }
        if let Some((number, count)) = self.statement {
            note(
                f,
                "note",
                &format!("this is statement {number} of {count}; those before it were carried out"),
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for SqlError {}

impl Location {
    fn find(source: &str, span: Span) -> Location {
        let before = &source[..span.start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line_end = source[span.start..]
            .find('\n')
            .map_or(source.len(), |at| span.start + at);
        let line = before.matches('\n').count() + 1;
        let column = source[line_start..span.start].chars().count();
        let width = source[span.start..span.end.clamp(span.start, line_end)]
            .chars()
            .count()
            .max(1);
        let text = source[line_start..line_end].trim_end();
        // A statement of a thousand columns on one line is drawn as the part around the place.
        let skip = if column + width.min(ERROR_LINE_CHARS_MAX / 2) > ERROR_LINE_CHARS_MAX {
            column - ERROR_LINE_CHARS_MAX / 2
        } else {
            0
        };
        let drawn = text
            .chars()
            .skip(skip)
            .take(ERROR_LINE_CHARS_MAX)
            .map(|c| if c.is_control() { ' ' } else { c });
        let caret = column - skip;
        Location {
            line,
            column: column + 1,
            offset: span.start,
            length: span.end - span.start,
            text: drawn.collect(),
            caret,
            width: width.min(ERROR_LINE_CHARS_MAX - caret.min(ERROR_LINE_CHARS_MAX - 1)),
        }
    }
}

impl From<CatalogError> for SqlError {
    fn from(error: CatalogError) -> SqlError {
        match error {
            CatalogError::Exists { .. } => SqlError::new(codes::EXISTS, error.to_string()),
            CatalogError::Missing { kind, .. } => SqlError::new(
                match kind {
                    "query" => codes::UNKNOWN_QUERY,
                    "connector" => codes::UNKNOWN_CONNECTOR,
                    _ => codes::UNKNOWN_STREAM,
                },
                error.to_string(),
            ),
            CatalogError::Used { .. } => SqlError::new(codes::IN_USE, error.to_string()),
            CatalogError::NotAllowed(_) => SqlError::new(codes::NOT_ALLOWED, error.to_string()),
            CatalogError::Write(write) => write.into(),
        }
    }
}

impl From<WriteError> for SqlError {
    fn from(error: WriteError) -> SqlError {
        let code = match &error {
            WriteError::TooLarge { .. } => codes::TOO_LARGE,
            WriteError::DiskFull { .. } => codes::DISK_FULL,
            WriteError::Indefinite(_) => codes::INDEFINITE,
            // A conflict or a stale route is retried below this; whoever sees it, or any of the others, may try again.
            _ => codes::UNAVAILABLE,
        };
        SqlError::new(code, error.to_string())
    }
}

impl From<ReadError> for SqlError {
    fn from(error: ReadError) -> SqlError {
        let code = match &error {
            ReadError::Trimmed { .. } => codes::TRIMMED,
            ReadError::Damaged { .. } | ReadError::Engine(_) => codes::DAMAGED,
            ReadError::Stopped => codes::UNAVAILABLE,
        };
        SqlError::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_in_order() {
        assert!(codes::ALL.windows(2).all(|pair| pair[0].number < pair[1].number));
    }

    #[test]
    fn the_caret_stands_under_the_place() {
        let source = "SELECT *\nFROM demo\nGROUP BY device EMIT CHANGS;";
        let start = source.find("CHANGS").unwrap();
        let error = SqlError::new(codes::UNEXPECTED, "expected CHANGES, FINAL or PERIODIC, found `CHANGS`")
            .at(Span::new(start, start + 6))
            .help("did you mean `CHANGES`?")
            .locate(source);
        let drawn = "\
error[HW1001]: expected CHANGES, FINAL or PERIODIC, found `CHANGS`
  |
3 | GROUP BY device EMIT CHANGS;
  |                      ^^^^^^
  = help: did you mean `CHANGES`?";
        assert_eq!(error.to_string(), drawn);
    }

    #[test]
    fn a_very_long_line_is_drawn_around_the_place() {
        let source = format!("{}{}", "é".repeat(5000), "x".repeat(5000));
        let error = SqlError::new(codes::UNEXPECTED, "m")
            .at(Span::new(10_000, 10_001))
            .locate(&source);
        let at = error.location.clone().unwrap();
        assert_eq!((at.line, at.column), (1, 5001));
        assert!(at.text.chars().count() <= ERROR_LINE_CHARS_MAX);
        assert_eq!(at.text.chars().nth(at.caret), Some('x'));
        assert_eq!(at.text.chars().nth(at.caret - 1), Some('é'));
    }
}
