//! `setup`: checks the source, creates what may be created, and prints what a DBA has to run.

use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

use postgres_protocol::escape::{escape_identifier, escape_literal};
use postgres_protocol::password::scram_sha_256;
use syncdata_shared::config::Config;
use syncdata_shared::error::Context as _;
use syncdata_shared::finding::Finding;
use syncdata_shared::name::SlotName;
use syncdata_shared::postgres::{PinnedSettings, Session};
use syncdata_shared::{Error, Kind, Result};
use tokio_postgres::error::SqlState;

use crate::cli::Setup;
use crate::connection::APPLICATION_NAME;
use crate::examine;
use crate::source::Slot;

/// The role that `--create-user` makes.
pub(crate) const ROLE: &str = "syncdata_user";

/// Creates what was asked for and is not there yet; then looks at everything.
pub(crate) async fn run(config: &Config, setup: &Setup, say: impl Fn(&str)) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut slot = None;
    if setup.create_user || setup.create_slot {
        // Not the archiver's own session: that one is read only.
        let session = Session::open(config.postgres()?, APPLICATION_NAME, &PinnedSettings::new()).await?;
        if setup.create_user {
            findings.push(create_user(config, &session, setup.password_file.as_deref(), say).await?);
        }
        if setup.create_slot {
            slot = Some(create_slot(config, &session, setup.failover).await);
        }
    }
    findings.extend(examine::source(config).await);
    // Last, because its statement works only after all the others were run.
    findings.extend(slot);
    Ok(findings)
}

async fn create_user(
    config: &Config,
    session: &Session,
    password_file: Option<&Path>,
    say: impl Fn(&str),
) -> Result<Finding> {
    if examine::role_exists(session, ROLE).await? {
        return Ok(Finding::ok("role", format!("{ROLE} exists already")));
    }
    let password = password(password_file, say)?;
    let statements = user_statements(&config.postgres()?.database, &password, has_gate(session).await?);
    if may_create_roles(session).await? {
        session
            .client()
            .batch_execute(&statements.join("\n"))
            .await
            .context(|| format!("creating the role {ROLE}"))?;
        return Ok(Finding::ok("role", format!("{ROLE} created")));
    }
    let finding = Finding::fail("role", format!("{ROLE} cannot be created by {}", config.postgres()?.user))
        .remedy("run the statements as superuser");
    Ok(statements.into_iter().fold(finding, Finding::statement))
}

/// Exactly what reading a slot takes: no table may be read with it in SQL, nothing written.
fn user_statements(database: &str, password: &str, has_gate: bool) -> Vec<String> {
    let role = escape_identifier(ROLE);
    // The server never sees the password, and neither do its logs.
    let verifier = escape_literal(&scram_sha_256(password.as_bytes()));
    let mut statements = vec![
        format!("CREATE ROLE {role} LOGIN REPLICATION PASSWORD {};", verifier.trim()),
        format!("GRANT CONNECT ON DATABASE {} TO {role};", escape_identifier(database)),
    ];
    if has_gate {
        statements.push(examine::allow_plugin(ROLE));
    }
    statements
}

/// From the file, from a person, or made and shown once.
fn password(file: Option<&Path>, say: impl Fn(&str)) -> Result<String> {
    if let Some(file) = file {
        let text = std::fs::read_to_string(file).context(|| format!("reading {}", file.display()))?;
        let password = text.trim_end_matches(['\r', '\n']).to_owned();
        if password.is_empty() {
            return Err(Error::new(Kind::BadInput, format!("{} is empty", file.display())));
        }
        return Ok(password);
    }
    if std::io::stdin().is_terminal() {
        say(&format!("password for {ROLE} (empty: one is made): "));
        let typed = read_hidden()?;
        if !typed.is_empty() {
            return Ok(typed);
        }
    }
    let made = random_password()?;
    say(&format!("password of {ROLE}, shown only now: {made}"));
    Ok(made)
}

fn read_hidden() -> Result<String> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let stdin = std::io::stdin();
    let doing = || "reading the password".to_owned();
    let before = tcgetattr(&stdin).map_err(std::io::Error::from).context(doing)?;
    let mut hidden = before.clone();
    hidden.local_modes -= LocalModes::ECHO;
    tcsetattr(&stdin, OptionalActions::Flush, &hidden).map_err(std::io::Error::from).context(doing)?;
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    tcsetattr(&stdin, OptionalActions::Flush, &before).map_err(std::io::Error::from).context(doing)?;
    read.context(doing)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// 24 letters and digits: more than 140 bits.
fn random_password() -> Result<String> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bytes = [0; 24];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes));
    read.context(|| "making a password".to_owned())?;
    Ok(bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 64)])).collect())
}

async fn may_create_roles(session: &Session) -> Result<bool> {
    // Since 16 a role may give away only attributes that it has itself.
    let sql = "SELECT rolsuper OR rolcreaterole AND rolreplication AND current_setting('server_version_num')::int >= 160000
        FROM pg_roles WHERE rolname = current_user";
    let rows =
        session.client().query_typed(sql, &[]).await.context(|| "reading the role's rights".to_owned())?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// A role that may not see the setting is told so, which it is not where there is none.
async fn has_gate(session: &Session) -> Result<bool> {
    let sql = "SELECT current_setting('output_plugin_libraries', true) IS NOT NULL";
    match session.client().query_typed(sql, &[]).await {
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(true),
        answer => {
            let rows = answer.context(|| "reading the server's settings".to_owned())?;
            Ok(rows.first().is_some_and(|row| row.get(0)))
        }
    }
}

async fn create_slot(config: &Config, session: &Session, failover: bool) -> Finding {
    match slot(config, session, failover).await {
        Ok(finding) => finding,
        Err(error) => {
            let user = config.postgres().map_or("", |postgres| postgres.user.as_str());
            let finding = Finding::of_error("slot", &crate::slot::explain(error, user));
            if failover && session.version().major() < 17 {
                return finding;
            }
            // Whoever may can run it as it is; the rights that we lack are among the other findings.
            finding.statement(format!("{};", slot_statement(&config.slot_name, failover)))
        }
    }
}

async fn slot(config: &Config, session: &Session, failover: bool) -> Result<Finding> {
    let name = &config.slot_name;
    if Slot::read(session.client(), name).await?.is_some() {
        return Ok(Finding::ok("slot", format!("{name} exists already")));
    }
    if failover && session.version().major() < 17 {
        return Err(Error::new(Kind::BadInput, "--failover needs PostgreSQL 17 or newer"));
    }
    // It waits for every transaction that is open now to end.
    let made = session.client().batch_execute(&slot_statement(name, failover)).await;
    made.context(|| format!("creating the slot {name}"))?;
    Ok(Finding::ok("slot", format!("{name} created; it keeps WAL from now on")))
}

fn slot_statement(name: &SlotName, failover: bool) -> String {
    let options = if failover { ", false, false, true" } else { "" };
    let name = escape_literal(name.as_str());
    format!("SELECT lsn FROM pg_create_logical_replication_slot({name}, 'wal2json'{options})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statements_never_hold_the_password() {
        let statements = user_statements("my\"db", "canary-password", true).join("\n");
        assert!(!statements.contains("canary-password"), "{statements}");
        assert!(statements.contains("'SCRAM-SHA-256$4096:"), "{statements}");
        assert!(statements.contains("\"my\"\"db\""), "{statements}");
        assert!(statements.contains("output_plugin_libraries = pgoutput, test_decoding, wal2json;"));
    }

    #[test]
    fn made_passwords_differ() {
        let (one, two) = (random_password().expect("random"), random_password().expect("random"));
        assert_eq!(one.len(), 24);
        assert_ne!(one, two);
    }
}
