//! Finds the fields that a plan needs, in one pass over the payload.
//!
//! Devices send the same members in the same order, so the [`Shape`] of the payload before is a good guess at this one's:
//! where a name stands as it stood there, it is compared at once instead of being read and looked up.

use super::scan::{Found, Kind, Scanner};
use super::{position, string};
use crate::limits::SHAPE_MEMBERS_MAX;
use crate::plan::physical::PathStep;

/// The wanted fields, as a tree of their paths. Each has a slot: its number among the wanted.
#[derive(Debug, Default)]
pub(crate) struct FieldTree {
    members: Vec<(String, Branch)>,
    indexes: Vec<(i64, Branch)>,
}

#[derive(Debug, Default)]
struct Branch {
    /// The value itself is wanted, in this slot.
    slot: Option<usize>,
    /// Parts of it are.
    below: FieldTree,
}

/// The members of the last object that was extracted from, in their order.
#[derive(Debug, Default)]
pub(crate) struct Shape {
    members: Vec<Member>,
}

#[derive(Debug, Default)]
struct Member {
    /// With its quotes and its colon.
    name: Vec<u8>,
    /// Its number among the wanted.
    wanted: Option<usize>,
}

impl Shape {
    /// What is there instead of the guess. What is far back is not guessed.
    fn learn(&mut self, number: usize, name: &[u8], wanted: Option<usize>) {
        if number == self.members.len() && number < SHAPE_MEMBERS_MAX {
            self.members.push(Member::default());
        }
        if let Some(member) = self.members.get_mut(number) {
            member.name.clear();
            member.name.extend_from_slice(name);
            member.wanted = wanted;
        }
    }
}

impl FieldTree {
    /// Adds a path of at least one step.
    pub fn insert(&mut self, path: &[PathStep], slot: usize) {
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        let branch = match first {
            PathStep::Member(name) => branch_of(&mut self.members, |there| there == name, || name.clone()),
            PathStep::Index(index) => branch_of(&mut self.indexes, |there| there == index, || *index),
        };
        if rest.is_empty() {
            branch.slot = Some(slot);
        } else {
            branch.below.insert(rest, slot);
        }
    }

    fn is_empty(&self) -> bool {
        self.members.is_empty() && self.indexes.is_empty()
    }
}

fn branch_of<K>(branches: &mut Vec<(K, Branch)>, same: impl Fn(&K) -> bool, key: impl Fn() -> K) -> &mut Branch {
    let at = branches.iter().position(|(there, _)| same(there)).unwrap_or_else(|| {
        branches.push((key(), Branch::default()));
        branches.len() - 1
    });
    &mut branches[at].1
}

/// Checks all of `text` and writes the places of the wanted fields into `slots`, which come in empty. A repeated
/// member counts the last time. What is not an object is the one field `value`. Gives the top; None: it is not JSON.
pub(crate) fn extract(text: &str, tree: &FieldTree, shape: &mut Shape, slots: &mut [Option<Found>]) -> Option<Found> {
    let mut scanner = Scanner::at(text, 0);
    scanner.space();
    let top = if text.as_bytes().get(scanner.offset()) == Some(&b'{') {
        let start = scanner.offset();
        let compact = object(&mut scanner, text, tree, Some(shape), slots)?;
        Found {
            kind: Kind::Object,
            start,
            end: scanner.offset(),
            compact,
        }
    } else {
        let top = scanner.value()?;
        if let Some((_, branch)) = tree.members.iter().find(|(name, _)| name == "value") {
            take(branch, text, top, slots)?;
        }
        top
    };
    scanner.space();
    (scanner.offset() == text.len()).then_some(top)
}

/// Passes an object; gives whether it is compact.
fn object(
    scanner: &mut Scanner<'_>,
    text: &str,
    tree: &FieldTree,
    mut shape: Option<&mut Shape>,
    slots: &mut [Option<Found>],
) -> Option<bool> {
    let spaces = scanner.spaces();
    scanner.enter(b'{')?;
    if scanner.leave(b'}') {
        return Some(scanner.spaces() == spaces);
    }
    for number in 0.. {
        scanner.space();
        let guess = shape.as_deref().and_then(|shape| shape.members.get(number));
        let wanted = match guess.filter(|member| scanner.pass(&member.name)) {
            Some(member) => member.wanted,
            None => {
                let name = scanner.name()?;
                let wanted = wanted(tree, text, name);
                let colon = scanner.offset();
                if let Some(shape) = shape.as_deref_mut().filter(|_| colon == name.end + 1) {
                    shape.learn(number, &text.as_bytes()[name.start..colon], wanted);
                }
                wanted
            }
        };
        let value = scanner.value()?;
        if let Some(wanted) = wanted {
            take(&tree.members[wanted].1, text, value, slots)?;
        }
        if !scanner.comma_or(b'}')? {
            break;
        }
    }
    Some(scanner.spaces() == spaces)
}

fn wanted(tree: &FieldTree, text: &str, name: Found) -> Option<usize> {
    let name = string(text, name);
    tree.members.iter().position(|(wanted, _)| *wanted == name)
}

/// Notes a value that was passed, and looks into it again for its parts: they are rare, and the text is in cache.
fn take(branch: &Branch, text: &str, value: Found, slots: &mut [Option<Found>]) -> Option<()> {
    if !branch.below.is_empty() {
        forget(branch, slots);
    }
    if let Some(slot) = branch.slot {
        slots[slot] = Some(value);
    }
    if branch.below.is_empty() {
        return Some(());
    }
    let mut scanner = Scanner::at(text, value.start);
    match value.kind {
        Kind::Object if !branch.below.members.is_empty() => {
            object(&mut scanner, text, &branch.below, None, slots)?;
        }
        Kind::Array if !branch.below.indexes.is_empty() => {
            let mut elements = Vec::new();
            scanner.elements(&mut |element| elements.push(element))?;
            for (index, branch) in &branch.below.indexes {
                if let Some(at) = position(*index, elements.len()) {
                    take(branch, text, elements[at], slots)?;
                }
            }
        }
        _ => {}
    }
    Some(())
}

/// A repeated member hides all of the earlier one.
fn forget(branch: &Branch, slots: &mut [Option<Found>]) {
    if let Some(slot) = branch.slot {
        slots[slot] = None;
    }
    let members = branch.below.members.iter().map(|(_, branch)| branch);
    members
        .chain(branch.below.indexes.iter().map(|(_, branch)| branch))
        .for_each(|branch| forget(branch, slots));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fields(text: &str, paths: &[&[PathStep]]) -> Option<Vec<Option<String>>> {
        let mut tree = FieldTree::default();
        paths
            .iter()
            .enumerate()
            .for_each(|(slot, path)| tree.insert(path, slot));
        let mut slots = vec![None; paths.len()];
        extract(text, &tree, &mut Shape::default(), &mut slots)?;
        Some(
            slots
                .iter()
                .map(|slot| slot.map(|found| text[found.start..found.end].to_owned()))
                .collect(),
        )
    }

    fn member(name: &str) -> PathStep {
        PathStep::Member(name.into())
    }

    #[test]
    fn wanted_fields_are_found_in_one_pass_with_their_spelling() {
        let text = r#" {"x":1.50, "a":{"b":[1,{"c":"d"}],"b2":2}, "te\u006dp":3} "#;
        let found = fields(
            text,
            &[
                &[member("x")],
                &[member("a"), member("b"), PathStep::Index(-1), member("c")],
                &[member("a")],
                &[member("temp")],
                &[member("missing")],
            ],
        );
        let a = r#"{"b":[1,{"c":"d"}],"b2":2}"#;
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(found, Some(vec![some("1.50"), some("\"d\""), some(a), some("3"), None]));
    }

    #[test]
    fn the_last_of_a_repeated_member_counts() {
        let found = fields(
            r#"{"a":{"b":1},"a":{"c":2}}"#,
            &[&[member("a"), member("b")], &[member("a"), member("c")]],
        );
        assert_eq!(found, Some(vec![None, Some("2".to_owned())]));
    }

    proptest! {
        /// A guess from whatever came before changes nothing.
        #[test]
        fn the_shape_of_others_does_not_show(
            payloads in prop::collection::vec(
                prop::collection::vec(("[abc]{1,2}", "[ ]?", prop_oneof!["1", "\"x\"", "[ 2]", "!"]), 0..5),
                1..6,
            )
        ) {
            let mut tree = FieldTree::default();
            [member("a"), member("b"), member("ab")].into_iter().enumerate().for_each(|(slot, path)| tree.insert(&[path], slot));
            let mut shape = Shape::default();
            for members in payloads {
                let members = members.iter().map(|(name, space, value)| format!("{space}\"{name}\"{space}:{value}"));
                let text = format!("{{{}}}", members.collect::<Vec<_>>().join(","));
                let (mut guessed, mut plain) = ([None; 3], [None; 3]);
                let found = extract(&text, &tree, &mut shape, &mut guessed);
                prop_assert_eq!(found, extract(&text, &tree, &mut Shape::default(), &mut plain), "{}", text);
                prop_assert_eq!(guessed, plain, "{}", text);
            }
        }
    }

    #[test]
    fn a_payload_that_is_no_object_is_the_field_value() {
        assert_eq!(
            fields("22.5", &[&[member("value")], &[member("x")]]),
            Some(vec![Some("22.5".to_owned()), None])
        );
        let path: &[PathStep] = &[member("value"), PathStep::Index(0)];
        assert_eq!(fields("[7]", &[path]), Some(vec![Some("7".to_owned())]));
        assert_eq!(fields("{\"a\":1} x", &[&[member("a")]]), None);
    }
}
