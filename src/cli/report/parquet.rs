//! A report in long form as Parquet.

use parquet_report::{Column, ParquetError, Values, write};

use super::long::{self, TEXTS};
use crate::evidence::Summary;

/// The file: the columns of [`TEXTS`], then `epoch` and `value`. A text that does not apply is
/// empty.
pub(super) fn file(summary: &Summary) -> Result<Vec<u8>, ParquetError> {
    let rows = long::rows(summary);
    let texts = |place: usize| rows.iter().map(|row| row.texts()[place]).collect();
    let mut columns: Vec<Column<'_>> =
        TEXTS.iter().enumerate().map(|(place, name)| Column { name, values: Values::Texts(texts(place)) }).collect();
    let epochs = rows.iter().map(|row| i64::from(row.epoch)).collect();
    columns.push(Column { name: "epoch", values: Values::Integers(epochs) });
    let values = rows.iter().map(|row| row.value).collect();
    columns.push(Column { name: "value", values: Values::Numbers(values) });
    write(&columns)
}
