//! `a.b`, `a['b']`, `a[0]`, `a -> 'b'`: a root and constant steps into it.

use std::collections::VecDeque;

use crate::ast::{Expr, ExprKind, Quote, UnaryOp};
use crate::error::{SqlError, codes};
use crate::plan::physical::PathStep;
use crate::span::Span;

/// The steps behind a root that are not yet part of a column.
#[derive(Debug, Default)]
pub struct Steps(VecDeque<(PathStep, Span)>);

impl Steps {
    /// The first step, and where it ends.
    pub fn peek(&self) -> Option<(&PathStep, Span)> {
        self.0.front().map(|(step, span)| (step, *span))
    }

    /// Takes the first step.
    pub fn take(&mut self) -> Option<PathStep> {
        self.0.pop_front().map(|(step, _)| step)
    }

    /// Takes the first step if it is a position.
    pub fn take_index(&mut self) -> Option<i64> {
        let index = match self.0.front() {
            Some((PathStep::Index(index), _)) => *index,
            _ => return None,
        };
        self.0.pop_front();
        Some(index)
    }

    /// Takes the first step if it is a name.
    pub fn take_member(&mut self) -> Option<(String, Span)> {
        match self.0.pop_front() {
            Some((PathStep::Member(name), span)) => Some((name, span)),
            Some(other) => {
                self.0.push_front(other);
                None
            }
            None => None,
        }
    }

    /// Takes what is left.
    pub fn take_all(&mut self) -> Vec<PathStep> {
        self.0.drain(..).map(|(step, _)| step).collect()
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `root` and the steps as people write them: the name of a column in EXPLAIN.
    pub fn label(&self, root: &str) -> String {
        let mut label = root.to_owned();
        for (step, _) in &self.0 {
            match step {
                PathStep::Member(name) => {
                    label.push('.');
                    label.push_str(name);
                }
                PathStep::Index(index) => label.push_str(&format!("[{index}]")),
            }
        }
        label
    }
}

/// The innermost expression that is no step, and the steps into it. `->>` ends a path: it makes text.
pub fn path(expr: &Expr) -> Result<(&Expr, Steps), SqlError> {
    let mut steps = VecDeque::new();
    let mut at = expr;
    loop {
        let (base, step, span) = match &at.kind {
            ExprKind::Member { base, name } => (base, PathStep::Member(name.text.clone()), name.span),
            ExprKind::Index { base, index } => (base, step(index)?, index.span),
            ExprKind::Arrow {
                base,
                key,
                as_text: false,
            } => (base, step(key)?, key.span),
            ExprKind::PathArrow {
                base,
                path,
                as_text: false,
            } => {
                let several = several(path)?.into_iter().rev();
                several.for_each(|step| steps.push_front((step, path.span)));
                at = base;
                continue;
            }
            _ => return Ok((at, Steps(steps))),
        };
        steps.push_front((step, span));
        at = base;
    }
}

/// The steps of `#>`: `'{a,0}'` as PostgreSQL writes them, or an array of keys and positions.
pub fn several(path: &Expr) -> Result<Vec<PathStep>, SqlError> {
    match &path.kind {
        ExprKind::Array(steps) => steps.iter().map(step).collect(),
        ExprKind::Text(text) => {
            let inside = text.trim();
            let inside = inside
                .strip_prefix('{')
                .and_then(|inside| inside.strip_suffix('}'))
                .unwrap_or(inside);
            let step = |text: &str| match text.trim().parse() {
                Ok(index) => PathStep::Index(index),
                Err(_) => PathStep::Member(text.trim().to_owned()),
            };
            Ok(inside.split(',').map(step).collect())
        }
        _ => Ok(vec![step(path)?]),
    }
}

/// A constant key or position.
pub fn step(key: &Expr) -> Result<PathStep, SqlError> {
    let position = |text: &str, sign: i64, span| match text.parse::<i64>() {
        Ok(index) => Ok(PathStep::Index(index * sign)),
        Err(_) => Err(SqlError::new(codes::BAD_LITERAL, format!("`{text}` is not a position")).at(span)),
    };
    match &key.kind {
        ExprKind::Text(text) => Ok(PathStep::Member(text.clone())),
        ExprKind::Name(name) if name.quote == Quote::Double => Ok(PathStep::Member(name.text.clone())),
        ExprKind::Number(text) => position(text, 1, key.span),
        ExprKind::Unary {
            op: UnaryOp::Minus,
            operand,
        } => match &operand.kind {
            ExprKind::Number(text) => position(text, -1, key.span),
            _ => Err(not_constant(key)),
        },
        _ => Err(not_constant(key)),
    }
}

fn not_constant(key: &Expr) -> SqlError {
    SqlError::not_supported("a key or position that is not constant", key.span)
        .help("write a name in quotes, as in `a['name']`, or a whole number, as in `a[0]`")
}
