//! EXPLAIN for programs: the operators of a plan as JSON, and as a graph for Graphviz.

use serde_json::{Value, json};

use crate::plan::explain::{inputs, operator};
use crate::plan::physical::{Form, Node, Op, Plan, StateBound};

/// One object: the operators in order, inputs before users.
pub fn json(plan: &Plan) -> Value {
    let node = |node: &Node| {
        let name = |number: usize| node.schema.columns.get(number).map(|column| column.name.as_str());
        let columns = node.schema.columns.iter();
        json!({
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
        })
    };
    json!({ "limit": plan.limit, "operators": plan.nodes.iter().map(node).collect::<Vec<_>>() })
}

/// The lines of a directed graph; records flow along its edges.
pub fn dot(plan: &Plan) -> Vec<String> {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut lines = vec!["digraph plan {".to_owned(), "  node [shape=box];".to_owned()];
    for node in &plan.nodes {
        let label = operator(node, &inputs(plan, node));
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
        Op::Filter(_) => "Filter",
        Op::Project(_) => "Project",
        Op::Exchange(_) => "Exchange",
        Op::Window(_) => "Window",
        Op::Aggregate(_) | Op::WindowAggregate { .. } => "Aggregate",
        Op::Sink(_) => "Sink",
        Op::Throttle(_) => "Throttle",
        Op::View { .. } => "View",
        Op::FromUpsert { .. } => "FromUpsert",
        Op::Join(_) => "Join",
    }
}
