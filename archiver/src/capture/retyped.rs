//! Columns whose types were altered since the last look, or shortly before.
//!
//! Of columns that were looked at before, what their types consist of is compared. Of those that came since, a row may have
//! said a label that has another name now, or a composite with fewer attributes, and nobody would know; and of an enum that
//! was looked at before, a label that came since and has another name already, or one that no segment has told.
//!
//! Nobody who alters a type waits for writers: a transaction that is open may have said the old names, and its rows come
//! after the alteration, in this answer or in one that is many polls later. What a transaction says is certain that wrote
//! its first row after the last alteration had committed, or after the look that showed it. So is a label that nobody has
//! written again since its type was made, or since before; and one that only itself was written again: no other can have
//! had its name.

use std::collections::{BTreeMap, BTreeSet};

use syncdata_formats::lsn::Lsn;

/// What became of a type that columns are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Alteration {
    /// Who altered it since it was made.
    pub by: BTreeSet<u32>,
    /// If its values are labels, or lists of labels: all that there are, and who wrote them since.
    pub labels: BTreeMap<String, Option<u32>>,
    pub is_list: bool,
}

/// The columns of one relation, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Retyped(BTreeMap<String, Column>);

#[derive(Clone, Debug, Default)]
pub(super) struct Column {
    pub alteration: Alteration,
    /// It came since the last look.
    pub is_new: bool,
    /// Of who altered its type: where the look was that showed it first.
    pub shown: BTreeMap<u32, Lsn>,
    /// What the labels were called at the last look, where that was told in a segment, and nothing but that can be said of
    /// it: whoever reads the next one hears which are gone, and looks for them in what that one brings.
    pub told: Vec<String>,
    /// Up to where that look had read.
    pub told_at: Lsn,
}

/// What is known where a row stands in the stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written<'a> {
    /// Where its transaction wrote the first row.
    pub from: Lsn,
    /// Who altered columns, or types of those, and where that commit ended.
    pub altered: &'a BTreeMap<u32, Lsn>,
    /// No segment before this one has told anything of the table since the last look.
    pub is_first: bool,
}

impl Alteration {
    /// Without what is old; `None` if all of it is.
    pub(super) fn since(&self, is_old: impl Fn(u32) -> bool) -> Option<Alteration> {
        let by: BTreeSet<u32> = self.by.iter().copied().filter(|mark| !is_old(*mark)).collect();
        let label =
            |(label, mark): (&String, &Option<u32>)| (label.clone(), mark.filter(|mark| !is_old(*mark)));
        let labels = self.labels.iter().map(label).collect();
        (!by.is_empty()).then_some(Alteration { by, labels, is_list: self.is_list })
    }

    /// Whether what is called so now had that name all the time, for a row that comes after what `has_passed`.
    fn is_label(&self, label: &str, has_passed: impl Fn(u32) -> bool) -> bool {
        let is_settled = |mark: &Option<u32>| mark.is_none_or(&has_passed);
        self.labels.get(label).is_some_and(|own| {
            is_settled(own) || self.labels.iter().all(|(other, mark)| other == label || is_settled(mark))
        })
    }
}

impl Column {
    fn is_certain(&self, value: &str, written: Written<'_>) -> bool {
        let has_passed = |mark: u32| {
            let at = written.altered.get(&mark).or_else(|| self.shown.get(&mark));
            at.is_some_and(|at| *at <= written.from)
        };
        if value == "null" || self.alteration.by.iter().all(|mark| has_passed(*mark)) {
            return true;
        }
        let Ok(text) = serde_json::from_str::<String>(value) else { return false };
        if self.alteration.is_list {
            return elements(&text).iter().all(|label| self.alteration.is_label(label, has_passed));
        }
        self.alteration.is_label(&text, has_passed)
            || written.is_first && self.told_at <= written.from && self.told.contains(&text)
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

    /// Whether the type of that column is altered by a transaction that is none of these.
    pub(super) fn waits(&self, column: &str, altered: &BTreeMap<u32, Lsn>) -> bool {
        let is_open = |column: &Column| !column.alteration.by.iter().all(|mark| altered.contains_key(mark));
        self.0.get(column).is_some_and(|column| column.is_new && is_open(column))
    }

    /// Whether a value, as JSON, has the same text in a row of today, or whoever reads it is told.
    pub(crate) fn is_certain(&self, column: &str, value: &str, written: Written<'_>) -> bool {
        self.0.get(column).is_none_or(|column| column.is_certain(value, written))
    }
}

/// The elements of an array that are not NULL, as PostgreSQL prints it, of whatever dimensions.
fn elements(array: &str) -> Vec<String> {
    // Bounds, where they do not begin with 1: `[0:1]={a,b}`.
    let array = array.find('{').map_or("", |begin| &array[begin..]);
    let mut elements = Vec::new();
    let mut chars = array.chars();
    let mut element = String::new();
    while let Some(char) = chars.next() {
        match char {
            '"' => {
                while let Some(quoted) = chars.next().filter(|quoted| *quoted != '"') {
                    element.extend(if quoted == '\\' { chars.next() } else { Some(quoted) });
                }
                elements.push(std::mem::take(&mut element));
            }
            '{' | '}' | ',' => {
                let plain = std::mem::take(&mut element);
                elements.extend(Some(plain).filter(|plain| !plain.is_empty() && plain != "NULL"));
            }
            plain => element.push(plain),
        }
    }
    elements
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lsn: u64) -> Lsn {
        Lsn::from_u64(lsn)
    }

    fn label((label, mark): (&str, u32)) -> (String, Option<u32>) {
        (label.to_owned(), Some(mark).filter(|mark| *mark != 0))
    }

    #[test]
    fn what_a_row_says_of_a_type_that_is_altered_later_is_in_doubt() {
        // `sad` was renamed to `unhappy`, a new `sad` came; `old` was there before anybody looked.
        let labels = [("unhappy", 10), ("ok", 0), ("sad", 11), ("old", 5)].map(label);
        let of_enum = Alteration { by: [5, 10, 11].into(), labels: labels.into(), is_list: false };
        let list = Alteration { is_list: true, ..of_enum.clone() };
        let composite = Alteration { by: [10].into(), ..Alteration::default() };
        let columns = [
            ("m", of_enum),
            ("l", list),
            ("c", composite),
            ("rests", Alteration { by: [5].into(), ..Alteration::default() }),
        ];
        let since = columns.iter().filter_map(|(name, of)| {
            let alteration = of.since(|mark| mark == 5)?;
            Some(((*name).to_owned(), Column { alteration, is_new: true, ..Column::default() }))
        });
        let retyped = Retyped::of(since).expect("altered");
        assert_eq!(retyped.marks().collect::<BTreeSet<_>>(), [10, 11].into());
        let none: &[u32] = &[];
        for (column, value, before, is_certain) in [
            ("m", r#""ok""#, none, true),
            ("m", r#""old""#, none, true),
            ("m", "null", none, true),
            ("m", r#""sad""#, none, false),
            // No other is left that may have been called so.
            ("m", r#""sad""#, &[10], true),
            ("m", r#""sad""#, &[11], true),
            ("m", r#""unhappy""#, none, false),
            ("m", r#""unhappy""#, &[10], true),
            ("m", r#""gone""#, &[10], false),
            ("m", r#""gone""#, &[10, 11], true),
            ("l", r#""{ok,NULL,old}""#, none, true),
            ("l", r#""{ok,sad}""#, none, false),
            ("l", r#""{}""#, none, true),
            ("c", r#""(1,2)""#, none, false),
            ("c", r#""(1,2)""#, &[10], true),
            ("c", "null", none, true),
            ("rests", r#""x""#, none, true),
            ("other", r#""sad""#, none, true),
        ] {
            let altered = before.iter().map(|mark| (*mark, at(100))).collect();
            let certain = |from: u64| {
                retyped.is_certain(
                    column,
                    value,
                    Written { from: at(from), altered: &altered, is_first: true },
                )
            };
            assert_eq!(certain(100), is_certain, "{column} {value} {before:?}");
            // Who had written before does not know of it.
            let is_known = [r#""ok""#, r#""old""#, "null", r#""{ok,NULL,old}""#, r#""{}""#, r#""x""#];
            let is_known = is_known.contains(&value) || column == "other";
            assert_eq!(certain(99), is_known, "{column} {value} {before:?}");
        }
        let altered: BTreeMap<u32, Lsn> = [(10, at(1)), (11, at(2))].into();
        assert!(retyped.waits("m", &[(10, at(1))].into()) && !retyped.waits("m", &altered));
    }

    #[test]
    fn who_was_open_at_the_look_that_showed_an_alteration_may_not_know_of_it() {
        let labels = [("sad", 0), ("happy", 10), ("glad", 11)].map(label);
        let alteration = Alteration { by: [10, 11].into(), labels: labels.into(), is_list: false };
        let shown = [(10, at(100)), (11, at(200))].into();
        let column = Column { alteration, shown, ..Column::default() };
        let retyped = Retyped::of([("m".to_owned(), column)].into_iter()).expect("altered");
        for (value, from, is_certain) in [
            ("hapy", 99, false),
            ("hapy", 199, false),
            ("hapy", 200, true),
            ("sad", 99, true),
            ("glad", 99, false),
            ("glad", 100, true),
        ] {
            let written = Written { from: at(from), altered: &BTreeMap::new(), is_first: false };
            assert_eq!(
                retyped.is_certain("m", &format!("\"{value}\""), written),
                is_certain,
                "{value} {from}"
            );
        }
    }

    #[test]
    fn what_a_label_was_called_is_told_with_the_first_segment_alone() {
        let alteration = Alteration { by: [10].into(), labels: [label(("blue", 10))].into(), is_list: false };
        let column = Column { alteration, told: vec!["sad".into()], told_at: at(100), ..Column::default() };
        let retyped = Retyped::of([("m".to_owned(), column)].into_iter()).expect("altered");
        let none = BTreeMap::new();
        for (value, from, is_first, is_certain) in [
            ("sad", 100, true, true),
            ("sad", 100, false, false),
            // It may be what another one was called before.
            ("sad", 99, true, false),
            // It was called so for a moment, and no segment says that.
            ("in between", 100, true, false),
        ] {
            let written = Written { from: at(from), altered: &none, is_first };
            let value = format!("\"{value}\"");
            assert_eq!(retyped.is_certain("m", &value, written), is_certain, "{value} {from} {is_first}");
        }
        assert!(!retyped.waits("m", &none) && !retyped.has_new_columns());
    }

    #[test]
    fn the_elements_of_an_array_are_its_labels() {
        for (array, expected) in [
            ("{}", &[][..]),
            ("{sad,ok}", &["sad", "ok"]),
            ("{NULL,\"NULL\",null}", &["NULL", "null"]),
            (r#"{"so \"so\", \\","a{b}",ü}"#, &[r#"so "so", \"#, "a{b}", "ü"]),
            ("[0:1]={sad,ok}", &["sad", "ok"]),
            ("{{sad,ok},{a,NULL}}", &["sad", "ok", "a"]),
        ] {
            assert_eq!(elements(array), expected, "{array}");
        }
    }
}
