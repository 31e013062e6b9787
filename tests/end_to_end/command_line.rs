//! What the commands say to a person, and where.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::json;
use tempfile::tempdir;

use crate::harness::Server;
use crate::harness::cli::finish;
use crate::harness::server::{Addresses, HEADWATER, refusal};

fn run(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(HEADWATER)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("headwater can be started");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // It may end before it has read all.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    finish(child, &args.join(" "))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn printed(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn statements_given_together_run_one_after_the_other_or_not_at_all() {
    let folder = tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    let url = server.url("");
    let sql = |args: &[&str]| run(&[&["sql", "--url", &url], args].concat(), "");

    // Without semicolons: each -e is a text of its own.
    let both = sql(&["-e", "CREATE STREAM a", "-e", "INSERT INTO a (n) VALUES (1)"]);
    assert!(both.status.success(), "{}", said(&both));
    assert_eq!(server.sql("SELECT * FROM a;"), [json!({"n": 1})]);

    let slip = sql(&["-e", "CREATE STREAM b;", "-e", "SHOW STREAMS; SELEKT 1"]);
    assert!(!slip.status.success());
    let text = said(&slip);
    assert!(text.contains("-e 2 of 2, statement 2 of 2: error[HW"), "{text}");
    assert!(
        text.contains("1 |               SELEKT 1"),
        "the place is that of the text: {text}"
    );
    let names = server.sql("SHOW STREAMS;");
    assert!(
        !names.iter().any(|stream| stream["name"] == "b"),
        "nothing of it was carried out"
    );

    let refused = sql(&[
        "-e",
        "INSERT INTO a (n) VALUES (2); SELECT * FROM nowhere; INSERT INTO a (n) VALUES (3);",
    ]);
    let text = said(&refused);
    assert!(text.contains("statement 2 of 3: error[HW3001]"), "{text}");
    assert_eq!(
        server.number("SELECT COUNT(*) AS n FROM a;"),
        2,
        "what stands before it is done, what follows is not"
    );
}

#[test]
fn a_slip_is_a_warning_on_standard_error() {
    let folder = tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    server.sql("CREATE STREAM a; INSERT INTO a (n) VALUES ('x');");
    let output = run(
        &[
            "sql",
            "--url",
            &server.url(""),
            "-e",
            "SELECT n FROM a WHERE n = \"x\";",
        ],
        "",
    );
    assert!(output.status.success() && output.stdout.is_empty());
    assert!(
        said(&output).contains("warning: ") && said(&output).contains("write 'x'"),
        "{}",
        said(&output)
    );
}

#[test]
fn commands_work_in_the_middle_of_a_statement() {
    let folder = tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    let url = server.url("");
    let output = run(
        &["sql", "--url", &url],
        "CREATE STREAM a;\nSHOW\n:h\nSTREAMS;\nSELECT\n:q\n* FROM nowhere;\n",
    );
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("terminate query <id>;"), "{}", said(&output));
    assert!(printed(&output).contains("\"name\":\"a\""), "{}", printed(&output));
    let output = run(&["sql", "--url", &url], "INSERT INTO a (n) VALUES ('\n:q\n');\n");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        server.sql("SELECT * FROM a;"),
        [json!({"n": "\n:q\n"})],
        "a string may hold such a line"
    );
}

#[test]
fn what_is_not_there_is_named_with_what_to_do() {
    let folder = tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    let nobody = Addresses::free().mqtt.to_string();
    let http = server.url("").trim_start_matches("http://").to_owned();
    let text = said(&run(&["demo", "--mqtt", &nobody, "--http", &http], ""));
    assert!(
        text.contains(&nobody) && text.contains("headwater serve") && text.contains("--mqtt"),
        "{text}"
    );

    let url = format!("mqtt://{}", server.mqtt());
    let bench = [
        "bench",
        "publish",
        "--url",
        &url,
        "--protocol",
        "5",
        "--topic",
        "$SYS/x",
        "--count",
        "5",
    ];
    let output = run(&bench, "");
    assert!(!output.status.success());
    let text = printed(&output) + &said(&output);
    assert!(text.contains("5 refused: 0x"), "why: {text}");
    let help = printed(&run(&["bench", "publish", "--help"], ""));
    assert!(help.contains("`n` in braces"), "{help}");

    let file = folder.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    let text = refusal(&file, Addresses::free(), &[]);
    assert!(
        text.contains("a file is in its place") && text.contains("--data"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "no colours in a file: {text:?}");
    let nowhere = folder.path().join("nowhere").display().to_string();
    let text = said(&run(&["store", "check", "--data", &nowhere], ""));
    assert!(text.contains("does not exist"), "{text}");
}

#[test]
fn a_log_that_is_lost_is_not_made_anew() {
    let folder = tempdir().unwrap();
    let data = folder.path().join("data");
    assert!(Server::start(&data).stop().success());
    std::fs::rename(data.join("raft"), folder.path().join("kept")).unwrap();
    let text = refusal(&data, Addresses::free(), &[]);
    assert!(text.contains("raft") && text.contains("damaged"), "{text}");
    assert!(!data.join("raft").exists(), "the refusal changes nothing");
    std::fs::rename(folder.path().join("kept"), data.join("raft")).unwrap();
    assert!(Server::start(&data).stop().success());
}
