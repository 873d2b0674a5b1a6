//! What one check of a proof says of one table.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use syncdata_formats::error::{Error, Result};
use syncdata_formats::name::TableName;

/// What is checked of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
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

impl fmt::Display for CheckType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for CheckType {
    type Err = Error;

    fn from_str(text: &str) -> Result<CheckType> {
        let all = <CheckType as clap::ValueEnum>::value_variants();
        let found = all.iter().find(|check| check.as_str() == text);
        found.copied().ok_or_else(|| Error::bad_input("a check of a proof", text))
    }
}

/// What a comparison comes to. What was not compared is never called equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

    pub const fn is_compared(self) -> bool {
        match self {
            Word::Equal | Word::Differs => true,
            Word::NotProved => false,
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Word {
    type Err = Error;

    fn from_str(text: &str) -> Result<Word> {
        let mut all = [Word::Equal, Word::Differs, Word::NotProved].into_iter();
        all.find(|word| word.as_str() == text).ok_or_else(|| Error::bad_input("a verdict", text))
    }
}

/// What our tables say of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Our digests wait for the proof of production.
    Waiting,
    #[serde(untagged)]
    Said(Word),
}

impl Standing {
    pub const fn is_compared(self) -> bool {
        matches!(self, Standing::Said(word) if word.is_compared())
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Standing::Waiting => f.write_str("waiting"),
            Standing::Said(word) => word.fmt(f),
        }
    }
}

impl FromStr for Standing {
    type Err = Error;

    fn from_str(text: &str) -> Result<Standing> {
        match text {
            "waiting" => Ok(Standing::Waiting),
            word => word.parse().map(Standing::Said),
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
    /// What was compared is equal by now, though not all was: whatever earlier proofs said of these columns is over.
    pub is_over: bool,
    /// Columns that were not compared.
    pub left_out: Vec<String>,
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
            left_out: Vec::new(),
            parts: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_our_tables_say_is_read_back_and_told_in_one_word() {
        for word in ["waiting", "equal", "differs", "not_proved"] {
            let standing: Standing = word.parse().expect("it is written so");
            assert_eq!(standing.to_string(), word);
            assert_eq!(serde_json::json!(standing), word);
            assert_eq!(standing.is_compared(), ["equal", "differs"].contains(&word), "{word}");
        }
        for check in <CheckType as clap::ValueEnum>::value_variants() {
            assert_eq!(check.as_str().parse::<CheckType>().ok(), Some(*check));
            assert_eq!(serde_json::json!(check), check.as_str());
        }
        assert!("Equal".parse::<Standing>().is_err() && "rows".parse::<CheckType>().is_err());
    }
}
