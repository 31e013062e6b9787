//! What expressions give, column by column and row by row.

use super::*;
use crate::plan::physical::ColumnId;
use crate::types::TimestampUs;

fn column(number: u32) -> Expr {
    Expr::Column(ColumnId(number))
}

fn binary(op: BinaryOp, left: Expr, right: Expr) -> Expr {
    Expr::Binary {
        op,
        left: Box::new(left),
        right: Box::new(right),
    }
}

fn int(number: i64) -> Expr {
    Expr::Literal(Literal::Integer(number))
}

fn run(expr: &Expr, columns: Vec<Vec<Value>>) -> (Vec<String>, Vec<(usize, Fault)>) {
    let rows = columns.first().map_or(1, Vec::len);
    let columns = columns
        .into_iter()
        .map(|values| Arc::new(Column::from_values(values)))
        .collect();
    let mut faults = Faults::default();
    let scope = Scope { now: TimestampUs(0) };
    let result = Expression::compile(expr)
        .unwrap()
        .evaluate(&Columns::new(columns, rows), &scope, &mut faults);
    let text = |row| {
        let mut out = String::new();
        result.write_json(row, &mut out);
        out
    };
    ((0..rows).map(text).collect(), faults.iter().collect())
}

#[test]
fn logic_is_three_valued_and_forgets_the_faults_it_would_not_have_met() {
    let (t, f, n) = (Value::Boolean(true), Value::Boolean(false), Value::Null);
    let left = vec![
        t.clone(),
        t.clone(),
        t.clone(),
        f.clone(),
        f.clone(),
        f.clone(),
        n.clone(),
        n.clone(),
        n.clone(),
    ];
    let right = vec![
        t.clone(),
        f.clone(),
        n.clone(),
        t.clone(),
        f.clone(),
        n.clone(),
        t,
        f,
        n,
    ];
    let (and, _) = run(
        &binary(BinaryOp::And, column(0), column(1)),
        vec![left.clone(), right.clone()],
    );
    assert_eq!(and.join(" "), "true false null false false false null false null");
    let (or, _) = run(&binary(BinaryOp::Or, column(0), column(1)), vec![left, right]);
    assert_eq!(or.join(" "), "true true true true false null true null null");

    // What is no BOOLEAN counts as NULL, and is told where it counts.
    let truths = || vec![Value::Boolean(true), Value::Boolean(false), Value::Null];
    let ones = || vec![Value::Integer(1); 3];
    let wrong = |rows: &[usize]| rows.iter().map(|row| (*row, Fault::WrongType)).collect::<Vec<_>>();
    for (op, columns, values, told) in [
        (
            BinaryOp::And,
            vec![ones(), truths()],
            "null false null",
            wrong(&[0, 1, 2]),
        ),
        (BinaryOp::And, vec![truths(), ones()], "null false null", wrong(&[0, 2])),
        (
            BinaryOp::Or,
            vec![ones(), truths()],
            "true null null",
            wrong(&[0, 1, 2]),
        ),
        (BinaryOp::Or, vec![truths(), ones()], "true null null", wrong(&[1, 2])),
    ] {
        let (found, faults) = run(&binary(op, column(0), column(1)), columns);
        assert_eq!((found.join(" "), faults), (values.to_owned(), told), "{op:?}");
    }

    let guard = binary(BinaryOp::NotEqual, column(0), int(0));
    let quotient = binary(BinaryOp::Greater, binary(BinaryOp::Divide, int(10), column(0)), int(1));
    let zero_and_five = vec![vec![Value::Integer(0), Value::Integer(5)]];
    let guarded = binary(BinaryOp::And, guard, quotient.clone());
    assert_eq!(
        run(&guarded, zero_and_five.clone()),
        (vec!["false".into(), "true".into()], vec![])
    );
    let bare = run(&quotient, zero_and_five);
    assert_eq!(
        bare,
        (vec!["null".into(), "true".into()], vec![(0, Fault::DivisionByZero)])
    );
}

#[test]
fn case_and_coalesce_count_faults_of_what_they_choose_only() {
    let quotient = || binary(BinaryOp::Divide, int(10), column(0));
    let is_zero = binary(BinaryOp::Equal, column(0), int(0));
    let case = Expr::Case {
        branches: vec![(is_zero, int(-1))],
        otherwise: Some(Box::new(quotient())),
    };
    let rows = vec![vec![Value::Integer(0), Value::Integer(4), Value::Null]];
    assert_eq!(
        run(&case, rows.clone()),
        (vec!["-1".into(), "2.5".into(), "null".into()], vec![])
    );
    let coalesce = Expr::Call {
        function: "COALESCE".into(),
        arguments: vec![column(0), quotient()],
    };
    assert_eq!(
        run(&coalesce, rows),
        (vec!["0".into(), "4".into(), "null".into()], vec![])
    );
}

#[test]
fn mixed_types_go_row_by_row() {
    let mixed = vec![vec![
        Value::Integer(40),
        Value::Float(39.4),
        Value::String("41".into()),
        Value::Null,
    ]];
    let warm = binary(BinaryOp::Greater, column(0), Expr::Literal(Literal::Float(39.5)));
    assert_eq!(run(&warm, mixed.clone()).0.join(" "), "true false null null");
    let (doubled, faults) = run(&binary(BinaryOp::Multiply, column(0), int(2)), mixed);
    assert_eq!(doubled.join(" "), "80 78.8 null null");
    assert_eq!(faults, [(2, Fault::WrongType)]);
}

#[test]
fn in_like_and_paths() {
    let rows = || {
        vec![vec![
            Value::String("sf".into()),
            Value::String("seattle".into()),
            Value::Null,
        ]]
    };
    let text = |text: &str| Expr::Literal(Literal::String(text.into()));
    let list = Expr::In {
        operand: Box::new(column(0)),
        list: vec![text("sf"), text("la")],
        negated: true,
    };
    assert_eq!(run(&list, rows()).0.join(" "), "false true null");
    let with_null = Expr::In {
        operand: Box::new(column(0)),
        list: vec![text("sf"), Literal::Null.into()],
        negated: false,
    };
    assert_eq!(run(&with_null, rows()).0.join(" "), "true null null");
    let like = Expr::Like {
        operand: Box::new(column(0)),
        pattern: Box::new(text("s%t_e")),
        escape: None,
        negated: false,
    };
    assert_eq!(run(&like, rows()).0.join(" "), "false true null");
    let path = Expr::Path {
        operand: Box::new(column(0)),
        steps: vec![PathStep::Member("a".into()), PathStep::Index(1)],
        as_text: true,
    };
    let json = vec![vec![Value::Json(r#"{"a":[1,2.50]}"#.into()), Value::Integer(1)]];
    assert_eq!(run(&path, json).0.join(" "), "\"2.5\" null");
}

#[test]
fn a_damaged_call_is_refused_when_it_is_compiled() {
    let call = |function: &str, arguments| Expr::Call {
        function: function.into(),
        arguments,
    };
    assert!(Expression::compile(&call("NO_SUCH", vec![])).is_err());
    assert!(Expression::compile(&call("SQRT", vec![])).is_err());
}
