//! `setup`: checks the local side, creates what may be created, and prints what a DBA has to run.

mod role;
mod tables;

use std::path::PathBuf;

use syncdata_formats::error::{Error, Result};
use syncdata_formats::name::TableName;
use syncdata_formats::printed::{identifier, literal, unless};
use syncdata_service::config::Config;
use syncdata_service::finding::Finding;
use syncdata_service::postgres::ServerContext as _;
use syncdata_service::postgres::{PinnedSettings, PostgresSettings, Session, sqlstate, wants_password};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use super::whitelist;
use crate::archive;
use crate::archive::described::{Described, described};
use crate::target::postgres::local::APPLICATION_NAME;

/// What is to be created, and who does it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub role: bool,
    pub database: bool,
    pub tables: bool,
    /// Which tables; all that are captured when it is empty.
    pub patterns: Vec<String>,
    /// The new role's password; else that of the settings, else it is asked for, or made.
    pub password_file: Option<PathBuf>,
    /// A DBA's role, instead of that of the settings.
    pub login: Option<String>,
}

/// What was found, and the tables that are here now.
#[derive(Clone, Debug, Default)]
pub(crate) struct SetUp {
    pub findings: Vec<Finding>,
    /// Those that were asked for and are here.
    pub here: Vec<TableName>,
    /// The others, which the database does not have.
    pub missing: Vec<TableName>,
}

/// Creates what was asked for and is not there yet. What is wrong with the rest, `check` says.
pub(crate) async fn setup(config: &Config, wanted: &Wanted, say: impl Fn(&str)) -> Result<SetUp> {
    let mut done = SetUp::default();
    let role = role::New::of(config, wanted, say)?;
    if wanted.database
        && let Err(error) = database(config, wanted, &mut done.findings).await
    {
        done.findings.push(not_connected(config, wanted, role.as_ref(), &error));
        return Ok(done);
    }
    let session = match open(&login(config, wanted)?).await {
        Ok(session) => session,
        Err(error) => {
            done.findings.push(not_connected(config, wanted, role.as_ref(), &error));
            return Ok(done);
        }
    };
    if let Some(role) = &role {
        done.findings.push(role.create(&session).await?);
    }

    let described = match look_at_archive(config).await {
        Ok(described) => described,
        Err(error) if wanted.tables => {
            done.findings.push(Finding::of_error("tables", &error));
            Described::default()
        }
        // The role may be made before there is an archive; then `check` says that it is not there.
        Err(_) => Described::default(),
    };
    let names = chosen(&described, wanted)?;
    let here = match wanted.tables {
        true => tables::create(&session, config, &described, &names, &mut done.findings).await?,
        false => tables::here(&session, &names).await?,
    };
    done.missing = names.into_iter().filter(|name| !here.contains(name)).collect();
    done.here = here;
    if wanted.role || wanted.login.is_some() {
        done.findings.push(role::give(&session, config, &done.here).await?);
    }
    Ok(done)
}

async fn look_at_archive(config: &Config) -> Result<Described> {
    let source = archive::open::open_by_hand(config)?;
    let identity = source.identity().await?;
    described(&source, identity.archive_id).await
}

fn chosen(described: &Described, wanted: &Wanted) -> Result<Vec<TableName>> {
    if wanted.patterns.is_empty() || described.captured.is_empty() {
        return Ok(described.captured.clone());
    }
    whitelist::matching(&described.captured, &wanted.patterns, |stranger| {
        whitelist::not_found(
            format!("{stranger} is not captured, says the archive"),
            "add it to `tables` of the archiver on the production host; it is known here after its next poll",
        )
    })
}

/// The settings' server, as whoever is to do it. The password is that of the settings' role, and of no other.
fn login(config: &Config, wanted: &Wanted) -> Result<PostgresSettings> {
    let settings = config.postgres()?.clone();
    Ok(match &wanted.login {
        None => settings,
        Some(login) => PostgresSettings { user: login.clone(), password: None, ..settings },
    })
}

async fn open(settings: &PostgresSettings) -> Result<Session> {
    Session::open(settings, APPLICATION_NAME, &PinnedSettings::new()).await
}

async fn database(config: &Config, wanted: &Wanted, findings: &mut Vec<Finding>) -> Result<()> {
    let settings = login(config, wanted)?;
    let name = &settings.database;
    let session = open(&PostgresSettings { database: "postgres".to_owned(), ..settings.clone() }).await?;
    let there = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)";
    let there = session.client().query_typed_one(there, &[(name, Type::TEXT)]).await;
    if there.context(|| "looking for the database".to_owned())?.get(0) {
        findings.push(Finding::ok("database", format!("{name} exists already")));
        return Ok(());
    }
    let statement = create_database(name);
    findings.push(match run(&session, std::slice::from_ref(&statement)).await? {
        true => Finding::ok("database", format!("{name} created")),
        false => Finding::fail("database", format!("{name} cannot be created by {}", settings.user))
            .remedy("run the statement as superuser, then this command again")
            .statement(statement),
    });
    Ok(())
}

fn create_database(name: &str) -> String {
    format!("CREATE DATABASE {};", identifier(name))
}

/// All of them, or none. False: we may not.
async fn run(session: &Session, statements: &[String]) -> Result<bool> {
    match session.client().batch_execute(&statements.join("\n")).await {
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => Ok(false),
        run => run.context(|| "creating what is missing".to_owned()).map(|()| true),
    }
}

/// Nobody lets us in: all that was asked for, as a script for psql, which makes what is missing and leaves the rest.
fn not_connected(config: &Config, wanted: &Wanted, role: Option<&role::New>, error: &Error) -> Finding {
    let finding = Finding::of_error("local server", error);
    let code = sqlstate(error).map(SqlState::code).unwrap_or_default();
    let is_refused = matches!(code, "28P01" | "28000" | "3D000") || code.is_empty() && wants_password(error);
    let Ok(settings) = config.postgres() else { return finding };
    if !is_refused || !(wanted.role || wanted.database) {
        return match code {
            "3D000" => finding.remedy("setup --create-database makes it"),
            "28P01" | "28000" => {
                finding.remedy("setup --create-role makes the role, or prints what a DBA has to run")
            }
            _ => finding,
        };
    }
    let mut script = Vec::new();
    if let Some(role) = role {
        script.push(role.statement_unless_there());
    }
    if wanted.database {
        let there = format!("SELECT FROM pg_database WHERE datname = {}", literal(&settings.database));
        script.push(unless(&create_database(&settings.database), &there));
    }
    if wanted.role {
        script.push(connect(&settings.database));
        script.extend(role::all_rights(config, settings));
    }
    let remedy = "run what follows with psql, as superuser (sudo -u postgres psql), then this command again";
    script.into_iter().fold(finding.remedy(remedy), Finding::statement)
}

fn connect(database: &str) -> String {
    match database.contains('=') || database.contains("://") || database.contains(char::is_control) {
        // psql would take it for something else than a name.
        true => format!("-- the rest in the database {}", identifier(database)),
        false => format!("\\connect {}", identifier(database)),
    }
}
