//! What two servers hold of a table, as text.

use std::fmt::Write as _;

use postgres_protocol::escape::escape_literal;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::postgres::PostgresServer;

/// What values are printed under, on both sides.
pub const PINNED: &str =
    "SET DateStyle = 'ISO, MDY'; SET IntervalStyle = postgres; SET TimeZone = 'UTC'; SET extra_float_digits = 3;
    SET bytea_output = hex; SET client_encoding = 'UTF8'; SET xmloption = content";

/// Rows, each column as text, in the order of their texts.
pub type Image = Vec<Vec<Option<String>>>;

/// `names` are SQL.
pub async fn image(server: &PostgresServer, table: &str, names: &[&str]) -> Result<Image, String> {
    let client = server.connect().await;
    run(&client, PINNED).await?;
    // What the output functions print; a cast to text would cut char(n).
    let sql = format!("SELECT {} FROM {table}", names.join(", "));
    let mut rows = run(&client, &sql).await.map_err(|error| format!("{sql}: {error}"))?;
    rows.sort();
    Ok(rows)
}

/// The rows of the last statement.
pub async fn run(client: &Client, sql: &str) -> Result<Image, String> {
    let answer = client.simple_query(sql).await;
    let answer =
        answer.map_err(|error| error.as_db_error().map_or(error.to_string(), ToString::to_string))?;
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
        }
        _ => None,
    };
    Ok(answer.iter().filter_map(row).collect())
}

/// What differs, smallest rows first; `None` when nothing does.
pub fn difference(names: &[&str], source: &Image, here: &Image) -> Option<String> {
    if source == here {
        return None;
    }
    let mut text = format!("{} rows at the source, {} here", source.len(), here.len());
    for (words, rows, others) in [("missing", source, here), ("surplus", here, source)] {
        for row in surplus(rows, others).into_iter().take(4) {
            write!(text, "\n  {words}: {}", shown(names, row)).expect("a String takes all");
        }
    }
    Some(text)
}

/// Both are sorted; equal rows count as often as they are there.
fn surplus<'a>(rows: &'a Image, others: &Image) -> Vec<&'a Vec<Option<String>>> {
    let mut others = others.iter().peekable();
    let mut found = Vec::new();
    for row in rows {
        while others.next_if(|other| *other < row).is_some() {}
        if others.next_if(|other| *other == row).is_none() {
            found.push(row);
        }
    }
    found.sort_by_key(|row| row.iter().flatten().map(String::len).sum::<usize>());
    found
}

fn shown(names: &[&str], row: &[Option<String>]) -> String {
    const MOST: usize = 120;
    let value = |value: &Option<String>| match value {
        None => "NULL".to_owned(),
        Some(text) if text.chars().count() > MOST => {
            let start: String = text.chars().take(MOST).collect();
            format!("{}… ({} bytes)", escape_literal(&start), text.len())
        }
        Some(text) => escape_literal(text),
    };
    let pairs: Vec<String> =
        names.iter().zip(row).map(|(name, text)| format!("{name} = {}", value(text))).collect();
    pairs.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(texts: &[&str]) -> Image {
        texts.iter().map(|text| vec![Some((*text).to_owned())]).collect()
    }

    #[test]
    fn equal_rows_count() {
        assert_eq!(difference(&["a"], &rows(&["1", "1"]), &rows(&["1", "1"])), None);
        assert_eq!(
            difference(&["a"], &rows(&["1", "1", "2"]), &rows(&["1", "2", "3"])).as_deref(),
            Some("3 rows at the source, 3 here\n  missing: a = '1'\n  surplus: a = '3'")
        );
    }

    #[test]
    fn null_is_no_empty_text() {
        let null: Image = vec![vec![None]];
        let words = difference(&["a"], &null, &rows(&[""])).expect("they differ");
        assert!(words.contains("missing: a = NULL") && words.contains("surplus: a = ''"), "{words}");
    }
}
