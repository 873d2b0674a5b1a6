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

/// Columns without storage are printed as null, which is not their value: they do not travel.
pub(super) fn is_virtual(target: &Target, name: JsonString<'_>) -> bool {
    let is = |column: &String| unescape(name).is_ok_and(|printed| &printed == column);
    !target.virtual_columns.is_empty() && target.virtual_columns.iter().any(is)
}
