//! What one check of a proof says of one table.

use serde::Serialize;
use syncdata_formats::name::TableName;

/// What is checked of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum CheckType {
    /// As many rows on both sides
    RowCount,
    /// The same rows, column by column
    DataHash,
    /// No row refers to nothing that does not at production; made at once
    ReferentialIntegrity,
    /// No row breaks a rule of the settings that does not at production
    BusinessRules,
}

impl CheckType {
    pub const fn as_str(self) -> &'static str {
        match self {
            CheckType::RowCount => "row_count",
            CheckType::DataHash => "data_hash",
            CheckType::ReferentialIntegrity => "referential_integrity",
            CheckType::BusinessRules => "business_rules",
        }
    }
}

/// What a comparison comes to. What was not compared is never called equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    Equal,
    Differs,
    NotProved,
}

impl Word {
    /// As our tables and documents have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Word::Equal => "equal",
            Word::Differs => "differs",
            Word::NotProved => "not_proved",
        }
    }
}

/// One row of data_sync_consistency.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub table: TableName,
    pub check: CheckType,
    pub source_rows: Option<u64>,
    pub local_rows: Option<u64>,
    pub differing: Option<u64>,
    pub score: Option<String>,
    pub verdict: Word,
    pub detail: Option<String>,
    /// Whatever earlier proofs said of its data, what was compared is equal by now, though not all was.
    pub is_over: bool,
    /// Rows that agree for certain, of so many; of what has a score.
    pub parts: Option<(u64, u64)>,
}

impl Verdict {
    pub(super) fn not_proved(table: &TableName, check: CheckType, reason: String) -> Verdict {
        Verdict {
            table: table.clone(),
            check,
            source_rows: None,
            local_rows: None,
            differing: None,
            score: None,
            verdict: Word::NotProved,
            detail: Some(reason),
            is_over: false,
            parts: None,
        }
    }
}
