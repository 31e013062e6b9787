//! FROM 'plant/{site}/+/temp': the messages that clients published to the topics of a filter, in all the streams that are
//! home to them (`homes.rs`).

use headwater_store::TopicFilter;

use crate::ast::Text;
use crate::error::{SqlError, codes};

/// The filter, which may name its levels.
pub fn filter(text: &Text) -> Result<String, SqlError> {
    let filter = TopicFilter::capture(text.text.as_str());
    let filter = filter.map_err(|error| SqlError::new(codes::BAD_TOPIC, error.to_string()).at(text.span))?;
    Ok(filter.as_str().to_owned())
}
