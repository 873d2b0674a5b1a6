//! Whether a type that columns are made of was altered: no mark of a table says so.

use std::collections::BTreeMap;

use syncdata_formats::lsn::Lsn;

use super::{Changes, TYPE};
use crate::capture::retyped::Column;
use crate::capture::{Attribute, Known, Retyped};

/// What became of the values of a table's columns through their types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Altered {
    No,
    /// Labels of a column's own enum have other names. Whoever reads the table's next segment is told.
    Labels,
    /// Values have another text.
    Values,
}

pub(in crate::capture) fn is_altered(then: &Known, now: &Known) -> bool {
    altered(then, now) != Altered::No
}

/// A column that has another type by name is looked at elsewhere.
pub(super) fn altered(then: &Known, now: &Known) -> Altered {
    let mut altered = Altered::No;
    for (number, column) in &now.attributes {
        let before = then.attributes.get(number).filter(|before| before.type_name == column.type_name);
        let Some((before, after)) = before.and_then(|b| b.made_of.as_ref().zip(column.made_of.as_ref()))
        else {
            continue;
        };
        let is_renamed =
            before.labels.iter().any(|(oid, label)| after.labels.get(oid).is_some_and(|now| now != label));
        // Then no label is missing, and nobody would ask what old rows say.
        let is_reused = after
            .labels
            .iter()
            .any(|(oid, now)| before.labels.iter().any(|(other, then)| other != oid && then == now));
        if before.attributes != after.attributes || is_renamed && (after.is_nested || is_reused) {
            return Altered::Values;
        }
        if is_renamed {
            altered = Altered::Labels;
        }
    }
    altered
}

impl Changes<'_> {
    /// Columns whose types were altered since the last look, and of which a row may say what nobody has seen.
    pub(super) fn types_of_columns(&mut self) {
        for oid in self.capture.relations.keys().copied().collect::<Vec<_>>() {
            let table = self.capture.relations.get(&oid).and_then(|known| known.table.clone());
            let Some(table) = table.filter(|table| !self.is_missed(table)) else { continue };
            let Some(retyped) = self.retyped(oid) else { continue };
            // Rows of these have been read without knowing of it.
            if self.is_unseen(retyped.marks_of_new_columns()) {
                self.capture.miss(table, TYPE, None);
            } else {
                self.capture.altered_by.extend(retyped.marks());
                self.capture.retyped.insert(oid, retyped);
            }
        }
    }

    fn retyped(&self, oid: u32) -> Option<Retyped> {
        let known = self.capture.relations.get(&oid).filter(|known| known.has_storage)?;
        let now = self.catalog.get(&oid)?;
        let then = self.memory.relations.get(&oid);
        // Earlier versions remembered no columns.
        if then.map_or(!self.is_born_since(now), |then| then.attributes.is_empty()) {
            return None;
        }
        let altered = now.layout.alterations.iter().filter_map(|(number, alteration)| {
            let column = known.attributes.get(number)?;
            let before = then.and_then(|then| Some((then, then.attributes.get(number)?)));
            let is_told =
                before.is_some_and(|(then, before)| then.labels_told && has_only_other_names(before, column));
            let told = self.memory.labels.get(&column.type_oid).filter(|_| is_told);
            // What an earlier look has shown of a column that was there is a question for those alone who were open then.
            let shown = self.memory.types_altered.iter().filter(|_| before.is_some());
            let shown: BTreeMap<u32, Lsn> = shown.map(|(mark, at)| (*mark, *at)).collect();
            let is_past = |mark: u32| self.memory.is_old(mark) && !shown.contains_key(&mark);
            let column_of = |alteration| Column {
                alteration,
                is_new: before.is_none(),
                told: told.cloned().unwrap_or_default(),
                told_at: self.memory.position,
                shown: shown.clone(),
            };
            Some((column.name.clone(), column_of(alteration.since(is_past)?)))
        });
        Retyped::of(altered)
    }

    /// Alterations of types that no look has shown before, of whatever table.
    pub(super) fn newly_altered_types(&mut self) {
        let marks = self.catalog.values().flat_map(|now| now.layout.types_altered_by());
        let is_known = |mark: &u32| self.memory.types_altered.contains_key(mark) || self.memory.is_old(*mark);
        self.capture.types_altered = marks.filter(|mark| !is_known(mark)).collect();
    }
}

/// Of an enum that was looked at before: whether labels of then have other names, and no other one came. Arrays and
/// composites are in doubt as a whole where a label has another name.
fn has_only_other_names(before: &Attribute, now: &Attribute) -> bool {
    let both = before.made_of.as_ref().zip(now.made_of.as_ref());
    both.is_some_and(|(before, now)| {
        !now.is_nested
            && before.labels != now.labels
            && now.labels.keys().all(|oid| before.labels.contains_key(oid))
    })
}
