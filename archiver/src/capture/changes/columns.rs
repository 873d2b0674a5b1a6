//! What the catalog says of columns: which names they may have had, and of a relation that is new, whether anything was
//! altered since it was made.

use std::collections::BTreeSet;

use super::{Changes, REWRITTEN};
use crate::capture::Layout;
use crate::capture::naming::Naming;

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
