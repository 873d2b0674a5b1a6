//! Which table takes what of a segment. Pure: states, schemas and manifests in, a plan out.

pub mod group;
pub(crate) mod offer;
pub mod position;
pub mod state;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use syncdata_formats::error::Error;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::{self, Gap, Generated, Manifest, Relation, ReplicaIdentity};
use syncdata_formats::name::TableName;

use self::group::GroupName;
use self::state::{State, TableState};
use crate::batch::TxPlace;
use crate::table::{self, Difference, Fit, Table};

/// What a table gets from a segment.
#[derive(Clone, Debug, PartialEq)]
pub enum Share {
    /// It has all of it already, or takes nothing in its state.
    Nothing,
    /// What committed after `from`, up to and including `until`.
    Some { target: Arc<Fit>, relation: Arc<Relation>, from: Lsn, until: Bound },
    /// It cannot take any of it.
    Unfit(Difference),
}

/// Where a table stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    End,
    /// Before that transaction: an earlier try has shown that it cannot take it.
    Before(TxPlace),
    /// After the last commit up to there: what follows is lost.
    Gap(Lsn),
}

/// Which tables this pass is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of the group that are live: they move together with its checkpoint.
    Live(GroupName),
    /// Those of the group alone, from their own positions up to its checkpoint.
    CatchUp(GroupName, Vec<TableName>),
}

impl Scope {
    pub fn contains(&self, table: &TableName, state: &TableState) -> bool {
        let is_in_scope = match self {
            Scope::Live(_) => state.state == State::Live,
            Scope::CatchUp(_, tables) => tables.contains(table),
        };
        is_in_scope && self.is_of_group(state)
    }

    /// It takes nothing until an operator has mended it. A table that lags or waits for its base comes by itself, and one of
    /// another group with that one.
    pub fn holds(&self, table: &TableName, state: &TableState) -> bool {
        self.is_of_group(state) && !self.contains(table, state) && state.state.needs_operator()
    }

    /// The checkpoint that the pass is about is that of its group.
    pub fn is_of_group(&self, state: &TableState) -> bool {
        let (Scope::Live(group) | Scope::CatchUp(group, _)) = self;
        state.group == *group
    }
}

/// The first gap of the segment that the table runs into and that nobody has accepted for it.
pub fn gap<'a>(manifest: &'a Manifest, table: &TableName, state: &TableState) -> Option<&'a Gap> {
    let position = state.position.unwrap_or(Lsn::ZERO);
    let holds_back = |gap: &&Gap| {
        gap.to > position && concerns(gap, table) && !state.accepted_gaps.contains(&GapName::from(*gap))
    };
    manifest.gaps.iter().filter(holds_back).min_by_key(|gap| gap.from)
}

/// Whether changes of that table are lost in it.
pub fn concerns(gap: &Gap, table: &TableName) -> bool {
    gap.concerns(table)
}

/// Changes that committed after one position and up to another: how a gap is told, and remembered when it is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GapName {
    pub from: Lsn,
    pub to: Lsn,
}

impl From<&Gap> for GapName {
    fn from(gap: &Gap) -> GapName {
        GapName { from: gap.from, to: gap.to }
    }
}

impl fmt::Display for GapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.from, self.to)
    }
}

impl FromStr for GapName {
    type Err = Error;

    fn from_str(text: &str) -> Result<GapName, Error> {
        let (from, to) = text.split_once("..").ok_or_else(|| Error::bad_input("a gap (FROM..TO)", text))?;
        Ok(GapName { from: from.parse()?, to: to.parse()? })
    }
}

/// What lets a table go on that a gap cuts off.
pub fn gap_remedy(table: &TableName) -> String {
    let word = table.shell_word();
    format!("run: syncdata-applier resync {word}, or retry {word} --accept-gap")
}

/// What one table takes of one segment. `stops` are transactions that earlier tries have found.
pub fn share(
    manifest: &Manifest,
    name: &TableName,
    state: &TableState,
    local: Option<&Arc<Table>>,
    stop: Option<TxPlace>,
) -> Share {
    let position = state.position.unwrap_or(Lsn::ZERO);
    if position >= manifest.end_lsn || !manifest.tables.contains_key(name) {
        return Share::Nothing;
    }
    let until = match (stop, gap(manifest, name, state)) {
        (Some(stop), _) if stop.seq < manifest.seq.get() => return Share::Nothing,
        (Some(stop), _) if stop.seq == manifest.seq.get() => Bound::Before(stop),
        (_, Some(gap)) if gap.from <= manifest.start_lsn => return Share::Nothing,
        (_, Some(gap)) => Bound::Gap(gap.from),
        (_, None) => Bound::End,
    };
    // It stops before the segment's first transaction: nothing to compare.
    if until == Bound::Before(TxPlace { seq: manifest.seq.get(), index: 0 }) {
        return Share::Nothing;
    }
    let Some(local) = local else { return Share::Unfit(not_found(name)) };
    let relation = match manifest.relations.get(name) {
        Some(relation) => relation.clone(),
        None => as_local(local),
    };
    match table::fit_of_changes(&relation, local) {
        Ok(target) => {
            Share::Some { target: Arc::new(target), relation: Arc::new(relation), from: position, until }
        }
        Err(difference) => Share::Unfit(difference),
    }
}

/// The words of the earlier tool.
pub fn not_found(name: &TableName) -> Difference {
    Difference {
        what: format!("Table not found locally: {name}"),
        remedy: format!("CREATE TABLE {} (...) as at the source", name.sql()),
        in_doubt: false,
    }
}

/// What manifests call it when the plugin prints NaN and infinities of numbers as null.
pub const NUMERIC_NAN: &str = "numeric-nan";

/// Whether a source that is degraded so prints them so.
pub fn is_without_nan(degraded: &[String]) -> bool {
    degraded.iter().any(|what| what == NUMERIC_NAN)
}

/// The columns whose values that concerns.
pub fn columns_with_nan(relation: &Relation) -> Vec<&str> {
    let is_of_numbers = |type_name: &str| {
        type_name == "real" || type_name == "double precision" || type_name.starts_with("numeric")
    };
    let plain = |type_name: &str| is_of_numbers(type_name) && !type_name.ends_with("[]");
    relation.columns.iter().filter(|c| plain(&c.type_name)).map(|c| c.name.as_str()).collect()
}

/// A table that was dropped at the source before it was described: nobody knows more than its rows say.
pub fn as_local(table: &Table) -> Relation {
    let columns = table.columns.iter().map(|column| manifest::Column {
        name: column.name.clone(),
        type_name: column.type_name.clone(),
        not_null: column.not_null,
        generated: column.generated.then_some(Generated::Stored),
        ..manifest::Column::default()
    });
    let key = table.unique.first().map(|index| index.columns.as_slice()).unwrap_or_default();
    let key = key.iter().map(|&column| table.columns[column].name.clone()).collect();
    Relation::new(columns.collect(), key, ReplicaIdentity::Default)
}

/// Whether another segment still fits into the local transaction.
pub fn fits(records_so_far: u64, next: &Manifest, apply_batch_changes: u64) -> bool {
    records_so_far.saturating_add(next.records) <= apply_batch_changes
}

/// What is wrong with a table that the source captures no more.
pub fn left_words(until: &str) -> String {
    format!("captured no more: what committed after {until} is in no archive")
}

/// Whether no table is described otherwise in one of them than in the other.
pub fn is_of_one_shape(one: &Manifest, other: &Manifest) -> bool {
    one.relations.iter().all(|(name, relation)| {
        other.relations.get(name).is_none_or(|known| known.fingerprint == relation.fingerprint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes() -> [Scope; 2] {
        let tables = ["a", "b"].map(|name| name.parse().expect("a name"));
        [Scope::Live(group("night")), Scope::CatchUp(group("night"), tables.to_vec())]
    }

    fn group(name: &str) -> GroupName {
        name.parse().expect("a name")
    }

    fn of_group(name: &str, state: State) -> TableState {
        TableState { group: group(name), ..TableState::new(state) }
    }

    #[test]
    fn what_is_of_another_group_is_neither_in_scope_nor_held() {
        let table = "a".parse().expect("a name");
        for scope in scopes() {
            for state in State::ALL {
                let other = of_group("day", state);
                assert!(!scope.contains(&table, &other), "{scope:?} {state}");
                assert!(!scope.holds(&table, &other), "{scope:?} {state}");
                assert!(!scope.is_of_group(&other), "{scope:?} {state}");
            }
        }
    }

    #[test]
    fn what_is_of_the_group_is_in_scope_or_held_or_comes_later() {
        let (listed, other): (TableName, TableName) =
            ("a".parse().expect("a name"), "c".parse().expect("a name"));
        let [live, catching_up] = scopes();
        for (state, moves, is_held) in [
            (State::Pending, false, false),
            (State::Loading, false, false),
            (State::Live, true, false),
            (State::Quarantined, false, true),
            (State::Stale, false, true),
        ] {
            let own = of_group("night", state);
            assert_eq!(
                (live.contains(&listed, &own), live.holds(&listed, &own)),
                (moves, is_held),
                "{state}"
            );
            assert!(catching_up.contains(&listed, &own) && !catching_up.holds(&listed, &own), "{state}");
            assert_eq!(
                (catching_up.contains(&other, &own), catching_up.holds(&other, &own)),
                (false, is_held),
                "{state}"
            );
        }
    }
}
