//! Whether a type that columns are made of was altered: no mark of a table says so.

use crate::capture::Known;

/// What became of the values of a table's columns through their types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Altered {
    No,
    /// Labels of a column's own enum have other names. Whoever reads the table's next segment is told.
    Labels,
    /// Values have another text.
    Values,
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
