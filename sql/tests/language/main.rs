//! The language half of SQL, by data files: `tests/sql/parse` (text to AST), `tests/sql/error` (text to error) and
//! `tests/sql/plan` (statements to plans and catalog rows), `tests/sql/statement` (statements carried out on a store).
//! `UPDATE=1 cargo test -p headwater-sql` rewrites the files.

mod dump;
mod file;
mod grammar;
mod node;
mod session;

use file::run;
use headwater_sql::{SqlError, codes, parse};
use proptest::prelude::*;
use session::Session;

#[test]
fn parse_files() {
    run("parse", || {
        Box::new(|text: &str| match parse(text) {
            Ok(statements) => {
                dump::check_spans(text, &statements).expect("each node's text is that node again");
                dump::statements(&statements)
            }
            Err(error) => error.to_string(),
        })
    });
}

#[test]
fn error_files() {
    run("error", || {
        let mut session = Session::default();
        Box::new(move |text: &str| session.run(text))
    });
}

#[test]
fn plan_files() {
    run("plan", || {
        let mut session = Session::default();
        Box::new(move |text: &str| session.run(text))
    });
}

#[test]
fn statement_files() {
    run("statement", || {
        let node = node::Node::start();
        Box::new(move |text: &str| node.run(text))
    });
}

/// The registry of codes and its table in the documentation are the same.
#[test]
fn the_documentation_lists_every_code() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/sql.md")).unwrap();
    for code in codes::ALL {
        let status = code.kind.http_status();
        let row = format!("| {code} | {status} | {} |", code.about);
        assert!(page.contains(&row), "docs/sql.md lacks the row: {row}");
    }
    let rows = page.lines().filter(|line| line.starts_with("| HW")).count();
    assert_eq!(
        rows,
        codes::ALL.len(),
        "docs/sql.md has a row for a code that does not exist"
    );
}

/// Every function and its other names are in the documentation.
#[test]
fn the_documentation_lists_every_function() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/sql.md")).unwrap();
    let known: Vec<&str> = page.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    for function in headwater_sql::function::all() {
        for name in std::iter::once(&function.name).chain(function.aliases) {
            assert!(known.contains(name), "docs/sql.md lacks the function {name}");
        }
    }
    for aggregate in headwater_sql::function::AGGREGATES {
        for name in std::iter::once(&aggregate.name).chain(aggregate.aliases) {
            assert!(known.contains(name), "docs/sql.md lacks the aggregate {name}");
        }
    }
}

/// What the documentation shows as SQL runs, one statement after the other on one node.
#[test]
fn the_examples_of_the_documentation_run() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/sql.md")).unwrap();
    let node = node::Node::start();
    let mut wrong = String::new();
    for block in page.split("```sql\n").skip(1) {
        let example = block.split("```").next().unwrap();
        for statement in parse(example).expect("an example parses") {
            let text = statement.span.of(example);
            let answer = node.run(text);
            if answer.contains("error[HW") {
                wrong += &format!("{text}\n{answer}\n");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Every function and aggregate is called in an example.
#[test]
fn the_documentation_shows_every_function() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/sql.md")).unwrap();
    let examples: String = page
        .split("```sql\n")
        .skip(1)
        .map(|block| block.split("```").next().unwrap())
        .collect();
    let called: Vec<&str> = examples.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let functions = headwater_sql::function::all().map(|function| function.name);
    for name in functions.chain(
        headwater_sql::function::AGGREGATES
            .iter()
            .map(|aggregate| aggregate.name),
    ) {
        assert!(called.contains(&name), "no example calls {name}");
    }
}

/// What the documentation shows as SQL parses, and binds where it stands alone.
#[test]
fn the_examples_of_the_documentation_parse() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/sql.md")).unwrap();
    let mut session = Session::default();
    let mut examples = 0;
    for block in page.split("```sql\n").skip(1) {
        let example = block.split("```").next().unwrap();
        let answer = session.run(example);
        assert!(!answer.contains("error[HW"), "{example}\n{answer}");
        examples += 1;
    }
    assert!(examples > 10, "the page has lost its examples");
}

/// As deep as it may be: neither the parser nor what walks the tree runs out of a thread's stack.
#[test]
fn depth_is_limited() {
    let nested = |depth: usize| format!("SELECT {}a{} FROM s", "(".repeat(depth), ")".repeat(depth));
    let chained = |terms: usize| format!("SELECT {} FROM s", vec!["a"; terms].join(" + "));
    let negated = |depth: usize| format!("SELECT {}a FROM s", "NOT ".repeat(depth));
    let indexed = |depth: usize| format!("SELECT a{} FROM s", "[0]".repeat(depth));
    for (make, most) in [
        (&nested as &dyn Fn(usize) -> String, 120),
        (&chained, 120),
        (&negated, 120),
        (&indexed, 120),
    ] {
        assert!(parse(&make(most)).is_ok(), "{}", make(most));
        for depth in [200, 100_000] {
            let error = parse(&make(depth)).unwrap_err();
            assert_eq!(error.code, codes::TOO_DEEP, "{error}");
        }
    }
    let node = node::Node::start();
    node.run("CREATE STREAM s; INSERT INTO s (a) VALUES (1);");
    assert_eq!(node.run(&nested(120)), r#"{"a":1}"#);
    assert_eq!(node.run(&chained(120)), r#"{"expr":120}"#);
    assert_eq!(node.run(&indexed(120)), r#"{"a":null}"#);
    assert_eq!(node.run(&negated(120)), r#"{"expr":null}"#);
}

/// A chain of ANDs or ORs is as deep as its logarithm, through all that a statement goes through.
#[test]
fn a_chain_of_thousands_is_not_deep() {
    let node = node::Node::start();
    node.run("CREATE STREAM s; INSERT INTO s (a, b) VALUES (4999, 1), (7, 2), (-1, 3);");
    let chain = |op: &str, test: &str| {
        let terms: Vec<String> = (0..5_000).map(|term| format!("a {test} {term}")).collect();
        terms.join(op)
    };
    let any = format!("SELECT b FROM s WHERE {}", chain(" OR ", "="));
    let none = format!("SELECT b FROM s WHERE {}", chain(" AND ", "<>"));
    assert_eq!(node.run(&any), "{\"b\":1}\n{\"b\":2}");
    assert_eq!(node.run(&none), r#"{"b":3}"#);
    let both = format!(
        "SELECT b FROM s AS l JOIN s AS r ON l.a = r.a AND {}",
        chain(" AND ", "<>").replace("a <", "l.a + r.b <")
    );
    let both = both.replace("SELECT b", "SELECT l.b") + " WITHIN (INTERVAL 1 DAY)";
    assert_eq!(node.run(&both), r#"{"b":1}"#);
    node.run(&format!(
        "CREATE STREAM c AS {any} EMIT CHANGES; CREATE STREAM d AS {none} EMIT CHANGES;"
    ));
    node.run("INSERT INTO s (a, b) VALUES (7, 4), (-1, 5);");
    let read = || node.run("SELECT b FROM c; SELECT b FROM d");
    let waited = (0..600).find(|_| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        read() == "{\"b\":4}\n{\"b\":5}"
    });
    assert!(waited.is_some(), "{}", read());
    // Brackets are what they were.
    let nested = format!("SELECT {}a{} FROM s", "(a OR ".repeat(200), ")".repeat(200));
    assert_eq!(parse(&nested).unwrap_err().code, codes::TOO_DEEP);
}

fn check_error(source: &str, error: &SqlError) -> Result<(), TestCaseError> {
    if let Some(span) = error.span {
        prop_assert!(
            source.get(span.start..span.end).is_some(),
            "{span:?} is not a place in {source:?}"
        );
        prop_assert!(error.location.is_some());
    }
    prop_assert!(!error.to_string().is_empty());
    prop_assert!(error.to_json()["code"].is_string());
    Ok(())
}

/// Words, names and symbols of the language in any order: nearer to statements than any text is.
fn soup() -> impl Strategy<Value = String> {
    let words = headwater_sql::KEYWORDS.iter().map(|word| (*word).to_owned());
    let symbols = [
        "(", ")", ",", ";", ".", "*", "=", "<", "->", "->>", "::", "[", "]", "-", "||", "'x'", "\"y\"", "`z`",
    ];
    let others = [
        "a", "b", "demo", "1", "2.5", "1e3", "'10'", "'a/+/b'", "SECOND", "STRING", "'", "\"", "--", "/*", "é",
    ];
    let piece: Vec<String> = words
        .chain(symbols.iter().chain(&others).map(|text| (*text).to_owned()))
        .collect();
    prop::collection::vec(prop::sample::select(piece), 0..40).prop_map(|pieces| pieces.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_text_parses_or_is_refused_with_a_place(source in "\\PC{0,120}") {
        match parse(&source) {
            Ok(statements) => dump::check_spans(&source, &statements)?,
            Err(error) => check_error(&source, &error)?,
        }
    }

    #[test]
    fn any_words_parse_or_are_refused_with_a_place(source in soup()) {
        match parse(&source) {
            Ok(statements) => dump::check_spans(&source, &statements)?,
            Err(error) => check_error(&source, &error)?,
        }
    }

    /// Anything that parses is bound or refused, and what is bound is a plan that can be stored and read again.
    #[test]
    fn any_select_binds_or_is_refused_with_a_place(source in soup().prop_map(|soup| format!("SELECT a FROM demo {soup}"))) {
        let mut session = Session::default();
        session.run("CREATE STREAM demo;");
        session.run(&source);
    }

    /// A broken statement is refused at its broken place or later, never before it.
    #[test]
    fn a_cut_statement_is_refused_at_its_end(at in 0usize..160) {
        let whole = "SELECT device, AVG(temp) AS t FROM plant WHERE temp > 5 AND site IN ('a', 'b') GROUP BY device, TUMBLING (INTERVAL '10' SECOND) HAVING AVG(temp) > 3 EMIT CHANGES";
        let cut = &whole[..at.min(whole.len())];
        if let Err(error) = parse(cut) {
            check_error(cut, &error)?;
        }
    }
}
