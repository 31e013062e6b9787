//! A store and an engine on a folder of their own, for statements that are carried out and not only bound.

use std::sync::Arc;

use headwater_config::Config;
use headwater_sql::{ConnectorError, Engine, Outcome, codes};
use headwater_store::{Store, SystemClock};
use tokio::runtime::Runtime;

pub struct Node {
    engine: Engine,
    runtime: Runtime,
    _folder: tempfile::TempDir,
}

impl Node {
    pub fn start() -> Node {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::embedded().unwrap();
        config.store.path = folder.path().join("data");
        config.sql.threads = 1;
        let store = Store::open(&config.store, Arc::new(SystemClock)).unwrap();
        // Stands for the bridge, which knows webhooks.
        let check = |kind: &str, _: bool, options: &std::collections::BTreeMap<String, String>| {
            if kind != "webhook" {
                let message = format!("connectors to {kind} are not supported yet");
                return Err(ConnectorError::new(codes::NOT_SUPPORTED, message));
            }
            if options.contains_key("URI") {
                let error = ConnectorError::unknown("URI", "a webhook has no option `URI`");
                return Err(error.help("did you mean `URL`?"));
            }
            match options.get("URL") {
                Some(url) if url.starts_with("https://") => Ok(()),
                Some(_) => Err(ConnectorError::value("URL", "it must begin with https://")),
                None => Err(ConnectorError::new(codes::BAD_OPTION, "a webhook needs the option URL")),
            }
        };
        let engine = Engine::start(store, &config.sql, Arc::new(check)).unwrap();
        let runtime = Runtime::new().unwrap();
        Node {
            engine,
            runtime,
            _folder: folder,
        }
    }

    /// Carries the statements out and gives their answers, a line each. Times are masked.
    pub fn run(&self, text: &str) -> String {
        self.runtime.block_on(async {
            let outcomes = match self.engine.execute(text).await {
                Ok(outcomes) => outcomes,
                Err(error) => return error.to_string(),
            };
            let mut lines = Vec::new();
            for outcome in outcomes {
                match outcome {
                    Outcome::Done { message, warnings } => {
                        lines.push(message);
                        lines.extend(warnings.iter().map(|warning| format!("warning: {warning}")));
                    }
                    Outcome::Rows(rows) => {
                        lines.extend(rows.warnings().iter().map(|warning| format!("warning: {warning}")));
                        match rows.collect().await {
                            Ok(rows) => lines.extend(rows.iter().map(|row| masked(row))),
                            Err(error) => lines.push(error.to_string()),
                        }
                    }
                    Outcome::Changes(_) => lines.push("(changes)".to_owned()),
                }
            }
            lines.join("\n")
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.runtime.block_on(async {
            self.engine.stop().await;
            self.engine.store().stop().await;
        });
    }
}

/// What differs from run to run: times, and how far a query's tasks have come.
fn masked(row: &str) -> String {
    let mut row: serde_json::Value = serde_json::from_str(row).unwrap();
    if let Some(object) = row.as_object_mut() {
        for (name, value) in object {
            let running = name == "state" && matches!(value.as_str(), Some("waiting" | "running"));
            if matches!(name.as_str(), "created" | "windows" | "rate" | "state_bytes") {
                *value = "…".into();
            } else if running {
                *value = "running or waiting".into();
            } else if let ("plan", Some(line)) = (name.as_str(), value.as_str()) {
                *value = without_times(line).into();
            }
        }
    }
    let operators = row.get_mut("operators").and_then(|operators| operators.as_array_mut());
    for operator in operators.into_iter().flatten() {
        if let Some(took) = operator.get_mut("measured").and_then(|done| done.get_mut("took_us")) {
            *took = "…".into();
        }
    }
    row.to_string()
}

/// `took 1.204 ms` of EXPLAIN ANALYZE.
fn without_times(line: &str) -> String {
    match line
        .split_once("took ")
        .and_then(|(before, rest)| Some((before, rest.split_once(" ms")?.1)))
    {
        Some((before, behind)) => format!("{before}took … ms{behind}"),
        None => line.to_owned(),
    }
}
