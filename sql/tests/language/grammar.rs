//! The EBNF of docs/sql.md against the parser, in both directions: sentences that are made of it parse, and every
//! statement of tests/sql/parse that parses can be derived from it.

use std::collections::{BTreeSet, HashMap};

use headwater_sql::{KEYWORDS, RESERVED, codes, parse};

/// One rule's right side.
#[derive(Debug, Clone)]
enum Node {
    Word(String),
    Rule(String),
    All(Vec<Node>),
    One(Vec<Node>),
    Maybe(Box<Node>),
    Many(Box<Node>),
}

struct Grammar {
    rules: HashMap<String, Node>,
}

impl Grammar {
    fn of_the_documentation() -> Grammar {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/sql.md")).unwrap();
        let block = page
            .split("## Grammar\n\n```\n")
            .nth(1)
            .expect("the page has a grammar");
        let symbols = symbols(block.split("```").next().unwrap());
        let mut reader = Reader { symbols, at: 0 };
        let mut rules = HashMap::new();
        while reader.at < reader.symbols.len() {
            let name = reader.next();
            assert_eq!(reader.next(), "=", "a rule begins with its name: {name}");
            rules.insert(name, reader.choice());
            if reader.peek() == Some(";") {
                reader.at += 1;
            }
        }
        Grammar { rules }
    }
}

/// The symbols of an EBNF text: `"…"` with its quotes, names, and single characters.
fn symbols(text: &str) -> Vec<String> {
    let mut symbols = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let end = if rest.starts_with("(*") {
            rest = rest.split_once("*)").expect("a comment ends").1.trim_start();
            continue;
        } else if first == '"' {
            rest[1..].find('"').expect("a quote ends") + 2
        } else if first.is_alphanumeric() {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        symbols.push(rest[..end].to_owned());
        rest = rest[end..].trim_start();
    }
    symbols
}

struct Reader {
    symbols: Vec<String>,
    at: usize,
}

impl Reader {
    fn peek(&self) -> Option<&str> {
        self.symbols.get(self.at).map(String::as_str)
    }

    fn next(&mut self) -> String {
        self.at += 1;
        self.symbols[self.at - 1].clone()
    }

    fn choice(&mut self) -> Node {
        let mut branches = vec![self.row()];
        while self.peek() == Some("|") {
            self.at += 1;
            branches.push(self.row());
        }
        if branches.len() == 1 {
            branches.remove(0)
        } else {
            Node::One(branches)
        }
    }

    fn row(&mut self) -> Node {
        let mut row = Vec::new();
        while let Some(symbol) = self.peek() {
            let begins_rule = self.symbols.get(self.at + 1).is_some_and(|next| next == "=");
            if matches!(symbol, "|" | ")" | "]" | "}" | ";") || (begins_rule && !symbol.starts_with('"')) {
                break;
            }
            row.push(self.item());
        }
        Node::All(row)
    }

    fn item(&mut self) -> Node {
        let symbol = self.next();
        let (close, make): (&str, fn(Node) -> Node) = match symbol.as_str() {
            "(" => (")", |node| node),
            "[" => ("]", |node| Node::Maybe(Box::new(node))),
            "{" => ("}", |node| Node::Many(Box::new(node))),
            word if word.starts_with('"') => return Node::Word(word.trim_matches('"').to_owned()),
            name => return Node::Rule(name.to_owned()),
        };
        let inside = self.choice();
        assert_eq!(self.next(), close);
        make(inside)
    }
}

/// Numbers that look random and are the same each time (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

/// A sentence of the grammar. The deeper it is, the more often what may be left out is.
fn speak(grammar: &Grammar, node: &Node, depth: usize, dice: &mut Dice, out: &mut Vec<String>) {
    let goes_on = |dice: &mut Dice| dice.below(depth.max(1)) < 2 && depth < 60;
    match node {
        Node::Word(word) => out.push(word.clone()),
        Node::Rule(name) => match name.as_str() {
            "name" => out.push(["a", "b", "s", "`x y`", "\"q\""][dice.below(5)].to_owned()),
            "word" => out.push(["a", "f", "temp"][dice.below(3)].to_owned()),
            "string" => out.push(["'x'", "'it''s'"][dice.below(2)].to_owned()),
            "number" => out.push(["1", "20"][dice.below(2)].to_owned()),
            "topic_filter" => out.push("'a/{b}/#'".to_owned()),
            "type" => {
                out.push(["INTEGER", "DECIMAL ( 10 , 2 )", "STRING [ ]", "DOUBLE PRECISION"][dice.below(4)].to_owned())
            }
            // Units, and texts with a unit in them, are words that only a table knows.
            "interval" => {
                out.push(["INTERVAL 10 SECOND", "INTERVAL '1' HOUR", "INTERVAL '5 minutes'"][dice.below(3)].to_owned())
            }
            "expr" if depth > 24 => out.push(["a", "1", "'x'"][dice.below(3)].to_owned()),
            "select" if depth > 24 => out.push("SELECT a FROM s".to_owned()),
            rule => {
                let node = grammar
                    .rules
                    .get(rule)
                    .unwrap_or_else(|| panic!("there is no rule `{rule}`"));
                speak(grammar, node, depth + 1, dice, out);
            }
        },
        Node::All(row) => row.iter().for_each(|node| speak(grammar, node, depth, dice, out)),
        Node::One(branches) => {
            let branch = &branches[dice.below(branches.len())];
            speak(grammar, branch, depth, dice, out);
        }
        Node::Maybe(inside) => {
            if goes_on(dice) {
                speak(grammar, inside, depth, dice, out);
            }
        }
        Node::Many(inside) => {
            while goes_on(dice) && dice.below(2) == 0 {
                speak(grammar, inside, depth, dice, out);
            }
        }
    }
}

#[test]
fn sentences_of_the_grammar_parse() {
    let grammar = Grammar::of_the_documentation();
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let mut parsed = 0;
    for _ in 0..4_000 {
        let mut words = Vec::new();
        speak(&grammar, &grammar.rules["statement"], 0, &mut dice, &mut words);
        let sentence = words.join(" ");
        match parse(&sentence) {
            Ok(_) => parsed += 1,
            // The grammar says where words stand, not that a clause is written once or a literal can be read.
            Err(error) => assert_ne!(error.code, codes::UNEXPECTED, "{sentence}\n{error}"),
        }
    }
    assert!(parsed > 3_000, "only {parsed} of 4000 sentences parse");
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Quoted(String),
    Text(String),
    Number,
    Symbol(String),
}

/// The tokens of a text that is known to parse.
fn tokens(text: &str) -> Vec<Token> {
    const SYMBOLS: &[&str] = &["->>", "#>>", "->", "#>", "::", "||", "<=", ">=", "<>", "!="];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let ends = |end: &str| rest.find(end).map_or(rest.len(), |at| at + end.len());
        let end = match first {
            _ if rest.starts_with("--") || rest.starts_with("//") => {
                rest = rest[ends("\n")..].trim_start();
                continue;
            }
            _ if rest.starts_with("/*") => {
                rest = rest[ends("*/")..].trim_start();
                continue;
            }
            '\'' | '"' | '`' => {
                let mut end = 1;
                loop {
                    end += rest[end..].find(first).expect("a quote ends") + 1;
                    if !rest[end..].starts_with(first) {
                        break end;
                    }
                    end += 1;
                }
            }
            c if c.is_alphabetic() || c == '_' => rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len()),
            c if c.is_ascii_digit() || (c == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit())) => {
                let mut end = 1;
                while let Some(next) = rest[end..].chars().next() {
                    let sign = matches!(next, '+' | '-') && rest[..end].ends_with(['e', 'E']);
                    let exponent = matches!(next, 'e' | 'E')
                        && rest[end + 1..].starts_with(|c: char| c.is_ascii_digit() || c == '+' || c == '-');
                    if !(next.is_ascii_digit() || next == '.' || exponent || sign) {
                        break;
                    }
                    end += 1;
                }
                end
            }
            c => SYMBOLS
                .iter()
                .find(|symbol| rest.starts_with(**symbol))
                .map_or(c.len_utf8(), |symbol| symbol.len()),
        };
        let text = rest[..end].to_owned();
        tokens.push(match first {
            '\'' => Token::Text(text),
            '"' | '`' => Token::Quoted(text),
            c if c.is_alphabetic() || c == '_' => Token::Word(text),
            c if c.is_ascii_digit() || (c == '.' && end > 1) => Token::Number,
            _ => Token::Symbol(text),
        });
        rest = rest[end..].trim_start();
    }
    tokens
}

/// Where a node can end that begins at a token.
struct Derivation<'a> {
    grammar: &'a Grammar,
    tokens: Vec<Token>,
    known: HashMap<(String, usize), BTreeSet<usize>>,
}

impl Derivation<'_> {
    fn ends(&mut self, node: &Node, at: usize) -> BTreeSet<usize> {
        match node {
            Node::Word(word) => self.one(at, |token| match token {
                Token::Word(text) => text.eq_ignore_ascii_case(word),
                Token::Symbol(text) => text == word,
                _ => false,
            }),
            Node::Rule(name) => self.rule(name, at),
            Node::All(row) => {
                let mut ends = BTreeSet::from([at]);
                for node in row {
                    ends = ends.into_iter().flat_map(|at| self.ends(node, at)).collect();
                }
                ends
            }
            Node::One(branches) => branches.iter().flat_map(|branch| self.ends(branch, at)).collect(),
            Node::Maybe(inside) => {
                let mut ends = self.ends(inside, at);
                ends.insert(at);
                ends
            }
            Node::Many(inside) => {
                let (mut ends, mut new) = (BTreeSet::from([at]), vec![at]);
                while let Some(at) = new.pop() {
                    for end in self.ends(inside, at) {
                        if ends.insert(end) {
                            new.push(end);
                        }
                    }
                }
                ends
            }
        }
    }

    fn one(&self, at: usize, test: impl Fn(&Token) -> bool) -> BTreeSet<usize> {
        self.tokens
            .get(at)
            .filter(|token| test(token))
            .map(|_| at + 1)
            .into_iter()
            .collect()
    }

    fn rule(&mut self, name: &str, at: usize) -> BTreeSet<usize> {
        let reserved = |text: &str| RESERVED.iter().any(|word| word.eq_ignore_ascii_case(text));
        match name {
            "name" | "unit" => self.one(at, |token| match token {
                Token::Word(text) => !reserved(text),
                Token::Quoted(_) => true,
                _ => false,
            }),
            "word" => self.one(at, |token| matches!(token, Token::Word(_) | Token::Quoted(_))),
            "string" | "topic_filter" => self.one(at, |token| match token {
                Token::Text(_) => true,
                Token::Quoted(text) => text.starts_with('"'),
                _ => false,
            }),
            "number" => self.one(at, |token| *token == Token::Number),
            rule => {
                let key = (rule.to_owned(), at);
                if let Some(ends) = self.known.get(&key) {
                    return ends.clone();
                }
                let node = self
                    .grammar
                    .rules
                    .get(rule)
                    .unwrap_or_else(|| panic!("there is no rule `{rule}`"));
                let ends = self.ends(&node.clone(), at);
                self.known.insert(key, ends.clone());
                ends
            }
        }
    }
}

#[test]
fn what_parses_is_in_the_grammar() {
    let grammar = Grammar::of_the_documentation();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/sql/parse");
    let mut derived = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for block in text.split("\n\n") {
            let input = block.split("\n---").next().unwrap_or(block);
            let lines = input.lines().skip_while(|line| line.starts_with('#'));
            let statement = lines.collect::<Vec<_>>().join("\n");
            if parse(&statement).is_err() {
                continue;
            }
            let tokens = tokens(&statement);
            let count = tokens.len();
            let mut derivation = Derivation {
                grammar: &grammar,
                tokens,
                known: HashMap::new(),
            };
            let ends = derivation.ends(&Node::Rule("script".to_owned()), 0);
            assert!(
                ends.contains(&count),
                "not in the grammar from token {:?} on:\n{statement}",
                ends.last().map(|at| derivation.tokens.get(*at))
            );
            derived += 1;
        }
    }
    assert!(derived > 50, "only {derived} cases");
}

/// Each keyword stands somewhere in the grammar, and the grammar has no others.
#[test]
fn the_grammar_knows_every_keyword() {
    fn words(node: &Node, found: &mut BTreeSet<String>) {
        match node {
            Node::Word(word) if word.chars().all(char::is_alphabetic) => {
                found.insert(word.clone());
            }
            Node::Word(_) | Node::Rule(_) => {}
            Node::All(nodes) | Node::One(nodes) => nodes.iter().for_each(|node| words(node, found)),
            Node::Maybe(node) | Node::Many(node) => words(node, found),
        }
    }
    let mut found = BTreeSet::new();
    let grammar = Grammar::of_the_documentation();
    grammar.rules.values().for_each(|node| words(node, &mut found));
    // Words that are refused by name, and those that the grammar has as names.
    let elsewhere = ["FUNCTION", "FUNCTIONS", "SCHEMA", "SCHEMAS", "SOURCE"];
    for keyword in KEYWORDS {
        assert!(
            found.contains(*keyword) || elsewhere.contains(keyword),
            "the grammar lacks {keyword}"
        );
    }
    for word in &found {
        let plain = ["WEBHOOK", "PRECISION", "EXTRACT"];
        assert!(
            KEYWORDS.contains(&word.as_str()) || plain.contains(&word.as_str()),
            "{word} is no keyword"
        );
    }
}
