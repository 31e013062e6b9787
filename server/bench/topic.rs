//! Topics of the load: a template, the names made from it, and the filter that matches all of them.

use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};
use headwater_store::{TopicFilter, TopicName};

/// `bench/{client}/{n}`: `{client}` is the publishing client, `{n}` the message's number among all messages of the run
/// modulo `--topics`.
#[derive(Debug, Clone)]
pub struct Template {
    pieces: Vec<Piece>,
    topics: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Client,
    Number,
}

impl Template {
    /// Checks that the names made from it are topic names.
    pub fn new(text: &str, topics: u64) -> Result<Template> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((name, behind)) = after.split_once('}') else {
                bail!("--topic {text}: a `{{` has no `}}`");
            };
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(match name {
                "client" => Piece::Client,
                "n" => Piece::Number,
                _ => bail!("--topic {text}: there is {{client}} and {{n}}, not {{{name}}}"),
            });
            rest = behind;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        let template = Template { pieces, topics };
        ensure!(
            topics == 1 || !template.is_fixed(),
            "--topics {topics} needs a {{n}} in --topic to tell the topics apart"
        );
        let mut name = String::new();
        template.render(0, 0, &mut name);
        TopicName::new(name).with_context(|| format!("--topic {text}"))?;
        TopicFilter::new(template.filter()).with_context(|| format!("--topic {text}"))?;
        Ok(template)
    }

    /// The topic of a client's message. `number` counts all messages of the run.
    pub fn render(&self, client: u32, number: u64, out: &mut String) {
        out.clear();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                // Writing to a String cannot fail.
                Piece::Client => _ = write!(out, "{client}"),
                Piece::Number => _ = write!(out, "{}", number % self.topics),
            }
        }
    }

    /// True when each client keeps to one topic.
    pub fn is_fixed(&self) -> bool {
        !self.pieces.contains(&Piece::Number)
    }

    /// A filter for every topic of the template: a level with a placeholder in it becomes `+`.
    pub fn filter(&self) -> String {
        let mut whole = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => whole.push_str(text),
                // No topic filter that was given can hold it: the constructor refuses `+` in a name.
                Piece::Client | Piece::Number => whole.push('+'),
            }
        }
        let level = |level: &str| {
            if level.contains('+') {
                "+".to_owned()
            } else {
                level.to_owned()
            }
        };
        whole.split('/').map(level).collect::<Vec<_>>().join("/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str, topics: u64, client: u32, number: u64) -> String {
        let mut out = String::new();
        Template::new(text, topics).unwrap().render(client, number, &mut out);
        out
    }

    #[test]
    fn placeholders_become_numbers_and_their_levels_a_plus() {
        assert_eq!(rendered("bench/{client}", 1, 7, 99), "bench/7");
        assert_eq!(rendered("a/d{client}/{n}", 10, 7, 99), "a/d7/9");
        assert_eq!(Template::new("a/d{client}/{n}/t", 10).unwrap().filter(), "a/+/+/t");
        assert_eq!(Template::new("plain", 1).unwrap().filter(), "plain");
    }

    #[test]
    fn what_cannot_be_a_topic_is_refused() {
        for text in ["a/#", "a/+", "", "a/{client", "a/{device}"] {
            assert!(Template::new(text, 1).is_err(), "{text}");
        }
        assert!(
            Template::new("bench/{client}", 5).is_err(),
            "five topics, and no way to tell them apart"
        );
    }
}
