//! What one check of a proof says of one table.

use syncdata_formats::name::TableName;

/// One row of data_sync_consistency.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub table: TableName,
    pub check: &'static str,
    pub source_rows: Option<u64>,
    pub local_rows: Option<u64>,
    pub differing: Option<u64>,
    pub score: Option<String>,
    pub verdict: &'static str,
    pub detail: Option<String>,
    /// Whatever earlier proofs said of its data, what was compared is equal by now, though not all was.
    pub is_over: bool,
    /// Rows that agree for certain, of so many; of what has a score.
    pub parts: Option<(u64, u64)>,
}

impl Verdict {
    pub(super) fn not_proved(table: &TableName, check: &'static str, reason: String) -> Verdict {
        Verdict {
            table: table.clone(),
            check,
            source_rows: None,
            local_rows: None,
            differing: None,
            score: None,
            verdict: "not_proved",
            detail: Some(reason),
            is_over: false,
            parts: None,
        }
    }
}
