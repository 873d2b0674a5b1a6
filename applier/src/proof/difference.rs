//! The question for rows that differ from those of a shadow, by their key or by all that they print.

use std::collections::BTreeMap;
use std::pin::pin;

use futures_util::TryStreamExt as _;
use postgres_protocol::escape::escape_literal;
use syncdata_formats::error::{Error, Kind, Result};
use syncdata_service::postgres::ServerContext as _;
use tokio_postgres::{Client, Row};

use super::report::{ColumnDifference, LISTED_MAX, RowDifference, RowKind};
use crate::load::Pair;

/// The question for rows that differ.
pub(super) struct Difference<'a> {
    pub pair: &'a Pair<'a>,
    /// Columns of the key that the archive knows.
    pub key: &'a [usize],
}

impl Difference<'_> {
    /// Lists the first of them; how many there are.
    pub(super) async fn list(
        &self,
        client: &Client,
        key: Option<&[String]>,
        rows: &mut Vec<RowDifference>,
    ) -> Result<u64> {
        if let Some(key) = key
            && (self.pair.key.is_empty() || key.len() != self.key.len())
        {
            let names: Vec<&str> =
                self.key.iter().map(|column| self.pair.table.columns[*column].name.as_str()).collect();
            let message = match self.pair.key.is_empty() {
                true => format!("{} has no key: its rows cannot be told apart", self.pair.table.name),
                false => format!(
                    "the key of {} is ({}): one value for each",
                    self.pair.table.name,
                    names.join(", ")
                ),
            };
            return Err(Error::new(Kind::BadInput, message));
        }
        let statement = match self.pair.key.is_empty() {
            true => self.by_image(),
            false => self.by_key(key),
        };
        let asking = || format!("comparing the rows of {}", self.pair.table.name);
        let params: [i32; 0] = [];
        let answer = client.query_raw(&statement, params).await.context(asking)?;
        let mut answer = pin!(answer);
        let mut differing = 0_u64;
        while let Some(row) = answer.try_next().await.context(asking)? {
            let times = u64::try_from(row.get::<_, i64>(2)).unwrap_or(1);
            differing += times;
            if rows.len() < LISTED_MAX {
                rows.push(self.row(&row, times));
            }
        }
        Ok(differing)
    }

    /// Whether the copy has a row of that key.
    pub(super) async fn has(&self, client: &Client, key: &[String]) -> Result<bool> {
        let same = |(column, value): (&usize, &String)| {
            let name = self.pair.table.columns[*column].sql();
            format!("pg_catalog.format('%s', t.{name}) = {}", escape_literal(value))
        };
        let same: Vec<String> = self.key.iter().zip(key).map(same).collect();
        let select = format!(
            "SELECT EXISTS (SELECT FROM {} AS t WHERE {})",
            self.pair.table.sql(),
            same.join(" AND ")
        );
        let row = client.query_one(&select, &[]).await;
        Ok(row.context(|| format!("looking for a row of {}", self.pair.table.name))?.get(0))
    }

    fn row(&self, row: &Row, times: u64) -> RowDifference {
        let (here, there): (bool, bool) = (row.get(0), row.get(1));
        let kind = match (here, there) {
            (true, true) => RowKind::Changed,
            (false, _) => RowKind::Missing,
            (true, false) => RowKind::Surplus,
        };
        let mut difference = RowDifference { key: BTreeMap::new(), kind, columns: Vec::new(), times };
        let (here_texts, there_texts): (Vec<Option<String>>, Vec<Option<String>>) = (row.get(3), row.get(4));
        let texts = here_texts.into_iter().zip(there_texts);
        for (column, (local, archive)) in self.pair.columns.iter().zip(texts) {
            let name = self.pair.table.columns[*column].name.clone();
            if self.pair.key.contains(column) {
                let value = if here { &local } else { &archive };
                difference.key.insert(name.clone(), value.clone());
            }
            if kind != RowKind::Changed || local != archive {
                difference.columns.push(ColumnDifference { column: name, local, archive });
            }
        }
        difference
    }

    /// What each column prints, on both sides. In two arrays: a target list has fewer places than two rows may have.
    fn texts(&self, here: &str, there: &str) -> String {
        let text = |of: &str, column: &usize| {
            let name = self.pair.table.columns[*column].sql();
            // A cast to text is another text for some types than what they print.
            format!(
                "CASE WHEN pg_catalog.num_nulls({of}.{name}) = 0 THEN pg_catalog.format('%s', {of}.{name}) END"
            )
        };
        let all =
            |of: &str| self.pair.columns.iter().map(|column| text(of, column)).collect::<Vec<_>>().join(", ");
        format!("ARRAY[{}]::text[], ARRAY[{}]::text[]", all(here), all(there))
    }

    fn list_of(&self, of: &str) -> String {
        let name = |column: &usize| format!("{of}.{}", self.pair.table.columns[*column].sql());
        self.pair.columns.iter().map(name).collect::<Vec<_>>().join(", ")
    }

    fn by_key(&self, key: Option<&[String]>) -> String {
        let (t, s) = (self.pair.table.sql(), self.pair.shadow.sql());
        let equal = |column: &usize| {
            let column = &self.pair.table.columns[*column];
            format!("t.{0} {1} s.{0}", column.sql(), column.equality)
        };
        let same: Vec<String> = self.pair.key.iter().map(equal).collect();
        let one = |(column, value): (&usize, &String)| {
            let name = self.pair.table.columns[*column].sql();
            format!(
                " AND pg_catalog.format('%s', CASE WHEN t.\"syncdata here\" THEN t.{name} ELSE s.{name} END) = {}",
                escape_literal(value)
            )
        };
        let only: String = key.map(|key| self.key.iter().zip(key).map(one).collect()).unwrap_or_default();
        format!(
            "SELECT coalesce(t.\"syncdata here\", false), coalesce(s.\"syncdata there\", false), 1::int8, {} \
             FROM (SELECT true AS \"syncdata here\", * FROM {t}) AS t \
             FULL JOIN (SELECT true AS \"syncdata there\", * FROM {s}) AS s ON {} \
             WHERE (t.\"syncdata here\" IS NULL OR s.\"syncdata there\" IS NULL \
               OR ROW({})::record OPERATOR(pg_catalog.*<>) ROW({})::record){only}",
            self.texts("t", "s"),
            same.join(" AND "),
            self.list_of("t"),
            self.list_of("s"),
        )
    }

    /// Equal rows are counted on both sides.
    fn by_image(&self) -> String {
        let (t, s) = (self.pair.table.sql(), self.pair.shadow.sql());
        let row = |of: &str| format!("ROW({})::text", self.list_of(of));
        format!(
            "WITH here AS (SELECT {} AS image, count(*) AS n, min(x.ctid) AS place, min(x.tableoid) AS part FROM {t} AS x GROUP BY 1), \
                  there AS (SELECT {} AS image, count(*) AS n, min(x.ctid) AS place FROM {s} AS x GROUP BY 1), \
                  apart AS (SELECT h.n AS h, t.n AS t, h.place AS h_place, h.part, t.place AS t_place \
                    FROM here h FULL JOIN there t USING (image) WHERE h.n IS DISTINCT FROM t.n) \
             SELECT coalesce(a.h, 0) > coalesce(a.t, 0), coalesce(a.t, 0) > coalesce(a.h, 0), \
               abs(coalesce(a.h, 0) - coalesce(a.t, 0))::int8, {} \
             FROM apart a LEFT JOIN {t} AS t ON t.ctid = a.h_place AND t.tableoid = a.part \
               LEFT JOIN {s} AS s ON s.ctid = a.t_place",
            row("x"),
            row("x"),
            self.texts("t", "s"),
        )
    }
}
