//! Where one statement ends and the next begins: at a semicolon that is not in quotes or in a comment.

/// Cuts text that comes piece by piece into statements.
#[derive(Debug, Default)]
pub struct Splitter {
    /// What is not yet given out.
    text: String,
    /// How much of it is known to hold no end.
    scanned: usize,
    state: State,
    /// Whether there is anything but white space and comments before `scanned`.
    content: bool,
    /// Line ends and characters since the last one, before `text`.
    line: usize,
    column: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Plain,
    /// Until the same quote; two of them in a row end and begin again, which comes to the same.
    Quoted(char),
    LineComment,
    BlockComment,
}

impl Splitter {
    /// More text.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// The next whole statement with its semicolon, after as many line ends and spaces as stand before it in the input:
    /// so the server's line numbers are those of the input. Statements without content are left out.
    pub fn next_statement(&mut self) -> Option<String> {
        loop {
            let end = self.scan()?;
            let had_content = self.content;
            let statement = self.take(end);
            if had_content {
                return Some(statement);
            }
        }
    }

    /// What stands after the last semicolon, if it is more than white space and comments.
    pub fn rest(&mut self) -> Option<String> {
        self.scan();
        let had_content = self.content;
        let statement = self.take(self.text.len());
        had_content.then_some(statement)
    }

    /// Whether nothing of a statement is there yet.
    pub fn is_blank(&mut self) -> bool {
        self.scan();
        !self.content && self.state == State::Plain
    }

    /// Whether a string or a quoted name is open, so that the next line begins inside it.
    pub fn is_quoted(&mut self) -> bool {
        self.scan();
        matches!(self.state, State::Quoted(_))
    }

    /// The position after the next semicolon that ends a statement.
    fn scan(&mut self) -> Option<usize> {
        while let Some(first) = self.text[self.scanned..].chars().next() {
            let rest = &self.text[self.scanned..];
            let mut length = first.len_utf8();
            match self.state {
                State::Plain if rest.starts_with("--") || rest.starts_with("//") => self.state = State::LineComment,
                State::Plain if rest.starts_with("/*") => {
                    self.state = State::BlockComment;
                    length = 2;
                }
                State::Plain if first == ';' => {
                    self.scanned += length;
                    return Some(self.scanned);
                }
                State::Plain => {
                    if matches!(first, '\'' | '"' | '`') {
                        self.state = State::Quoted(first);
                    }
                    self.content |= !first.is_whitespace();
                }
                State::Quoted(quote) if first == quote => self.state = State::Plain,
                State::LineComment if first == '\n' => self.state = State::Plain,
                State::BlockComment if rest.starts_with("*/") => {
                    self.state = State::Plain;
                    length = 2;
                }
                State::Quoted(_) | State::LineComment | State::BlockComment => {}
            }
            // `-`, `/` and `*` may be half of a pair whose other half has not come yet.
            if rest.len() == 1 && matches!(first, '-' | '/' | '*') && self.state != State::LineComment {
                return None;
            }
            self.scanned += length;
        }
        None
    }

    fn take(&mut self, end: usize) -> String {
        let taken: String = self.text.drain(..end).collect();
        let statement = format!("{}{}{taken}", "\n".repeat(self.line), " ".repeat(self.column));
        self.line += taken.matches('\n').count();
        self.column = match taken.rfind('\n') {
            Some(at) => taken[at + 1..].chars().count(),
            None => self.column + taken.chars().count(),
        };
        (self.scanned, self.content) = (0, false);
        statement
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pieces: &[&str]) -> (Vec<String>, Option<String>) {
        let mut splitter = Splitter::default();
        let mut statements = Vec::new();
        for piece in pieces {
            splitter.push(piece);
            while let Some(statement) = splitter.next_statement() {
                statements.push(statement);
            }
        }
        (statements, splitter.rest())
    }

    #[test]
    fn semicolons_in_quotes_and_comments_end_nothing() {
        for one in [
            "INSERT INTO s VALUES ('a;''b;');",
            "SELECT \"a;b\", `c;d`;",
            "SELECT 1 -- x; y\n;",
            "SELECT 1 // x; y\n;",
            "SELECT 1 /* x; y */;",
            "SELECT 4/2 - 1 * 2;",
            "SELECT '--' ; ",
        ] {
            let (statements, rest) = split(&[one]);
            assert_eq!((statements.len(), rest), (1, None), "{one}");
            let letters: Vec<String> = one.chars().map(String::from).collect();
            let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
            assert_eq!(split(&letters).0.len(), 1, "letter by letter: {one}");
        }
    }

    #[test]
    fn statements_keep_their_line_and_column() {
        let (statements, rest) = split(&["SHOW STREAMS; SHOW\n  QUERIES;\n-- the end\n", "SELECT 1"]);
        assert_eq!(statements[0], "SHOW STREAMS;");
        assert_eq!(statements[1], format!("{}SHOW\n  QUERIES;", " ".repeat(14)));
        let rest = rest.unwrap();
        assert!(rest.starts_with("\n          \n-- the end\nSELECT 1"), "{rest:?}");
        assert_eq!(rest.lines().count(), 4);
    }

    #[test]
    fn nothing_is_not_a_statement() {
        assert_eq!(split(&[";; \n ; -- nothing;\n /* nothing */ "]), (vec![], None));
        let mut splitter = Splitter::default();
        assert!(splitter.is_blank());
        splitter.push("\n -- a\n");
        assert!(splitter.is_blank());
        splitter.push("'");
        assert!(!splitter.is_blank());
    }
}
