//! What transactions may still say that were open when a schema or a type was altered.
//!
//! A writer holds a lock on its table, and DDL on that table waits for its end. `ALTER SCHEMA … RENAME` and `ALTER TYPE …
//! RENAME VALUE` wait for nobody: what a transaction wrote before comes into the stream at its commit, which may be many
//! polls later, and under the names of that time. So what the look found that first showed the alteration stays in doubt
//! for every transaction that may have been open then, until all of them have ended.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;
use syncdata_formats::snapshot::Seen;

use super::changes::types::is_altered;
use super::changes::{ANOTHER, Changes, PARTITION, TYPE};
use super::{Doubt, Known, Open, Retyped};

/// What rows of one relation may say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beside {
    /// Its rows travel as this one's.
    pub table: TableName,
    /// They may come under these names,
    pub names: BTreeSet<TableName>,
    /// and under one of any schema that nobody knows.
    pub own_name: String,
    pub what: What,
    /// Those of transactions below this number,
    #[serde(default)]
    pub before: u64,
    /// or that wrote before this position: the highest number that a look knows of may not be the last that was given.
    #[serde(default)]
    pub upto: Lsn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum What {
    /// Its schema had another name.
    Schema,
    /// Its schema has other rights or is new, and may have had another name besides.
    Guest,
    /// An enum of its columns called labels otherwise.
    Labels,
}

impl Beside {
    fn is_of_the_same(&self, other: &Beside) -> bool {
        (&self.table, &self.own_name, self.what, &self.names)
            == (&other.table, &other.own_name, other.what, &other.names)
    }
}

impl Doubt {
    /// Whether it is about that transaction, which wrote its first row there.
    pub(crate) fn is_of(&self, xid: u32, written_from: Lsn) -> bool {
        let may_be = |open: Open| {
            let is_older = open.before.is_some_and(|before| xid.wrapping_sub(before).cast_signed() < 0);
            is_older || written_from < open.upto
        };
        self.open.is_none_or(may_be)
    }
}

/// What is to be remembered after a look that showed these alterations for the first time, at that position. When all have
/// ended that were open then, the slot will say ([`Memory::read_from`](super::Memory::read_from)).
pub(super) fn remember(altered: &[Beside], earlier: &[Beside], seen: &Seen, upto: Lsn) -> Vec<Beside> {
    let is_seen_again = |known: &Beside| altered.iter().any(|former| former.is_of_the_same(known));
    let known = earlier.iter().filter(|known| !is_seen_again(known)).cloned();
    let new = altered.iter().map(|former| Beside { before: seen.xmax, upto, ..former.clone() });
    known.chain(new).collect()
}

impl Changes<'_> {
    /// Alterations that this look shows and the last one did not.
    pub(super) fn altered_beside_writers(&mut self) {
        let mut doubted: BTreeMap<&str, Vec<(&TableName, &TableName)>> = BTreeMap::new();
        for (name, route) in &self.capture.routes {
            let now = route.doubts.iter().filter(|doubt| doubt.open.is_none());
            doubted.entry(name.name()).or_default().extend(now.map(|doubt| (name, &doubt.table)));
        }
        let relations = self.capture.relations.iter().filter(|(_, known)| known.has_storage);
        let altered = relations.flat_map(|(oid, now)| {
            let doubted = doubted.get(now.name.name()).map_or(&[][..], Vec::as_slice);
            self.altered_beside_its_writers(*oid, now, doubted)
        });
        let found: Vec<Beside> = altered.collect();
        self.capture.altered_beside_writers = found;
    }

    /// `doubted`: the names of any schema under which rows are in doubt, each with the table that they may be of.
    fn altered_beside_its_writers(
        &self,
        oid: u32,
        now: &Known,
        doubted: &[(&TableName, &TableName)],
    ) -> Vec<Beside> {
        let Some(table) = &now.table else { return Vec::new() };
        let then = self.memory.relations.get(&oid);
        let has_other_schema = match then {
            Some(then) => now.marks.has_altered_schema(&then.marks),
            None => now.marks.schema != 0 && !self.memory.is_old(now.marks.schema),
        };
        let is_renamed = match then {
            Some(then) => {
                now.marks.has_new_schema_name(&then.marks) || then.name.schema() != now.name.schema()
            }
            None => self.memory.may_have_renamed_schema(&now.name, &now.marks),
        };
        let what = match () {
            () if is_renamed => Some(What::Schema),
            () if has_other_schema => Some(What::Guest),
            () => None,
        };
        let has_other_labels = self.capture.retyped.get(&oid).is_some_and(Retyped::has_new_columns)
            || then.is_some_and(|then| is_altered(then, now));
        let what = what.into_iter().chain(has_other_labels.then_some(What::Labels));
        let beside = |what| {
            let own =
                then.map(|then| &then.name).into_iter().chain([&now.name]).filter(|_| what != What::Guest);
            // Names that passed from one schema to another meanwhile.
            let others = doubted.iter().filter(|(_, of)| what != What::Labels && *of == table);
            Beside {
                table: table.clone(),
                names: own.chain(others.map(|(name, _)| *name)).cloned().collect(),
                own_name: now.name.name().to_owned(),
                what,
                before: 0,
                upto: Lsn::default(),
            }
        };
        what.map(beside).collect()
    }

    /// What the memory still has of them.
    pub(super) fn beside(&mut self) {
        for former in self.memory.beside.iter().filter(|former| self.capture.tables.contains(&former.table)) {
            let table = &former.table;
            let reason = match former.what {
                What::Labels => TYPE,
                What::Schema | What::Guest if former.own_name == table.name() => ANOTHER,
                What::Schema | What::Guest => PARTITION,
            };
            // The upper half of the number says how often the lower one came round.
            let before = u32::try_from(former.before & u64::from(u32::MAX)).ok();
            let open = Some(Open { before, upto: former.upto });
            let doubt = Doubt { table: table.clone(), reason, open };
            for name in &former.names {
                self.capture.routes.entry(name.clone()).or_default().doubts.insert(doubt.clone());
            }
            if former.what != What::Labels {
                self.capture.elsewhere.entry(former.own_name.clone()).or_default().insert(doubt);
            }
        }
    }
}
