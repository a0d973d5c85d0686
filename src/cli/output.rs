//! What commands print: tables for people, JSON for programs. The only place that prints.

use std::io::{self, Write};

use comfy_table::{
    Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle, presets::UTF8_HORIZONTAL_ONLY,
};
use serde::Serialize;

/// Prints lines to standard output. A reader that has gone away is no error: its pipe is closed.
pub(super) fn line(text: impl std::fmt::Display) {
    writeln!(io::stdout(), "{text}").ok();
}

/// Prints an error to standard error.
pub(super) fn error(error: impl std::fmt::Display) {
    writeln!(io::stderr(), "error: {error}").ok();
}

/// Prints a value as indented JSON.
pub(super) fn json(value: &impl Serialize) {
    line(serde_json::to_string_pretty(value).unwrap_or_else(|error| error.to_string()));
}

/// A number of bytes, as people read it.
pub(super) fn bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// A number of parameters, in millions.
pub(super) fn count(parameters: u64) -> String {
    format!("{:.2} M", parameters as f64 / 1e6)
}

/// As much of a digest as tells two apart.
pub(super) fn digest(digest: &str) -> String {
    digest.chars().take("sha256:".len() + 12).collect()
}

/// Lines around head and foot only: one under every row would double the height.
const STYLE: TableStyle = UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none());

/// A table that fits the terminal; columns named in `right` are aligned to the right.
pub(super) fn table(columns: &[&str], right: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    // A snapshot must not depend on the width of the terminal that the tests run in.
    #[cfg(test)]
    table.force_no_tty();
    table.load_style(STYLE).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(columns.iter().map(|name| Cell::new(name).add_attribute(comfy_table::Attribute::Bold)));
    for row in rows {
        let cells = row.into_iter().zip(columns).map(|(value, column)| {
            let alignment = if right.contains(column) { CellAlignment::Right } else { CellAlignment::Left };
            Cell::new(value).set_alignment(alignment)
        });
        table.add_row(cells);
    }
    table
}
