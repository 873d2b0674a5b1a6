//! What a proof's manifest must fulfil by itself.

use std::collections::BTreeSet;

use super::{Buckets, ForeignKey, ProofId, ProofManifest, ProvedTable};
use crate::document::Document;
use crate::error::{Error, Kind, Result};

impl ProofManifest {
    pub(super) fn check(&self) -> Result<()> {
        self.problem().map_err(|problem| {
            Error::new(Kind::Corrupt, format!("the manifest of proof {} contradicts itself", self.id))
                .caused_by(problem)
        })
    }

    fn problem(&self) -> Result<(), String> {
        self.snapshot.check()?;
        let mut files = BTreeSet::new();
        for (name, table) in &self.tables {
            table.problem().map_err(|problem| format!("table {name}: {problem}"))?;
            if !files.insert(&table.file) {
                return Err(format!("{} belongs to two tables", table.file));
            }
            if self.not_proved.contains_key(name) {
                return Err(format!("table {name} is proved and is not"));
            }
        }
        Ok(())
    }
}

impl ProvedTable {
    fn problem(&self) -> Result<(), String> {
        if self.k > Buckets::K_MAX {
            return Err(format!("k is {}, above {}", self.k, Buckets::K_MAX));
        }
        if !ProofId::is_buckets_name(&self.file) {
            return Err(format!("{:?} is not the name of a file of buckets", self.file));
        }
        if self.bytes > Document::ProofBuckets.bytes_max() as u64 {
            return Err(format!("{} bytes are more than a file of buckets has", self.bytes));
        }
        for (rule, answer) in &self.rules {
            match answer.answer() {
                Ok(violators) => violators.check().map_err(|problem| format!("rule {rule} {problem}"))?,
                Err(_) if answer.more => {
                    return Err(format!("rule {rule} says that there are more violators, and lists none"));
                }
                Err(_) => {}
            }
            if answer.violators.is_some() && answer.reason.is_some() {
                return Err(format!("rule {rule} is answered and is not"));
            }
        }
        self.foreign_keys.iter().try_for_each(ForeignKey::check)
    }
}

impl ForeignKey {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.columns.is_empty() || self.columns.len() != self.key.len() {
            return Err("a foreign key refers to another number of columns".into());
        }
        let orphans = self.orphans.as_ref().map_or(Ok(()), super::Violators::check);
        orphans.map_err(|problem| format!("foreign key {} {problem}", self.name))
    }
}
