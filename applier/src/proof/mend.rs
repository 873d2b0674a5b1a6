//! The repair of a table: exactly the rows that differ, and nothing else anywhere.

use std::collections::BTreeSet;

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_service::faults;

use super::difference::Difference;
use super::record;
use super::report::{Asked, Blame, Report};
use crate::load::{Changes, Pair};
use crate::target::postgres::apply::Writer;
use crate::target::postgres::bystanders::Bystanders;
use crate::target::postgres::local::Local;
use crate::target::postgres::rules;

/// Exactly the rows that differ, in this transaction; then all is compared again.
pub(super) async fn repair(
    local: &Local,
    asked: &Asked,
    pair: &Pair<'_>,
    difference: &Difference<'_>,
    report: &mut Report,
) -> Result<()> {
    let client = local.session.client();
    let writer = Writer::new(local.replica);
    writer.begin(client).await?;
    local.announce_writes().await?;
    let Changes { inserted, updated, deleted } = alone(local, pair).await?;
    faults::hit("proof.repaired")?;
    if writer.duplicates(client, pair.table).await? {
        let message = "two rows would have the same value in a deferrable unique constraint of the copy";
        return Err(Error::new(Kind::Rejected, message)
            .hint("nothing was changed; drop the constraint here: production does not have it"));
    }
    let left = difference.list(client, None, &mut Vec::new()).await?;
    if left > 0 {
        return Err(Error::new(
            Kind::Rejected,
            format!("{left} rows of {} differ all the same", asked.table),
        )
        .hint(format!("nothing was changed; run: syncdata-applier resync {}", asked.table.shell_word())));
    }
    tracing::info!(table = %asked.table, inserted, updated, deleted, "table repaired");
    let changed = report.differing.unwrap_or(0);
    report.repaired = Some(changed);
    report.remedy = match &report.unknown {
        // Nobody has looked whether production has these rows.
        Some(_) if report.buckets.is_empty() => {
            Some("a new proof, run on the production host: syncdata-archiver proof".to_owned())
        }
        _ if report.buckets.is_empty() => None,
        _ => report.remedy.take(),
    };
    clear(local, asked, report).await
}

/// Nothing else happens beside it: no rule or trigger writes something else, and no foreign key takes rows of other tables
/// along that are right.
async fn alone(local: &Local, pair: &Pair<'_>) -> Result<Changes> {
    let (client, name) = (local.session.client(), &pair.table.name);
    if let Some(rule) = rules::acting(client, &local.meta, std::iter::once(pair.table)).await?.remove(name) {
        let hint = format!("nothing was changed; run: {}", rule.remedy());
        return Err(Error::new(Kind::Rejected, rule.what(name)).hint(hint));
    }
    let mut bystanders = Bystanders::of(local, &BTreeSet::from([name])).await?;
    // What triggers do to the table itself shows when it is compared again.
    bystanders.leave_out(name);
    let changes = pair.bring_over(client).await?;
    bystanders.must_be_untouched(local, &format!("rows of {name}")).await?;
    Ok(changes)
}

/// Where production and its stream disagree, a copy that is as the archive says is no copy of production.
pub(super) async fn clear(local: &Local, asked: &Asked, report: &Report) -> Result<()> {
    let is_of_stream = matches!(report.blame, Some(Blame::Stream | Blame::Both | Blame::Unknown));
    if is_of_stream { Ok(()) } else { record::clear(local, &asked.table).await }
}
