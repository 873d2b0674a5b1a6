//! What a replay is going to read, table by table, and what it leaves alone. Pure: manifests, states and schemas in, a
//! plan out.

use std::collections::BTreeMap;
use std::sync::Arc;

use syncdata_formats::error::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{Column, Generated, Manifest, Relation, ReplicaIdentity};
use syncdata_formats::name::TableName;
use syncdata_formats::printed::identifier;

use crate::archive::range::TimeRange;
use crate::load::columns;
use crate::plan::state::{State, TableState};
use crate::plan::{concerns, not_found};
use crate::table::{self, Table};

/// The plan of one replay.
#[derive(Debug, Default)]
pub struct Plan {
    pub tables: BTreeMap<TableName, TablePlan>,
    /// With the reason.
    pub left_alone: BTreeMap<TableName, String>,
}

/// One table that is repaired.
#[derive(Debug)]
pub struct TablePlan {
    pub table: Arc<Table>,
    /// Up to here its changes are in it, and no further is it brought.
    pub position: Lsn,
    /// Where the base copy began that its rows came with.
    pub base: Option<Lsn>,
    /// Local columns of its key.
    pub key: Vec<usize>,
    /// As it was last described.
    pub relation: Relation,
    /// The first and the last of the segments with records of it, from the range on up to its position.
    pub first: u64,
    pub last: u64,
}

/// What there is to plan with.
#[derive(Debug)]
pub struct Known<'a> {
    pub range: TimeRange,
    /// From the range on, oldest first, without a hole.
    pub manifests: Vec<&'a Manifest>,
    pub tables: &'a BTreeMap<TableName, Arc<Table>>,
    /// The archive has segments that no pass has applied yet.
    pub has_more: bool,
}

impl Known<'_> {
    /// The plan for these tables.
    pub fn plan(&self, states: &BTreeMap<TableName, TableState>) -> Plan {
        let mut plan = Plan::default();
        for (name, state) in states {
            match self.table(name, state) {
                Ok(Some(table)) => drop(plan.tables.insert(name.clone(), table)),
                Ok(None) => {}
                Err(reason) => drop(plan.left_alone.insert(name.clone(), reason)),
            }
        }
        plan
    }

    /// `None`: nothing of it changed in the range.
    fn table(&self, name: &TableName, state: &TableState) -> Result<Option<TablePlan>, String> {
        let position = state.position.unwrap_or(Lsn::ZERO);
        let counts = |manifest: &&&Manifest| manifest.tables.contains_key(name);
        let changed = self.manifests.iter().filter(counts).find(|manifest| self.range.meets(manifest));
        if let Some(lost) = self.range.lost(&self.manifests, name, Some(position)) {
            return Err(format!(
                "{lost}: the archive does not say how its rows are now; mend it with resync"
            ));
        }
        let Some(first) = changed else { return Ok(None) };
        let in_range: Vec<&Manifest> =
            self.manifests.iter().copied().filter(|manifest| manifest.seq >= first.seq).collect();
        match state.state {
            State::Pending => {
                return Err("it has no base yet: nothing in it could be right; load it first (resync)".into());
            }
            State::Live | State::Loading | State::Quarantined | State::Stale => {}
        }
        if let Some(base) = state.base.filter(|base| first.end_lsn <= *base) {
            return Err(older_than_base(name, base));
        }
        if position <= first.start_lsn {
            return Err(format!("it is {} at {position}, before the range", state.state));
        }
        let was_set_aside = matches!(state.state, State::Quarantined | State::Stale);
        if was_set_aside && state.paired.is_empty() && !state.source_columns.is_empty() {
            return Err(
                "into which of its columns its rows were written is not known any more; mend it with resync"
                    .into(),
            );
        }
        if self.has_more && self.manifests.last().is_some_and(|last| position > last.end_lsn) {
            return Err(
                "it was loaded from a base copy that is newer than the last pass: run sync first".into()
            );
        }
        let lost = |manifest: &&&Manifest| {
            manifest.gaps.iter().any(|gap| concerns(gap, name) && gap.from < position)
        };
        if let Some(manifest) = in_range.iter().find(lost) {
            return Err(format!(
                "changes of it are lost after the range (segment {}): the archive does not say how its rows are now; \
                 mend it with resync",
                manifest.seq
            ));
        }
        let local = self.tables.get(name).ok_or_else(|| not_found(name).to_string())?;
        let taken = in_range.iter().filter(|manifest| manifest.start_lsn < position);
        let taken: Vec<&&Manifest> = taken.filter(|manifest| manifest.tables.contains_key(name)).collect();
        let relations = taken.iter().filter_map(|manifest| manifest.relations.get(name));
        let (key, relation) = key_of_all(relations, local)?;
        let last = taken.last().map_or(first.seq, |manifest| manifest.seq).get();
        let table = Arc::clone(local);
        let base = state.base;
        Ok(Some(TablePlan { table, position, base, key, relation, first: first.seq.get(), last }))
    }
}

/// What the stream said before that is not written over it: the base copy may have brought what the stream never told.
pub(super) fn older_than_base(name: &TableName, base: Lsn) -> String {
    format!(
        "its rows came with a base copy of {base}, which is newer than changes of the range: what the stream said before it \
         may not be what production had; run: syncdata-applier consistency repair {}",
        name.shell_word()
    )
}

/// Why a key tells no row from others here.
fn why_by_image(local: &Table, key: &[usize]) -> &'static str {
    let mut covering = local.unique.iter().filter(|unique| {
        unique.columns.len() == key.len() && key.iter().all(|column| unique.columns.contains(column))
    });
    let is_loose = key.iter().any(|&column| local.columns[column].may_merge());
    if covering.clone().next().is_none() {
        return "its rows may share their key, which is not unique here";
    }
    if is_loose || covering.clone().any(|unique| unique.is_loose) {
        return "keys that the source tells apart may be equal here, by their collation or type";
    }
    if covering.any(|unique| unique.immediate) {
        return "ON CONFLICT cannot use the index of its key";
    }
    "its rows may share their key for a moment (DEFERRABLE)"
}

/// A column whose name another one of the source has by now, by its number.
fn of_another_column<'a>(relation: &'a Relation, local: &Table) -> Option<&'a str> {
    let is_another = |column: &&Column| {
        let known = local.source_columns.iter().find(|(_, name)| **name == column.name);
        column.attnum.zip(known).is_some_and(|(number, (known, _))| number != *known)
    };
    relation.columns.iter().find(is_another).map(|column| column.name.as_str())
}

/// A column that is called otherwise by now: without it no row is as the archive says, and another one of the copy that has
/// its name is not meant.
fn called_otherwise<'a>(relation: &'a Relation, local: &'a Table) -> Option<(&'a str, &'a str)> {
    relation.columns.iter().find_map(|column| {
        let now = local.source_columns.get(&column.attnum?).filter(|now| **now != column.name)?;
        Some((column.name.as_str(), now.as_str()))
    })
}

/// What of the table was another one before, so that what its records mean then cannot be told now; in words.
pub(super) fn other_before(before: &Relation, now: &Relation, local: &Table) -> Option<String> {
    if !table::is_same_key(&before.key, &now.key) {
        return Some("its key was another one".into());
    }
    if before.replica_identity == ReplicaIdentity::Index {
        return Some("its rows were named by another index than its key".into());
    }
    let renamed = before.columns.iter().find(|column| {
        let later = now.columns.iter().find(|later| later.attnum == column.attnum);
        let known = column.attnum.and_then(|number| local.source_columns.get(&number));
        let names =
            later.map(|later| &later.name).filter(|_| column.attnum.is_some()).into_iter().chain(known);
        names.into_iter().any(|name| *name != column.name)
    });
    let taken = || of_another_column(before, local).map(identifier);
    if let Some(name) = renamed.map(|column| identifier(&column.name)).or_else(taken) {
        return Some(format!(
            "its column {name} was another one than has that name now, or has another name now"
        ));
    }
    // Without numbers a column that went and one that came may be the same.
    let lacks = |one: &Relation, other: &Relation| {
        one.columns.iter().any(|column| other.columns.iter().all(|other| other.name != column.name))
    };
    let is_numbered = |relation: &Relation| relation.columns.iter().all(|column| column.attnum.is_some());
    if lacks(before, now) && lacks(now, before) && !(is_numbered(before) && is_numbered(now)) {
        return Some("its columns had other names".into());
    }
    columns::check_labels(before, now).err()
}

/// The key that the table has in all these segments, and its newest shape.
fn key_of_all<'a>(
    relations: impl Iterator<Item = &'a Relation>,
    local: &Arc<Table>,
) -> Result<(Vec<usize>, Relation), String> {
    let mut newest: Option<&Relation> = None;
    for relation in relations {
        if newest.is_some_and(|newest| newest.key != relation.key) {
            return Err("its key became another one after the range; mend it with resync".into());
        }
        if let Some(reason) = newest.and_then(|before| columns::check_labels(before, relation).err()) {
            return Err(format!("after the range {reason}; mend it with resync"));
        }
        if let Some(name) = of_another_column(relation, local) {
            let name = identifier(name);
            return Err(format!(
                "its column {name} of the range is another one than has that name now; mend it with resync"
            ));
        }
        if let Some((name, now)) = called_otherwise(relation, local) {
            let here = match local.column(name) {
                Some(_) => ", and the copy has a column of its own of the first name",
                None => "",
            };
            return Err(format!(
                "its column {} of the range is called {} by now{here}; mend it with resync",
                identifier(name),
                identifier(now)
            ));
        }
        let fit = table::fit_of_changes(relation, local).map_err(|difference| difference.to_string())?;
        if fit.key.by_image && !fit.key.columns.is_empty() {
            return Err(format!(
                "{}: which of them a change was about only all of its values tell; mend it with resync",
                why_by_image(local, &fit.key.columns)
            ));
        }
        newest = Some(relation);
    }
    let Some(relation) = newest else {
        return Err("it was dropped at the source before it was described".into());
    };
    let missing = relation
        .columns
        .iter()
        .find(|column| local.column(&column.name).is_none() && column.generated != Some(Generated::Virtual));
    if let Some(column) = missing {
        return Err(table::lacking(&column.name, Some(relation), local).to_string());
    }
    if relation.key.is_empty() {
        return Err("it has no key: which of its rows a change was about cannot be told afterwards".into());
    }
    if relation.replica_identity == ReplicaIdentity::Index {
        return Err("its rows are named by another index than its key; mend it with resync".into());
    }
    let key: Option<Vec<usize>> = relation.key.iter().map(|name| local.column(name)).collect();
    let key = key.ok_or("its key does not exist locally")?;
    let is_unique = local.unique.iter().any(|unique| {
        unique.columns.len() == key.len() && key.iter().all(|column| unique.columns.contains(column))
    });
    if !is_unique || key.iter().any(|&column| local.columns[column].generated) {
        return Err(format!(
            "its key ({}) is not unique here; run: ALTER TABLE {} ADD PRIMARY KEY ({})",
            relation.key.join(", "),
            local.name.sql(),
            local.column_list(&key)
        ));
    }
    Ok((key, relation.clone()))
}
