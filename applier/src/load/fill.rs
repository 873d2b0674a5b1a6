//! A shadow with the rows of its base, and with the key that changes are applied by.

use std::sync::Arc;
use std::time::Duration;

use syncdata_formats::error::{Error, Result};
use syncdata_formats::snapshot::TableCopy;
use syncdata_service::postgres::{db_error, sqlstate};
use syncdata_service::progress::{Progress, Unit};
use tokio_postgres::error::SqlState;

use super::{Base, Copy, Halt, is_of_a_row, parts, shadow};
use crate::archive::source::Source;
use crate::plan::offer::take_snapshot;
use crate::table::{self, Difference, Table};
use crate::target::postgres::local::Local;

/// Refused: the table cannot hold the base.
pub(crate) async fn fill(
    local: &Local,
    source: &Source,
    base: &Base,
    table: &Arc<Table>,
    shadow: Arc<Table>,
) -> Result<Copy, Halt> {
    let client = local.session.client();
    let refused = |difference: Difference| Halt::refused(&table.name, difference);
    let (relation, columns, transfer) = match base {
        Base::Snapshot(snapshot) => {
            let copy = &snapshot.tables[&table.name];
            table::fit(&copy.relation, table).map_err(refused)?;
            let way = parts::Way::new(copy, table, &shadow.name).map_err(|difference| {
                // The copy is old, or the table lacks what it should have: who made it knows.
                let reason = format!(
                    "{}, and {} has it; where the source has dropped or renamed it since, a newer base copy is needed, {}; \
                     else run: {}",
                    difference.what,
                    base.name(),
                    take_snapshot(&table.name),
                    difference.remedy
                );
                Halt::refused(&table.name, reason)
            })?;
            let job = format!("loading {} from {}", table.name, base.name());
            let mut progress = Progress::start(job, Unit::Bytes, Some(copy.content_bytes));
            let copied = parts::copy_in(client, source, copy, &way, &mut progress).await;
            let transfer = copied.map_err(|halt| match halt {
                Halt::Failed(error) if is_of_a_row(&error) => match renamed_label(copy, &error) {
                    Some(label) => Halt::refused(
                        &table.name,
                        format!(
                            "label {label:?} of {} is not known here any more; a newer base copy is needed, {}",
                            base.name(),
                            take_snapshot(&table.name)
                        ),
                    ),
                    None => Halt::refused(&table.name, error.one_line()),
                },
                other => other,
            })?;
            progress.finish();
            let places = copy.columns.iter().filter_map(|name| table.column(name));
            let columns = places.filter(|column| !table.columns[*column].generated).collect();
            (copy.relation.clone(), columns, transfer)
        }
        // What it was at the source, its first segment says.
        Base::Start { .. } => (crate::plan::as_local(table), Vec::new(), Duration::ZERO),
    };
    let relation = Arc::new(relation);
    let target = table::fit_of_shadow(&relation, &shadow);
    let shadow = shadow::index(client, &table.name, &shadow, &target).await?;
    let described = matches!(base, Base::Snapshot(_));
    Ok(Copy { table: Arc::clone(table), shadow, relation, described, columns, transfer })
}

/// The enum label of the base that the table did not take: it was renamed since.
fn renamed_label<'a>(copy: &'a TableCopy, error: &Error) -> Option<&'a str> {
    if sqlstate(error) != Some(&SqlState::INVALID_TEXT_REPRESENTATION) {
        return None;
    }
    let said = db_error(error)?.message();
    let mut labels = copy.relation.types.values().flatten();
    labels.find(|label| said.contains("enum") && said.contains(&format!("\"{label}\""))).map(String::as_str)
}
