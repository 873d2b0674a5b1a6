//! What a verification found.

use std::fmt::Write as _;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use syncdata_formats::error::{Error, escape_control};
use syncdata_formats::manifest::{Gap, Manifest};
use syncdata_formats::snapshot::SnapshotManifest;
use syncdata_formats::time::Timestamp;

/// What is wrong, as far as it decides what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The bytes are not what was promised.
    Damaged,
    /// It should be there and is not.
    Lost,
    /// It is sound, but it does not belong there.
    Foreign,
    /// Its signature is missing or wrong.
    Unsigned,
    /// It could not be looked at: nobody can say what it is.
    Unreadable,
}

/// Why segments are not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// On its way, or still in the archiver's spool.
    NotYetShipped,
    /// Removed on purpose: the floor was raised past it.
    Pruned,
    /// It was there, or must have been.
    Lost,
}

/// Segments that are not there, from one number to another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    pub from: u64,
    pub to: u64,
    pub class: Class,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub verdict: Verdict,
    pub segment: Option<u64>,
    pub file: String,
    pub what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub archive: String,
    pub sound: bool,
    /// Only manifests and sizes were looked at.
    pub quick: bool,
    pub segments: u64,
    pub first_segment: Option<u64>,
    pub last_segment: Option<u64>,
    pub bytes: u64,
    pub content_bytes: u64,
    pub records: u64,
    pub transactions: u64,
    pub first_ts: Option<Timestamp>,
    pub last_ts: Option<Timestamp>,
    /// What the archive's head claims: all that committed before is there.
    pub covered_at: Option<Timestamp>,
    /// Base copies, and the rows in them.
    pub snapshots: u64,
    pub snapshot_rows: u64,
    pub snapshot_bytes: u64,
    pub missing: Vec<Missing>,
    /// Declared by the archiver: sound, but not whole.
    pub gaps: Vec<Gap>,
    pub problems: Vec<Problem>,
    /// Worth knowing, nothing to mend.
    pub notes: Vec<String>,
    /// There are signatures, and no key to check them with.
    #[serde(skip)]
    unchecked_signatures: u64,
}

/// What is remembered of a verification of the whole archive, files and all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastVerify {
    /// When it began.
    pub at: Timestamp,
    /// 0: the archive was sound.
    pub problems: u64,
}

impl LastVerify {
    /// For people.
    pub fn words(&self) -> String {
        match self.problems {
            0 => format!("{}, sound", self.at.to_second()),
            1 => format!("{}, 1 problem", self.at.to_second()),
            problems => format!("{}, {problems} problems", self.at.to_second()),
        }
    }
}

impl Report {
    pub(super) fn new(archive: &str, quick: bool) -> Report {
        Report {
            archive: archive.to_owned(),
            sound: true,
            quick,
            segments: 0,
            first_segment: None,
            last_segment: None,
            bytes: 0,
            content_bytes: 0,
            records: 0,
            transactions: 0,
            first_ts: None,
            last_ts: None,
            covered_at: None,
            snapshots: 0,
            snapshot_rows: 0,
            snapshot_bytes: 0,
            missing: Vec::new(),
            gaps: Vec::new(),
            problems: Vec::new(),
            notes: Vec::new(),
            unchecked_signatures: 0,
        }
    }

    pub(super) fn count_snapshot(&mut self, manifest: &SnapshotManifest) {
        self.snapshots += 1;
        self.snapshot_rows += manifest.rows();
        self.snapshot_bytes += manifest.content_bytes();
    }

    pub(super) fn unchecked_signature(&mut self) {
        self.unchecked_signatures += 1;
    }

    /// Counts a segment whose manifest is sound.
    pub(super) fn count(&mut self, manifest: &Manifest) {
        let seq = manifest.seq.get();
        self.segments += 1;
        self.first_segment = Some(self.first_segment.map_or(seq, |first| first.min(seq)));
        self.last_segment = Some(self.last_segment.map_or(seq, |last| last.max(seq)));
        self.records += manifest.records;
        self.transactions += manifest.transactions;
        self.gaps.extend(manifest.gaps.iter().cloned());
        if let Some(file) = &manifest.file {
            self.bytes += file.bytes;
            self.content_bytes += file.content_bytes;
        }
        let Some(span) = manifest.span else { return };
        if self.last_ts.is_some_and(|last| span.first_ts < last) {
            self.note(format!(
                "segment {seq} has commits older than the one before: production's clock went back"
            ));
        }
        self.first_ts = Some(self.first_ts.map_or(span.first_ts, |first| first.min(span.first_ts)));
        self.last_ts = Some(self.last_ts.map_or(span.last_ts, |last| last.max(span.last_ts)));
    }

    pub(super) fn problem(
        &mut self,
        verdict: Verdict,
        segment: Option<u64>,
        file: &str,
        what: impl Into<String>,
    ) {
        let (file, what) = (file.to_owned(), what.into());
        self.problems.push(Problem { verdict, segment, file, what, hint: None });
    }

    pub(super) fn error(&mut self, verdict: Verdict, segment: Option<u64>, file: &str, error: &Error) {
        self.problem(verdict, segment, file, error.one_line());
        if let Some(problem) = self.problems.last_mut() {
            problem.hint = error.hint_text().map(str::to_owned);
        }
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// What lies before the floor now went while we looked: the archiver prunes, nothing is wrong with that.
    pub(super) fn pruned_meanwhile(&mut self, floor: u64) {
        let before = self.problems.len();
        self.problems.retain(|problem| problem.segment.is_none_or(|seq| seq >= floor));
        for missing in self.missing.iter_mut().filter(|missing| missing.to < floor) {
            missing.class = Class::Pruned;
        }
        if self.problems.len() < before {
            self.note(format!("segments before {floor} were pruned while they were looked at"));
        }
    }

    /// Something could not be looked at.
    pub fn is_incomplete(&self) -> bool {
        self.problems.iter().any(|problem| problem.verdict == Verdict::Unreadable)
    }

    pub(super) fn finished(mut self) -> Report {
        if self.unchecked_signatures > 0 {
            let count = self.unchecked_signatures;
            self.note(format!("{count} signatures were not checked: verify_key is not set"));
        }
        self.problems.sort_by_key(|problem| problem.segment);
        self.sound = self.problems.is_empty();
        self
    }

    /// The table that a person reads.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            writeln!(text, "{name:<14}{}", escape_control(&value)).expect("a String takes all");
        };
        line("archive", self.archive.clone());
        let range = |first: Option<String>, last: Option<String>| match (first, last) {
            (Some(first), Some(last)) => format!("{first} to {last}"),
            _ => "-".to_owned(),
        };
        let number = |seq: Option<u64>| seq.map(|seq| seq.to_string());
        line(
            "segments",
            format!("{} ({})", self.segments, range(number(self.first_segment), number(self.last_segment))),
        );
        line("bytes", format!("{} ({} of lines)", ByteSize(self.bytes), ByteSize(self.content_bytes)));
        line("transactions", format!("{} with {} records", self.transactions, self.records));
        let time = |ts: Option<Timestamp>| ts.map(|ts| ts.to_string());
        line("commits", range(time(self.first_ts), time(self.last_ts)));
        if let Some(covered_at) = self.covered_at {
            line("covers", format!("all that committed before {covered_at}"));
        }
        if self.snapshots > 0 {
            let (rows, bytes) = (self.snapshot_rows, ByteSize(self.snapshot_bytes));
            line("snapshots", format!("{} with {rows} rows ({bytes})", self.snapshots));
        }
        line("looked at", if self.quick { "manifests and sizes" } else { "everything" }.to_owned());
        for Missing { from, to, class } in &self.missing {
            let which =
                if from == to { format!("segment {from}") } else { format!("segments {from} to {to}") };
            line("missing", format!("{which}: {}", class.words()));
        }
        for gap in &self.gaps {
            line("gap", format!("after {} up to {}: {}", gap.from, gap.to, gap.reason));
        }
        for note in &self.notes {
            line("note", note.clone());
        }
        for problem in &self.problems {
            line("problem", format!("{}: {}", problem.file, problem.what));
            if let Some(hint) = &problem.hint {
                line("", format!("hint: {hint}"));
            }
        }
        let verdict = match self.problems.first() {
            None => "sound".to_owned(),
            Some(first) if self.problems.len() == 1 => format!("1 problem: {}: {}", first.file, first.what),
            Some(first) => {
                format!("{} problems, the first: {}: {}", self.problems.len(), first.file, first.what)
            }
        };
        line("result", verdict);
        text
    }
}

impl Class {
    fn words(self) -> &'static str {
        match self {
            Class::NotYetShipped => "not shipped yet",
            Class::Pruned => "pruned",
            Class::Lost => "lost",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pruned_meanwhile_is_no_loss() {
        let mut report = Report::new("here", false);
        report.missing.push(Missing { from: 1, to: 2, class: Class::Lost });
        for seq in [1, 2, 3] {
            report.problem(Verdict::Lost, Some(seq), "a file", "it is missing");
        }
        report.problem(Verdict::Damaged, None, "head.json", "it is damaged");
        report.pruned_meanwhile(3);
        let left: Vec<Option<u64>> = report.problems.iter().map(|problem| problem.segment).collect();
        assert_eq!(left, [Some(3), None]);
        assert_eq!(report.missing, [Missing { from: 1, to: 2, class: Class::Pruned }]);
        assert_eq!(report.notes, ["segments before 3 were pruned while they were looked at"]);
    }
}
