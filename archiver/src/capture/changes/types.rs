//! Whether a type that columns are made of was altered: no mark of a table says so.

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
            let is_told = match before {
                None => false,
                Some((then, before)) => then.labels_told && has_only_other_names(before, column)?,
            };
            // What the labels of a column were that was there is compared: what the last look saw of them is no question.
            let was_seen =
                |mark| before.is_some() && self.memory.seen.as_ref().is_some_and(|seen| seen.has(mark));
            let alteration = alteration.since(|mark| self.memory.is_old(mark) || was_seen(mark))?;
            Some((column.name.clone(), Column { alteration, is_new: before.is_none(), is_told }))
        });
        Retyped::of(altered)
    }
}

/// Of an enum that was looked at before: whether labels of then have other names, and no other one came. `None` for other
/// types, and for what lies in arrays and composites: what those consist of is compared, their values are not taken apart.
fn has_only_other_names(before: &Attribute, now: &Attribute) -> Option<bool> {
    let (before, now) = before.made_of.as_ref().zip(now.made_of.as_ref())?;
    if now.is_nested || now.labels.is_empty() {
        return None;
    }
    Some(before.labels != now.labels && now.labels.keys().all(|oid| before.labels.contains_key(oid)))
}
