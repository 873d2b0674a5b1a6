//! Partitions that were made as such: nothing can be in them that their table did not see.

use std::collections::BTreeSet;

use syncdata_formats::Result;

use super::ask::{Asked, many};

/// A table that is attached has all rows of its columns written again; of one that was made so they are as old as the
/// table, and say that they are another's.
const FROM_BIRTH: &str = "SELECT i.inhrelid FROM pg_inherits i
    JOIN pg_attribute o ON o.attrelid = i.inhrelid AND o.attnum = -6
  WHERE i.xmin = o.xmin AND o.xmax::text = '0' AND EXISTS (SELECT FROM pg_attribute a
    WHERE a.attrelid = i.inhrelid AND a.attnum > 0 AND NOT a.attisdropped AND a.attinhcount > 0 AND NOT a.attislocal
      AND a.xmin = o.xmin AND a.cmin = o.cmin AND a.xmax::text = '0')";

/// Their oids.
pub(crate) async fn from_birth(client: &impl Asked) -> Result<BTreeSet<u32>> {
    let rows = many(client, "asking which partitions were made as such", FROM_BIRTH, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
