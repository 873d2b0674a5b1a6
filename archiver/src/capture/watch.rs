//! What triggers cannot see: whoever alters one, or a table under it, alters what is noted.
//!
//! Pure. What two looks at the catalog say of a table is compared; what cannot be told apart counts as a gap.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;

use super::{Attribute, Capture, CatalogTable, MadeOf, Storage};

pub(crate) const PARTITION: &str = "partition changed";
const ANOTHER: &str = "another table of this name";
const TRIGGERS: &str = "its triggers were changed";
const REWRITTEN: &str = "rewritten by ALTER TABLE";
const TYPE: &str = "a type of its columns was altered";
pub(crate) const UNKNOWN: &str = "keys of its rows could not be noted";

/// The triggers of a relation, as one text that differs when one of them does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Triggers {
    pub text: String,
    pub notes_rows: bool,
    pub notes_truncate: bool,
    /// All of them are ENABLE ALWAYS.
    pub always: bool,
}

/// A table as it was when a batch was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Watched {
    oid: u32,
    parts: BTreeMap<u32, Part>,
}

/// What holds rows of it, or has others below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    storage: Storage,
    triggers: String,
    notes_truncate: bool,
    /// By number.
    columns: BTreeMap<i16, Meaning>,
    /// It was made as a part of its parent: no row was in it before.
    from_birth: bool,
}

/// What the text of a column's values depends on, beside the values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Meaning {
    type_name: String,
    /// What it is computed by.
    expression: u32,
    made_of: Option<MadeOf>,
}

impl Meaning {
    /// Whether values that nobody wrote have another text. Another type by name is looked at with the table's shape.
    fn is_altered(&self, now: &Meaning) -> bool {
        let is_renamed = |before: &MadeOf, now: &MadeOf| {
            before.attributes != now.attributes
                || before.labels.iter().any(|(oid, label)| now.labels.get(oid) != Some(label))
        };
        let made_of = self.made_of.as_ref().zip(now.made_of.as_ref());
        self.type_name == now.type_name
            && (self.expression != now.expression || made_of.is_some_and(|(then, now)| is_renamed(then, now)))
    }
}

/// What the next batch comes after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastBatch {
    /// Where it ended. What is archived past it was read by somebody who could not write this down.
    pub position: Lsn,
    pub snapshot: String,
    /// All that the snapshot shows was flushed before there.
    pub wal: Lsn,
    pub tables: BTreeMap<TableName, Watched>,
    /// When the triggers began to note, as they say themselves. Others were made since if they say otherwise.
    #[serde(default)]
    pub began: String,
    /// Notes were left out, and that is told.
    #[serde(default)]
    pub blown: bool,
}

/// The captured tables as they are now, and those of which not all is noted.
pub(crate) fn watched(
    capture: &Capture,
    catalog: &[CatalogTable],
    triggers: &BTreeMap<u32, Triggers>,
    from_birth: &BTreeSet<u32>,
) -> (BTreeMap<TableName, Watched>, BTreeSet<TableName>) {
    let (mut all, mut unnoted): (BTreeMap<TableName, Watched>, BTreeSet<TableName>) = Default::default();
    for (relation, target) in capture.captured(catalog) {
        let ours = triggers.get(&relation.oid).cloned().unwrap_or_default();
        let is_root = relation.name == target.table;
        if !ours.notes_rows || !ours.always || is_root && !ours.notes_truncate {
            unnoted.insert(target.table.clone());
        }
        let columns = relation.layout.attributes.iter().map(|(number, attribute)| {
            let Attribute { type_name, expression, made_of, .. } = attribute.clone();
            (*number, Meaning { type_name, expression, made_of })
        });
        let part = Part {
            storage: relation.storage,
            triggers: ours.text,
            notes_truncate: ours.notes_truncate,
            columns: columns.collect(),
            from_birth: from_birth.contains(&relation.oid),
        };
        let watched = all.entry(target.table.clone()).or_insert(Watched { oid: 0, parts: BTreeMap::new() });
        if is_root {
            watched.oid = relation.oid;
        }
        watched.parts.insert(relation.oid, part);
    }
    (all, unnoted)
}

impl Watched {
    pub(crate) fn oid(&self) -> u32 {
        self.oid
    }

    pub(crate) fn relations(&self) -> impl Iterator<Item = u32> {
        self.parts.keys().copied()
    }

    /// Why changes of the table may be missing between the two looks, if so. `emptied`: relations whose TRUNCATE was noted.
    pub(crate) fn missed(&self, now: &Watched, emptied: &BTreeSet<u32>) -> Option<&'static str> {
        if self.oid != now.oid {
            return Some(ANOTHER);
        }
        let was_emptied = emptied.contains(&self.oid);
        // What was made and went between two looks has taken no row along that another look has seen.
        if self.parts.keys().any(|oid| !now.parts.contains_key(oid)) {
            return Some(PARTITION);
        }
        for (oid, part) in &now.parts {
            let Some(before) = self.parts.get(oid) else {
                if part.from_birth {
                    continue;
                }
                return Some(PARTITION);
            };
            if before.triggers != part.triggers {
                return Some(TRIGGERS);
            }
            let is_altered = |(number, now): (&i16, &Meaning)| {
                before.columns.get(number).is_some_and(|then| then.is_altered(now))
            };
            if part.columns.iter().any(is_altered) {
                return Some(TYPE);
            }
            let is_moved = before.storage.file != part.storage.file && !was_emptied && !emptied.contains(oid);
            if is_moved && (!part.notes_truncate || before.may_be_rewritten(part)) {
                return Some(REWRITTEN);
            }
        }
        None
    }

    /// Whether rows may have come into a partition and gone with a TRUNCATE that nobody noted: then the notes do not say which
    /// keys had a row before.
    pub(crate) fn has_new_part(&self, now: &Watched) -> bool {
        now.parts.iter().any(|(oid, part)| !part.notes_truncate && !self.parts.contains_key(oid))
    }
}

impl Part {
    /// Whether the rows were written anew by something else than VACUUM FULL and CLUSTER, which leave the TOAST table, or by a
    /// wider type. What was unlogged for a while may have lost rows.
    fn may_be_rewritten(&self, now: &Part) -> bool {
        let is_retyped = |(number, now): (&i16, &Meaning)| {
            self.columns.get(number).is_some_and(|then| then.type_name != now.type_name)
        };
        let keeps_toast = self.storage.toast != 0 && self.storage.toast == now.storage.toast;
        !keeps_toast && !now.columns.iter().any(is_retyped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(file: u32) -> Part {
        Part {
            storage: Storage { file, toast: 9 },
            triggers: "7 754 A 700".into(),
            notes_truncate: true,
            columns: BTreeMap::from([(1, of_type("mood", &[(7, 1)]))]),
            from_birth: false,
        }
    }

    fn of_type(name: &str, labels: &[(u32, i32)]) -> Meaning {
        let made_of = MadeOf { labels: labels.iter().copied().collect(), ..MadeOf::default() };
        Meaning { type_name: name.into(), expression: 0, made_of: Some(made_of) }
    }

    fn table(oid: u32, parts: &[(u32, Part)]) -> Watched {
        Watched { oid, parts: parts.iter().cloned().collect() }
    }

    #[test]
    fn what_triggers_cannot_see_is_a_gap() {
        let before = table(1, &[(1, part(0)), (2, part(20))]);
        let with = |change: &dyn Fn(&mut Part)| {
            let mut changed = part(20);
            change(&mut changed);
            table(1, &[(1, part(0)), (2, changed)])
        };
        let leaf =
            |from_birth| table(1, &[(1, part(0)), (2, part(20)), (3, Part { from_birth, ..part(30) })]);
        for (now, missed) in [
            (before.clone(), None),
            (table(9, &[(1, part(0)), (2, part(20))]), Some(ANOTHER)),
            (table(1, &[(1, part(0))]), Some(PARTITION)),
            (leaf(true), None),
            (leaf(false), Some(PARTITION)),
            (with(&|part| part.triggers.push('x')), Some(TRIGGERS)),
            (with(&|part| drop(part.columns.insert(1, of_type("mood", &[(7, 2)])))), Some(TYPE)),
            (with(&|part| drop(part.columns.insert(1, of_type("mood", &[(7, 1), (8, 2)])))), None),
            (with(&|part| drop(part.columns.insert(1, of_type("text", &[])))), None),
            (with(&|part| drop(part.columns.insert(2, of_type("mood", &[])))), None),
            // VACUUM FULL: a TRUNCATE would have been noted.
            (with(&|part| part.storage.file = 21), None),
            (with(&|part| part.storage = Storage { file: 21, toast: 22 }), Some(REWRITTEN)),
        ] {
            assert_eq!(before.missed(&now, &BTreeSet::new()), missed, "{now:?}");
        }
        let quiet = |file| {
            let leaf = Part { notes_truncate: false, ..part(file) };
            table(1, &[(1, part(0)), (2, leaf)])
        };
        assert_eq!(quiet(20).missed(&quiet(21), &BTreeSet::new()), Some(REWRITTEN));
        assert_eq!(quiet(20).missed(&quiet(21), &BTreeSet::from([1])), None, "all of it was emptied");
    }
}
