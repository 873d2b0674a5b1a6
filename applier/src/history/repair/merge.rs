//! Brings the rows of a shadow over into the live table: what differs, and nothing else.

use postgres_protocol::escape::{escape_identifier, escape_literal};
use syncdata_formats::error::{Context, Error, Kind, Result};
use syncdata_service::postgres::ServerContext as _;
use syncdata_service::postgres::sqlstate;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::shadow::{RowState, STATE, Shadow};
use crate::history::report::{Changed, NotRebuilt};
use crate::table::{Column, TextEquality};
use crate::target::postgres::apply::Beside;
use crate::target::postgres::meta::MetaSchema;
use crate::target::postgres::rules;

/// Shown of the rows that could not be rebuilt.
const EXAMPLES_MAX: i64 = 20;

/// How a shadow is brought over.
pub(super) struct Merge<'a> {
    pub shadow: &'a Shadow,
    /// Where our own tables are.
    pub meta: &'a MetaSchema,
    /// What is not told is not there: the range emptied the table.
    pub emptied: bool,
    /// Columns were renamed or dropped: what a default would be is not known.
    pub strange: bool,
    /// Foreign keys and ordinary triggers are off: a row may go and come again.
    pub replica: bool,
    /// What is told how many rows change here, where triggers are watched.
    pub beside: Option<&'a mut Beside>,
}

impl Merge<'_> {
    pub(super) async fn run(&mut self, client: &Client) -> Result<(Changed, NotRebuilt)> {
        let doing = || format!("repairing {}", self.shadow.live.name);
        let live = &self.shadow.live;
        if let Some(rule) =
            rules::acting(client, self.meta, std::iter::once(&**live)).await?.remove(&live.name)
        {
            let hint = format!("nothing was changed; run: {}", rule.remedy());
            return Err(Error::new(Kind::Rejected, rule.what(&live.name)).hint(hint));
        }
        let analyze = format!("ANALYZE {}", self.shadow.sql());
        client.batch_execute(&analyze).await.context(doing)?;
        let deleted = client.execute(&self.delete(), &[]).await.context(doing)?;
        let (updated, replaced) = self.run_update(client).await.context(doing)?;
        let defaults = self.defaults(client).await.context(doing)?;
        let inserted = client.execute(&self.insert(&defaults), &[]).await.context(doing)?;
        let not_rebuilt = self.not_rebuilt(client).await.context(doing)?;
        if let Some(beside) = &mut self.beside {
            let [come, stay, go] = [inserted + replaced, updated, deleted + replaced];
            beside.expect(&self.shadow.live.name, come, stay, go);
        }
        Ok((Changed { inserted, updated: updated + replaced, deleted }, not_rebuilt))
    }

    /// How many were updated, and how many have gone and come again: rows that change places in a unique or an exclusion constraint
    /// come in each other's way one by one, and then all that differ do that.
    async fn run_update(&mut self, client: &Client) -> Result<(u64, u64), Error> {
        let doing = || "updating rows".to_owned();
        let may_go = self.replica || !self.shadow.live.is_referenced();
        if let Some(column) = self.other_identity(client).await? {
            if !may_go {
                return Err(self.takes_others_along(column));
            }
            return self.go_and_come(client).await;
        }
        if self.assigned().is_empty() {
            return Ok((0, 0));
        }
        let before = match &self.beside {
            Some(beside) => Some(beside.count(client).await?),
            None => None,
        };
        client.batch_execute("SAVEPOINT syncdata_merge").await.context(doing)?;
        let updated = client.execute(&self.update(), &[]).await.context(doing);
        let in_the_way = |error: &Error| {
            let codes = [SqlState::UNIQUE_VIOLATION, SqlState::EXCLUSION_VIOLATION];
            sqlstate(error).is_some_and(|code| codes.contains(code))
        };
        match updated {
            Err(error) if may_go && in_the_way(&error) => {
                client.batch_execute("ROLLBACK TO SAVEPOINT syncdata_merge").await.context(doing)?;
                if let (Some(beside), Some(before)) = (&mut self.beside, &before) {
                    beside.forget_since(client, before).await?;
                }
                self.go_and_come(client).await
            }
            other => Ok((other?, 0)),
        }
    }

    async fn go_and_come(&self, client: &Client) -> Result<(u64, u64), Error> {
        let doing = || "updating rows".to_owned();
        client.batch_execute(&self.set_aside()).await.context(doing)?;
        let replaced = client.execute(&self.bring_back(), &[]).await.context(doing)?;
        // The next table needs the name.
        client.batch_execute("DROP TABLE pg_temp.syncdata_changed").await.context(doing)?;
        Ok((0, replaced))
    }

    /// A column that no UPDATE writes, and that differs in a row.
    async fn other_identity(&self, client: &Client) -> Result<Option<usize>, Error> {
        for column in self.fixed() {
            let select = format!(
                "SELECT EXISTS (SELECT FROM {} AS t, {} AS s WHERE {} AND {} AND ({}))",
                self.live(),
                self.shadow.sql(),
                state_is(&[RowState::Whole, RowState::Part]),
                self.matched(),
                self.differs(column)
            );
            let row = client.query_one(&select, &[]).await;
            if row.context(|| "comparing columns that are GENERATED ALWAYS AS IDENTITY".to_owned())?.get(0) {
                return Ok(Some(column));
            }
        }
        Ok(None)
    }

    fn takes_others_along(&self, column: usize) -> Error {
        let table = &self.shadow.live.name;
        let message = format!(
            "rows of {table} have other values in {}, which is GENERATED ALWAYS AS IDENTITY: they would have to be deleted and \
             come again, and other tables refer to them",
            self.column(column).sql()
        );
        Error::new(Kind::Rejected, message).hint(format!(
            "nothing was changed; run: ALTER TABLE {} ALTER COLUMN {} SET GENERATED BY DEFAULT, and the same command again",
            table.sql(),
            self.column(column).sql()
        ))
    }

    fn live(&self) -> String {
        self.shadow.live.sql()
    }

    fn delete(&self) -> String {
        let (live, shadow) = (self.live(), self.shadow.sql());
        if self.emptied {
            let matched = self.matched();
            let there = state_is(&[RowState::Whole, RowState::Part]);
            return format!(
                "DELETE FROM {live} AS t WHERE NOT EXISTS (SELECT FROM {shadow} AS s WHERE {there} AND {matched})"
            );
        }
        let gone = state_is(&[RowState::Gone]);
        // Of keys that the source may tell apart, the one that is gone, and no other.
        let spelt = self.key().map(|column| match column.may_merge() {
            true => format!(" AND {}", same_text(column, "t", "s")),
            false => String::new(),
        });
        let (matched, spelt) = (self.matched(), spelt.collect::<String>());
        format!("DELETE FROM {live} AS t USING {shadow} AS s WHERE {gone} AND {matched}{spelt}")
    }

    fn update(&self) -> String {
        let set: Vec<String> = self
            .assigned()
            .into_iter()
            .map(|column| format!("{} = {}", self.column(column).sql(), self.value(column)))
            .collect();
        format!(
            "UPDATE {} AS t SET {} FROM {} AS s WHERE {}",
            self.live(),
            set.join(", "),
            self.shadow.sql(),
            self.is_other()
        )
    }

    /// The rows that differ, as they are to be, kept in a temporary table.
    fn set_aside(&self) -> String {
        let columns: Vec<String> = self
            .own_columns()
            .map(|column| {
                let value = if self.shadow.written.contains(&column) {
                    self.value(column)
                } else {
                    format!("t.{}", self.column(column).sql())
                };
                format!("{value} AS {}", self.column(column).sql())
            })
            .collect();
        let equal: Vec<String> = self.key().map(|column| equal(column, "t", "c")).collect();
        format!(
            "CREATE TEMPORARY TABLE syncdata_changed ON COMMIT DROP AS SELECT {} FROM {live} AS t, {} AS s WHERE {}; \
             DELETE FROM {live} AS t USING pg_temp.syncdata_changed AS c WHERE {}",
            columns.join(", "),
            self.shadow.sql(),
            self.is_other(),
            equal.join(" AND "),
            live = self.live()
        )
    }

    fn bring_back(&self) -> String {
        let columns: Vec<usize> = self.own_columns().collect();
        let list = self.shadow.live.column_list(&columns);
        let name = self.shadow.live.name.sql();
        format!(
            "WITH brought AS (DELETE FROM pg_temp.syncdata_changed RETURNING *) \
             INSERT INTO {name} ({list}) OVERRIDING SYSTEM VALUE SELECT {list} FROM brought"
        )
    }

    fn insert(&self, defaults: &[(String, String)]) -> String {
        let value = |&column: &usize| {
            let sql = self.column(column).sql();
            if !self.shadow.has_holes {
                return format!("s.{sql}");
            }
            let default = match self.shadow.missing.get(&column) {
                Some(missing) => missing.as_deref().map_or_else(|| "NULL".to_owned(), escape_literal),
                None => {
                    let default = defaults.iter().find(|(name, _)| *name == self.column(column).name);
                    default.map_or_else(|| "NULL".to_owned(), |(_, default)| default.clone())
                }
            };
            format!("CASE WHEN {} THEN s.{sql} ELSE {default} END", self.is_known(column))
        };
        let values: Vec<String> = self.shadow.written.iter().map(value).collect();
        format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS s WHERE {} AND NOT EXISTS \
             (SELECT FROM {} AS t WHERE {})",
            self.shadow.live.name.sql(),
            self.shadow.live.column_list(&self.shadow.written),
            values.join(", "),
            self.shadow.sql(),
            self.can_be_rebuilt(),
            self.live(),
            self.matched()
        )
    }

    async fn not_rebuilt(&self, client: &Client) -> Result<NotRebuilt, Error> {
        if !self.shadow.has_holes {
            return Ok(NotRebuilt::default());
        }
        let key: Vec<String> = self
            .key()
            .map(|column| {
                let name = escape_literal(&format!("{}=", column.name));
                format!("{name} || pg_catalog.format('%s', s.{})", column.sql())
            })
            .collect();
        let select = format!(
            "SELECT {}, pg_catalog.count(*) OVER () FROM {} AS s WHERE {} AND NOT coalesce({}, false) AND NOT EXISTS \
             (SELECT FROM {} AS t WHERE {}) LIMIT {EXAMPLES_MAX}",
            key.join(" || ' ' || "),
            self.shadow.sql(),
            state_is(&[RowState::Whole, RowState::Part]),
            self.can_be_rebuilt(),
            self.live(),
            self.matched()
        );
        let rows = client.query(&select, &[]).await.context(|| "looking for what is missing".to_owned())?;
        let count = rows.first().map_or(0, |row| row.get::<_, i64>(1));
        Ok(NotRebuilt {
            rows: u64::try_from(count).unwrap_or(0),
            keys: rows.iter().map(|row| row.get(0)).collect(),
        })
    }

    /// A row that was written before a column came has in it what the source says; where it does not, it takes that
    /// column's default. Where columns
    /// were renamed nobody knows which one it was.
    fn can_be_rebuilt(&self) -> String {
        let whole = state_is(&[RowState::Whole]);
        if !self.strange || !self.shadow.has_holes {
            return whole;
        }
        let all: Vec<String> = self.shadow.written.iter().map(|&column| self.is_known(column)).collect();
        format!("{whole} AND {}", all.join(" AND "))
    }

    /// Expressions of the local columns' defaults.
    async fn defaults(&self, client: &Client) -> Result<Vec<(String, String)>, Error> {
        if !self.shadow.has_holes {
            return Ok(Vec::new());
        }
        let select = "SELECT a.attname::text, pg_catalog.pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attrdef d \
            JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum \
            WHERE d.adrelid = $1 AND a.attgenerated = ''";
        let rows = client.query(select, &[&self.shadow.live.oid]).await;
        let rows = rows.context(|| "reading the columns' defaults".to_owned())?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// A row that is in both, and not the same.
    fn is_other(&self) -> String {
        let columns = self.assigned().into_iter().chain(self.fixed());
        let differs: Vec<String> = columns.map(|column| self.differs(column)).collect();
        let there = state_is(&[RowState::Whole, RowState::Part]);
        format!("{there} AND {} AND ({})", self.matched(), differs.join(" OR "))
    }

    fn differs(&self, column: usize) -> String {
        let sql = self.column(column).sql();
        let differs = if self.column(column).text_equality == TextEquality::Exact {
            format!("t.{sql} IS DISTINCT FROM s.{sql}")
        } else {
            // By what is printed: 1.0 is not 1.00, and not every type has an equality. NULL prints as nothing does.
            let printed = |row: &str| format!("pg_catalog.format('%s', {row}.{sql}) COLLATE \"C\"");
            let is_null = |row: &str| format!("pg_catalog.num_nulls({row}.{sql})");
            format!("{} <> {} OR {} <> {}", is_null("t"), is_null("s"), printed("t"), printed("s"))
        };
        if self.shadow.has_holes { format!("({} AND ({differs}))", self.is_known(column)) } else { differs }
    }

    fn value(&self, column: usize) -> String {
        let sql = self.column(column).sql();
        if self.shadow.has_holes {
            format!("CASE WHEN {} THEN s.{sql} ELSE t.{sql} END", self.is_known(column))
        } else {
            format!("s.{sql}")
        }
    }

    /// The server updates no IDENTITY ALWAYS column.
    fn assigned(&self) -> Vec<usize> {
        let written = self.shadow.written.iter().copied();
        written.filter(|&column| !self.column(column).identity_always).collect()
    }

    /// Columns beside the key that no UPDATE writes: a row that differs there goes and comes again.
    fn fixed(&self) -> Vec<usize> {
        let key = &self.shadow.target.key.columns;
        let written = self.shadow.written.iter().copied();
        written.filter(|column| self.column(*column).identity_always && !key.contains(column)).collect()
    }

    fn is_known(&self, column: usize) -> String {
        format!("coalesce(s.{}, false)", escape_identifier(&self.shadow.known(column)))
    }

    fn own_columns(&self) -> impl Iterator<Item = usize> + '_ {
        let columns = self.shadow.live.columns.iter().enumerate();
        columns.filter(|(_, column)| !column.generated).map(|(place, _)| place)
    }

    fn column(&self, column: usize) -> &Column {
        &self.shadow.live.columns[column]
    }

    fn key(&self) -> impl Iterator<Item = &Column> {
        self.shadow.target.key.columns.iter().map(|&column| self.column(column))
    }

    fn matched(&self) -> String {
        let equal: Vec<String> = self.key().map(|column| equal(column, "t", "s")).collect();
        equal.join(" AND ")
    }
}

/// Where the collation calls other texts equal too, only the same text.
fn equal(column: &Column, one: &str, other: &str) -> String {
    let sql = column.sql();
    let equal = format!("{one}.{sql} {} {other}.{sql}", column.equality);
    match column.is_loose {
        false => equal,
        true => format!("({equal} AND {})", same_text(column, one, other)),
    }
}

fn same_text(column: &Column, one: &str, other: &str) -> String {
    let printed = |row: &str| format!("pg_catalog.format('%s', {row}.{}) COLLATE \"C\"", column.sql());
    format!("{} = {}", printed(one), printed(other))
}

fn state_is(states: &[RowState]) -> String {
    let states: Vec<String> = states.iter().map(|state| format!("'{}'", state.as_str())).collect();
    format!("s.{} IN ({})", escape_identifier(STATE), states.join(", "))
}
