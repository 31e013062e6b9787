//! MQTT topic names and topic filters: validation, matching, specificity.
//!
//! Source: MQTT 5.0 section 4.7 (the same rules as 3.1.1 section 4.7). Headwater adds one thing: in a *capture*,
//! a level `{name}` is a `+` whose value becomes the column `name` of the stream.

use std::cmp::Ordering;
use std::fmt;

use bytestring::ByteString;

use crate::limits::{TOPIC_BYTES_MAX, TOPIC_LEVELS_MAX};

/// Why a string is not a topic name or topic filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Every topic has at least one character [MQTT-4.7.3-1].
    #[error("a topic must have at least one character")]
    Empty,
    /// Longer than 65 535 bytes of UTF-8 [MQTT-4.7.3-3].
    #[error("a topic has at most {TOPIC_BYTES_MAX} bytes")]
    TooLong,
    /// U+0000 is not allowed [MQTT-4.7.3-2].
    #[error("a topic cannot hold the null character")]
    Null,
    /// Too many `/`.
    #[error("a topic has at most {TOPIC_LEVELS_MAX} levels")]
    TooDeep,
    /// `+` or `#` in a topic name [MQTT-3.3.2-2].
    #[error("a topic name cannot hold the wildcards `+` and `#`")]
    WildcardInName,
    /// `+` shares its level with other characters [MQTT-4.7.1-2].
    #[error("`+` must stand alone in its level, as in `plant/+/temp`")]
    PlusNotAlone,
    /// `#` is not the last level, or not alone in it [MQTT-4.7.1-1].
    #[error("`#` must be the last level and stand alone in it, as in `plant/#`")]
    HashNotLast,
    /// A `{name}` level with a bad or repeated name.
    #[error("`{0}` is not a capture level: write `{{name}}` with a plain, unrepeated name that fills its level")]
    BadCapture(String),
}

/// A topic as a client publishes to it: no wildcards. UTF-8, 1 to 65 535 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(ByteString);

impl TopicName {
    /// Checks `topic` against section 4.7.
    pub fn new(topic: impl Into<ByteString>) -> Result<TopicName, TopicError> {
        let topic = topic.into();
        check_common(&topic)?;
        if topic.bytes().any(|byte| byte == b'+' || byte == b'#') {
            return Err(TopicError::WildcardInName);
        }
        Ok(TopicName(topic))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, sharing its buffer.
    pub fn to_byte_string(&self) -> ByteString {
        self.0.clone()
    }

    /// The same topic in a buffer of its own.
    pub fn detached(&self) -> TopicName {
        TopicName(ByteString::from(self.0.to_string()))
    }

    /// The parts between `/`. `"/a"` has two: an empty one and `a`.
    pub fn levels(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// Topics that begin with `$` are not matched by a wildcard in the first level [MQTT-4.7.2-1].
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('$')
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One level of a topic filter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Level {
    /// Matches itself.
    Literal(String),
    /// `+`: matches one level. In a capture it may carry the name of a column.
    Single(Option<String>),
    /// `#`: matches the parent level and any number below it.
    Multi,
}

/// A topic filter, with or without wildcards.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TopicFilter {
    text: ByteString,
    levels: Vec<Level>,
}

impl TopicFilter {
    /// Parses a subscription's topic filter. `{` and `}` have no meaning here.
    pub fn new(filter: impl Into<ByteString>) -> Result<TopicFilter, TopicError> {
        Self::parse(filter.into(), false)
    }

    /// Parses a capture, in which `{name}` is a `+` with a name.
    pub fn capture(filter: impl Into<ByteString>) -> Result<TopicFilter, TopicError> {
        Self::parse(filter.into(), true)
    }

    fn parse(text: ByteString, named: bool) -> Result<TopicFilter, TopicError> {
        check_common(&text)?;
        let count = text.split('/').count();
        let mut levels = Vec::with_capacity(count);
        for (number, level) in text.split('/').enumerate() {
            levels.push(match level {
                "#" if number + 1 == count => Level::Multi,
                "+" => Level::Single(None),
                _ if level.contains('#') => return Err(TopicError::HashNotLast),
                _ if level.contains('+') => return Err(TopicError::PlusNotAlone),
                _ if named && level.contains(['{', '}']) => Level::Single(Some(capture_name(level, &levels)?)),
                _ => Level::Literal(level.to_owned()),
            });
        }
        Ok(TopicFilter { text, levels })
    }

    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The parsed levels.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// True when it has no wildcard, so that it matches one topic only.
    pub fn is_exact(&self) -> bool {
        self.levels.iter().all(|level| matches!(level, Level::Literal(_)))
    }

    /// Whether `topic` is matched, by section 4.7: `#` includes the parent, and neither wildcard matches a `$` topic
    /// in the first level.
    pub fn matches(&self, topic: &TopicName) -> bool {
        if topic.is_reserved() && !matches!(self.levels.first(), Some(Level::Literal(_))) {
            return false;
        }
        let mut parts = topic.levels();
        for level in &self.levels {
            match (level, parts.next()) {
                (Level::Multi, _) => return true,
                (Level::Single(_), Some(_)) => {}
                (Level::Literal(literal), Some(part)) if literal == part => {}
                _ => return false,
            }
        }
        parts.next().is_none()
    }

    /// The values of the `{name}` levels for a topic that this filter matches.
    pub fn captured<'a>(&'a self, topic: &'a TopicName) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.levels
            .iter()
            .zip(topic.levels())
            .filter_map(|(level, part)| match level {
                Level::Single(Some(name)) => Some((name.as_str(), part)),
                _ => None,
            })
    }

    /// The names of the `{name}` levels, in order.
    pub fn capture_names(&self) -> impl Iterator<Item = &str> {
        self.levels.iter().filter_map(|level| match level {
            Level::Single(Some(name)) => Some(name.as_str()),
            _ => None,
        })
    }

    /// Orders by specificity, the more specific *first*: level by level literal before `+` before `#`.
    /// Two filters of the same shape are equal here; the home rule then compares stream names.
    pub fn cmp_specificity(&self, other: &TopicFilter) -> Ordering {
        let rank = |level: Option<&Level>| match level {
            Some(Level::Literal(_)) => 0,
            Some(Level::Single(_)) => 1,
            None => 2,
            Some(Level::Multi) => 3,
        };
        let count = self.levels.len().max(other.levels.len());
        (0..count)
            .map(|at| rank(self.levels.get(at)).cmp(&rank(other.levels.get(at))))
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn check_common(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > TOPIC_BYTES_MAX {
        return Err(TopicError::TooLong);
    }
    if text.contains('\0') {
        return Err(TopicError::Null);
    }
    if text.bytes().filter(|byte| *byte == b'/').count() >= TOPIC_LEVELS_MAX {
        return Err(TopicError::TooDeep);
    }
    Ok(())
}

fn capture_name(level: &str, before: &[Level]) -> Result<String, TopicError> {
    let bad = || TopicError::BadCapture(level.to_owned());
    let name = level
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .ok_or_else(bad)?;
    let mut characters = name.chars();
    let plain = characters
        .next()
        .is_some_and(|first| first.is_alphabetic() || first == '_')
        && characters.all(|c| c.is_alphanumeric() || c == '_');
    let repeated = before
        .iter()
        .any(|level| matches!(level, Level::Single(Some(other)) if other == name));
    if plain && !repeated {
        Ok(name.to_owned())
    } else {
        Err(bad())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(filter: &str, topic: &str) -> bool {
        TopicFilter::new(filter)
            .unwrap()
            .matches(&TopicName::new(topic).unwrap())
    }

    #[test]
    fn the_examples_of_section_4_7() {
        for topic in [
            "sport/tennis/player1",
            "sport/tennis/player1/ranking",
            "sport/tennis/player1/score/wimbledon",
        ] {
            assert!(matches("sport/tennis/player1/#", topic), "{topic}");
        }
        assert!(matches("sport/#", "sport"));
        assert!(matches("#", "sport"));
        assert!(matches("sport/tennis/+", "sport/tennis/player1"));
        assert!(!matches("sport/tennis/+", "sport/tennis/player1/ranking"));
        assert!(!matches("sport/+", "sport"));
        assert!(matches("sport/+", "sport/"));
        assert!(matches("+/+", "/finance"));
        assert!(matches("/+", "/finance"));
        assert!(!matches("+", "/finance"));
        assert!(!matches("#", "$SYS/x"));
        assert!(!matches("+/monitor/Clients", "$SYS/monitor/Clients"));
        assert!(matches("$SYS/#", "$SYS/x"));
    }

    #[test]
    fn wrong_filters_say_what_is_wrong() {
        assert_eq!(TopicFilter::new("sport/tennis#"), Err(TopicError::HashNotLast));
        assert_eq!(TopicFilter::new("sport/#/ranking"), Err(TopicError::HashNotLast));
        assert_eq!(TopicFilter::new("sport+"), Err(TopicError::PlusNotAlone));
        assert_eq!(TopicFilter::new(""), Err(TopicError::Empty));
        assert_eq!(TopicName::new("a/+"), Err(TopicError::WildcardInName));
        assert_eq!(TopicName::new("a\0"), Err(TopicError::Null));
        assert_eq!(
            TopicFilter::capture("a/{x}/{x}"),
            Err(TopicError::BadCapture("{x}".into()))
        );
        assert_eq!(
            TopicFilter::capture("a/b{x}"),
            Err(TopicError::BadCapture("b{x}".into()))
        );
        assert!(
            TopicFilter::new("a/{x}").is_ok(),
            "braces mean nothing in a subscription"
        );
    }

    #[test]
    fn a_capture_names_its_levels() {
        let capture = TopicFilter::capture("plant/{site}/+/{what}").unwrap();
        let topic = TopicName::new("plant/berlin/7/temp").unwrap();
        assert!(capture.matches(&topic));
        let columns: Vec<_> = capture.captured(&topic).collect();
        assert_eq!(columns, [("site", "berlin"), ("what", "temp")]);
    }

    #[test]
    fn the_more_specific_capture_comes_first() {
        let mut filters: Vec<_> = [
            "#",
            "plant/#",
            "+/b/c",
            "plant/+/c",
            "plant/b/+",
            "plant/b/c",
            "plant/b",
        ]
        .map(|f| TopicFilter::new(f).unwrap())
        .into();
        filters.sort_by(TopicFilter::cmp_specificity);
        let order: Vec<_> = filters.iter().map(TopicFilter::as_str).collect();
        assert_eq!(
            order,
            [
                "plant/b/c",
                "plant/b/+",
                "plant/b",
                "plant/+/c",
                "plant/#",
                "+/b/c",
                "#"
            ]
        );
    }

    proptest! {
        #[test]
        fn a_topic_matches_itself_and_its_parents_hash(topic in "[a-c/]{1,12}") {
            prop_assert!(matches(&topic, &topic));
            prop_assert!(matches("#", &topic));
            let parent = topic.rsplit_once('/').map(|(parent, _)| format!("{parent}/#")).filter(|f| f != "/#");
            if let Some(filter) = parent {
                prop_assert!(matches(&filter, &topic));
            }
        }
    }
}
