//! The aggregate functions as statements call them: names, arguments, and what they become in a plan.
//!
//! To add one: an entry here, its variant in `plan/physical/aggregate.rs`, and what it remembers of its rows in
//! `operator/aggregate/`.

use super::Parameter;
use crate::plan::physical::AggregateFunction as F;

/// An aggregate function.
#[derive(Debug)]
pub struct Aggregate {
    /// Upper case.
    pub name: &'static str,
    /// Other names that people know it by.
    pub aliases: &'static [&'static str],
    /// What it takes.
    pub parameter: Parameter,
    /// What follows the argument.
    pub constant: Constant,
    /// With DISTINCT inside; None: it cannot.
    pub distinct: Option<F>,
    /// One line for people.
    pub about: &'static str,
    make: fn(u32) -> F,
}

/// The constant behind an aggregate's argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Constant {
    /// There is none.
    None,
    /// How many values.
    Count,
    /// A part of the whole, from 0 to 1.
    Fraction,
}

impl Aggregate {
    /// As plans know it; `constant` is the count, or the fraction in millionths.
    pub fn function(&self, constant: u32) -> F {
        (self.make)(constant)
    }
}

const fn plain(name: &'static str, parameter: Parameter, about: &'static str, make: fn(u32) -> F) -> Aggregate {
    Aggregate {
        name,
        aliases: &[],
        parameter,
        constant: Constant::None,
        distinct: None,
        about,
        make,
    }
}

/// All, by subject.
pub const AGGREGATES: &[Aggregate] = &[
    Aggregate {
        distinct: Some(F::CountDistinct),
        ..plain("COUNT", Parameter::Any, "how many rows, or rows with a value", |_| {
            F::Count
        })
    },
    Aggregate {
        distinct: Some(F::SumDistinct),
        ..plain("SUM", Parameter::Number, "the sum", |_| F::Sum)
    },
    Aggregate {
        aliases: &["MEAN"],
        distinct: Some(F::AvgDistinct),
        ..plain("AVG", Parameter::Number, "the mean", |_| F::Avg)
    },
    Aggregate {
        distinct: Some(F::Min),
        ..plain("MIN", Parameter::Any, "the smallest value", |_| F::Min)
    },
    Aggregate {
        distinct: Some(F::Max),
        ..plain("MAX", Parameter::Any, "the largest value", |_| F::Max)
    },
    Aggregate {
        constant: Constant::Count,
        ..plain("TOPK", Parameter::Any, "the so many largest values", F::TopK)
    },
    Aggregate {
        aliases: &["TOPK_DISTINCT"],
        constant: Constant::Count,
        ..plain(
            "TOPKDISTINCT",
            Parameter::Any,
            "the so many largest values, each once",
            F::TopKDistinct,
        )
    },
    Aggregate {
        aliases: &["FIRST_VALUE", "EARLIEST_BY_OFFSET"],
        ..plain("FIRST", Parameter::Any, "the value of the earliest row", |_| F::First)
    },
    Aggregate {
        aliases: &["LAST_VALUE", "LATEST_BY_OFFSET"],
        ..plain("LAST", Parameter::Any, "the value of the latest row", |_| F::Last)
    },
    Aggregate {
        aliases: &["STDDEV_SAMP"],
        ..plain(
            "STDDEV",
            Parameter::Number,
            "the standard deviation of a sample",
            |_| F::StddevSamp,
        )
    },
    plain(
        "STDDEV_POP",
        Parameter::Number,
        "the standard deviation of all there are",
        |_| F::StddevPop,
    ),
    Aggregate {
        aliases: &["VAR_SAMP"],
        ..plain("VARIANCE", Parameter::Number, "the variance of a sample", |_| {
            F::VarSamp
        })
    },
    plain("VAR_POP", Parameter::Number, "the variance of all there are", |_| {
        F::VarPop
    }),
    Aggregate {
        aliases: &["ARRAY_AGG"],
        distinct: Some(F::CollectSet),
        ..plain("COLLECT_LIST", Parameter::Any, "all values, by event time", |_| {
            F::CollectList
        })
    },
    plain("COLLECT_SET", Parameter::Any, "all values, each once", |_| {
        F::CollectSet
    }),
    plain(
        "APPROX_COUNT_DISTINCT",
        Parameter::Any,
        "how many different values, within about 2 %",
        |_| F::ApproxCountDistinct,
    ),
    Aggregate {
        aliases: &["PERCENTILE_CONT"],
        constant: Constant::Fraction,
        ..plain(
            "PERCENTILE",
            Parameter::Number,
            "the value below which that part of all lies",
            F::Percentile,
        )
    },
    plain("MEDIAN", Parameter::Number, "the value in the middle", |_| {
        F::Percentile(500_000)
    }),
];

/// By any of its names, in any case.
pub fn aggregate(name: &str) -> Option<&'static Aggregate> {
    AGGREGATES.iter().find(|aggregate| {
        let mut names = std::iter::once(&aggregate.name).chain(aggregate.aliases);
        names.any(|known| known.eq_ignore_ascii_case(name))
    })
}
