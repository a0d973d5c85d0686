//! Writes columns of texts and numbers as a Parquet file: one row group, no compression, no nulls.

use std::sync::Arc;

use parquet::{
    basic::{LogicalType, Repetition, Type as PhysicalType},
    data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type},
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::types::Type,
};

pub use parquet::errors::ParquetError;

/// The values of a column, one for each row.
#[derive(Clone, Debug, PartialEq)]
pub enum Values<'v> {
    /// UTF-8.
    Texts(Vec<&'v str>),
    /// Whole numbers.
    Integers(Vec<i64>),
    /// Other numbers.
    Numbers(Vec<f64>),
}

/// A column.
#[derive(Clone, Debug, PartialEq)]
pub struct Column<'v> {
    /// Its name.
    pub name: &'v str,
    /// Its values. All columns have the same number.
    pub values: Values<'v>,
}

/// The bytes of a file with these columns.
///
/// # Errors
/// When the columns have different numbers of values.
pub fn write(columns: &[Column<'_>]) -> Result<Vec<u8>, ParquetError> {
    let properties = Arc::new(WriterProperties::builder().build());
    let mut writer = SerializedFileWriter::new(Vec::new(), Arc::new(schema(columns)?), properties)?;
    let mut group = writer.next_row_group()?;
    for column in columns {
        let Some(mut written) = group.next_column()? else {
            return Err(ParquetError::General(format!("there is no place for column `{}`", column.name)));
        };
        match &column.values {
            Values::Texts(texts) => {
                let texts: Vec<ByteArray> = texts.iter().map(|text| ByteArray::from(*text)).collect();
                written.typed::<ByteArrayType>().write_batch(&texts, None, None)?;
            }
            Values::Integers(integers) => {
                written.typed::<Int64Type>().write_batch(integers, None, None)?;
            }
            Values::Numbers(numbers) => {
                written.typed::<DoubleType>().write_batch(numbers, None, None)?;
            }
        }
        written.close()?;
    }
    group.close()?;
    writer.into_inner()
}

fn schema(columns: &[Column<'_>]) -> Result<Type, ParquetError> {
    let field = |column: &Column<'_>| {
        let (kind, logical) = match column.values {
            Values::Texts(_) => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
            Values::Integers(_) => (PhysicalType::INT64, None),
            Values::Numbers(_) => (PhysicalType::DOUBLE, None),
        };
        let field = Type::primitive_type_builder(column.name, kind)
            .with_repetition(Repetition::REQUIRED)
            .with_logical_type(logical)
            .build()?;
        Ok(Arc::new(field))
    };
    let fields = columns.iter().map(field).collect::<Result<_, ParquetError>>()?;
    Type::group_type_builder("report").with_fields(fields).build()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use parquet::{
        file::reader::{FileReader as _, SerializedFileReader},
        record::RowAccessor as _,
    };

    use super::*;

    fn rows(bytes: Vec<u8>) -> Vec<(String, i64, f64)> {
        let bytes: bytes::Bytes = bytes.into();
        let reader = SerializedFileReader::new(bytes).unwrap();
        let rows = reader.get_row_iter(None).unwrap().map(Result::unwrap);
        rows.map(|row| (row.get_string(0).unwrap().clone(), row.get_long(1).unwrap(), row.get_double(2).unwrap()))
            .collect()
    }

    #[test]
    fn what_is_written_reads_back() {
        let columns = [
            Column { name: "variant", values: Values::Texts(vec!["control", "实验组", ""]) },
            Column { name: "epoch", values: Values::Integers(vec![1, -2, i64::MAX]) },
            Column { name: "value", values: Values::Numbers(vec![0.5, f64::MIN_POSITIVE, 1e300]) },
        ];
        let right = [
            ("control".to_owned(), 1, 0.5),
            ("实验组".to_owned(), -2, f64::MIN_POSITIVE),
            (String::new(), i64::MAX, 1e300),
        ];
        assert_eq!(rows(write(&columns).unwrap()), right);
    }

    #[test]
    fn a_report_without_a_row_is_a_file_too() {
        let columns = [
            Column { name: "variant", values: Values::Texts(Vec::new()) },
            Column { name: "epoch", values: Values::Integers(Vec::new()) },
            Column { name: "value", values: Values::Numbers(Vec::new()) },
        ];
        assert_eq!(rows(write(&columns).unwrap()), []);
    }

    #[test]
    fn columns_of_different_length_are_refused() {
        let columns = [
            Column { name: "epoch", values: Values::Integers(vec![1, 2]) },
            Column { name: "value", values: Values::Numbers(vec![0.5]) },
        ];
        assert!(write(&columns).is_err());
    }
}
