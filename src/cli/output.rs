//! How things look: tables without borders for people, JSON lines for programs.

use std::io::{self, Write};
use std::time::SystemTime;

use comfy_table::{CellAlignment, Table, presets};
use prost_types::Timestamp;
use serde::Serialize;

/// Where a command's output goes, and in which form.
pub(super) struct Out<'a> {
    to: &'a mut dyn Write,
    /// Whether `--json` was given.
    pub(super) json: bool,
    /// The moment that ages count from.
    pub(super) now: SystemTime,
}

impl<'a> Out<'a> {
    pub(super) fn new(to: &'a mut dyn Write, json: bool) -> Self {
        Self { to, json, now: SystemTime::now() }
    }

    /// A line of text.
    pub(super) fn line(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        writeln!(self.to, "{}", text.as_ref())
    }

    /// Bytes as they are.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.to.write_all(bytes)
    }

    /// Makes it readable now, for what goes on and on.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }

    /// An object as one line of JSON.
    pub(super) fn object(&mut self, object: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut *self.to, object)?;
        self.to.write_all(b"\n")
    }

    /// Rows below a header, columns aligned; nothing at all without rows.
    pub(super) fn table<const N: usize>(
        &mut self,
        columns: [Column; N],
        rows: Vec<[String; N]>,
    ) -> io::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(columns.map(|column| column.0)).add_rows(rows);
        for (column, shape) in columns.iter().zip(table.column_iter_mut()) {
            shape.set_padding((0, 2)).set_cell_alignment(column.1);
        }
        table.lines().try_for_each(|line| self.line(line.trim_end()))
    }

    /// `name: value` lines, the values aligned; further lines of one value stand below its first.
    pub(super) fn fields(&mut self, fields: &[(&str, String)]) -> io::Result<()> {
        let width = fields.iter().map(|(name, _)| name.len() + 2).max().unwrap_or(0);
        for (name, value) in fields {
            let mut head = format!("{name}:");
            for line in value.split('\n') {
                self.line(format!("{head:width$}{line}").trim_end())?;
                head.clear();
            }
        }
        Ok(())
    }
}

/// A column's heading and which way its cells lean.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column(&'static str, CellAlignment);

/// A column of words.
pub(super) const fn text(heading: &'static str) -> Column {
    Column(heading, CellAlignment::Left)
}

/// A column of numbers.
pub(super) const fn number(heading: &'static str) -> Column {
    Column(heading, CellAlignment::Right)
}

/// Bytes for people: `0 B`, `1.5 KiB`, `20 GiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while value >= 1023.95 && units.len() > 0 {
        value /= 1024.0;
        unit = units.next();
    }
    let number = format!("{value:.1}");
    format!("{} {}", number.strip_suffix(".0").unwrap_or(&number), unit.unwrap_or(&"EiB"))
}

/// RFC 3339 in UTC, to the nanosecond where it has any.
pub(super) fn time(timestamp: Timestamp) -> String {
    match jiff::Timestamp::new(timestamp.seconds, timestamp.nanos) {
        Ok(time) => time.to_string(),
        Err(_) => format!("{} s after 1970", timestamp.seconds),
    }
}

/// How long ago, in one unit: `12s`, `5m`, `3h`, `40d`. The future counts as now.
pub(super) fn age(timestamp: Timestamp, now: SystemTime) -> String {
    let then = SystemTime::try_from(timestamp).unwrap_or(now);
    match now.duration_since(then).map_or(0, |age| age.as_secs()) {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..86400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86400),
    }
}

/// Text that can stand in a table: control characters are escaped, so that a key can't break the
/// line or steer the terminal.
pub(super) fn printable(text: &str) -> String {
    if text.chars().any(char::is_control) {
        text.escape_debug().to_string()
    } else {
        text.to_owned()
    }
}

/// A path of any bytes on one line; an unusual one quoted like a C string, as git does.
pub(super) fn quoted_path(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) if !text.chars().any(|c| c.is_control() || c == '"' || c == '\\') => {
            text.to_owned()
        }
        _ => {
            let escaped: String = path.iter().map(|byte| escape_byte(*byte)).collect();
            format!("\"{escaped}\"")
        }
    }
}

fn escape_byte(byte: u8) -> String {
    match byte {
        b'\n' => "\\n".to_owned(),
        b'\t' => "\\t".to_owned(),
        b'"' => "\\\"".to_owned(),
        b'\\' => "\\\\".to_owned(),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\{byte:03o}"),
    }
}

/// A word for a POSIX shell.
pub(super) fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
