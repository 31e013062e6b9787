//! What a connector's options may be is the bridge's to say; this is how it says it to CREATE.

use std::collections::BTreeMap;
use std::sync::Arc;

use headwater_store::ConnectorRow;

use crate::error::{Code, codes};

/// Says whether a connector of that kind (`webhook`) and direction (`sink`) can have these options, whose names are in
/// upper case. The bridge knows connectors, and stands above this crate.
pub type ConnectorCheck =
    Arc<dyn Fn(&str, bool, &BTreeMap<String, String>) -> Result<(), ConnectorError> + Send + Sync>;

/// What a connector is doing, for SHOW CONNECTORS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectorStatus {
    /// One word.
    pub state: &'static str,
    /// What went wrong last, since the server was started.
    pub last_error: Option<String>,
}

/// Tells what a connector is doing. It is the bridge that runs them.
pub type ConnectorWatch = Box<dyn Fn(&ConnectorRow) -> ConnectorStatus + Send + Sync>;

/// Why a connector cannot be so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", .help.as_ref().map(|help| format!("; {help}")).unwrap_or_default())]
pub struct ConnectorError {
    /// What sort of mistake it is.
    pub code: Code,
    /// The option that is wrong, in upper case; None: another one is missing, or it is not about options.
    pub option: Option<String>,
    /// One line, lower case, no full stop.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
}

impl ConnectorError {
    /// Not about one option that is there.
    pub fn new(code: Code, message: impl Into<String>) -> ConnectorError {
        ConnectorError {
            code,
            option: None,
            message: message.into(),
            help: None,
        }
    }

    /// An option has a value it cannot have.
    pub fn value(option: &str, message: impl AsRef<str>) -> ConnectorError {
        ConnectorError {
            option: Some(option.to_owned()),
            ..ConnectorError::new(codes::BAD_OPTION, format!("{option}: {}", message.as_ref()))
        }
    }

    /// There is no such option.
    pub fn unknown(option: &str, message: impl Into<String>) -> ConnectorError {
        ConnectorError {
            option: Some(option.to_owned()),
            ..ConnectorError::new(codes::UNKNOWN_OPTION, message)
        }
    }

    /// Says what to do.
    pub fn help(mut self, help: impl Into<String>) -> ConnectorError {
        self.help = Some(help.into());
        self
    }
}
