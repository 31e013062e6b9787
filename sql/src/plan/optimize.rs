//! Rules that make a bound plan cheaper and never mean another thing. They run once, when a statement is bound: what is
//! stored is the better plan, and its operators keep their numbers for ever.
//!
//! - [`fold`]: what is constant is worked out once;
//! - [`filter`]: a condition stands as far down as it can, so that rows go before anything is kept of them; a condition on
//!   a ROW_NUMBER says how many rows are kept at all; conditions that meet become one;
//! - [`columns`]: what nobody uses is not taken out of payloads, and not kept by joins and tables.
//!
//! No rule makes an error that would not be there: what may fail (a division, a cast) stays where it is. Rows that a
//! condition drops earlier than before fail no more.

mod columns;
mod filter;
mod fold;

use crate::plan::physical::{Node, OperatorId, Plan};

/// The better plan.
pub fn optimize(mut plan: Plan) -> Plan {
    let Some(mut tree) = Tree::of(&mut plan) else {
        return plan;
    };
    fold::constants(&mut tree);
    tree = filter::push_down(tree);
    filter::flatten(&mut tree);
    columns::prune(&mut tree);
    plan.nodes = tree.nodes();
    plan
}

/// A plan as a tree: each operator feeds one other.
struct Tree {
    node: Node,
    inputs: Vec<Tree>,
}

impl Tree {
    fn of(plan: &mut Plan) -> Option<Tree> {
        let mut waiting: Vec<Tree> = Vec::new();
        for node in std::mem::take(&mut plan.nodes) {
            let inputs = node.inputs.iter().map(|id| {
                let at = waiting.iter().position(|tree| tree.node.id == *id)?;
                Some(waiting.remove(at))
            });
            let inputs = inputs.collect::<Option<Vec<_>>>();
            waiting.push(Tree { inputs: inputs?, node });
        }
        waiting.pop().filter(|_| waiting.is_empty())
    }

    /// Inputs before users, numbered by their places.
    fn nodes(self) -> Vec<Node> {
        let mut nodes = Vec::new();
        self.put(&mut nodes);
        nodes
    }

    fn put(self, nodes: &mut Vec<Node>) -> OperatorId {
        let inputs = self.inputs.into_iter().map(|input| input.put(nodes)).collect();
        let id = OperatorId(nodes.len() as u32);
        nodes.push(Node {
            id,
            inputs,
            ..self.node
        });
        id
    }
}
