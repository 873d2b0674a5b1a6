//! The mark in the manifest of a segment: here production's tables were as a proof will say. It promises no proof.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Buckets, ForeignKey, ProofId};
use crate::name::TableName;
use crate::relation::Relation;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub id: ProofId,
    pub tables: BTreeMap<TableName, MarkedTable>,
}

/// How a table is digested: both sides do it alike without talking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkedTable {
    /// There are 2^k buckets.
    pub k: u8,
    pub relation: Relation,
    /// Those to other tables of the mark: whoever digests asks for them at the same place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign_keys: Vec<ForeignKey>,
}

impl Mark {
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.tables.is_empty() {
            return Err("proof names no table".into());
        }
        for (table, marked) in &self.tables {
            if marked.k > Buckets::K_MAX {
                return Err(format!("proof of {table} has k {}, above {}", marked.k, Buckets::K_MAX));
            }
            marked.relation.check().map_err(|problem| format!("proof of {table}: its relation {problem}"))?;
            marked
                .foreign_keys
                .iter()
                .try_for_each(ForeignKey::check)
                .map_err(|problem| format!("proof of {table}: {problem}"))?;
        }
        Ok(())
    }
}
