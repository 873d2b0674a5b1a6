//! Settings that change what the server prints or reads. Role and database defaults can change them, and a
//! pooler forgets them between transactions: so they are set at the start of a session, again inside every
//! transaction that counts, and read back.

use crate::postgres::ServerContext as _;
use std::collections::BTreeMap;

use postgres_protocol::escape::escape_literal;
use tokio_postgres::GenericClient;
use tokio_postgres::types::{ToSql, Type};

use syncdata_formats::error::{Error, Kind, Result};

/// What decides the text of a value, in both directions. Both programs pin the same, so that what one prints
/// the other reads back. (Money is exact under any locale, but only under the same one.)
const FORMAT: &[(&str, &str)] = &[
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("client_encoding", "UTF8"),
    ("search_path", "pg_catalog"),
    ("quote_all_identifiers", "off"),
    ("lc_monetary", "C"),
    ("xmloption", "content"),
    ("standard_conforming_strings", "on"),
    // The plugin's warning about a table without identity must get through, its chatter must not.
    ("client_min_messages", "warning"),
];

/// Long work is ours to end, not a role default's. Newer servers have more of these.
const LIMITS: &[&str] = &[
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "transaction_timeout",
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedSettings {
    format: BTreeMap<&'static str, String>,
    others: BTreeMap<&'static str, String>,
}

impl PinnedSettings {
    /// Formats as the archive has them; no limits of time.
    pub fn new() -> PinnedSettings {
        let format = FORMAT.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let others = LIMITS.iter().map(|name| (*name, "0".to_owned())).collect();
        PinnedSettings { format, others }
    }

    /// One more, or another value for one. It is written as the server shows it (`5s`, not `5000`), so that
    /// reading it back compares equal.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> PinnedSettings {
        let group = if self.format.contains_key(name) { &mut self.format } else { &mut self.others };
        group.insert(name, value.into());
        self
    }

    /// For the rest of the session, where a session is ours.
    pub async fn apply_to_session(&self, client: &impl GenericClient) -> Result<()> {
        self.apply(client, false).await
    }

    /// For the rest of the transaction that `client` is in: what a pooler cannot undo.
    pub async fn apply_to_transaction(&self, client: &impl GenericClient) -> Result<()> {
        self.apply(client, true).await
    }

    /// Reads all of them back. The answer is what a manifest echoes: the settings that decide about text.
    pub async fn read_back(&self, client: &impl GenericClient) -> Result<BTreeMap<String, String>> {
        const READ: &str = "SELECT n, pg_catalog.current_setting(n, true) FROM pg_catalog.unnest($1::pg_catalog.text[]) AS n";
        let names: Vec<&str> = self.all().map(|(name, _)| name).collect();
        let rows = client.query_typed(READ, &[(&names, Type::TEXT_ARRAY)]).await;
        let rows = rows.context(|| "reading the session's settings back".to_owned())?;
        let mut echo = BTreeMap::new();
        for (row, (name, wanted)) in rows.iter().zip(self.all()) {
            match row.get::<_, Option<&str>>(1) {
                Some(found) if found == wanted => {
                    if self.format.contains_key(name) {
                        echo.insert(name.to_owned(), found.to_owned());
                    }
                }
                None if LIMITS.contains(&name) => {}
                found => return Err(not_pinned(name, wanted, found)),
            }
        }
        Ok(echo)
    }

    /// The same for a session that has simple queries only.
    pub(super) fn as_statements(&self) -> impl Iterator<Item = String> {
        let set = |(name, value): (&str, &str)| {
            let (name, value) = (escape_literal(name), escape_literal(value));
            // A limit that this server does not know cannot bite.
            format!(
                "SELECT pg_catalog.set_config({name}, {value}, false) \
                 WHERE pg_catalog.current_setting({name}, true) IS NOT NULL"
            )
        };
        self.all().map(set)
    }

    /// What has to hold then.
    pub(super) fn expected(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.all().filter(|(name, _)| !LIMITS.contains(name))
    }

    /// One statement, parsed without a name: a pooler may hand the next one to another server process.
    async fn apply(&self, client: &impl GenericClient, local: bool) -> Result<()> {
        // A limit that this server does not know cannot bite. Whatever stands first in the role's search_path is looked at
        // before pg_catalog until this is done, types and operators too.
        const SET: &str = "SELECT pg_catalog.set_config(n, v, $4) \
            FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) AS pin(n, v) \
            WHERE n OPERATOR(pg_catalog.<>) ALL ($3::pg_catalog.text[]) OR pg_catalog.current_setting(n, true) IS NOT NULL";
        let (names, values): (Vec<&str>, Vec<&str>) = self.all().unzip();
        let parameters: [(&(dyn ToSql + Sync), Type); 4] = [
            (&names, Type::TEXT_ARRAY),
            (&values, Type::TEXT_ARRAY),
            (&LIMITS, Type::TEXT_ARRAY),
            (&local, Type::BOOL),
        ];
        let set = client.query_typed(SET, &parameters).await;
        set.context(|| "pinning the session's settings".to_owned()).map(|_| ())
    }

    fn all(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.format.iter().chain(&self.others).map(|(name, value)| (*name, value.as_str()))
    }
}

impl Default for PinnedSettings {
    fn default() -> PinnedSettings {
        PinnedSettings::new()
    }
}

fn not_pinned(name: &str, wanted: &str, found: Option<&str>) -> Error {
    let found = found.unwrap_or("unknown to the server");
    Error::new(Kind::Conflict, format!("the setting {name} is {found:?} although {wanted:?} was set"))
        .hint("connect to the server itself, not through a pooler that shares sessions")
}
