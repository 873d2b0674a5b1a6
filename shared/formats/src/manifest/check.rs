//! What a manifest must fulfil by itself.

use super::{ChangeFile, Gap, Manifest, Span};
use crate::error::{Error, Kind, Result};

impl Manifest {
    pub(super) fn check(&self) -> Result<()> {
        self.check_links().and_then(|()| self.check_contents()).and_then(|()| self.check_gaps()).map_err(
            |problem| {
                Error::new(Kind::Corrupt, format!("the manifest of segment {} contradicts itself", self.seq))
                    .caused_by(problem)
            },
        )
    }

    fn check_links(&self) -> Result<(), String> {
        match self.previous {
            None if self.seq.get() != 1 => {
                return Err(format!("segment {} names no segment before it", self.seq));
            }
            Some(link) if link.seq.next() != self.seq => {
                return Err(format!("segment {} says that it follows {}", self.seq, link.seq));
            }
            _ => {}
        }
        if self.start_lsn > self.end_lsn {
            return Err(format!("start_lsn {} is after end_lsn {}", self.start_lsn, self.end_lsn));
        }
        Ok(())
    }

    fn check_contents(&self) -> Result<(), String> {
        match (&self.file, &self.span) {
            (Some(file), Some(span)) => self.check_file(file, span)?,
            (None, None) => self.check_without_changes()?,
            _ => return Err("a change file and the span of its transactions come together".into()),
        }
        let counted = self.tables.values().fold(0_u64, |sum, counts| sum.saturating_add(counts.total()));
        if counted != self.records {
            return Err(format!("records is {}, the counts of its tables add up to {counted}", self.records));
        }
        for (table, relation) in &self.relations {
            relation.check().map_err(|problem| format!("relation {table}: {problem}"))?;
        }
        if let Some(mark) = &self.proof {
            mark.check()?;
        }
        self.check_capture_since()
    }

    fn check_capture_since(&self) -> Result<(), String> {
        for (table, since) in &self.capture_since {
            if !self.capture.contains(table) {
                return Err(format!("capture_since names {table}, which is not captured"));
            }
            if since.lsn > self.end_lsn {
                return Err(format!(
                    "{table} is captured since {}, past end_lsn {}",
                    since.lsn, self.end_lsn
                ));
            }
        }
        Ok(())
    }

    fn check_file(&self, file: &ChangeFile, span: &Span) -> Result<(), String> {
        let own = self.name().file_name();
        if file.file != own {
            return Err(format!("file is {:?}; beside this manifest lies {own:?}", file.file));
        }
        if self.transactions == 0 {
            return Err("a change file without a transaction".into());
        }
        if span.first_ts > span.last_ts {
            return Err(format!("first_ts {} is later than last_ts {}", span.first_ts, span.last_ts));
        }
        if span.min_xid > span.max_xid {
            return Err(format!("min_xid {} is above max_xid {}", span.min_xid, span.max_xid));
        }
        Ok(())
    }

    fn check_without_changes(&self) -> Result<(), String> {
        if self.records != 0 || self.transactions != 0 {
            return Err(format!(
                "{} records in {} transactions without a change file",
                self.records, self.transactions
            ));
        }
        match self.gaps.iter().map(|gap| gap.to).max() {
            None if self.proof.is_some() => Ok(()),
            None => Err("neither a change file nor a gap".into()),
            // A mark may lie after the gap.
            Some(to) if to < self.end_lsn && self.proof.is_some() => Ok(()),
            Some(to) if to != self.end_lsn => {
                Err(format!("a gap alone that ends at {to}, while end_lsn is {}", self.end_lsn))
            }
            Some(_) => Ok(()),
        }
    }

    fn check_gaps(&self) -> Result<(), String> {
        for Gap { from, to, tables, .. } in &self.gaps {
            if from >= to {
                return Err(format!("a gap from {from} to {to}"));
            }
            if *to > self.end_lsn {
                return Err(format!("a gap up to {to}, after end_lsn {}", self.end_lsn));
            }
            if tables.as_ref().is_some_and(Vec::is_empty) {
                return Err("a gap that concerns no table".into());
            }
        }
        Ok(())
    }
}
