//! LIKE: `%` stands for any text, `_` for one character.

/// Whether all of `text` matches. The escape character makes the next one plain.
pub(super) fn matches(text: &str, pattern: &str, escape: Option<char>) -> bool {
    let tokens = tokens(pattern, escape);
    let text: Vec<char> = text.chars().collect();
    // Greedy with one place to come back to, the last `%`: linear in space, never exponential in time.
    let (mut at, mut token, mut retry) = (0, 0, None);
    while at < text.len() {
        match tokens.get(token) {
            Some(Token::Many) => {
                retry = Some((token, at));
                token += 1;
            }
            Some(Token::One) => (at, token) = (at + 1, token + 1),
            Some(Token::Plain(wanted)) if *wanted == text[at] => (at, token) = (at + 1, token + 1),
            _ => match &mut retry {
                None => return false,
                Some((many, from)) => {
                    *from += 1;
                    (at, token) = (*from, *many + 1);
                }
            },
        }
    }
    tokens[token..].iter().all(|rest| *rest == Token::Many)
}

#[derive(PartialEq)]
enum Token {
    Many,
    One,
    Plain(char),
}

fn tokens(pattern: &str, escape: Option<char>) -> Vec<Token> {
    let mut characters = pattern.chars();
    let mut tokens = Vec::new();
    while let Some(character) = characters.next() {
        tokens.push(match character {
            _ if Some(character) == escape => Token::Plain(characters.next().unwrap_or(character)),
            '%' => Token::Many,
            '_' => Token::One,
            plain => Token::Plain(plain),
        });
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_sql_says() {
        let like = |text, pattern| matches(text, pattern, Some('\\'));
        assert!(like("seattle", "s%"));
        assert!(like("seattle", "%att%e"));
        assert!(like("", "%"));
        assert!(like("é", "_"));
        assert!(like("100%", "100\\%"));
        assert!(like("aXbXc", "a%X%c"));
        assert!(!like("100x", "100\\%"));
        assert!(!like("seattle", "seattl"));
        assert!(!like("", "_"));
        assert!(!like(&"a".repeat(10_000), &"%a".repeat(50).replace("%a", "%b")));
    }
}
