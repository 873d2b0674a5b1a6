//! What the catalog says of columns: whether other types explain that the rows were written anew, and whether values may
//! have been computed anew.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::types::{keeps_rows, keeps_text};

use super::{Changes, REWRITTEN};
use crate::capture::naming::Naming;
use crate::capture::{Attribute, CatalogTable, Known, Layout};

/// Whether rows lie elsewhere because columns have wider types now, and for no other reason that can be seen: the last
/// rewrite was that of such a column. What was before it, the catalog does not say; but SET UNLOGGED and back would have
/// given the sequences that the table owns other files, from PostgreSQL 15 on.
pub(super) fn types_explain(then: &Known, now: &CatalogTable) -> bool {
    let layout = &now.layout;
    let retyped = layout.attributes.iter().filter_map(|(number, attribute)| {
        let before = &then.attributes.get(number)?.type_name;
        (before != &attribute.type_name).then_some((*number, before, &attribute.type_name))
    });
    let retyped: Vec<_> = retyped.collect();
    // These are a gap by themselves.
    if retyped.iter().any(|(_, before, after)| !keeps_text(before, after)) {
        return true;
    }
    let wider = retyped.iter().filter(|(_, before, after)| !keeps_rows(before, after));
    let wider: BTreeSet<i16> = wider.map(|(number, ..)| *number).collect();
    let writer = layout.written_by.iter().find(|mark| {
        // Some versions write the rows of all later columns again with the one whose type changes.
        let first = layout.attributes.iter().find(|(_, attribute)| attribute.mark == **mark);
        first.is_some_and(|(number, _)| wider.contains(number))
    });
    let Some(writer) = writer else { return false };
    let mut other_files = layout.sequences.iter().filter(|sequence| !then.sequences.contains(&sequence.file));
    // That of an identity column takes its type.
    other_files.all(|sequence| sequence.mark == *writer && wider.contains(&sequence.owner))
}

/// Whether a column's values may have been computed anew: its row in the catalog was written again, and not because it has
/// another type.
pub(super) fn were_written_again(then: &Known, now: &Known) -> bool {
    let was_written = |(number, attribute): (&i16, &Attribute)| {
        then.attributes
            .get(number)
            .is_some_and(|before| before.mark != attribute.mark && before.type_name == attribute.type_name)
            && !is_beside_another(then, &now.attributes, *number, attribute.mark)
    };
    now.attributes.iter().any(was_written)
}

/// Whether a stored generated column has another expression.
pub(super) fn were_computed_anew(then: &Known, now: &Known) -> bool {
    let has_another = |(number, attribute): (&i16, &Attribute)| {
        then.attributes.get(number).is_some_and(|before| {
            let expressions = (before.expression, attribute.expression);
            before.type_name == attribute.type_name
                && matches!(expressions, (1.., 1..) if expressions.0 != expressions.1)
        })
    };
    now.attributes.iter().any(has_another)
}

/// Whether a column has another type that has the name of the one before: its values were computed anew.
pub(super) fn have_other_types(then: &Known, now: &Known) -> bool {
    let has_another = |(number, attribute): (&i16, &Attribute)| {
        then.attributes.get(number).is_some_and(|before| before.has_namesake_of_its_type(attribute))
    };
    now.attributes.iter().any(has_another)
}

/// Some versions write the rows of all later columns again with the one whose type changes.
fn is_beside_another(then: &Known, now: &BTreeMap<i16, Attribute>, number: i16, mark: u32) -> bool {
    let has_other_type = |(earlier, attribute): (&i16, &Attribute)| {
        let before = then.attributes.get(earlier);
        attribute.mark == mark && before.is_some_and(|before| before.type_name != attribute.type_name)
    };
    now.range(..number).any(has_other_type)
}

impl Changes<'_> {
    /// Of tables that are not in doubt anyway.
    pub(super) fn names_of_columns(&mut self) {
        for oid in self.capture.relations.keys().copied().collect::<Vec<_>>() {
            let table = self.capture.relations.get(&oid).and_then(|known| known.table.clone());
            let Some(table) = table.filter(|table| !self.is_missed(table)) else { continue };
            let Some(naming) = self.naming(oid) else { continue };
            // Rows of these have been read without knowing of it.
            if self.is_unseen(naming.marks()) {
                self.capture.miss(table, REWRITTEN, None);
            } else {
                self.capture.altered_by.extend(naming.marks());
                self.capture.naming.insert(oid, naming);
            }
        }
    }

    /// Whether names in a relation's rows may be those of other columns than they are of now. Of one that was made since: if
    /// its columns were altered after that, be it in the same transaction.
    fn naming(&self, oid: u32) -> Option<Naming> {
        let known = self.capture.relations.get(&oid).filter(|known| known.has_storage)?;
        let now = self.catalog.get(&oid)?;
        let then = self.memory.relations.get(&oid);
        let may_differ = then.is_some() || self.is_born_since(now);
        may_differ
            .then(|| Naming::between(then, known, &now.virtual_columns, &now.layout.from_birth))
            .flatten()
    }

    /// Of a relation that nobody has looked at before: whether its rows may have been altered outside of the stream, or
    /// may have come under other columns' names, before now.
    pub(super) fn touched(&mut self, oid: u32) {
        let Some(now) = self.catalog.get(&oid).copied().filter(|_| !self.memory.relations.contains_key(&oid))
        else {
            return;
        };
        let Layout { attributes, written_by, from_birth, .. } = &now.layout;
        let is_touched = self.memory.may_have_renamed_schema(&now.name, &now.marks)
            || if self.is_born_since(now) {
                // A row that was written again after it was made, and says no more than a name and a type, may have said
                // another name, or another type.
                let later = attributes.iter().filter(|(number, _)| !from_birth.contains(number));
                let mut later = later.map(|(_, attribute)| attribute);
                let last = attributes.keys().copied().max().unwrap_or_default();
                let any_went = (1..last).any(|number| !attributes.contains_key(&number));
                let marks = later.clone().map(|attribute| attribute.mark);
                let marks: BTreeSet<u32> = marks.filter(|mark| *mark != now.marks.born).collect();
                any_went || marks.len() > 1 || later.any(|attribute| attribute.plain)
            } else {
                let is_old = |mark: &u32| self.memory.is_old(*mark);
                !now.layout.types_altered_by().all(|mark| is_old(&mark))
                    || !attributes.values().all(|attribute| is_old(&attribute.mark))
                    || !written_by.is_empty() && !written_by.iter().any(is_old)
            };
        let table = self.capture.relations.get(&oid).and_then(|known| known.table.clone());
        self.capture.touched.extend(table.filter(|_| is_touched));
    }
}
