//! EXPLAIN for programs: the operators of a plan as JSON, and as a graph for Graphviz.

use serde_json::{Value, json};

use crate::plan::explain::{Measured, inputs, measure_text, operator};
use crate::plan::physical::{Form, Node, Op, Plan, Silence, StateBound};

/// One object: the operators in order, inputs before users, and lines on what the query shares.
pub(crate) fn json(plan: &Plan, measured: &Measured<'_>, shared: &[String]) -> Value {
    let node = |node: &Node| {
        let name = |number: usize| node.schema.columns.get(number).map(|column| column.name.as_str());
        let columns = node.schema.columns.iter();
        let mut drawn = json!({
            "id": node.id.0,
            "operator": kind(&node.op),
            "text": operator(node, &inputs(plan, node)),
            "inputs": node.inputs.iter().map(|id| id.0).collect::<Vec<_>>(),
            "columns": columns.map(|column| json!({
                "name": column.name,
                "type": column.data_type.to_string(),
            })).collect::<Vec<_>>(),
            "form": match node.form {
                Form::Append => "append",
                Form::Upsert => "upsert",
                Form::Retract => "retract",
            },
            "key": node.key.iter().filter_map(|column| name(column.index())).collect::<Vec<_>>(),
            "state": match node.bound {
                StateBound::Stateless => json!("none"),
                StateBound::Windows { retention_us } => json!({ "bounded_us": retention_us }),
                StateBound::Keys => json!("unbounded"),
                StateBound::Waiting => json!("waiting changes"),
            },
        });
        if let (Some(measure), Some(drawn)) = (measured(node.id), drawn.as_object_mut()) {
            let took_us = measure.took.as_micros() as u64;
            let done = json!({ "rows_in": measure.rows_in, "rows_out": measure.rows_out, "took_us": took_us });
            drawn.insert("measured".to_owned(), done);
        }
        drawn
    };
    let operators: Vec<_> = plan.nodes.iter().map(node).collect();
    json!({
        "limit": plan.limit,
        "each_input": plan.manner.each_input,
        "idle": match plan.manner.silence {
            Silence::Elapsed => "elapsed",
            Silence::Clock => "clock",
        },
        "operators": operators,
        "shared": shared,
    })
}

/// The lines of a directed graph; records flow along its edges. What the query shares stands below it.
pub(crate) fn dot(plan: &Plan, measured: &Measured<'_>, shared: &[String]) -> Vec<String> {
    let quoted = |text: &str| {
        format!(
            "\"{}\"",
            text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
        )
    };
    let mut lines = vec!["digraph plan {".to_owned(), "  node [shape=box];".to_owned()];
    if !shared.is_empty() {
        lines.push(format!("  label={};", quoted(&shared.join("\n"))));
    }
    for node in &plan.nodes {
        let done = measured(node.id).map(|measure| format!("\n{}", measure_text(measure)));
        let label = operator(node, &inputs(plan, node)) + &done.unwrap_or_default();
        lines.push(format!("  n{} [label={}];", node.id.0, quoted(&label)));
        let edges = node
            .inputs
            .iter()
            .map(|input| format!("  n{} -> n{};", input.0, node.id.0));
        lines.extend(edges);
    }
    lines.push("}".to_owned());
    lines
}

fn kind(op: &Op) -> &'static str {
    match op {
        Op::Source(_) => "Source",
        Op::Homes(_) => "Homes",
        Op::Filter(_) => "Filter",
        Op::Project(_) => "Project",
        Op::Exchange(_) => "Exchange",
        Op::Window(_) => "Window",
        Op::Aggregate(_) | Op::WindowAggregate { .. } => "Aggregate",
        Op::Sink(_) => "Sink",
        Op::Throttle(_) => "Throttle",
        Op::View { .. } => "View",
        Op::FromUpsert { .. } => "FromUpsert",
        Op::Latest { .. } => "Latest",
        Op::Join(_) => "Join",
        Op::JoinTables { .. } => "JoinTables",
        Op::JoinIf { tables, .. } => match tables {
            None => "Join",
            Some(_) => "JoinTables",
        },
        Op::Union => "Union",
        Op::Unnest(_) => "Unnest",
        Op::Over(_) => "Over",
        Op::Rank(_) => "Rank",
        Op::Newest { .. } => "Newest",
        Op::Retime { .. } => "Retime",
    }
}
