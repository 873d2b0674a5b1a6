//! Brings a table to what its shadow holds: rows that are too many go, rows that differ are changed, rows that are
//! missing come. Nothing stronger than the locks of writing rows is taken, the table stays the table that it is, and
//! no reader ever sees it empty.

use syncdata_formats::error::{Error, Result};
use syncdata_service::postgres::ServerContext as _;
use syncdata_service::postgres::sqlstate;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::table::{Table, TextEquality};

/// How many rows it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
}

impl Changes {
    pub(crate) fn total(self) -> u64 {
        self.inserted + self.updated + self.deleted
    }
}

/// A table and its shadow.
pub(crate) struct Pair<'a> {
    pub table: &'a Table,
    pub shadow: &'a Table,
    /// Columns by which both find the same row, covered by a unique index of the table; none: rows are counted by what
    /// they print.
    pub key: &'a [usize],
    /// Columns that the source has.
    pub columns: Vec<usize>,
    /// Foreign keys and triggers are off, so that a row may go for a moment.
    pub replica: bool,
}

impl Pair<'_> {
    /// Inside a transaction that somebody else commits.
    pub(crate) async fn bring_over(&self, client: &Client) -> Result<Changes, Error> {
        if self.key.is_empty() {
            return self.by_image(client).await;
        }
        // What hangs on such a row stays where it is: then all of these have the right value already.
        if self.must_replace() && (self.replica || !self.table.acts_on_delete) {
            return self.replacing(client).await;
        }
        savepoint(client, "SAVEPOINT syncdata_rows").await?;
        match self.in_place(client).await {
            // Two rows have changed places in another unique index, or under an exclusion constraint: no order of single
            // steps does that.
            Err(error) if self.may_go() && is_in_the_way(&error) => {
                savepoint(client, "ROLLBACK TO SAVEPOINT syncdata_rows").await?;
                self.replacing(client).await
            }
            Err(error) => Err(error),
            Ok(changes) => {
                savepoint(client, "RELEASE SAVEPOINT syncdata_rows").await?;
                Ok(changes)
            }
        }
    }

    /// Whether two rows of the shadow have one key: only one of them would be brought over.
    pub(crate) async fn has_key_twice(&self, client: &Client) -> Result<bool, Error> {
        let list: Vec<String> = self.key.iter().map(|&column| self.table.columns[column].sql()).collect();
        let select = format!(
            "SELECT EXISTS (SELECT FROM {} GROUP BY {} HAVING pg_catalog.count(*) > 1)",
            self.shadow.sql(),
            list.join(", ")
        );
        let looking = || format!("looking for keys that stand twice in the rows of {}", self.table.name);
        Ok(client.query_one(&select, &[]).await.context(looking)?.get(0))
    }

    /// Whether a row would have to go and to come again, and takes others along: the server updates no IDENTITY ALWAYS
    /// column.
    pub(crate) async fn takes_others_along(&self, client: &Client) -> Result<bool, Error> {
        if self.replica || !self.table.acts_on_delete || self.key.is_empty() || !self.must_replace() {
            return Ok(false);
        }
        let (t, s, same_key) = (self.table.sql(), self.shadow.sql(), self.same_key());
        let fixed: Vec<String> =
            self.fixed().map(|name| format!("t.{name} IS DISTINCT FROM s.{name}")).collect();
        let select = format!(
            "SELECT EXISTS (SELECT FROM {t} AS t JOIN {s} AS s ON {same_key} WHERE {})",
            fixed.join(" OR ")
        );
        let looking = || format!("looking for rows of {} that would go for a moment", self.table.name);
        Ok(client.query_one(&select, &[]).await.context(looking)?.get(0))
    }

    /// Columns that the server updates nowhere, and that find no row.
    pub(crate) fn fixed(&self) -> impl Iterator<Item = String> {
        let columns = self.columns.iter().filter(|column| !self.key.contains(column));
        let columns = columns.map(|&column| &self.table.columns[column]);
        columns.filter(|column| column.identity_always).map(|column| column.sql())
    }

    /// Afterwards: the first of these columns, which the table computes, that has another value in some row than the
    /// shadow. Rows are found by their key; without one they are counted by what they print.
    pub(crate) async fn computes_another(
        &self,
        client: &Client,
        columns: &[usize],
    ) -> Result<Option<usize>, Error> {
        let (t, s, same_key) = (self.table.sql(), self.shadow.sql(), self.same_key());
        for &column in columns {
            let name = self.table.columns[column].sql();
            let image = |of: &str| format!("SELECT {}, ROW({of}.{name})::text", self.text(of));
            let select = match self.key {
                [] => format!(
                    "SELECT EXISTS ({} FROM {t} AS t EXCEPT ALL {} FROM {s} AS s)",
                    image("t"),
                    image("s")
                ),
                _ => format!(
                    "SELECT EXISTS (SELECT FROM {t} AS t JOIN {s} AS s ON {same_key} \
                     WHERE ROW(t.{name})::text <> ROW(s.{name})::text)"
                ),
            };
            let looking = || format!("looking at what {} computes", self.table.name);
            if client.query_one(&select, &[]).await.context(looking)?.get(0) {
                return Ok(Some(column));
            }
        }
        Ok(None)
    }

    /// Whether a row may go for a moment: nothing hangs on it.
    fn may_go(&self) -> bool {
        self.replica || !self.table.is_referenced()
    }

    /// The server updates no IDENTITY ALWAYS column: such a row goes, and comes again.
    fn must_replace(&self) -> bool {
        self.fixed().next().is_some()
    }

    async fn in_place(&self, client: &Client) -> Result<Changes, Error> {
        let (t, s, same_key) = (self.table.sql(), self.shadow.sql(), self.same_key());
        let deleted =
            format!("DELETE FROM {t} AS t WHERE NOT EXISTS (SELECT FROM {s} AS s WHERE {same_key})");
        let deleted = self.execute(client, &deleted).await?;
        let set: Vec<String> = self
            .columns
            .iter()
            .map(|&column| &self.table.columns[column])
            // A key that is equal may be spelt differently.
            .filter(|column| !column.identity_always && !self.is_exact_key(&column.name))
            .map(|column| format!("{0} = s.{0}", column.sql()))
            .collect();
        let mut updated = 0;
        if !set.is_empty() {
            let differs = format!("{} OPERATOR(pg_catalog.*<>) {}", self.image("t"), self.image("s"));
            let set = set.join(", ");
            let update = format!("UPDATE {t} AS t SET {set} FROM {s} AS s WHERE {same_key} AND {differs}");
            updated = self.execute(client, &update).await?;
        }
        Ok(Changes { inserted: self.insert_missing(client).await?, updated, deleted })
    }

    /// Rows that differ go with those that are too many, and come with those that are missing.
    async fn replacing(&self, client: &Client) -> Result<Changes, Error> {
        let (t, s, same_key) = (self.table.sql(), self.shadow.sql(), self.same_key());
        let same = format!("{} OPERATOR(pg_catalog.*=) {}", self.image("t"), self.image("s"));
        let delete = format!(
            "DELETE FROM {t} AS t WHERE NOT EXISTS (SELECT FROM {s} AS s WHERE {same_key} AND {same})"
        );
        let deleted = self.execute(client, &delete).await?;
        Ok(Changes { inserted: self.insert_missing(client).await?, updated: 0, deleted })
    }

    async fn insert_missing(&self, client: &Client) -> Result<u64, Error> {
        let (t, s, same_key) = (self.table.sql(), self.shadow.sql(), self.same_key());
        let insert = format!(
            "{} SELECT {} FROM {s} AS s WHERE NOT EXISTS (SELECT FROM {t} AS t WHERE {same_key})",
            self.insert(),
            self.list("s")
        );
        self.execute(client, &insert).await
    }

    /// Equal rows are as many afterwards as there are in the shadow, whichever of them stay.
    async fn by_image(&self, client: &Client) -> Result<Changes, Error> {
        let (t, s) = (self.table.sql(), self.shadow.sql());
        let counted = |table: &str| {
            format!(
                "SELECT pg_catalog.count(*) AS n, image FROM (SELECT {} AS image FROM {table} AS x) AS i GROUP BY image",
                self.text("x")
            )
        };
        let numbered = "pg_catalog.row_number() OVER (PARTITION BY image)";
        let delete = format!(
            "DELETE FROM {t} AS t USING (\
                SELECT a.place, a.part FROM (\
                    SELECT place, part, image, {numbered} AS n FROM (\
                        SELECT x.ctid AS place, x.tableoid AS part, {} AS image FROM {t} AS x) AS i) AS a \
                LEFT JOIN ({}) AS b USING (image) WHERE a.n > coalesce(b.n, 0)) AS surplus \
             WHERE t.ctid = surplus.place AND t.tableoid = surplus.part",
            self.text("x"),
            counted(&s)
        );
        let deleted = self.execute(client, &delete).await?;
        let row = self.row_alias();
        let insert = format!(
            "{} SELECT {} FROM (\
                SELECT r, image, {numbered} AS n FROM (\
                    SELECT {row} AS r, {} AS image FROM {s} AS {row}) AS i) AS a \
             LEFT JOIN ({}) AS b USING (image) WHERE a.n > coalesce(b.n, 0)",
            self.insert(),
            self.list("(a.r)"),
            self.text(&row),
            counted(&t)
        );
        Ok(Changes { inserted: self.execute(client, &insert).await?, updated: 0, deleted })
    }

    /// `INSERT INTO "t" ("a", "b") OVERRIDING SYSTEM VALUE`.
    fn insert(&self) -> String {
        let list = match self.columns.as_slice() {
            // SQL has no empty list: where none is named, nothing is given for any.
            [] => String::new(),
            columns => format!(" ({})", self.table.column_list(columns)),
        };
        format!("INSERT INTO {}{list} OVERRIDING SYSTEM VALUE", self.table.name.sql())
    }

    /// A name that stands for the whole row, because no column has it.
    fn row_alias(&self) -> String {
        let mut alias = "whole_row".to_owned();
        while self.table.column(&alias).is_some() {
            alias.push('_');
        }
        alias
    }

    fn same_key(&self) -> String {
        let equal = |&column: &usize| {
            let column = &self.table.columns[column];
            format!("t.{0} {1} s.{0}", column.sql(), column.equality)
        };
        let equal: Vec<String> = self.key.iter().map(equal).collect();
        equal.join(" AND ")
    }

    fn is_exact_key(&self, name: &str) -> bool {
        self.key.iter().any(|&column| {
            let column = &self.table.columns[column];
            column.name == name && column.text_equality == TextEquality::Exact
        })
    }

    /// `"a", "b"` of that alias.
    fn list(&self, of: &str) -> String {
        let names = self.columns.iter().map(|&column| format!("{of}.{}", self.table.columns[column].sql()));
        names.collect::<Vec<String>>().join(", ")
    }

    /// As a record whose bytes are compared: 1.0 is not 1.00, and a box needs no equality. (A bare ROW would be taken
    /// apart, column by column.)
    fn image(&self, of: &str) -> String {
        format!("ROW({})::record", self.list(of))
    }

    /// As the text that the row prints.
    fn text(&self, of: &str) -> String {
        format!("ROW({})::text", self.list(of))
    }

    async fn execute(&self, client: &Client, statement: &str) -> Result<u64, Error> {
        let bringing = || format!("bringing rows over to {}", self.table.name);
        client.execute(statement, &[]).await.context(bringing)
    }
}

fn is_in_the_way(error: &Error) -> bool {
    let codes = [SqlState::UNIQUE_VIOLATION, SqlState::EXCLUSION_VIOLATION];
    sqlstate(error).is_some_and(|code| codes.contains(code))
}

async fn savepoint(client: &Client, statement: &str) -> Result<(), Error> {
    client.batch_execute(statement).await.context(|| statement.to_owned())
}
