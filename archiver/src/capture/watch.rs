//! What triggers cannot see: whoever alters one, or a table under it, alters what is noted.
//!
//! Pure. What two looks at the catalog say of a table is compared; what cannot be told apart counts as a gap.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::TableName;

use super::rewrite::{
    Moved, have_other_types, moved, types_explain, was_written_again, were_computed_anew, were_written_again,
};
use super::{Attribute, Capture, CatalogTable, Layout, MadeOf, RelationKind, Storage};

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
    /// Those that note rows came with the table, and nobody has touched them since.
    pub from_birth: bool,
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
    columns: BTreeMap<i16, Attribute>,
    /// Every column that it ever had under our eyes, with its number.
    #[serde(default)]
    names: BTreeMap<String, i16>,
    /// Numbers of columns that are gone, and who dropped them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    dropped: BTreeMap<i16, u32>,
    /// The files of the sequences that its columns own.
    #[serde(default)]
    sequences: BTreeSet<u32>,
    /// It was made as a part of its parent: no row was in it before, and none was written anew since.
    from_birth: bool,
    /// What notes its rows was never off.
    #[serde(default)]
    noted_from_birth: bool,
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
        let part = Part {
            storage: relation.storage,
            triggers: ours.text,
            notes_truncate: ours.notes_truncate,
            columns: relation.layout.attributes.clone(),
            names: relation.columns.clone(),
            dropped: relation.layout.dropped.clone(),
            sequences: relation.layout.sequences.iter().map(|sequence| sequence.file).collect(),
            from_birth: from_birth.contains(&relation.oid) && !may_be_rewritten_since_birth(relation),
            noted_from_birth: ours.from_birth,
        };
        let watched = all.entry(target.table.clone()).or_insert(Watched { oid: 0, parts: BTreeMap::new() });
        if is_root {
            watched.oid = relation.oid;
        }
        watched.parts.insert(relation.oid, part);
    }
    (all, unnoted)
}

/// Whether ALTER TABLE may have written the rows anew that a new relation has, and their keys: those were noted before.
fn may_be_rewritten_since_birth(relation: &CatalogTable) -> bool {
    let CatalogTable { layout, storage, marks, .. } = relation;
    let is_in_place = relation.kind != RelationKind::Table || storage.file == relation.oid;
    !is_in_place
        && match storage.toast {
            // A TRUNCATE leaves no mark on columns.
            0 => layout.attributes.values().any(|attribute| attribute.mark != marks.born),
            _ => !layout.written_by.contains(&marks.born),
        }
}

impl Watched {
    pub(crate) fn oid(&self) -> u32 {
        self.oid
    }

    pub(crate) fn relations(&self) -> impl Iterator<Item = u32> {
        self.parts.keys().copied()
    }

    /// Why changes of the table may be missing between the two looks, if so. `layouts`: those of the later one. `emptied`:
    /// relations whose TRUNCATE was noted.
    pub(crate) fn missed(
        &self,
        now: &Watched,
        layouts: &BTreeMap<u32, &Layout>,
        emptied: &BTreeSet<u32>,
    ) -> Option<&'static str> {
        if self.oid != now.oid {
            return Some(ANOTHER);
        }
        let was_emptied = emptied.contains(&self.oid);
        // What was made and went between two looks has taken rows along that another look has seen only where they had gone
        // from their own partition before: their keys say so.
        if self.parts.keys().any(|oid| !now.parts.contains_key(oid)) {
            return Some(PARTITION);
        }
        for (oid, part) in &now.parts {
            let Some(before) = self.parts.get(oid) else {
                if !part.from_birth {
                    return Some(PARTITION);
                }
                if !part.noted_from_birth {
                    return Some(TRIGGERS);
                }
                // What made it may have written its rows anew as well: of that only the columns of the whole table tell.
                if part.storage.file != *oid && self.was_written_again(now) {
                    return Some(REWRITTEN);
                }
                continue;
            };
            if before.triggers != part.triggers {
                return Some(TRIGGERS);
            }
            let has_another_number =
                |(name, number)| before.names.get(name).is_some_and(|then| then != number);
            if part.names.iter().any(has_another_number)
                || have_other_types(&before.columns, &part.columns)
                || were_computed_anew(&before.columns, &part.columns)
            {
                return Some(REWRITTEN);
            }
            if before.has_altered_types(part) {
                return Some(TYPE);
            }
            let layout = layouts.get(oid).copied();
            if before.may_be_rewritten(part, layout, was_emptied || emptied.contains(oid)) {
                return Some(REWRITTEN);
            }
        }
        None
    }

    /// Whether ALTER TABLE went over the columns of the table itself, whatever its parts say.
    fn was_written_again(&self, now: &Watched) -> bool {
        let whole = |watched: &Watched| watched.parts.get(&watched.oid).map(|part| part.columns.clone());
        whole(self).zip(whole(now)).is_some_and(|(then, now)| were_written_again(&then, &now))
    }

    /// Whether columns of the key may have had other names for a while, and other columns theirs: the triggers go by names.
    /// `key`: as they are called now.
    pub(crate) fn may_have_lent_its_key(&self, now: &Watched, key: &[String]) -> bool {
        let (Some(before), Some(now)) = (self.parts.get(&self.oid), now.parts.get(&now.oid)) else {
            return false;
        };
        let is_altered = |number: &i16, column: &Attribute| {
            before.columns.get(number).is_some_and(|then| then.mark != 0 && then.mark != column.mark)
        };
        let may_have_had_its_name = |number: &i16| {
            !before.columns.contains_key(number) || was_written_again(&before.columns, &now.columns, *number)
        };
        now.columns.iter().any(|(of_key, column)| {
            key.contains(&column.name)
                && is_altered(of_key, column)
                && (before.dropped != now.dropped
                    || now.columns.keys().any(|number| number != of_key && may_have_had_its_name(number)))
        })
    }

    /// Takes over the names that its columns had before.
    pub(crate) fn remember_names(&mut self, then: &Watched) {
        for (oid, part) in &mut self.parts {
            let before = then.parts.get(oid).into_iter().flat_map(|before| &before.names);
            for (name, number) in before {
                part.names.entry(name.clone()).or_insert(*number);
            }
        }
    }

    /// Whether rows may have come into a partition and gone with a TRUNCATE that nobody noted: then the notes do not say which
    /// keys had a row before.
    pub(crate) fn has_new_part(&self, now: &Watched) -> bool {
        now.parts.iter().any(|(oid, part)| !part.notes_truncate && !self.parts.contains_key(oid))
    }
}

impl Part {
    /// Whether values that nobody wrote have another text. Another type by name is looked at with the table's shape.
    fn has_altered_types(&self, now: &Part) -> bool {
        let is_altered = |before: &MadeOf, now: &MadeOf| {
            before.attributes != now.attributes
                || before.labels.iter().any(|(oid, label)| now.labels.get(oid) != Some(label))
        };
        now.columns.iter().any(|(number, column)| {
            let before = self.columns.get(number).filter(|before| before.type_name == column.type_name);
            let made_of = before.and_then(|before| before.made_of.as_ref().zip(column.made_of.as_ref()));
            made_of.is_some_and(|(before, now)| is_altered(before, now))
        })
    }

    /// Whether its rows may have been written anew by something else than VACUUM FULL, CLUSTER or a wider type. What was
    /// unlogged for a while may have lost rows. What came after a TRUNCATE was noted, by keys that may be others now.
    fn may_be_rewritten(&self, now: &Part, layout: Option<&Layout>, was_emptied: bool) -> bool {
        // It may be a TRUNCATE, before or after a rewrite.
        if self.storage.file != now.storage.file && !now.notes_truncate && !was_emptied {
            return true;
        }
        let is_explained =
            || layout.is_some_and(|layout| types_explain(&self.columns, &self.sequences, layout));
        match moved(self.storage, now.storage) {
            Moved::No => false,
            _ if is_explained() => false,
            Moved::Anew => true,
            Moved::Perhaps => !was_emptied || were_written_again(&self.columns, &now.columns),
        }
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
            names: BTreeMap::new(),
            dropped: BTreeMap::new(),
            sequences: BTreeSet::new(),
            from_birth: false,
            noted_from_birth: true,
        }
    }

    fn of_type(name: &str, labels: &[(u32, i32)]) -> Attribute {
        let made_of = MadeOf { labels: labels.iter().copied().collect(), ..MadeOf::default() };
        Attribute { type_name: name.into(), made_of: Some(made_of), ..Attribute::default() }
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
            assert_eq!(before.missed(&now, &BTreeMap::new(), &BTreeSet::new()), missed, "{now:?}");
        }
        let quiet = |file| {
            let leaf = Part { notes_truncate: false, ..part(file) };
            table(1, &[(1, part(0)), (2, leaf)])
        };
        let of_quiet = |emptied: &[u32]| {
            quiet(20).missed(&quiet(21), &BTreeMap::new(), &emptied.iter().copied().collect())
        };
        assert_eq!(of_quiet(&[]), Some(REWRITTEN));
        assert_eq!(of_quiet(&[1]), None, "all of it was emptied");
    }

    #[test]
    fn a_wider_type_explains_that_rows_were_written_anew_only_if_it_did_that_last() {
        let column = |type_name: &str, type_oid, mark| Attribute {
            type_name: type_name.into(),
            type_oid,
            mark,
            ..Attribute::default()
        };
        let columns = |day, note| BTreeMap::from([(1, column("integer", 23, 5)), (2, day), (3, note)]);
        let (int, big) = (|mark| column("integer", 23, mark), |mark| column("bigint", 20, mark));
        let (code, longer) = (
            |mark| column("character varying(10)", 1043, mark),
            |mark| column("character varying(20)", 1043, mark),
        );
        let of = |storage, columns: &BTreeMap<i16, Attribute>| {
            let part = Part { storage, columns: columns.clone(), sequences: [40].into(), ..part(0) };
            table(1, &[(1, part)])
        };
        let sequence = |file, mark| super::super::OwnedSequence { file, owner: 2, mark };
        let (with_toast, plain) = ((9, 19), (0, 0));
        for ((toast, toast_now), now, written_by, sequence, emptied, missed) in [
            (with_toast, columns(big(8), code(5)), 8, sequence(40, 1), false, None),
            (plain, columns(big(8), code(8)), 8, sequence(40, 1), false, None),
            (with_toast, columns(big(8), code(5)), 9, sequence(40, 1), false, Some(REWRITTEN)),
            (with_toast, columns(int(5), longer(8)), 8, sequence(40, 1), false, Some(REWRITTEN)),
            // SET UNLOGGED and back, before it.
            (with_toast, columns(big(8), code(5)), 8, sequence(41, 7), false, Some(REWRITTEN)),
            (with_toast, columns(big(8), code(5)), 8, sequence(41, 8), false, None),
            // Of another type by name the table's shape tells.
            (with_toast, columns(column("boolean", 16, 8), code(5)), 8, sequence(40, 1), false, None),
            (plain, columns(int(5), code(5)), 9, sequence(40, 1), true, None),
            (plain, columns(int(9), code(5)), 9, sequence(40, 1), true, Some(REWRITTEN)),
            (with_toast, columns(int(9), code(5)), 9, sequence(40, 1), true, Some(REWRITTEN)),
            (plain, columns(column("integer", 77, 5), code(5)), 9, sequence(40, 1), true, Some(REWRITTEN)),
        ] {
            let before = of(Storage { file: 20, toast }, &columns(int(5), code(5)));
            let layout = Layout {
                attributes: now.clone(),
                written_by: vec![written_by],
                sequences: vec![sequence],
                ..Layout::default()
            };
            let after = of(Storage { file: 21, toast: toast_now }, &now);
            let emptied = emptied.then_some(1).into_iter().collect();
            let found = before.missed(&after, &BTreeMap::from([(1, &layout)]), &emptied);
            assert_eq!(found, missed, "{now:?} {layout:?}");
        }
    }

    #[test]
    fn what_an_earlier_version_wrote_down_is_understood() {
        let part: Part = serde_json::from_str(
            r#"{"storage":{"file":20,"toast":9},"triggers":"","notes_truncate":true,"from_birth":false,
                "columns":{"1":{"type_name":"integer","expression":0,"made_of":null}}}"#,
        )
        .expect("it is JSON");
        let column = part.columns.get(&1).expect("the column");
        assert_eq!((column.type_name.as_str(), column.mark, column.type_oid), ("integer", 0, 0));
        let now = Part {
            columns: [(1, Attribute { mark: 5, type_oid: 23, ..column.clone() })].into(),
            ..part.clone()
        };
        let (then, now) = (table(1, &[(1, part)]), table(1, &[(1, now)]));
        assert_eq!(then.missed(&now, &BTreeMap::new(), &BTreeSet::new()), None);
    }
}
