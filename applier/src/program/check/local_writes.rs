//! Whether others than the applier can write the copy, and whether that is what the settings say.

use syncdata_formats::error::Result;
use syncdata_formats::printed::identifier;
use syncdata_service::config::{Config, LocalWrites};
use syncdata_service::finding::Finding;
use syncdata_service::postgres::ServerContext as _;

use crate::target::postgres::local::Local;
use crate::target::postgres::local_writes::{self, FUNCTION, Function, Relation, Step};
use crate::target::postgres::meta::{self, MetaSchema};

const SUBJECT: &str = "local writes";

/// Who else may replace triggers of the tables, or have its own code run as us where the applier says that it writes.
const DOORS: &str = "
SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END AS role,
    pg_catalog.array_agg(pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) ORDER BY n.nspname, c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace, pg_catalog.aclexplode(c.relacl) a
WHERE (n.nspname = $1 AND c.relname = 'data_sync_writers' OR c.oid = ANY ($2)) AND a.privilege_type = 'TRIGGER'
    AND a.grantee <> c.relowner AND a.grantee <> current_user::regrole GROUP BY 1 ORDER BY 1";

pub(super) async fn look(config: &Config, local: &Local, findings: &mut Vec<Finding>) -> Result<()> {
    let (client, meta) = (local.session.client(), &local.meta);
    // Those of an earlier version say nothing of it yet.
    if meta::check_current(&local.session, meta).await.is_err() {
        return Ok(());
    }
    let wish = config.local_writes;
    let found = local_writes::look(client, meta, wish, local.session.version().major()).await?;
    let row = client.query_one("SELECT current_user::text", &[]).await;
    let user: String = row.context(|| "asking for the role".to_owned())?.get(0);
    let before = findings.len();
    for (relation, steps) in &found {
        findings.extend(of_relation(relation, steps, &user));
    }
    let function = local_writes::function(client, meta, wish).await?;
    let is_made = found.iter().any(|(relation, _)| relation.has_triggers());
    if let Some(finding) = of_function(&function, meta, found.len(), wish, is_made) {
        findings.push(finding);
    }
    if wish == LocalWrites::Allow {
        return Ok(());
    }
    let oids: Vec<u32> = found.iter().map(|(relation, _)| relation.oid).collect();
    let doors = client.query(DOORS, &[&meta.name(), &oids]).await;
    for row in doors.context(|| "reading who may alter the triggers".to_owned())? {
        let (role, tables): (&str, Vec<&str>) = (row.get(0), row.get(1));
        let message =
            format!("{role} may replace triggers of {} tables, and so go past what is refused", tables.len());
        findings.push(
            Finding::warn(SUBJECT, message)
                .remedy("GRANT ALL gives it; run the statement as the tables' owner")
                .statement(format!("REVOKE TRIGGER ON TABLE {} FROM {role};", tables.join(", "))),
        );
    }
    if !local.replica {
        findings.push(costs(local, &user));
    }
    let tables = found.iter().filter(|(relation, _)| relation.is_root()).count();
    if findings.len() == before || !local.replica && findings.len() == before + 1 {
        let message = format!(
            "others than syncdata cannot write the {tables} synced tables (local_writes = \"block\")"
        );
        findings.push(Finding::ok(SUBJECT, message));
    }
    Ok(())
}

fn of_relation(relation: &Relation, steps: &[Step], user: &str) -> Vec<Finding> {
    let is_open = |step: &&Step| matches!(step, Step::Make { .. } | Step::Renew { .. });
    let mut findings = Vec::new();
    if let Some(step) = steps.iter().find(is_open) {
        let is =
            if matches!(step, Step::Make { .. }) { "is not there" } else { "was switched off or altered" };
        let message = format!("others can write {}: the trigger that refuses it {is}", relation.sql);
        findings.push(match relation.may_make {
            true => Finding::warn(SUBJECT, message).remedy("the next pass makes it: syncdata-applier sync"),
            false => Finding::fail(SUBJECT, format!("{message}, and {user} may make none"))
                .remedy("run the statement as the table's owner, then: syncdata-applier sync")
                .statement(format!("GRANT TRIGGER ON TABLE {} TO {};", relation.sql, identifier(user))),
        });
    }
    let is_refusing = |step: &Step| matches!(step, Step::Drop { is_released: false, .. });
    if steps.iter().any(is_refusing) {
        let message = format!("a trigger refuses writes of {}, which is synced no more", relation.sql);
        findings.push(
            Finding::warn(SUBJECT, message).remedy("the next pass takes it away: syncdata-applier sync"),
        );
    }
    let left = relation.left_over();
    if !relation.is_owner && !left.is_empty() {
        let message = format!("a trigger that refuses nothing any more is left on {}", relation.sql);
        let finding = Finding::warn(SUBJECT, message).remedy("run the statement as the table's owner");
        findings.push(left.into_iter().fold(finding, Finding::statement));
    }
    findings
}

/// The one that all the triggers call, where it is not as wished.
fn of_function(
    function: &Function,
    meta: &MetaSchema,
    found: usize,
    wish: LocalWrites,
    is_made: bool,
) -> Option<Finding> {
    if function.stands || found == 0 {
        return None;
    }
    if let Some(stranger) = &function.stranger {
        let message =
            format!("the function {meta}.{FUNCTION} is {stranger}'s: no trigger of ours may call it");
        let drop = format!("DROP FUNCTION {meta}.{FUNCTION}() CASCADE;");
        let remedy = "run the statement as superuser, then: syncdata-applier sync";
        return Some(Finding::fail(SUBJECT, message).remedy(remedy).statement(drop));
    }
    let (message, remedy) = match wish {
        LocalWrites::Allow => (
            format!("triggers refuse writes of {found} tables and partitions, which the settings allow"),
            "the next pass ends that: syncdata-applier sync",
        ),
        LocalWrites::Block if is_made => (
            "the function that refuses writes of others is not as it was made".to_owned(),
            "the next pass makes it anew: syncdata-applier sync",
        ),
        LocalWrites::Block => return None,
    };
    Some(Finding::warn(SUBJECT, message).remedy(remedy))
}

fn costs(local: &Local, user: &str) -> Finding {
    let finding = Finding::warn(
        SUBJECT,
        "session_replication_role may not be set: each row that is applied asks our trigger whether it may be written",
    );
    match local.session.version().major() >= 15 {
        true => finding
            .remedy("run the statement as superuser")
            .statement(format!("GRANT SET ON PARAMETER session_replication_role TO {};", identifier(user))),
        false => finding.remedy("before PostgreSQL 15 only a superuser may"),
    }
}
