//! A role that goes, with the grants that it has in this database. Never with what it owns, and never with what depends
//! on it: that is named, with the statements, for whoever knows what it is for.

use std::collections::BTreeSet;

use syncdata_formats::error::Result;
use syncdata_formats::printed::{identifier, literal};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::{ServerContext as _, Session};
use crate::finding::Finding;

const SUBJECT: &str = "role";

/// Everything that names the role: what it owns (o) and what it may do (a), here, in the server as a whole, and elsewhere.
/// An owner's rights go with what is owned. Objects of other databases cannot be named from here.
const DEPENDENTS: &str = "SELECT d.deptype::text, d.classid = 'pg_database'::regclass AND d.objid <> here.oid,
      here.oid = d.dbid OR d.dbid = 0, coalesce(elsewhere.datname::text, ''), coalesce(o.type, ''), coalesce(o.identity, ''),
      d.classid = 'pg_class'::regclass AND EXISTS (SELECT FROM pg_depend p WHERE p.classid = d.classid AND p.objid = d.objid
        AND p.deptype IN ('a', 'i') AND p.refclassid = 'pg_class'::regclass)
    FROM pg_shdepend d
    JOIN pg_roles r ON d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid
    JOIN pg_database here ON here.datname = current_database()
    LEFT JOIN pg_database elsewhere ON elsewhere.oid = d.dbid AND d.dbid <> here.oid
    LEFT JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) o ON d.dbid IN (0, here.oid)
    WHERE r.rolname = $1 ORDER BY d.deptype DESC, 4, 5, 6";

/// What there is to do before the role can go.
#[derive(Debug, Default)]
struct Ties {
    /// Why this is not ours to do, in words.
    against: Vec<String>,
    /// For whoever does it.
    owned: BTreeSet<String>,
    revokes: BTreeSet<String>,
    elsewhere: BTreeSet<String>,
}

/// Revokes what the role has in this database, and drops it; or says who has to. All of it or nothing.
pub async fn drop_role(session: &Session, role: &str) -> Result<Finding> {
    let client = session.client();
    let doing = || format!("looking at the role {role}");
    let sql = "SELECT rolsuper, rolname = session_user, d.datdba::regrole::text FROM pg_roles, pg_database d
        WHERE rolname = $1 AND d.datname = current_database()";
    let found = client.query_typed(sql, &[(&role, Type::TEXT)]).await.context(doing)?;
    let Some(found) = found.first() else {
        return Ok(Finding::ok(SUBJECT, format!("{role} does not exist")));
    };
    let (is_super, is_itself, owner): (bool, bool, &str) = (found.get(0), found.get(1), found.get(2));
    if is_super {
        return Ok(Finding::warn(SUBJECT, format!("{role} is a superuser, and stays"))
            .remedy("nothing here was given to it"));
    }
    let mut ties = Ties::default();
    for row in client.query_typed(DEPENDENTS, &[(&role, Type::TEXT)]).await.context(doing)? {
        ties.take(&row, role, owner);
    }
    if is_itself {
        ties.against.push("a role cannot drop itself, and it is the one that is connected".to_owned());
    }
    let drop = format!("DROP ROLE {};", identifier(role));
    if ties.against.is_empty() {
        let script: Vec<String> = ties.revokes.iter().cloned().chain([drop.clone()]).collect();
        let done = client.batch_execute(&format!("BEGIN;\n{}\nCOMMIT", script.join("\n"))).await;
        match done {
            Ok(()) => return Ok(Finding::ok(SUBJECT, format!("{role} is dropped, with its grants"))),
            Err(error) => {
                // The connection goes with an error of it.
                let _ = client.batch_execute("ROLLBACK").await;
                match error.code() {
                    Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                        ties.against.push("this role may not drop it".to_owned());
                    }
                    Some(&SqlState::DEPENDENT_OBJECTS_STILL_EXIST) => {
                        ties.against.push("grants remain that somebody else has given".to_owned());
                    }
                    _ => return Err(error).context(|| format!("dropping the role {role}")),
                }
            }
        }
    }
    let finding = Finding::fail(SUBJECT, format!("{role} stays: {}", ties.against.join("; ")))
        .remedy("if nothing else needs it, run the statements as superuser, in this database");
    let statements = ties.owned.into_iter().chain(ties.revokes).chain(ties.elsewhere).chain([drop]);
    Ok(statements.fold(finding, Finding::statement))
}

impl Ties {
    fn take(&mut self, row: &Row, role: &str, owner: &str) {
        let (kind, is_other_database, is_here): (&str, bool, bool) = (row.get(0), row.get(1), row.get(2));
        let (elsewhere, object, identity): (&str, &str, &str) = (row.get(3), row.get(4), row.get(5));
        let quoted = identifier(role);
        if !is_here {
            let words = format!("it owns or may do something in the database {elsewhere}");
            if !self.against.contains(&words) {
                self.against.push(words);
            }
            self.elsewhere.insert(format!(
                "-- in the database {}: SELECT deptype, pg_describe_object(classid, objid, objsubid) FROM pg_shdepend \
                 WHERE refobjid = (SELECT oid FROM pg_roles WHERE rolname = {});",
                identifier(elsewhere),
                literal(role)
            ));
            return;
        }
        let Some(sort) = sort(object) else {
            self.against.push(format!("{object} {identity} names it"));
            return;
        };
        if kind == "o" {
            self.against.push(format!("it owns {object} {identity}"));
            // A sequence goes with the column that it belongs to.
            if !row.get::<_, bool>(6) {
                self.owned.insert(format!("ALTER {} {identity} OWNER TO {owner};", owned_sort(object)));
            }
            return;
        }
        if is_other_database {
            self.against.push(format!("it may do something in the database {identity}"));
        }
        self.revokes.insert(format!("REVOKE ALL ON {sort} {identity} FROM {quoted};"));
    }
}

/// As GRANT calls it; `None` for what nothing of ours is given.
fn sort(object: &str) -> Option<&'static str> {
    Some(match object {
        "table" | "view" | "materialized view" | "foreign table" => "TABLE",
        "sequence" => "SEQUENCE",
        "schema" => "SCHEMA",
        "database" => "DATABASE",
        "function" | "aggregate" => "FUNCTION",
        "procedure" => "PROCEDURE",
        "type" => "TYPE",
        "parameter ACL" => "PARAMETER",
        _ => return None,
    })
}

/// As ALTER calls it.
fn owned_sort(object: &str) -> String {
    object.to_uppercase()
}
