//! INSERT: constants to payloads.

use std::sync::Arc;

use headwater_store::{Format, StreamRow, TopicName};

use crate::ast::{self, ExprKind, Insert, InsertValues, Name, UnaryOp};
use crate::error::{SqlError, codes};
use crate::expression::Expression;
use crate::function::Scope as Moment;
use crate::insert::InsertRow;
use crate::parse::did_you_mean;
use crate::plan::bind::expression::{Expressions, Place};
use crate::plan::bind::scope::{Scope, is_system_name};
use crate::plan::bind::{Binder, write_rules};
use crate::plan::physical::{Expr, WriteRules};
use crate::span::Span;
use crate::types::{DataType, TimestampUs};
use crate::value::{Value, cast, write_json_string};

/// A bound INSERT.
#[derive(Debug, Clone)]
pub struct BoundInsert {
    /// Where to.
    pub stream: Arc<StreamRow>,
    /// How its records are keyed, checked and addressed.
    pub rules: WriteRules,
    /// In the order they were written.
    pub rows: Vec<InsertRow>,
}

/// Binds an INSERT; `now` is what NOW() gives.
pub fn insert(binder: &Binder<'_>, insert: &Insert, now: TimestampUs) -> Result<BoundInsert, SqlError> {
    let stream = binder.stream(&insert.stream)?;
    if let Some(query) = &stream.query {
        return Err(SqlError::new(
            codes::NOT_ALLOWED,
            format!("stream `{}` is written by query `{query}`", stream.name),
        )
        .at(insert.stream.span)
        .help("insert into the streams that the query reads"));
    }
    let rules = write_rules(stream)?;
    let constants = Constants { stream, now };
    let rows = match &insert.values {
        InsertValues::Query { select, .. } => {
            return Err(SqlError::internal("a query brings no rows of its own").at(select.span));
        }
        InsertValues::Payloads(payloads) => payloads
            .iter()
            .map(|payload| constants.payload(payload))
            .collect::<Result<_, _>>()?,
        InsertValues::Rows { columns: None, rows } if stream.columns.is_empty() => rows
            .iter()
            .map(|row| constants.lone_value(row))
            .collect::<Result<_, _>>()?,
        InsertValues::Rows { columns, rows } => {
            let columns = constants.columns(columns.as_deref())?;
            rows.iter()
                .map(|row| constants.object(&columns, row))
                .collect::<Result<_, _>>()?
        }
    };
    Ok(BoundInsert {
        stream: stream.clone(),
        rules,
        rows,
    })
}

/// A column of an INSERT.
struct Target {
    name: String,
    data_type: DataType,
    not_null: bool,
}

struct Constants<'a> {
    stream: &'a Arc<StreamRow>,
    now: TimestampUs,
}

impl Constants<'_> {
    /// `VALUES '{"a": 1}'`: the whole payload.
    fn payload(&self, ast: &ast::Expr) -> Result<InsertRow, SqlError> {
        let payload = match (self.value(ast)?, self.stream.options.format) {
            // CAST(… AS BYTEA) is stored as it is, as HStreamDB's raw records are.
            (Value::Bytea(bytes), _) => bytes,
            (Value::String(text), Format::Text | Format::Raw) => text.into_bytes(),
            (Value::String(text) | Value::Json(text), _) => {
                let parsed: Result<&serde_json::value::RawValue, _> = serde_json::from_str(&text);
                parsed.map_err(|error| {
                    SqlError::new(codes::BAD_LITERAL, format!("this is not JSON: {error}"))
                        .at(ast.span)
                        .help(r#"write an object, as in '{"temperature": 22}'"#)
                })?;
                text.into_bytes()
            }
            (other, _) => {
                let message = format!(
                    "a record is a JSON text, not {}",
                    super::expression::article(&other.data_type())
                );
                return Err(SqlError::new(codes::WRONG_TYPE, message).at(ast.span));
            }
        };
        Ok(InsertRow { payload, topic: None })
    }

    /// `VALUES ('{"a": 1}')` on a stream without declared columns.
    fn lone_value(&self, row: &ast::Row) -> Result<InsertRow, SqlError> {
        match row.values.as_slice() {
            [one] => self.payload(one),
            _ => Err(SqlError::new(
                codes::WRONG_COUNT,
                format!("stream `{}` has no declared columns", self.stream.name),
            )
            .at(row.span)
            .help(format!("name them: INSERT INTO {} (a, b) VALUES (…)", self.stream.name))),
        }
    }

    /// What the values are for.
    fn columns(&self, names: Option<&[Name]>) -> Result<Vec<Target>, SqlError> {
        let declared = self.stream.columns.iter().map(|column| {
            let data_type = column
                .data_type
                .parse()
                .map_err(|error| SqlError::internal(format!("{error}")))?;
            Ok(Target {
                name: column.name.clone(),
                data_type,
                not_null: column.not_null,
            })
        });
        let declared: Vec<Target> = declared.collect::<Result<_, SqlError>>()?;
        let Some(names) = names else { return Ok(declared) };
        let mut targets: Vec<Target> = Vec::with_capacity(names.len());
        for name in names {
            if targets.iter().any(|target| target.name == name.text) {
                return Err(
                    SqlError::new(codes::DUPLICATE_NAME, format!("column `{}` is named twice", name.text))
                        .at(name.span),
                );
            }
            let known = declared.iter().find(|column| column.name == name.text);
            targets.push(Target {
                name: name.text.clone(),
                data_type: self.target_type(name, known, &declared)?,
                not_null: known.is_some_and(|column| column.not_null),
            });
        }
        match declared
            .iter()
            .find(|column| column.not_null && targets.iter().all(|target| target.name != column.name))
        {
            Some(missing) => {
                let span = names
                    .first()
                    .map_or(Span::default(), |first| first.span.to(names[names.len() - 1].span));
                Err(SqlError::new(
                    codes::NOT_NULL,
                    format!("column `{}` is NOT NULL and is not given", missing.name),
                )
                .at(span))
            }
            None => Ok(targets),
        }
    }

    fn target_type(&self, name: &Name, known: Option<&Target>, declared: &[Target]) -> Result<DataType, SqlError> {
        let wrong = |message: String| SqlError::new(codes::UNKNOWN_COLUMN, message).at(name.span);
        if name.text == "_topic" {
            return Ok(DataType::String);
        }
        if is_system_name(&name.text) {
            return Err(wrong(format!("`{}` cannot be written", name.text))
                .help("of the system columns only `_topic` can be given"));
        }
        if self
            .stream
            .capture_filters()
            .any(|filter| filter.capture_names().any(|captured| captured == name.text))
        {
            return Err(
                wrong(format!("`{}` comes from the topic and cannot be written", name.text))
                    .help("give the whole topic as `_topic`"),
            );
        }
        match (known, self.stream.options.format) {
            (Some(column), _) => Ok(column.data_type.clone()),
            (None, Format::Text) if name.text == "value" => Ok(DataType::String),
            (None, Format::Raw) if name.text == "value" => Ok(DataType::Bytea),
            (None, Format::Json) if declared.is_empty() => Ok(DataType::Any),
            _ => {
                let names = declared.iter().map(|column| column.name.as_str());
                let message = format!("column `{}` does not exist in stream `{}`", name.text, self.stream.name);
                Err(wrong(message).help_if(did_you_mean(&name.text, names)))
            }
        }
    }

    /// `(columns) VALUES (values)`: a JSON object, or the one value of TEXT and RAW.
    fn object(&self, columns: &[Target], row: &ast::Row) -> Result<InsertRow, SqlError> {
        if row.values.len() != columns.len() {
            let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
            let message = format!(
                "{} for {}",
                plural(row.values.len(), "value"),
                plural(columns.len(), "column")
            );
            return Err(SqlError::new(codes::WRONG_COUNT, message).at(row.span));
        }
        let (mut json, mut topic) = (String::from("{"), None);
        for (column, ast) in columns.iter().zip(&row.values) {
            let value = self.value(ast)?;
            if column.name == "_topic" {
                topic = self.topic(&value, ast.span)?;
                continue;
            }
            let given = value.clone();
            let value = self.fitting(column, value, ast.span)?;
            if let (Value::String(text), Format::Text) = (&value, self.stream.options.format) {
                return Ok(InsertRow {
                    payload: text.clone().into_bytes(),
                    topic,
                });
            }
            if let (Value::Bytea(bytes), Format::Raw) = (&value, self.stream.options.format) {
                return Ok(InsertRow {
                    payload: bytes.clone(),
                    topic,
                });
            }
            if json.len() > 1 {
                json.push(',');
            }
            write_json_string(&column.name, &mut json);
            json.push(':');
            let keeps = matches!(column.data_type, DataType::Float | DataType::Decimal(_)) || value == given;
            match spelled_number(ast).filter(|_| keeps) {
                // `9001.0` stays `9001.0`; for an INTEGER column 7.6 is 8.
                Some(number) => json.push_str(&number),
                None => value.write_json(&mut json),
            }
        }
        json.push('}');
        Ok(InsertRow {
            payload: json.into(),
            topic,
        })
    }

    fn topic(&self, value: &Value, span: Span) -> Result<Option<TopicName>, SqlError> {
        let Some(text) = value.as_str() else {
            return if value.is_null() {
                Ok(None)
            } else {
                Err(SqlError::new(codes::WRONG_TYPE, "_topic takes a STRING").at(span))
            };
        };
        let topic =
            TopicName::new(text).map_err(|error| SqlError::new(codes::BAD_TOPIC, error.to_string()).at(span))?;
        if topic.is_reserved() {
            return Err(SqlError::new(codes::BAD_TOPIC, "topics that begin with `$` belong to the server").at(span));
        }
        if !self.stream.capture_filters().any(|filter| filter.matches(&topic)) {
            let message = format!("topic `{topic}` does not belong to stream `{}`", self.stream.name);
            return Err(SqlError::new(codes::BAD_TOPIC, message)
                .at(span)
                .detail("it must match a filter of the stream's FROM TOPIC"));
        }
        Ok(Some(topic))
    }

    fn fitting(&self, column: &Target, value: Value, span: Span) -> Result<Value, SqlError> {
        if value.is_null() && column.not_null {
            return Err(SqlError::new(codes::NOT_NULL, format!("column `{}` is NOT NULL", column.name)).at(span));
        }
        cast(&value, &column.data_type).map_err(|fault| {
            let message = format!(
                "column `{}` takes {}: {fault}",
                column.name,
                super::expression::article(&column.data_type)
            );
            SqlError::new(codes::WRONG_TYPE, message).at(span)
        })
    }

    /// The value of a constant expression.
    fn value(&self, ast: &ast::Expr) -> Result<Value, SqlError> {
        let scope = Scope::new(self.stream, &self.stream.name, &[])?;
        let bound = Expressions::new(scope).bind(ast, Place::Option)?;
        let mut constant = true;
        bound
            .expr
            .walk(&mut |part| constant &= !matches!(part, Expr::Column(_)));
        if !constant {
            return Err(
                SqlError::new(codes::NOT_CONSTANT, "VALUES takes constants, this names a column")
                    .at(ast.span)
                    .help("strings are written in quotes"),
            );
        }
        Expression::constant(&bound.expr, &Moment { now: self.now })
            .map_err(|error| SqlError::new(codes::WRONG_TYPE, error.to_string()).at(ast.span))
    }
}

/// A number literal as it was written, where JSON writes it so too.
fn spelled_number(ast: &ast::Expr) -> Option<String> {
    let (sign, text) = match &ast.kind {
        ExprKind::Number(text) => ("", text),
        ExprKind::Unary {
            op: UnaryOp::Minus,
            operand,
        } => match &operand.kind {
            ExprKind::Number(text) => ("-", text),
            _ => return None,
        },
        _ => return None,
    };
    let spelled = format!("{sign}{text}");
    let valid = serde_json::from_str::<&serde_json::value::RawValue>(&spelled).is_ok();
    valid.then_some(spelled)
}
