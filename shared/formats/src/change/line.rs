//! Writing: lines in a buffer that is used again.

use std::io::Write;

use super::{Commit, Op};
use crate::error::{Error, Kind, Result};
use crate::lsn::Lsn;
use crate::name::TableName;
use crate::time::Timestamp;

/// Builds lines in a buffer of its own. Once the buffer has grown to the longest line, a row costs no allocation.
///
/// `begin`, any number of `data_column` and `old_key`, `finish`.
#[derive(Debug)]
pub struct LineBuilder {
    op: Op,
    line: Vec<u8>,
    /// Apart, because the pieces may come in any order.
    old_keys: Vec<u8>,
    has_columns: bool,
    table: TableJson,
    time: TimeText,
}

/// The last commit's time as text: all rows of a transaction share it.
#[derive(Debug, Default)]
struct TimeText {
    time: Option<Timestamp>,
    text: String,
}

/// The last table's name as JSON: neighbouring rows are mostly of one table.
#[derive(Debug, Default)]
struct TableJson {
    table: Option<TableName>,
    json: Vec<u8>,
}

impl LineBuilder {
    pub fn new() -> LineBuilder {
        LineBuilder {
            op: Op::Truncate,
            line: Vec::new(),
            old_keys: Vec::new(),
            has_columns: false,
            table: TableJson::default(),
            time: TimeText::default(),
        }
    }

    /// Starts a line; what was there is forgotten.
    pub fn begin(&mut self, table: &TableName, op: Op) {
        self.op = op;
        self.has_columns = false;
        self.old_keys.clear();
        self.line.clear();
        self.line.extend_from_slice(b"{\"table\":");
        self.line.extend_from_slice(self.table.of(table));
        self.line.extend_from_slice(b",\"op\":\"");
        self.line.extend_from_slice(op.as_str().as_bytes());
        self.line.push(b'"');
        if op.has_data() {
            self.line.extend_from_slice(b",\"data\":{");
        }
    }

    /// Both pieces are JSON: a string, and a scalar.
    pub fn data_column(&mut self, name_json: &str, value_json: &str) {
        push_member(&mut self.line, !self.has_columns, name_json, value_json);
        self.has_columns = true;
    }

    /// Both pieces are JSON: a string, and a scalar.
    pub fn old_key(&mut self, name_json: &str, value_json: &str) {
        let first = self.old_keys.is_empty();
        push_member(&mut self.old_keys, first, name_json, value_json);
    }

    /// The line with its line end. Columns of an operation that has none are an error, never dropped.
    pub fn finish(&mut self, lsn: Lsn, ts: Timestamp) -> Result<&[u8]> {
        if self.has_columns && !self.op.has_data() || !self.old_keys.is_empty() && !self.op.has_old_keys() {
            return Err(Error::new(Kind::Corrupt, format!("{} with columns that it cannot have", self.op)));
        }
        if self.op.has_data() {
            self.line.push(b'}');
        }
        if self.op.has_old_keys() {
            self.line.extend_from_slice(b",\"old_keys\":{");
            self.line.extend_from_slice(&self.old_keys);
            self.line.push(b'}');
        }
        let ts = self.time.of(ts);
        writeln!(self.line, ",\"lsn\":\"{lsn}\",\"ts\":\"{ts}\"}}").expect("a Vec takes all");
        Ok(&self.line)
    }
}

impl Default for LineBuilder {
    fn default() -> LineBuilder {
        LineBuilder::new()
    }
}

impl TimeText {
    fn of(&mut self, time: Timestamp) -> &str {
        if self.time != Some(time) {
            self.text = time.to_string();
            self.time = Some(time);
        }
        &self.text
    }
}

impl TableJson {
    fn of(&mut self, table: &TableName) -> &[u8] {
        if self.table.as_ref() != Some(table) {
            self.json = serde_json::to_vec(table).expect("a name is a string");
            self.table = Some(table.clone());
        }
        &self.json
    }
}

fn push_member(object: &mut Vec<u8>, first: bool, name_json: &str, value_json: &str) {
    if !first {
        object.push(b',');
    }
    object.extend_from_slice(name_json.as_bytes());
    object.push(b':');
    object.extend_from_slice(value_json.as_bytes());
}

impl Commit {
    /// Appends the COMMIT line with its line end.
    pub fn write_line(&self, line: &mut Vec<u8>) {
        let Commit { xid, changes, lsn, end_lsn, ts } = self;
        writeln!(
            line,
            "{{\"op\":\"COMMIT\",\"xid\":{xid},\"changes\":{changes},\"lsn\":\"{lsn}\",\"end_lsn\":\"{end_lsn}\",\
             \"ts\":\"{ts}\"}}"
        )
        .expect("a Vec takes all");
    }
}
