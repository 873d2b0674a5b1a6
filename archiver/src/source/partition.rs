//! How partitions were made: as such, and then nothing can be in them that their table did not see, or as tables that were
//! attached in the transaction that made them.

use std::collections::HashMap;

use syncdata_formats::Result;

use super::ask::{Asked, many};
use crate::capture::Making;

/// Those of which one transaction, or one part of it, did both.
///
/// A table that is attached has all rows of its columns written again; of one that was made so they are as old as the
/// table, and say that they are another's. Commands that write are numbered from 0 on in each transaction.
const MAKING: &str = "SELECT i.inhrelid, EXISTS (SELECT FROM pg_attribute a
      WHERE a.attrelid = i.inhrelid AND a.attnum > 0 AND NOT a.attisdropped AND a.attinhcount > 0 AND NOT a.attislocal
        AND a.xmin = o.xmin AND a.cmin = o.cmin AND a.xmax::text = '0'),
    o.cmin::text = '0'
  FROM pg_inherits i JOIN pg_attribute o ON o.attrelid = i.inhrelid AND o.attnum = -6
  WHERE i.xmin = o.xmin AND o.xmax::text = '0'";

/// By their oids.
pub(crate) async fn making(client: &impl Asked) -> Result<HashMap<u32, Making>> {
    let rows = many(client, "asking how partitions were made", MAKING, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), Making { as_part: row.get(1), is_first: row.get(2) })).collect())
}
