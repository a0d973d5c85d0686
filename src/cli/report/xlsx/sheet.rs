//! A native table on a worksheet: typed cells, a filter, a frozen head, columns as wide as needed.

use rust_xlsxwriter::{
    Color, ConditionalFormatText, ConditionalFormatTextRule, ExcelDateTime, Format, Table as NativeTable, TableColumn,
    Worksheet, XlsxError,
};

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// A status word: good ones are green, harm is red.
    Status,
    Count,
    Number,
    /// Shown as percent.
    Share,
    /// A time in UTC.
    Time,
}

/// A cell. Numbers that are not known leave it empty.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell {
    Text(String),
    Number(Option<f64>),
    /// A share in a column of other numbers.
    Share(Option<f64>),
    /// Seconds since 1970.
    Time(Option<i64>),
}

impl Cell {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    /// A time that is written as RFC 3339.
    pub(super) fn time(text: &str) -> Self {
        Self::Time(text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second))
    }
}

/// Columns and rows of a sheet.
pub(super) struct Table {
    columns: Vec<(String, Kind)>,
    pub(super) rows: Vec<Vec<Cell>>,
}

/// A cell of a workbook holds no longer text.
const TEXT_CHARACTERS_MAX: usize = 32_767;
/// A worksheet has no more rows, its head included.
const ROWS_MAX: usize = 1_048_575;
const WIDTH_MAX: usize = 60;

impl Table {
    pub(super) fn new(columns: Vec<(&str, Kind)>) -> Self {
        let columns = columns.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect();
        Self { columns, rows: Vec::new() }
    }

    /// Writes the table to the top left of a sheet.
    pub(super) fn write(&self, sheet: &mut Worksheet) -> Result<(), XlsxError> {
        let last_column = self.columns.len().saturating_sub(1) as u16;
        let rows = &self.rows[..self.rows.len().min(ROWS_MAX)];
        for (column, (name, kind)) in self.columns.iter().enumerate() {
            let column = column as u16;
            sheet.set_column_width(column, self.width(usize::from(column)))?;
            if rows.is_empty() {
                sheet.write_string(0, column, name)?;
            }
            for (row, cells) in rows.iter().enumerate() {
                write_cell(sheet, row as u32 + 1, column, &cells[usize::from(column)], *kind)?;
            }
            if *kind == Kind::Status && !rows.is_empty() {
                colour(sheet, column, rows.len() as u32)?;
            }
        }
        sheet.set_freeze_panes(1, 0)?;
        if rows.is_empty() {
            return Ok(());
        }

        let heads: Vec<TableColumn> =
            self.columns.iter().map(|(name, _)| TableColumn::new().set_header(name.clone())).collect();
        let table = NativeTable::new().set_columns(&heads);
        sheet.add_table(0, 0, rows.len() as u32, last_column, &table)?;
        Ok(())
    }

    /// In characters, of which a Chinese one takes two.
    fn width(&self, column: usize) -> f64 {
        let of_cell = |cells: &Vec<Cell>| match &cells[column] {
            Cell::Text(text) => characters(text),
            Cell::Number(_) | Cell::Share(_) => 10,
            Cell::Time(_) => 17,
        };
        let widest = self.rows.iter().take(1_000).map(of_cell).max().unwrap_or_default();
        // The head has a button for its filter.
        let head = characters(&self.columns[column].0) + 3;
        (widest.max(head).min(WIDTH_MAX) + 1) as f64
    }
}

fn characters(text: &str) -> usize {
    text.chars().map(|character| if character.is_ascii() { 1 } else { 2 }).sum()
}

fn write_cell(sheet: &mut Worksheet, row: u32, column: u16, cell: &Cell, kind: Kind) -> Result<(), XlsxError> {
    let format = |pattern| Format::new().set_num_format(pattern);
    match cell {
        Cell::Text(text) => {
            let text: String = text.chars().take(TEXT_CHARACTERS_MAX).collect();
            sheet.write_string(row, column, text)?;
        }
        Cell::Number(Some(number)) if number.is_finite() => {
            let pattern = match kind {
                Kind::Share => "0.00%",
                Kind::Count => "0",
                _ => "0.0000",
            };
            sheet.write_number_with_format(row, column, *number, &format(pattern))?;
        }
        Cell::Share(Some(number)) if number.is_finite() => {
            sheet.write_number_with_format(row, column, *number, &format("0.00%"))?;
        }
        Cell::Time(Some(seconds)) => {
            let time = ExcelDateTime::from_timestamp(*seconds)?;
            sheet.write_datetime_with_format(row, column, &time, &format("yyyy-mm-dd hh:mm"))?;
        }
        Cell::Number(_) | Cell::Share(_) | Cell::Time(None) => {}
    }
    Ok(())
}

/// Colours the status words of both languages.
fn colour(sheet: &mut Worksheet, column: u16, rows: u32) -> Result<(), XlsxError> {
    const BAD: u32 = 0x00B3_261E;
    const GOOD: u32 = 0x001A_7F4B;
    for (word, colour) in
        [("HARM", BAD), ("有害", BAD), ("SAFE", GOOD), ("安全", GOOD), ("BETTER", GOOD), ("更好", GOOD)]
    {
        let rule = ConditionalFormatTextRule::BeginsWith(word.to_owned());
        let format = Format::new().set_font_color(Color::RGB(colour)).set_bold();
        let condition = ConditionalFormatText::new().set_rule(rule).set_format(format);
        sheet.add_conditional_format(1, column, rows, column, &condition)?;
    }
    Ok(())
}
