//! What commands print: tables for people, JSON for programs. The only place that prints.
//!
//! Producers choose keys, headers and names that stand in tables and errors. Their control characters are shown escaped: who may
//! publish a request must not write on an operator's terminal.

use std::{
    io::{self, Write},
    sync::atomic::{AtomicBool, Ordering},
};

use comfy_table::{
    Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle, presets::UTF8_HORIZONTAL_ONLY,
};
use serde::Serialize;

/// Set when something could not be printed, which makes the command fail.
static LOST: AtomicBool = AtomicBool::new(false);

/// Prints lines to standard output, control characters escaped.
pub(super) fn line(text: impl std::fmt::Display) {
    print(&escaped(&text.to_string(), true));
}

/// Prints a table, whose cells are escaped.
pub(super) fn show(table: &Table) {
    print(&table.to_string());
}

/// Prints text as it is, for programs that read it.
pub(super) fn raw(text: impl std::fmt::Display) {
    print(&text.to_string());
}

/// Prints bytes as they are.
pub(super) fn binary(bytes: &[u8]) {
    note(io::stdout().write_all(bytes));
}

/// Prints an error to standard error.
pub(super) fn error(error: impl std::fmt::Display) {
    let text = escaped(&error.to_string(), true);
    // Without standard error no reader is left.
    writeln!(io::stderr(), "error: {text}").ok();
}

/// Prints a value as indented JSON.
pub(super) fn json(value: &impl Serialize) {
    raw(serde_json::to_string_pretty(value).unwrap_or_else(|error| error.to_string()));
}

/// Whether all that was printed was written: false on a full disk, say. A reader that has gone away is no error.
pub(super) fn is_complete() -> bool {
    note(io::stdout().flush());
    !LOST.load(Ordering::Relaxed)
}

fn print(text: &str) {
    note(writeln!(io::stdout(), "{text}"));
}

fn note(written: io::Result<()>) {
    if written.is_err_and(|error| error.kind() != io::ErrorKind::BrokenPipe) {
        LOST.store(true, Ordering::Relaxed);
    }
}

/// A text in which control characters and those that turn the direction of writing are escaped; line breaks only where
/// `keeps_lines` does not keep them.
pub(super) fn escaped(text: &str, keeps_lines: bool) -> String {
    let is_harmless = |character: char| {
        let turns = matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let breaks = matches!(character, '\u{2028}' | '\u{2029}');
        (character == '\n' && keeps_lines) || !(character.is_control() || turns || breaks)
    };
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_harmless(character) { shown.push(character) } else { shown.extend(character.escape_unicode()) }
    }
    shown
}

/// A number of bytes, as people read it.
pub(super) fn bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// A number of parameters, in millions.
pub(super) fn count(parameters: u64) -> String {
    format!("{:.2} M", parameters as f64 / 1e6)
}

/// How long ago something was, in its largest unit: `4 min ago`.
pub(super) fn age(now: jiff::Timestamp, then: jiff::Timestamp) -> String {
    let seconds = now.as_second() - then.as_second();
    match seconds {
        ..0 => "in the future".to_owned(),
        0..60 => format!("{seconds} s ago"),
        60..3_600 => format!("{} min ago", seconds / 60),
        3_600..172_800 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} d ago", seconds / 86_400),
    }
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
            Cell::new(escaped(&value, false)).set_alignment(alignment)
        });
        table.add_row(cells);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit() {
        let now = jiff::Timestamp::from_second(1_000_000_000).unwrap();
        let shown = [-5, 0, 59, 60, 3_599, 3_600, 172_799, 172_800]
            .map(|seconds| age(now, jiff::Timestamp::from_second(1_000_000_000 - seconds).unwrap()));
        let expected =
            ["in the future", "0 s ago", "59 s ago", "1 min ago", "59 min ago", "1 h ago", "47 h ago", "2 d ago"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn control_characters_of_producers_are_shown_and_not_sent_to_the_terminal() {
        let hostile = "a\u{1b}]52;c;x\u{7}\r\u{9b}1m\u{202e}b\nc\u{7f}é";
        let shown = escaped(hostile, false);
        assert_eq!(shown, "a\\u{1b}]52;c;x\\u{7}\\u{d}\\u{9b}1m\\u{202e}b\\u{a}c\\u{7f}é");
        assert!(escaped(hostile, true).contains("b\nc"));
        let table = table(&["key"], &[], [vec!["two\nlines\u{1b}[31m".to_owned()]]).to_string();
        assert!(table.contains("two\\u{a}lines\\u{1b}[31m"), "{table}");
    }
}
