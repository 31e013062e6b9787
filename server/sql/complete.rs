//! Completion on TAB: keywords, and the names of streams as the server knows them at that moment.

use std::borrow::Cow;
use std::time::Duration;

use headwater_sql::KEYWORDS;
use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::Validator;
use rustyline::{Context, Helper};
use tokio::runtime::Handle;

use crate::client::Client;

/// How long TAB may wait for the names.
const NAMES_TIMEOUT: Duration = Duration::from_millis(500);

/// What the line editor asks while a person types.
pub struct Assistant {
    client: Client,
    runtime: Handle,
}

impl Assistant {
    /// Asks `client` for names, on `runtime`.
    pub fn new(client: Client, runtime: Handle) -> Assistant {
        Assistant { client, runtime }
    }

    fn stream_names(&self) -> Vec<String> {
        let rows = async { tokio::time::timeout(NAMES_TIMEOUT, self.client.rows("SHOW STREAMS;")).await };
        // Without a server there are no names to offer, and nothing to say about it here.
        let rows = self
            .runtime
            .block_on(rows)
            .ok()
            .and_then(Result::ok)
            .unwrap_or_default();
        rows.iter()
            .filter_map(|row| row["name"].as_str().map(str::to_owned))
            .collect()
    }
}

impl Helper for Assistant {}

impl Completer for Assistant {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let (start, word) = word_before(line, at);
        Ok((start, candidates(word, self.stream_names())))
    }
}

fn word_before(line: &str, at: usize) -> (usize, &str) {
    let start = line[..at]
        .rfind(|c: char| !(c.is_alphanumeric() || c == '_'))
        .map_or(0, |before| {
            before + line[before..].chars().next().map_or(0, char::len_utf8)
        });
    (start, &line[start..at])
}

/// Keywords come in the case that the word was begun in.
fn candidates(word: &str, names: Vec<String>) -> Vec<String> {
    if word.is_empty() {
        return names;
    }
    let upper = word.to_uppercase();
    let lower_case = word.chars().all(char::is_lowercase);
    let keyword = |keyword: &&str| {
        if lower_case {
            keyword.to_lowercase()
        } else {
            (**keyword).to_owned()
        }
    };
    let keywords = KEYWORDS
        .iter()
        .filter(|keyword| keyword.starts_with(&upper))
        .map(keyword);
    names
        .iter()
        .filter(|name| name.starts_with(word))
        .cloned()
        .chain(keywords)
        .collect()
}

impl Validator for Assistant {}

impl Hinter for Assistant {
    type Hint = String;
}

impl Highlighter for Assistant {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        Cow::Borrowed(prompt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_completed_in_their_own_case() {
        let names = || vec!["sensors".to_owned(), "温度".to_owned()];
        assert_eq!(candidates("sens", names()), ["sensors"]);
        assert!(candidates("SEL", names()).contains(&"SELECT".to_owned()));
        assert!(candidates("sel", names()).contains(&"select".to_owned()));
        assert_eq!(candidates("", names()), names());
        assert_eq!(word_before("SELECT * FROM se", 16), (14, "se"));
        assert_eq!(word_before("温=温度", "温=温度".len()), ("温=".len(), "温度"));
    }
}
