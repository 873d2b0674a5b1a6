//! Whether rows were written anew, and with other values: two looks at the catalog, whatever brings the changes of rows.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::types::{keeps_rows, keeps_text};

use super::{Attribute, Layout, Storage};

/// Columns, by number.
type Columns = BTreeMap<i16, Attribute>;

/// What a new place of its rows says of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// At most by TRUNCATE, or by VACUUM FULL, CLUSTER and the like, which alter nothing.
    No,
    /// Its rows were written anew, and perhaps changed.
    Anew,
    /// Without a TOAST table nobody can say.
    Perhaps,
}

pub(super) fn moved(then: Storage, now: Storage) -> Moved {
    match (then.file == now.file, then.toast, now.toast) {
        (true, ..) => Moved::No,
        (false, 0, 0) => Moved::Perhaps,
        (false, then, now) if then == now => Moved::No,
        (false, ..) => Moved::Anew,
    }
}

/// Whether rows lie elsewhere because columns have wider types now, and for no other reason that can be seen: the last
/// rewrite was that of such a column. What was before it, the catalog does not say; but SET UNLOGGED and back would have
/// given the `sequences` that the table owns other files, from PostgreSQL 15 on.
pub(super) fn types_explain(then: &Columns, sequences: &BTreeSet<u32>, now: &Layout) -> bool {
    let retyped = now.attributes.iter().filter_map(|(number, attribute)| {
        let before = &then.get(number)?.type_name;
        (before != &attribute.type_name).then_some((*number, before, &attribute.type_name))
    });
    let retyped: Vec<_> = retyped.collect();
    // These are a gap by themselves.
    if retyped.iter().any(|(_, before, after)| !keeps_text(before, after)) {
        return true;
    }
    let wider = retyped.iter().filter(|(_, before, after)| !keeps_rows(before, after));
    let wider: BTreeSet<i16> = wider.map(|(number, ..)| *number).collect();
    let writer = now.written_by.iter().find(|mark| {
        // Some versions write the rows of all later columns again with the one whose type changes.
        let first = now.attributes.iter().find(|(_, attribute)| attribute.mark == **mark);
        first.is_some_and(|(number, _)| wider.contains(number))
    });
    let Some(writer) = writer else { return false };
    let mut other_files = now.sequences.iter().filter(|sequence| !sequences.contains(&sequence.file));
    // That of an identity column takes its type.
    other_files.all(|sequence| sequence.mark == *writer && wider.contains(&sequence.owner))
}

/// Whether a column's values may have been computed anew: its row in the catalog was written again, and not because it has
/// another type.
pub(super) fn were_written_again(then: &Columns, now: &Columns) -> bool {
    now.keys().any(|number| was_written_again(then, now, *number))
}

/// The same of one column. It may have had another name for a while as well.
pub(super) fn was_written_again(then: &Columns, now: &Columns, number: i16) -> bool {
    then.get(&number)
        .zip(now.get(&number))
        .is_some_and(|(before, now)| before.mark != now.mark && before.type_name == now.type_name)
        && !is_beside_another(then, now, number)
}

/// Whether a stored generated column has another expression.
pub(super) fn were_computed_anew(then: &Columns, now: &Columns) -> bool {
    let has_another = |(number, attribute): (&i16, &Attribute)| {
        then.get(number).is_some_and(|before| {
            let expressions = (before.expression, attribute.expression);
            before.type_name == attribute.type_name
                && matches!(expressions, (1.., 1..) if expressions.0 != expressions.1)
        })
    };
    now.iter().any(has_another)
}

/// Whether a column has another type that has the name of the one before: its values were computed anew.
pub(super) fn have_other_types(then: &Columns, now: &Columns) -> bool {
    let has_another = |(number, attribute): (&i16, &Attribute)| {
        then.get(number).is_some_and(|before| before.has_namesake_of_its_type(attribute))
    };
    now.iter().any(has_another)
}

/// Some versions write the rows of all later columns again with the one whose type changes.
fn is_beside_another(then: &Columns, now: &Columns, number: i16) -> bool {
    let mark = now.get(&number).map(|attribute| attribute.mark);
    let has_other_type = |(earlier, attribute): (&i16, &Attribute)| {
        let before = then.get(earlier);
        Some(attribute.mark) == mark && before.is_some_and(|before| before.type_name != attribute.type_name)
    };
    now.range(..number).any(has_other_type)
}
