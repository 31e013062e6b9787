//! Where a query's rows go: their key, their topic, and what places them.

use headwater_store::Qos;

use crate::ast::{self, Item, Name};
use crate::error::{SqlError, codes};
use crate::plan::bind::expression::{Expressions, Grouping, Place, Typed};
use crate::plan::bind::projection::Projection;
use crate::plan::bind::template::ParsedTemplate;
use crate::plan::physical::{ColumnId, Expr, Routing, Schema, Sink, Template, TemplatePart};
use crate::record_key::as_it_is;
use crate::types::{DataType, Literal};

/// What a query's rows become, beyond what SELECT itself says.
#[derive(Debug)]
pub struct Output<'a> {
    /// The stream it writes.
    pub name: &'a Name,
    /// TOPIC
    pub topic: Option<ParsedTemplate>,
    /// KEY, or the PRIMARY KEY columns of a table. Empty: the source's own key.
    pub keys: Vec<ast::Expr>,
    /// The rows that are there now are kept: it is a view or table.
    pub view: Option<View>,
    /// QOS
    pub qos: Qos,
    /// RETAIN
    pub retain: bool,
}

/// What is said of a view besides its query.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// Rows of windows are dropped so long after the window's start.
    pub retention_us: Option<i64>,
}

/// What places a row, for the Exchange (over the source) and for the Sink (over the projection), with the record's key.
pub fn routing(
    expressions: &mut Expressions<'_>,
    projection: &mut Projection,
    names: &[String],
    select: &ast::Select,
    output: Option<&Output<'_>>,
) -> Result<(Routing, Sink), SqlError> {
    let template = match output.and_then(|output| output.topic.as_ref()) {
        Some(template) => {
            check_template(template, expressions, names, select)?;
            Some(template.bind(expressions, Place::Output)?)
        }
        None => None,
    };
    let (key, window_key) = key(expressions, output)?;
    let named = output.is_some_and(|output| !output.keys.is_empty()) || expressions.grouping.is_some();
    let passed_on = |expr: Expr| match expressions.key_is_records && !named {
        true => as_it_is(expr),
        false => expr,
    };
    if let (Some(template), Some(Output { retain: true, .. }), true) = (&template, output, named) {
        let schema = expressions.item_schema();
        let warning = left_out(template, &key, &schema);
        expressions.warnings.extend(warning);
    }
    let to_source = |expr: &Expr| over_source(expr, expressions.grouping.as_ref());
    let exchange = Routing {
        topic: template.as_ref().map(|template| map_template(template, to_source)),
        key: key.iter().map(|typed| passed_on(to_source(&typed.expr))).collect(),
    };
    let input = expressions.item_schema();
    let mut placed = |typed: &Typed| match &typed.expr {
        constant @ Expr::Literal(_) => constant.clone(),
        expr => Expr::Column(projection.hidden(expr, &typed.data_type, &input)),
    };
    let routing_key: Vec<Expr> = key.iter().map(|typed| passed_on(placed(typed))).collect();
    let window_key = window_key.as_ref().map(&mut placed);
    let topic = template.map(|template| {
        map_template(&template, |expr| {
            Expr::Column(projection.hidden(expr, &expr.data_type(&input), &input))
        })
    });
    let key = routing_key.iter().cloned().chain(window_key).collect();
    let routing = Routing {
        topic,
        key: routing_key,
    };
    let (qos, retain) = output.map_or((Qos::AtMostOnce, false), |output| (output.qos, output.retain));
    Ok((
        exchange,
        Sink {
            items: projection.items.clone(),
            key,
            routing,
            qos,
            retain,
        },
    ))
}

/// The expressions of a row's key, and `window_start` where the row is one of a window.
fn key(
    expressions: &mut Expressions<'_>,
    output: Option<&Output<'_>>,
) -> Result<(Vec<Typed>, Option<Typed>), SqlError> {
    let own = output.map_or(&[][..], |output| &output.keys);
    let Some(grouping) = &expressions.grouping else {
        let mut keys = Vec::with_capacity(own.len());
        for key in own {
            keys.push(expressions.bind(key, Place::Output)?);
        }
        if keys.is_empty() {
            let of_row = expressions.key.iter().map(|expr| Typed {
                expr: expr.clone(),
                data_type: expr.data_type(&expressions.scope.schema),
            });
            keys.extend(of_row);
        }
        return Ok((keys, None));
    };
    if let Some(own) = own.first() {
        return Err(
            SqlError::new(codes::BAD_OPTION, "KEY cannot be given to a query that groups")
                .at(own.span)
                .detail("its key is GROUP BY, with window_start where there is a window"),
        );
    }
    let column = |number: usize, data_type: &DataType| Typed {
        expr: Expr::Column(ColumnId(number as u32)),
        data_type: data_type.clone(),
    };
    let mut key: Vec<_> = grouping
        .group
        .iter()
        .enumerate()
        .map(|(number, group)| column(number, &group.data_type))
        .collect();
    let window = grouping
        .windowed
        .then(|| column(grouping.group.len(), &DataType::Timestamp));
    if key.is_empty() {
        // One group for all: one key for all, so that its rows stay together.
        key.push(Typed {
            expr: Expr::Literal(Literal::String(String::new())),
            data_type: DataType::String,
        });
    }
    Ok((key, window))
}

/// A template reads the output: its columns must be selected, and be grouping columns where the query groups, because
/// the state of a group lives where its results go.
fn check_template(
    template: &ParsedTemplate,
    expressions: &mut Expressions<'_>,
    names: &[String],
    select: &ast::Select,
) -> Result<(), SqlError> {
    let all = select.items.iter().any(|item| matches!(item, Item::All(_)));
    for name in template.names() {
        if !all && !names.contains(&name.text) {
            let message = format!(
                "the topic template names `{}`, which the query does not select",
                name.text
            );
            return Err(SqlError::new(codes::UNKNOWN_COLUMN, message)
                .at(template.span())
                .help(format!("add `{}` to the SELECT list", name.text)));
        }
        let place = names.iter().position(|known| *known == name.text);
        let (Some(place), Some(grouping)) = (place, &expressions.grouping) else {
            continue;
        };
        let (groups, Item::Expr { expr, .. }) = (grouping.group.len(), &select.items[place]) else {
            continue;
        };
        let bound = expressions.bind(expr, Place::Item)?;
        if !matches!(bound.expr, Expr::Column(column) if column.index() < groups) {
            let message = format!("the topic template names `{}`, which is no grouping column", name.text);
            return Err(SqlError::new(codes::BAD_TOPIC, message)
                .at(template.span())
                .detail(
                    "the state of a group lives where its results go, so the topic must be known from GROUP BY alone",
                )
                .help("use only grouping columns in TOPIC"));
        }
    }
    Ok(())
}

/// What is to be said of a topic with RETAIN that rows of several keys share.
fn left_out(template: &Template, key: &[Typed], schema: &Schema) -> Option<String> {
    let is_in = |part: &&Typed| {
        let same = |of: &TemplatePart| matches!(of, TemplatePart::Value { expr, .. } if *expr == part.expr);
        matches!(part.expr, Expr::Literal(_)) || template.parts.iter().any(same)
    };
    let missing: Vec<String> = key
        .iter()
        .filter(|part| !is_in(part))
        .map(|part| match &part.expr {
            Expr::Column(column) => format!("`{}`", schema.columns[column.index()].name),
            _ => "a part".to_owned(),
        })
        .collect();
    (!missing.is_empty()).then(|| {
        format!(
            "TOPIC leaves out {} of the key: rows of several keys share one retained message, and the last to change is the one that stays",
            missing.join(", ")
        )
    })
}

fn map_template(template: &Template, mut map: impl FnMut(&Expr) -> Expr) -> Template {
    let part = |part: &TemplatePart| match part {
        TemplatePart::Text(text) => TemplatePart::Text(text.clone()),
        TemplatePart::Value { expr, slashes } => TemplatePart::Value {
            expr: map(expr),
            slashes: *slashes,
        },
    };
    Template {
        parts: template.parts.iter().map(part).collect(),
    }
}

/// An expression over group columns as one over the source.
fn over_source(expr: &Expr, grouping: Option<&Grouping>) -> Expr {
    let mut expr = expr.clone();
    if let Some(grouping) = grouping {
        expr.replace_columns(&mut |column| grouping.group.get(column.index()).map(|group| group.expr.clone()));
    }
    expr
}
