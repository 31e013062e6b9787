//! The aggregate functions, as plans name them.

use crate::types::DataType;

/// An aggregate function, with its constant where it takes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub enum AggregateFunction {
    /// Rows, or rows with a value.
    Count,
    /// INTEGER widens to DECIMAL where it must; a FLOAT sum is exact until it is shown.
    Sum,
    /// FLOAT, or DECIMAL over DECIMAL.
    Avg,
    /// The smallest value.
    Min,
    /// The largest value.
    Max,
    /// COUNT(DISTINCT x)
    CountDistinct,
    /// SUM(DISTINCT x)
    SumDistinct,
    /// AVG(DISTINCT x)
    AvgDistinct,
    /// The so many largest values, the largest first.
    TopK(u32),
    /// As `TopK`, each value once.
    TopKDistinct(u32),
    /// The value of the earliest row, by event time.
    First,
    /// The value of the latest row, by event time.
    Last,
    /// The standard deviation of all there are.
    StddevPop,
    /// The standard deviation of a sample.
    StddevSamp,
    /// The variance of all there are.
    VarPop,
    /// The variance of a sample.
    VarSamp,
    /// All values, by event time.
    CollectList,
    /// All values, each once, in their order.
    CollectSet,
    /// How many different values, within about 2 %.
    ApproxCountDistinct,
    /// The value below which that many millionths of all lie, between two where it must be.
    Percentile(u32),
}

impl AggregateFunction {
    /// In upper case: how its column is called, and what EXPLAIN shows.
    pub fn name(self) -> &'static str {
        match self {
            AggregateFunction::Count | AggregateFunction::CountDistinct => "COUNT",
            AggregateFunction::Sum | AggregateFunction::SumDistinct => "SUM",
            AggregateFunction::Avg | AggregateFunction::AvgDistinct => "AVG",
            AggregateFunction::Min => "MIN",
            AggregateFunction::Max => "MAX",
            AggregateFunction::TopK(_) => "TOPK",
            AggregateFunction::TopKDistinct(_) => "TOPKDISTINCT",
            AggregateFunction::First => "FIRST",
            AggregateFunction::Last => "LAST",
            AggregateFunction::StddevPop => "STDDEV_POP",
            AggregateFunction::StddevSamp => "STDDEV",
            AggregateFunction::VarPop => "VAR_POP",
            AggregateFunction::VarSamp => "VARIANCE",
            AggregateFunction::CollectList => "COLLECT_LIST",
            AggregateFunction::CollectSet => "COLLECT_SET",
            AggregateFunction::ApproxCountDistinct => "APPROX_COUNT_DISTINCT",
            AggregateFunction::Percentile(_) => "PERCENTILE",
        }
    }

    /// As a call of `argument`.
    pub fn call(self, argument: &str) -> String {
        let name = self.name();
        match self {
            AggregateFunction::CountDistinct | AggregateFunction::SumDistinct | AggregateFunction::AvgDistinct => {
                format!("{name}(DISTINCT {argument})")
            }
            AggregateFunction::TopK(count) | AggregateFunction::TopKDistinct(count) => {
                format!("{name}({argument}, {count})")
            }
            AggregateFunction::Percentile(millionths) => {
                format!("{name}({argument}, {})", f64::from(millionths) / 1e6)
            }
            _ => format!("{name}({argument})"),
        }
    }

    /// The type of its result.
    pub fn returns(self, argument: &DataType) -> DataType {
        match self {
            AggregateFunction::Count | AggregateFunction::CountDistinct | AggregateFunction::ApproxCountDistinct => {
                DataType::Integer
            }
            // SUM of INTEGER may widen to DECIMAL, so that its type is known only at run time.
            AggregateFunction::Sum | AggregateFunction::SumDistinct if *argument == DataType::Integer => DataType::Any,
            AggregateFunction::Avg | AggregateFunction::AvgDistinct if *argument == DataType::Integer => {
                DataType::Float
            }
            AggregateFunction::Sum
            | AggregateFunction::SumDistinct
            | AggregateFunction::Avg
            | AggregateFunction::AvgDistinct => match argument {
                DataType::Decimal(_) => DataType::Decimal(None),
                other => other.clone(),
            },
            AggregateFunction::Min | AggregateFunction::Max | AggregateFunction::First | AggregateFunction::Last => {
                argument.clone()
            }
            AggregateFunction::TopK(_)
            | AggregateFunction::TopKDistinct(_)
            | AggregateFunction::CollectList
            | AggregateFunction::CollectSet => DataType::Array(Box::new(argument.clone())),
            AggregateFunction::StddevPop
            | AggregateFunction::StddevSamp
            | AggregateFunction::VarPop
            | AggregateFunction::VarSamp
            | AggregateFunction::Percentile(_) => DataType::Float,
        }
    }
}
