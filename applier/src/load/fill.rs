//! A shadow with the rows of its base, and with the key that changes are applied by.

use std::sync::Arc;

use syncdata_formats::error::Result;
use syncdata_service::progress::{Progress, Unit};

use super::{Base, Copy, is_of_a_row, parts, shadow};
use crate::archive::fetch::Source;
use crate::target::postgres::local::Local;
use crate::target::postgres::schema::{self, Table};

/// `Err`: why the table cannot hold the base.
pub(crate) async fn fill(
    local: &Local,
    source: &Source,
    base: &Base,
    table: &Arc<Table>,
    shadow: Arc<Table>,
) -> Result<Result<Copy, String>> {
    let client = local.session.client();
    let (relation, columns) = match base {
        Base::Snapshot(snapshot) => {
            let copy = &snapshot.tables[&table.name];
            let statement = match (schema::fit(&copy.relation, table), parts::statement(copy, &shadow)) {
                (Ok(_), Ok(statement)) => statement,
                (Err(difference), _) => return Ok(Err(difference.to_string())),
                (_, Err(difference)) => {
                    // It names the shadow; the column is the table's.
                    let what = difference.what.replace(&shadow.name.to_string(), &table.name.to_string());
                    let remedy = difference.remedy.replace(&shadow.name.sql(), &table.name.sql());
                    return Ok(Err(format!("{what}; run: {remedy}")));
                }
            };
            let job = format!("loading {} from {}", table.name, base.name());
            let mut progress = Progress::start(job, Unit::Bytes, Some(copy.content_bytes));
            let copied = parts::copy_in(client, source, copy, &statement, &mut progress).await;
            match copied {
                Ok(()) => {}
                Err(error) if is_of_a_row(&error) => return Ok(Err(error.one_line())),
                Err(error) => return Err(error),
            }
            progress.finish();
            let places = copy.columns.iter().filter_map(|name| table.column(name));
            let columns = places.filter(|column| !table.columns[*column].generated).collect();
            (copy.relation.clone(), columns)
        }
        Base::Start { over } => {
            if *over {
                shadow::seed(client, table, &shadow).await?;
            }
            // What it was at the source, its first segment says.
            (crate::plan::as_local(table), Vec::new())
        }
    };
    let relation = Arc::new(relation);
    let target = match schema::fit(&relation, &shadow) {
        Ok(target) => target,
        Err(difference) => return Ok(Err(difference.to_string())),
    };
    let shadow = shadow::index(client, &shadow, &target).await?;
    Ok(Ok(Copy { table: Arc::clone(table), shadow, relation, columns }))
}
