//! `headwater demo`, which `./x run` shows, gives what the files say it must: alerts and daily averages are worked out
//! here once more, straight from the CSV.

use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::tempdir;

use crate::harness::cli::finish;
use crate::harness::server::HEADWATER;
use crate::harness::{Server, wait_for};

const FILES: [(&str, &str); 2] = [
    ("seattle", include_str!("../../data/seattle-temps.csv")),
    ("sf", include_str!("../../data/sf-temps.csv")),
];

#[test]
fn a_year_of_two_cities_and_a_second_run_adds_nothing() {
    let folder = tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    for run in 1..=2 {
        let output = finish(demo(&server), "headwater demo");
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "run {run}: {stdout}\n{stderr}");
        assert!(
            stdout.contains("17518 readings stored") && stdout.contains("Not final yet: seattle 2010-12-"),
            "run {run}: {stdout}"
        );
        assert_results(&server);
    }
}

/// The server dies in the middle of the replay. The next run sends what is missing, and every result is there once.
#[test]
fn a_replay_that_was_cut_off_goes_on_where_it_was() {
    let folder = tempdir().unwrap();
    let mut server = Server::start(&folder.path().join("data"));
    let replay = demo(&server);
    wait_for("a part of the replay", || {
        let stored = server
            .sql("SHOW STREAMS;")
            .iter()
            .any(|stream| stream["name"] == "sensors")
            && server.number("SELECT COUNT(*) AS n FROM sensors;") > 3000;
        if stored {
            Ok(())
        } else {
            Err("not yet 3 000 readings".into())
        }
    });
    server.kill();
    let output = finish(replay, "headwater demo");
    assert!(!output.status.success(), "it must say that the server is gone");

    server.start_again();
    let output = finish(demo(&server), "headwater demo");
    assert!(
        output.status.success(),
        "{}\n{}",
        text(&output.stdout),
        text(&output.stderr)
    );
    assert_results(&server);
}

fn demo(server: &Server) -> Child {
    Command::new(HEADWATER)
        .args([
            "demo",
            "--mqtt",
            &server.mqtt().to_string(),
            "--http",
            &server.http().to_string(),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("headwater can be started")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_results(server: &Server) {
    assert_eq!(server.number("SELECT COUNT(*) AS n FROM sensors;"), 17_518);
    let alerts = server.sql("SELECT device, temp, date FROM alerts;");
    let daily = server.sql("SELECT device, day, average, coldest, hottest FROM daily;");
    for (device, csv) in FILES {
        let readings = readings(csv);
        let hot: Vec<_> = readings.iter().filter(|(_, temp)| *temp > 72.0).cloned().collect();
        let got: Vec<_> = of(device, &alerts)
            .map(|row| (string(&row["date"]), number(&row["temp"])))
            .collect();
        assert_eq!(got, hot, "alerts of {device}");

        let mut days: Vec<_> = readings.chunk_by(|a, b| a.0[..10] == b.0[..10]).collect();
        // The last two days are open until event time passes their end by a day; later, while nothing comes in, they
        // close as time goes by.
        let got: Vec<_> = of(device, &daily).collect();
        assert!(
            got.len() >= days.len() - 2,
            "{} of {} days of {device} are final",
            got.len(),
            days.len()
        );
        days.truncate(got.len());
        for (day, row) in days.iter().zip(got) {
            let date = day[0].0[..10].replace('/', "-");
            assert!(
                string(&row["day"]).starts_with(&date),
                "{device}: {row} should be {date}"
            );
            let temps: Vec<f64> = day.iter().map(|(_, temp)| *temp).collect();
            let average = temps.iter().sum::<f64>() / temps.len() as f64;
            assert!(
                (number(&row["average"]) - average).abs() < 1e-9,
                "{device} {date}: {row}, average {average}"
            );
            assert_eq!(
                number(&row["coldest"]),
                temps.iter().copied().fold(f64::MAX, f64::min),
                "{device} {date}"
            );
            assert_eq!(
                number(&row["hottest"]),
                temps.iter().copied().fold(f64::MIN, f64::max),
                "{device} {date}"
            );
        }
    }
}

fn readings(csv: &str) -> Vec<(String, f64)> {
    let mut lines = csv.lines();
    let date_first = lines.next() == Some("date,temp");
    lines
        .map(|line| {
            let (a, b) = line.split_once(',').unwrap();
            let (date, temp) = if date_first { (a, b) } else { (b, a) };
            (date.to_owned(), temp.parse().unwrap())
        })
        .collect()
}

fn of<'a>(device: &'a str, rows: &'a [Value]) -> impl Iterator<Item = &'a Value> {
    rows.iter().filter(move |row| row["device"] == device)
}

fn string(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no string"))
        .to_owned()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}
