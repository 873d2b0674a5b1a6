//! What came of a drill.

use std::fmt::Write as _;
use std::time::Instant;

use serde::Serialize;
use syncdata_formats::error::{Error, escape_control};
use syncdata_formats::name::TableName;
use syncdata_formats::proof::ProofManifest;

use crate::proof::Word;

#[derive(Clone, Debug, Serialize)]
pub struct Drill {
    pub table: String,
    pub proof_id: String,
    /// The place in production's commit order that was restored.
    pub cut_lsn: String,
    /// Where the first rows came from.
    pub base: Option<String>,
    pub rows: Option<u64>,
    /// On disk, with indexes.
    pub bytes: Option<u64>,
    pub verdict: Word,
    pub detail: Option<String>,
    pub remedy: Option<String>,
    /// From nothing to rows that could be read.
    pub restore_seconds: Option<f64>,
    /// With the comparing.
    pub seconds: f64,
    #[serde(skip)]
    pub(super) begun: Instant,
}

impl Drill {
    pub(super) fn new(table: &TableName, proof: &ProofManifest) -> Drill {
        Drill {
            table: table.to_string(),
            proof_id: proof.id.to_string(),
            cut_lsn: proof.cut.end_lsn.to_string(),
            base: None,
            rows: None,
            bytes: None,
            verdict: Word::NotProved,
            detail: None,
            remedy: None,
            restore_seconds: None,
            seconds: 0.0,
            begun: Instant::now(),
        }
    }

    /// Nothing is known of it.
    pub(super) fn give_up(&mut self, reason: impl Into<String>) {
        self.verdict = Word::NotProved;
        self.detail = Some(reason.into());
    }

    pub(super) fn fail(&mut self, error: &Error) {
        self.give_up(error.one_line());
        self.remedy = error.hint_text().map(escape_control);
    }

    /// 1: it differs. 2: nobody knows.
    pub fn exit_code(&self) -> u8 {
        match self.verdict {
            Word::Equal => 0,
            Word::Differs => 1,
            Word::NotProved => 2,
        }
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |words: &str| writeln!(text, "{}", escape_control(words)).expect("a String takes all");
        let detail = self.detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
        let verdict = self.verdict.as_str().replace('_', " ");
        line(&format!("{}: {verdict}, as of {} (proof {}){detail}", self.table, self.cut_lsn, self.proof_id));
        if let (Some(rows), Some(bytes), Some(base), Some(seconds)) =
            (self.rows, self.bytes, &self.base, self.restore_seconds)
        {
            line(&format!(
                "restored: {rows} rows, {bytes} bytes, from {base}, in {seconds:.1} s; compared after {:.1} s",
                self.seconds
            ));
        }
        if let Some(remedy) = &self.remedy {
            line(&format!("remedy: {remedy}"));
        }
        text
    }
}
