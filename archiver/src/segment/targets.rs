//! How the rows of a relation travel, by the name that it has in the stream.

use std::collections::HashMap;
use std::sync::Arc;

use syncdata_formats::Result;
use syncdata_formats::name::TableName;

use crate::capture::{Capture, Join, Route, Tally, Target};
use crate::source::event::{JsonString, unescape};

/// Relations of the stream that were looked up already: neighbouring rows are mostly of one table.
#[derive(Debug, Default)]
pub(super) struct Targets {
    last: Option<((String, String), Arc<Found>)>,
    known: HashMap<(String, String), Arc<Found>>,
}

/// What is known of a relation by the name that it has in the stream.
#[derive(Debug)]
pub(super) struct Found {
    pub route: Route,
    join: Option<Join>,
}

impl Found {
    /// How a row travels that comes now.
    pub(super) fn target(&self, tally: &Tally) -> Option<&Target> {
        match &self.join {
            Some(join) if !join.xids.is_subset(&tally.joined) => join.before.as_ref(),
            _ => self.route.target.as_ref(),
        }
    }
}

impl Targets {
    pub(super) fn find(
        &mut self,
        capture: &Capture,
        schema: JsonString<'_>,
        table: JsonString<'_>,
    ) -> Result<Arc<Found>> {
        if let Some(((s, t), found)) = &self.last
            && t == table
            && s == schema
        {
            return Ok(found.clone());
        }
        let names = (schema.to_owned(), table.to_owned());
        let found = match self.known.get(&names) {
            Some(found) => found.clone(),
            None => {
                let route = capture.route(&TableName::new(unescape(schema)?, unescape(table)?)?);
                let join = route.oid.and_then(|oid| capture.join(oid)).cloned();
                let found = Arc::new(Found { route, join });
                self.known.insert(names.clone(), found.clone());
                found
            }
        };
        self.last = Some((names, found.clone()));
        Ok(found)
    }
}

/// Whether the columns of a row come in the order in which the table has them. A row names its columns as they were
/// called when it was written: names that have changed places since show in it, also when they have changed back.
#[derive(Debug)]
pub(super) struct Order<'a> {
    names: &'a [String],
    next: usize,
    passed_over: bool,
    pub is_another: bool,
}

impl<'a> Order<'a> {
    pub(super) fn of(target: &'a Target) -> Order<'a> {
        Order { names: &target.columns, next: 0, passed_over: false, is_another: false }
    }

    pub(super) fn see(&mut self, printed: JsonString<'_>) {
        // A row may leave out values that did not change. A name that the table does not have says nothing here.
        let later = &self.names[self.next..];
        match later.iter().position(|name| says(printed, name)) {
            Some(place) => {
                self.passed_over |= place > 0;
                self.next += place + 1;
            }
            None => self.is_another |= self.names[..self.next].iter().any(|name| says(printed, name)),
        }
    }

    /// Whether the row says every column.
    pub(super) fn has_all(&self) -> bool {
        !self.passed_over && self.next == self.names.len()
    }
}

fn says(printed: JsonString<'_>, name: &str) -> bool {
    match printed.contains('\\') {
        false => printed.get(1..printed.len().saturating_sub(1)) == Some(name),
        true => unescape(printed).is_ok_and(|printed| printed == name),
    }
}

/// Columns without storage are printed as null, which is not their value: they do not travel.
pub(super) fn is_virtual(target: &Target, name: JsonString<'_>) -> bool {
    let is = |column: &String| unescape(name).is_ok_and(|printed| &printed == column);
    !target.virtual_columns.is_empty() && target.virtual_columns.iter().any(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_have_changed_places_are_seen() {
        let target = Target {
            table: "t".parse().expect("a name"),
            is_partition: false,
            virtual_columns: Vec::new(),
            columns: ["id", "a\"b", "c"].map(str::to_owned).to_vec(),
        };
        for (printed, is_another) in [
            (&[r#""id""#, r#""a\"b""#, r#""c""#][..], false),
            (&[r#""id""#, r#""c""#], false),
            (&[r#""c""#], false),
            (&[r#""id""#, r#""new""#, r#""c""#], false),
            (&[r#""a\"b""#, r#""id""#, r#""c""#], true),
            (&[r#""c""#, r#""a\"b""#], true),
        ] {
            let mut order = Order::of(&target);
            printed.iter().for_each(|name| order.see(name));
            assert_eq!(order.is_another, is_another, "{printed:?}");
        }
        let nobody_knows = Target { columns: Vec::new(), ..target };
        let mut order = Order::of(&nobody_knows);
        [r#""b""#, r#""a""#].iter().for_each(|name| order.see(name));
        assert!(!order.is_another);
    }
}
