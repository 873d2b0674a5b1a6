//! `uninstall`: what this program has made in the database goes, and the role with it. The tables and their rows stay.

use syncdata_formats::error::{Error, Kind, Result};
use syncdata_formats::name::TableName;
use syncdata_service::config::Config;
use syncdata_service::faults;
use syncdata_service::finding::Finding;
use syncdata_service::postgres::drop_role::drop_role;
use syncdata_service::postgres::{ServerContext as _, Session};
use tokio_postgres::error::SqlState;

use crate::target::postgres::cursor;
use crate::target::postgres::local::Local;
use crate::target::postgres::local_writes::{self, Relation};
use crate::target::postgres::meta::{self, MetaSchema};

/// What was found and done; `None`: an operator was asked, and said no. `role` is that of the settings, `config` may connect
/// as another.
pub(crate) async fn uninstall(
    config: &Config,
    role: &str,
    confirm: impl FnOnce(&str) -> Result<bool>,
) -> Result<Option<Vec<Finding>>> {
    let local = Local::connect(config).await?;
    let is_there = meta::exists(&local.session, &local.meta).await?;
    let synced: Vec<TableName> = match is_there {
        true => cursor::table_states(local.session.client(), &local.meta).await?.into_keys().collect(),
        false => Vec::new(),
    };
    let question = format!(
        "Remove our tables from schema {} of {} ({}), and the role {role}; {} synced tables keep their rows",
        local.meta,
        config.postgres()?.location(),
        config.settings_file(),
        synced.len(),
    );
    if !confirm(&question)? {
        return Ok(None);
    }
    let mut findings = Vec::new();
    match is_there {
        true => {
            // A daemon would make them again.
            local.lock_daemon().await?;
            local.lock_pass().await?;
            findings.push(remove_ours(&local).await?);
        }
        false => findings.push(Finding::ok("own tables", format!("there are none in schema {}", local.meta))),
    }
    faults::hit("uninstall.tables_gone")?;
    findings.push(drop_role(&local.session, role).await?);
    faults::hit("uninstall.role_gone")?;
    Ok(Some(findings))
}

/// In one transaction, and nothing that others have built on them.
async fn remove_ours(local: &Local) -> Result<Finding> {
    let (client, meta) = (local.session.client(), &local.meta);
    let version = meta::version(&local.session, meta).await?;
    let tables: Vec<String> = meta::tables_of(version).map(|table| format!("{meta}.{table}")).collect();
    let refusing = local_writes::standing(client, meta).await?;
    let triggers: Vec<String> = refusing.iter().flat_map(Relation::drops).collect();
    let remove = format!(
        "{}
         DROP VIEW IF EXISTS {meta}.data_sync_freshness, {meta}.data_sync_checkpoints RESTRICT;
         DROP FUNCTION IF EXISTS {meta}.data_sync_require_fresh(interval, text[]) RESTRICT;
         DROP FUNCTION IF EXISTS {meta}.data_sync_wait_for(pg_lsn, interval, text[]) RESTRICT;
         DROP TABLE IF EXISTS {} RESTRICT;
         DROP FUNCTION IF EXISTS {meta}.data_sync_line_made() RESTRICT;
         DROP FUNCTION IF EXISTS {meta}.data_sync_writer_named() RESTRICT;
         DROP FUNCTION IF EXISTS {meta}.data_sync_refuse_write() RESTRICT",
        triggers.join("\n"),
        tables.join(", ")
    );
    let doing = || format!("removing our tables from schema {meta}");
    // With the schema in the same transaction: killed in between, nobody would know later that it was ours.
    let removing = async {
        match client.batch_execute(&remove).await {
            Err(error) if error.code() == Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => {
                let what = error
                    .as_db_error()
                    .and_then(|said| said.detail())
                    .unwrap_or_default()
                    .replace('\n', "; ");
                let refused =
                    Error::new(Kind::Refused, format!("something else was built on our tables: {what}"));
                return Err(refused.hint("nothing was removed; drop what it names, or keep our tables"));
            }
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) && !triggers.is_empty() => {
                let refused =
                    Error::new(Kind::Refused, "this role may not drop the triggers that refuse local writes");
                let theirs = refusing.iter().filter(|relation| !relation.is_owner).flat_map(Relation::drops);
                let theirs: Vec<String> = theirs.collect();
                return Err(refused.hint(format!(
                    "nothing was removed; run as the tables' owner, then this command again: {}",
                    theirs.join(" ")
                )));
            }
            removed => removed.context(doing).map(drop)?,
        }
        let is_gone = meta.name() != "public" && remove_schema(&local.session, meta).await?;
        faults::hit("uninstall.before_commit")?;
        Ok(is_gone)
    };
    let is_gone = local.in_transaction(removing).await?;
    let removed = format!("removed from schema {meta}");
    if meta.name() == "public" {
        return Ok(Finding::ok("own tables", removed));
    }
    Ok(match is_gone {
        true => Finding::ok("own tables", format!("removed, with schema {meta}")),
        false => {
            Finding::ok("own tables", format!("{removed}, which stays: it is not empty, or not this role's"))
        }
    })
}

/// One that holds something else, or is somebody else's, stays.
async fn remove_schema(session: &Session, meta: &MetaSchema) -> Result<bool> {
    let doing = || format!("removing the schema {meta}");
    let client = session.client();
    client.batch_execute("SAVEPOINT with_tables").await.context(doing)?;
    let removed = client.batch_execute(&format!("DROP SCHEMA {meta} RESTRICT")).await;
    if removed.as_ref().is_err_and(|error| error.as_db_error().is_some()) {
        client.batch_execute("ROLLBACK TO with_tables").await.context(doing)?;
        return Ok(false);
    }
    removed.context(doing).map(|()| true)
}
