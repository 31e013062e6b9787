//! The SELECT list: what its items are called, and the columns of the Project operator.

use crate::ast::{self, ExprKind, Item};
use crate::error::{SqlError, codes};
use crate::plan::bind::expression::{Expressions, Place, Typed};
use crate::plan::explain::show;
use crate::plan::physical::{ColumnId, Expr, Schema, SinkItem};
use crate::types::{DataType, Literal};

/// The columns of the Project operator: those people see, then those only keys, topics and ORDER BY need.
#[derive(Debug, Default)]
pub struct Projection {
    /// One for each column.
    pub exprs: Vec<Expr>,
    /// Their names and types.
    pub schema: Schema,
    /// What people see, in order.
    pub items: Vec<SinkItem>,
}

impl Projection {
    fn column(&mut self, expr: &Expr, name: &str, data_type: &DataType) -> ColumnId {
        match self.exprs.iter().position(|known| known == expr) {
            Some(at) => ColumnId(at as u32),
            None => self.push(expr.clone(), name, data_type.clone()),
        }
    }

    fn push(&mut self, expr: Expr, name: &str, data_type: DataType) -> ColumnId {
        self.exprs.push(expr);
        self.schema.push(name, data_type)
    }

    /// A column that people do not see unless an item is the same; `input` is what the projection reads.
    pub fn hidden(&mut self, expr: &Expr, data_type: &DataType, input: &Schema) -> ColumnId {
        self.column(expr, &show(expr, input), data_type)
    }

    fn item(&mut self, typed: Typed, name: &str) {
        let column = self.column(&typed.expr, name, &typed.data_type);
        self.items.push(SinkItem::Column {
            name: name.to_owned(),
            column,
        });
    }
}

/// Binds the items; `names` is what they are called.
pub fn project(
    select: &ast::Select,
    names: &[String],
    expressions: &mut Expressions<'_>,
) -> Result<Projection, SqlError> {
    let mut projection = Projection::default();
    for (item, name) in select.items.iter().zip(names) {
        match item {
            Item::Expr { expr, .. } => {
                let bound = expressions.bind(expr, Place::Item)?;
                projection.item(bound, name);
            }
            Item::All(span) => {
                if expressions.grouping.is_some() {
                    return Err(
                        SqlError::new(codes::NOT_GROUPED, "`*` cannot stand in a query that groups")
                            .at(*span)
                            .help("name the grouping columns and the aggregates"),
                    );
                }
                project_all(names, expressions, &mut projection);
            }
        }
    }
    Ok(projection)
}

/// `*`: the payload as it stands, or the declared columns; what another item is called is left to that item.
fn project_all(names: &[String], expressions: &mut Expressions<'_>, projection: &mut Projection) {
    if expressions.scope.parts() > 1 {
        return project_sides(names, expressions, projection);
    }
    let scope = &mut expressions.scope;
    let (declared, star_at) = (scope.declared(0).to_vec(), scope.star_at(0));
    for place in 0..=declared.len() {
        if star_at == Some(place) {
            let star = Expr::Column(scope.star(0));
            let column = projection.column(&star, "*", &DataType::Jsonb);
            projection.items.push(SinkItem::Star(column));
        }
        let Some((name, data_type)) = declared.get(place) else {
            continue;
        };
        if !names.contains(name)
            && let Some(column) = scope.declared_column(0, name)
        {
            let typed = Typed {
                expr: Expr::Column(column),
                data_type: data_type.clone(),
            };
            projection.item(typed, name);
        }
    }
}

/// `*` of a join: an object for each side, called as that side; NULL where it is not there.
fn project_sides(names: &[String], expressions: &mut Expressions<'_>, projection: &mut Projection) {
    let scope = &mut expressions.scope;
    for part in 0..scope.parts() {
        let name = scope.name(part).to_owned();
        if names.contains(&name) {
            continue;
        }
        let star = match (scope.is_part_open(part), scope.element(&name)) {
            (true, _) => Expr::Column(scope.star(part)),
            (false, Some(element)) => Expr::Column(element),
            (false, None) => {
                let mut arguments = Vec::new();
                for (name, _) in scope.declared(part).to_vec() {
                    if let Some(column) = scope.declared_column(part, &name) {
                        arguments.push(Expr::Literal(Literal::String(name)));
                        arguments.push(Expr::Column(column));
                    }
                }
                Expr::Call {
                    function: "JSON_OBJECT".to_owned(),
                    arguments,
                }
            }
        };
        let typed = Typed {
            expr: star,
            data_type: DataType::Jsonb,
        };
        projection.item(typed, &name);
    }
}

/// A name for each item: its alias, or what it looks like, made unique by a number. `*` has none.
pub fn output_names(items: &[Item]) -> Result<Vec<String>, SqlError> {
    let mut taken: Vec<&str> = Vec::new();
    for item in items {
        if let Item::Expr { alias: Some(alias), .. } = item {
            if taken.contains(&alias.text.as_str()) {
                let message = format!("two items are called `{}`", alias.text);
                return Err(SqlError::new(codes::DUPLICATE_NAME, message).at(alias.span));
            }
            taken.push(&alias.text);
        }
    }
    let mut names: Vec<String> = Vec::new();
    for item in items {
        names.push(match item {
            Item::All(_) => String::new(),
            Item::Expr { alias: Some(alias), .. } => alias.text.clone(),
            Item::Expr { expr, alias: None } => {
                let name = natural_name(expr);
                let free = |name: &String| !taken.contains(&name.as_str()) && !names.contains(name);
                let numbered = (2..).map(|number| format!("{name}_{number}"));
                std::iter::once(name.clone()).chain(numbered).find(free).unwrap_or(name)
            }
        });
    }
    Ok(names)
}

/// What an item without an alias is called.
fn natural_name(expr: &ast::Expr) -> String {
    match &expr.kind {
        ExprKind::Name(name) | ExprKind::Member { name, .. } => name.text.clone(),
        ExprKind::Index { base, index: key } | ExprKind::Arrow { base, key, .. } => match &key.kind {
            ExprKind::Text(text) => text.clone(),
            _ => natural_name(base),
        },
        ExprKind::Cast { operand, .. } => natural_name(operand),
        ExprKind::PathArrow { base, .. } | ExprKind::Slice { base, .. } => natural_name(base),
        ExprKind::Call { name, .. } => name.text.to_ascii_lowercase(),
        ExprKind::Case { .. } => "case".to_owned(),
        _ => "expr".to_owned(),
    }
}
