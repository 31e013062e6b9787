//! Topic aliases (MQTT 5.0 section 3.3.2.3.4), each direction with its own numbers.

use std::collections::HashMap;

use headwater_store::TopicName;

use crate::error::End;
use crate::packet::Reason;

/// What the client calls topics.
#[derive(Debug)]
pub struct InboundAliases {
    max: u16,
    topics: Vec<Option<TopicName>>,
}

impl InboundAliases {
    /// Aliases 1 to `max`.
    pub fn new(max: u16) -> InboundAliases {
        InboundAliases {
            max,
            topics: Vec::new(),
        }
    }

    /// The topic that `alias` stands for.
    pub fn topic(&self, alias: u16) -> Result<TopicName, End> {
        self.check(alias)?;
        let topic = self.topics.get(usize::from(alias) - 1).cloned().flatten();
        topic.ok_or(End::server(Reason::PROTOCOL_ERROR, "a topic alias that was not set"))
    }

    /// Gives `alias` a meaning, or another one.
    pub fn set(&mut self, alias: u16, topic: &TopicName) -> Result<(), End> {
        self.check(alias)?;
        let slot = usize::from(alias) - 1;
        if slot >= self.topics.len() {
            self.topics.resize(slot + 1, None);
        }
        // A copy of the text, which is a slice of a whole read buffer.
        self.topics[slot] = TopicName::new(topic.as_str()).ok();
        Ok(())
    }

    fn check(&self, alias: u16) -> Result<(), End> {
        if (1..=self.max).contains(&alias) {
            return Ok(());
        }
        Err(End::server(
            Reason::TOPIC_ALIAS_INVALID,
            format!("topic alias {alias}, 1 to {} are allowed", self.max),
        ))
    }
}

/// What the broker calls topics: the first ones it sends get an alias and keep it.
#[derive(Debug)]
pub struct OutboundAliases {
    max: u16,
    aliases: HashMap<TopicName, u16>,
}

impl OutboundAliases {
    /// Aliases 1 to `max`; 0 means that the client wants none.
    pub fn new(max: u16) -> OutboundAliases {
        OutboundAliases {
            max,
            aliases: HashMap::new(),
        }
    }

    /// The alias of `topic`, and whether the client knows it already.
    pub fn alias(&mut self, topic: &TopicName) -> Option<(u16, bool)> {
        if self.max == 0 {
            return None;
        }
        if let Some(alias) = self.aliases.get(topic) {
            return Some((*alias, true));
        }
        let alias = u16::try_from(self.aliases.len() + 1)
            .ok()
            .filter(|alias| *alias <= self.max)?;
        self.aliases.insert(TopicName::new(topic.as_str()).ok()?, alias);
        Some((alias, false))
    }

    /// The packet that was to introduce an alias was not sent (`sent_topic` is the topic field it had): the client
    /// does not know it.
    pub fn forget(&mut self, topic: &TopicName, sent_topic: &str) {
        if !sent_topic.is_empty() && self.aliases.len() == usize::from(self.aliases.get(topic).copied().unwrap_or(0)) {
            self.aliases.remove(topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(text: &str) -> TopicName {
        TopicName::new(text).unwrap()
    }

    #[test]
    fn inbound_aliases_have_bounds_and_can_change() {
        let mut aliases = InboundAliases::new(2);
        assert!(matches!(
            aliases.topic(1),
            Err(End::Server {
                reason: Reason::PROTOCOL_ERROR,
                ..
            })
        ));
        for wrong in [0, 3] {
            let end = aliases.set(wrong, &topic("a")).unwrap_err();
            assert!(
                matches!(
                    end,
                    End::Server {
                        reason: Reason::TOPIC_ALIAS_INVALID,
                        ..
                    }
                ),
                "{wrong}"
            );
        }
        aliases.set(2, &topic("a")).unwrap();
        aliases.set(2, &topic("b")).unwrap();
        assert_eq!(aliases.topic(2), Ok(topic("b")));
        assert!(aliases.topic(1).is_err());
    }

    #[test]
    fn outbound_aliases_are_known_once_sent() {
        let mut aliases = OutboundAliases::new(2);
        assert_eq!(aliases.alias(&topic("a")), Some((1, false)));
        assert_eq!(aliases.alias(&topic("a")), Some((1, true)));
        assert_eq!(aliases.alias(&topic("b")), Some((2, false)));
        assert_eq!(aliases.alias(&topic("c")), None, "there are only two");
        aliases.forget(&topic("b"), "b");
        assert_eq!(aliases.alias(&topic("c")), Some((2, false)));
        aliases.forget(&topic("c"), "");
        assert_eq!(
            aliases.alias(&topic("c")),
            Some((2, true)),
            "only the introducing packet forgets"
        );
        assert_eq!(OutboundAliases::new(0).alias(&topic("a")), None);
    }
}
