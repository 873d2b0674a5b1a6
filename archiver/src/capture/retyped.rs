//! Columns whose types were altered since the last look.
//!
//! Of columns that were looked at before, what their types consist of is compared. Of those that came since, a row may have
//! said a label that has another name now, or a composite with fewer attributes, and nobody would know; and of an enum that
//! was looked at before, a label that came since and has another name already, or one that no segment has told. What a row says after the last
//! transaction that altered the type is certain. So is a label that nobody has written again since its type was made, or
//! since before the row: labels that only come are no doubt about others.

use std::collections::{BTreeMap, BTreeSet};

/// What became of a type that columns are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Alteration {
    /// Who altered it since it was made.
    pub by: BTreeSet<u32>,
    /// If it is an enum itself: its labels, and who wrote them since.
    pub labels: BTreeMap<String, Option<u32>>,
}

/// The columns of one relation, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Retyped(BTreeMap<String, Column>);

#[derive(Clone, Debug, Default)]
pub(super) struct Column {
    pub alteration: Alteration,
    /// It came since the last look.
    pub is_new: bool,
    /// What the labels were called at the last look was told in a segment, and nothing but that can be said of it: whoever
    /// reads the next one hears which are gone, and looks for them in what that one brings.
    pub is_told: bool,
}

impl Alteration {
    /// Without what is old; `None` if all of it is.
    pub(super) fn since(&self, is_old: impl Fn(u32) -> bool) -> Option<Alteration> {
        let by: BTreeSet<u32> = self.by.iter().copied().filter(|mark| !is_old(*mark)).collect();
        let label =
            |(label, mark): (&String, &Option<u32>)| (label.clone(), mark.filter(|mark| !is_old(*mark)));
        (!by.is_empty()).then(|| Alteration { by, labels: self.labels.iter().map(label).collect() })
    }

    fn is_over(&self, before: &BTreeSet<u32>) -> bool {
        self.by.is_subset(before)
    }
}

impl Retyped {
    pub(super) fn of(columns: impl Iterator<Item = (String, Column)>) -> Option<Retyped> {
        let columns: BTreeMap<String, Column> = columns.collect();
        (!columns.is_empty()).then_some(Retyped(columns))
    }

    pub(super) fn has_new_columns(&self) -> bool {
        self.0.values().any(|column| column.is_new)
    }

    pub(super) fn marks(&self) -> impl Iterator<Item = u32> {
        self.0.values().flat_map(|column| column.alteration.by.iter().copied())
    }

    /// Of columns that came since.
    pub(super) fn marks_of_new_columns(&self) -> impl Iterator<Item = u32> {
        let new = self.0.values().filter(|column| column.is_new);
        new.flat_map(|column| column.alteration.by.iter().copied())
    }

    /// Whether the type of that column is altered by a transaction that has not committed `before`.
    pub(super) fn waits(&self, column: &str, before: &BTreeSet<u32>) -> bool {
        self.0.get(column).is_some_and(|column| column.is_new && !column.alteration.is_over(before))
    }

    /// Whether a value, as JSON, has the same text in a row of today, or whoever reads it is told. `is_first`: no segment
    /// before this one has told anything of the table since the last look.
    pub(crate) fn is_certain(
        &self,
        column: &str,
        value: &str,
        before: &BTreeSet<u32>,
        is_first: bool,
    ) -> bool {
        let Some(Column { alteration, is_told, .. }) = self.0.get(column) else { return true };
        let is_label = |label: &String| {
            let written = alteration.labels.get(label);
            written.is_some_and(|by| by.is_none_or(|by| before.contains(&by)))
        };
        value == "null"
            || *is_told && is_first
            || alteration.is_over(before)
            || serde_json::from_str(value).is_ok_and(|label: String| is_label(&label))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_row_says_of_a_type_that_is_altered_later_is_in_doubt() {
        let label = |(label, mark): (&str, u32)| (label.to_owned(), Some(mark).filter(|mark| *mark != 0));
        // `sad` was renamed to `unhappy`, a new `sad` came; `old` was there before anybody looked.
        let labels = [("unhappy", 10), ("ok", 0), ("sad", 11), ("old", 5)].map(label);
        let of_enum = Alteration { by: [5, 10, 11].into(), labels: labels.into() };
        let composite = Alteration { by: [10].into(), labels: BTreeMap::new() };
        let columns = [
            ("m", of_enum),
            ("c", composite),
            ("rests", Alteration { by: [5].into(), ..Alteration::default() }),
        ];
        let since = columns.iter().filter_map(|(name, of)| {
            let alteration = of.since(|mark| mark == 5)?;
            Some(((*name).to_owned(), Column { alteration, is_new: true, is_told: false }))
        });
        let retyped = Retyped::of(since).expect("altered");
        assert_eq!(retyped.marks().collect::<BTreeSet<_>>(), [10, 11].into());
        let none: &[u32] = &[];
        for (column, value, before, is_certain) in [
            ("m", r#""ok""#, none, true),
            ("m", r#""old""#, none, true),
            ("m", "null", none, true),
            ("m", r#""sad""#, none, false),
            ("m", r#""sad""#, &[10], false),
            ("m", r#""sad""#, &[11], true),
            ("m", r#""unhappy""#, none, false),
            ("m", r#""unhappy""#, &[10], true),
            ("m", r#""gone""#, &[10], false),
            ("c", r#""(1,2)""#, none, false),
            ("c", r#""(1,2)""#, &[10], true),
            ("c", "null", none, true),
            ("rests", r#""x""#, none, true),
            ("other", r#""sad""#, none, true),
        ] {
            let before: BTreeSet<u32> = before.iter().copied().collect();
            assert_eq!(
                retyped.is_certain(column, value, &before, true),
                is_certain,
                "{column} {value} {before:?}"
            );
        }
        assert!(retyped.waits("m", &[10].into()) && !retyped.waits("m", &[10, 11].into()));
    }
    #[test]
    fn what_a_label_was_called_is_told_with_the_first_segment_alone() {
        let alteration = Alteration { by: [10].into(), labels: [("blue".to_owned(), Some(10))].into() };
        let column = Column { alteration, is_new: false, is_told: true };
        let retyped = Retyped::of([("m".to_owned(), column)].into_iter()).expect("altered");
        let none = BTreeSet::new();
        assert!(retyped.is_certain("m", r#""sad""#, &none, true));
        assert!(!retyped.is_certain("m", r#""sad""#, &none, false));
        assert!(!retyped.waits("m", &none) && !retyped.has_new_columns());
    }
}
