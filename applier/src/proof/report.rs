//! What is asked of the rows of a table, and what comes of it, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use syncdata_formats::error::escape_control;
use syncdata_formats::name::TableName;

/// More rows are counted and not listed.
pub const LISTED_MAX: usize = 1000;

/// What is wrong with a table, and whose doing it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub table: String,
    /// Where the table stands: rows are compared there.
    pub lsn: String,
    /// Where the archive's rows are from; nothing where it does not tell.
    pub base: Option<String>,
    /// The proof that was looked at; nothing where there is none.
    pub proof_id: Option<String>,
    pub cut_lsn: Option<String>,
    /// Nothing where all is equal.
    pub blame: Option<Blame>,
    /// Rows that are not as the archive says; `None`: nobody knows.
    pub differing: Option<u64>,
    pub rows: Vec<RowDifference>,
    /// Of the proof, where production and its stream disagree: no row can be named.
    pub buckets: Vec<BucketDifference>,
    /// Why nobody knows.
    pub unknown: Option<String>,
    pub remedy: Option<String>,
    /// What a repair did, and that it was compared afterwards.
    pub repaired: Option<u64>,
}

/// Whose doing it is that a table differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// The archive has what production has, and the copy has not.
    Local,
    /// The copy has what the archive has, and production has not.
    Stream,
    Both,
    /// Nobody can tell any more.
    Unknown,
}

/// How a row is not as the archive says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    Changed,
    Missing,
    Surplus,
}

impl Blame {
    /// As our tables and documents have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Blame::Local => "local",
            Blame::Stream => "stream",
            Blame::Both => "both",
            Blame::Unknown => "unknown",
        }
    }
}

impl RowKind {
    pub fn as_str(self) -> &'static str {
        match self {
            RowKind::Changed => "changed",
            RowKind::Missing => "missing",
            RowKind::Surplus => "surplus",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RowDifference {
    /// Empty for a table without one.
    pub key: BTreeMap<String, Option<String>>,
    pub kind: RowKind,
    pub columns: Vec<ColumnDifference>,
    /// Rows that are the same, of a table without a key.
    pub times: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ColumnDifference {
    pub column: String,
    pub local: Option<String>,
    pub archive: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BucketDifference {
    pub bucket: u32,
    pub source_rows: u64,
    pub archive_rows: u64,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    pub table: TableName,
    /// One row alone.
    pub key: Option<Vec<String>>,
    /// Bring the rows that differ to what the archive says.
    pub repair: bool,
}

impl Report {
    /// 1: it differs. 2: nobody knows. 0: all is as the archive says, and nothing else is wrong.
    pub fn exit_code(&self) -> u8 {
        let is_mended = self.repaired.is_some() && self.buckets.is_empty();
        match self.differing {
            _ if !self.buckets.is_empty() => 1,
            Some(0) => 0,
            // Nobody knows whether production has these rows.
            Some(_) if is_mended && self.unknown.is_some() => 2,
            Some(_) if is_mended => 0,
            Some(_) => 1,
            None => 2,
        }
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |words: &str| writeln!(text, "{}", escape_control(words)).expect("a String takes all");
        for row in &self.rows {
            let key: Vec<String> =
                row.key.iter().map(|(name, value)| format!("{name}={}", shown(value.as_deref()))).collect();
            let times = if row.times > 1 { format!(" ({} times)", row.times) } else { String::new() };
            line(&format!("{} {}: {}{times}", self.table, key.join(" "), row.kind.as_str()));
            for ColumnDifference { column, local, archive } in &row.columns {
                let (local, archive) = (shown(local.as_deref()), shown(archive.as_deref()));
                match row.kind {
                    RowKind::Missing => line(&format!("  {column}: {archive}")),
                    RowKind::Surplus => line(&format!("  {column}: {local}")),
                    RowKind::Changed => line(&format!("  {column}: here {local}, in the archive {archive}")),
                }
            }
        }
        for BucketDifference { bucket, source_rows, archive_rows } in &self.buckets {
            line(&format!(
                "bucket {bucket}: {source_rows} rows at production, {archive_rows} in the archive: they disagree"
            ));
        }
        if let Some(unknown) = &self.unknown {
            line(&format!("not known: {unknown}"));
        }
        let differing = self.differing.map_or_else(|| "-".to_owned(), |rows| rows.to_string());
        match self.repaired {
            Some(rows) => line(&format!("repaired: {rows} rows, compared again as of {}: equal", self.lsn)),
            None => line(&format!("rows that differ as of {}: {differing}", self.lsn)),
        }
        if let Some(proof) = &self.proof_id {
            line(&format!("proof: {proof}, as of {}", self.cut_lsn.as_deref().unwrap_or("-")));
        }
        if let Some(blame) = &self.blame {
            line(&format!("blame: {}", blame.as_str()));
        }
        if let Some(remedy) = &self.remedy {
            line(&format!("remedy: {remedy}"));
        }
        text
    }
}

fn shown(value: Option<&str>) -> String {
    value.map_or_else(|| "NULL".to_owned(), |text| format!("{text:?}"))
}
