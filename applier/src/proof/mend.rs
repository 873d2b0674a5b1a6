//! The repair of a table: exactly the rows that differ, and nothing else anywhere.

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_service::faults;
use syncdata_service::postgres::ServerContext as _;

use super::record;
use super::rows::{Asked, Difference, Report};
use crate::load::{Changes, Pair};
use crate::plan::state::State;
use crate::target::postgres::apply::Writer;
use crate::target::postgres::cascades::Watch;
use crate::target::postgres::local::Local;
use crate::target::postgres::{cursor, identity, rules};

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
    let refused = |what: String, remedy: String| {
        Error::new(Kind::Rejected, what).hint(format!("nothing was changed; run: {remedy}"))
    };
    if let Some(rule) = rules::acting(client, std::iter::once(pair.table)).await?.remove(name) {
        return Err(refused(rule.what(name), rule.remedy()));
    }
    let states = cursor::table_states(client, &local.meta).await?;
    let others = states.keys().filter(|other| *other != name).cloned().collect();
    let watch = match local.replica {
        true => Watch::default(),
        false => Watch::over(client, &others).await?,
    };
    let before = watch.count(client).await?;
    let changes = pair.bring_over(client).await?;
    for other in watch.changed(client, &before).await? {
        if states[&other].state == State::Live {
            let what = format!(
                "rows of {name} cannot change without those of {other}, through a foreign key of the copy"
            );
            let role = client.query_one("SELECT pg_catalog.quote_ident(CURRENT_USER)", &[]).await;
            let role: String = role.context(|| "asking for the role".to_owned())?.get(0);
            let remedy = format!(
                "syncdata-applier consistency repair {}, where that differs too; else as superuser: GRANT SET ON PARAMETER \
                 session_replication_role TO {role}",
                other.shell_word()
            );
            return Err(refused(what, remedy));
        }
        // It was wrong before, and is no nearer to any position now.
        identity::disown(client, &local.meta, &other).await?;
    }
    Ok(changes)
}

/// Where production and its stream disagree, a copy that is as the archive says is no copy of production.
pub(super) async fn clear(local: &Local, asked: &Asked, report: &Report) -> Result<()> {
    let is_of_stream = matches!(report.blame.as_deref(), Some("stream" | "both" | "unknown"));
    if is_of_stream { Ok(()) } else { record::clear(local, &asked.table).await }
}
