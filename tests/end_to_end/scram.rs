//! SCRAM-SHA-256 with the command that makes verifiers, and with MQTT.js, which computes its proofs with Node's own functions.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::json;
use tempfile::tempdir;

use crate::harness::clients::script;
use crate::harness::server::{Addresses, HEADWATER, refusal};
use crate::harness::{Server, wait_for};

/// `headwater user scram` with a password on its standard input.
fn make(arguments: &[&str], password: &str) -> Output {
    let mut child = Command::new(HEADWATER)
        .args(["user", "scram"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("headwater can be started");
    let mut input = child.stdin.take().expect("stdin is piped");
    // It may have refused the name and gone.
    let _ = writeln!(input, "{password}");
    drop(input);
    child.wait_with_output().expect("it ends")
}

fn line(arguments: &[&str], password: &str) -> String {
    let output = make(arguments, password);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("a line is text")
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).expect("the folder can be written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
}

#[test]
fn mqtt_js_proves_itself_and_nobody_else_is_let_in() {
    let folder = tempdir().unwrap();
    let users = folder.path().join("users");
    let text = line(&["ann"], "pencil") + &line(&["bob, =", "--iterations", "5000"], " two words ");
    write(&users, &text);
    let settings = [
        format!("broker.scram_users={}", users.display()),
        "broker.scram_required=true".to_owned(),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let server = Server::with(&folder.path().join("data"), &settings);
    for (user, password, expected) in [
        ("ann", "pencil", "ok\n"),
        ("bob, =", " two words ", "ok\n"),
        ("ann", "pencils", "refused with 135\n"),
        ("eve", "pencil", "refused with 135\n"),
    ] {
        assert_eq!(
            script(&server, "mqttjs_scram.js", &[user, password]),
            expected,
            "{user} {password}"
        );
    }
    wait_for("what was published", || {
        let rows = server.sql("SELECT _username FROM mqtt WHERE _topic = 'scram/js';");
        let wanted = ["ann", "ann", "bob, =", "bob, ="].map(|user| json!({ "_username": user }));
        if rows == wanted {
            Ok(())
        } else {
            Err(format!("{rows:?}"))
        }
    });
}

#[test]
fn what_is_not_right_is_told() {
    for (arguments, password) in [
        (&["a:b"][..], "x"),
        (&["ann"], ""),
        (&["ann"], "naïve"),
        (&["ann", "--iterations", "1"], "x"),
    ] {
        let output = make(arguments, password);
        assert!(
            !output.status.success() && output.stdout.is_empty(),
            "{arguments:?} {password}: {output:?}"
        );
        assert!(!output.stderr.is_empty());
    }
    let folder = tempdir().unwrap();
    let users = folder.path().join("users");
    write(&users, "# who\nann:pencil\n");
    let setting = format!("broker.scram_users={}", users.display());
    let told = refusal(&folder.path().join("data"), Addresses::free(), &[&setting]);
    assert!(
        told.contains("users:2:") && told.contains("headwater user scram NAME"),
        "{told}"
    );
}
