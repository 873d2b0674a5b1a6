//! `setup`: checks the source, creates what may be created, and prints what a DBA has to run.

use std::path::PathBuf;

use postgres_protocol::escape::escape_literal;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::{Config, Source};
use syncdata_service::faults;
use syncdata_service::finding::{Finding, Level};
use syncdata_service::postgres::ServerContext as _;
use syncdata_service::postgres::{PinnedSettings, Session, sqlstate};
use tokio_postgres::error::SqlState;

use crate::operations::{check, publication, triggers};
use crate::source::catalog::Slot;
use crate::source::pgoutput;
use crate::source::pinned::APPLICATION_NAME;
use crate::source::role;
use crate::source::slot;

/// What is to be created.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub slot: bool,
    /// What notes which rows are touched, in the place of a slot.
    pub triggers: bool,
    /// Somebody accepts what can fail in production without the event trigger.
    pub accept_publication_rule: bool,
    /// The slot is one that standbys get too.
    pub failover: bool,
    pub user: bool,
    /// The user's password; else it is asked for, or made.
    pub password_file: Option<PathBuf>,
}

/// Creates what was asked for and is not there yet; then looks at everything.
///
/// `is_sure` asks a person.
pub(crate) async fn setup(
    config: &Config,
    wanted: &Wanted,
    say: impl Fn(&str),
    is_sure: impl FnOnce(&str) -> Result<bool>,
) -> Result<Vec<Finding>> {
    match (config.source, wanted.triggers) {
        (Source::Triggers, true) => {
            let mut findings = triggers::create(config).await?;
            findings.extend(check::source(config).await);
            return Ok(findings);
        }
        (Source::Triggers, false) if wanted.slot || wanted.user => {
            return Err(Error::new(Kind::BadInput, "with source = \"triggers\" there is no slot, nor a role for one")
                .hint(
                    "CREATE ROLE syncdata_user LOGIN BYPASSRLS IN ROLE pg_read_all_data; with its password, then `setup --create-triggers`",
                ));
        }
        (Source::Triggers, false) => return Ok(check::source(config).await),
        (Source::Wal2json | Source::Pgoutput, true) => {
            return Err(Error::new(Kind::BadInput, "--create-triggers needs source = \"triggers\""));
        }
        (Source::Wal2json | Source::Pgoutput, false) => {}
    }
    // Not the archiver's own session: that one is read only.
    // If we are killed while the slot is made, which may wait for long, the server is not to go on making it for nobody.
    let settings = PinnedSettings::new().with("client_connection_check_interval", "1s");
    let session = match Session::open(config.postgres()?, APPLICATION_NAME, &settings).await {
        Ok(session) => session,
        Err(error) => {
            let mut finding = check::unreachable(config, &error);
            let code = sqlstate(&error).map(SqlState::code);
            if wanted.user && matches!(code, Some("28P01" | "28000")) {
                let script = role::script(config, wanted.password_file.as_deref(), say)?;
                finding = script.into_iter().fold(finding, Finding::statement).remedy(
                    "run what follows with psql, as superuser, in the database (sudo -u postgres psql), then this command again",
                );
            }
            return Ok(vec![finding]);
        }
    };
    let is_there = Slot::read(session.client(), &config.slot_name).await?.is_some();
    let asked = if wanted.failover { failover(&session).await? } else { Vec::new() };
    let mut checks = check::source(config).await;
    // With it a slot would keep WAL for nobody.
    let in_the_way = asked.iter().chain(&checks).find(|finding| must_be_mended(finding, is_there));
    let in_the_way = in_the_way.map(|finding| format!("{}: {}", finding.subject, finding.message));
    let goes_on = in_the_way.is_none() || !wanted.slot;

    let mut findings = Vec::new();
    if wanted.user {
        let password_file = wanted.password_file.as_deref();
        findings.push(role::create(config, &session, password_file, goes_on, say).await?);
    }
    let slot_finding = match (wanted.slot, &in_the_way) {
        (true, Some(reason)) if !is_there => Some(stopped(config, reason, wanted.failover)),
        (true, _) => match not_meant(config, &session, is_sure).await? {
            Some(finding) => Some(finding),
            None => {
                let (mut made, slot) = create_slot(config, &session, wanted).await;
                findings.append(&mut made);
                Some(slot)
            }
        },
        (false, _) => try_plugin(config, &session).await?,
    };
    if wanted.slot && !is_there && in_the_way.is_none() {
        // What was missing may be there now.
        checks = check::source(config).await;
    }
    findings.extend(asked);
    findings.extend(checks);
    let has_failed = slot_finding.as_ref().is_some_and(|finding| finding.level == Level::Fail);
    if has_failed && !is_there && config.source == Source::Wal2json {
        findings.extend(other_plugin(config, &session).await);
    }
    // Last, because its statement works only after all the others were run.
    findings.extend(slot_finding);
    Ok(findings)
}

/// Whether nothing is to be created before somebody has mended it. That there is no slot yet, and no publication that is
/// made with it, is why we are here.
fn must_be_mended(finding: &Finding, slot_is_there: bool) -> bool {
    let is_made_here = !slot_is_there && ["slot", publication::SUBJECT].contains(&finding.subject.as_str());
    finding.level == Level::Fail && !is_made_here
}

fn stopped(config: &Config, reason: &str, failover: bool) -> Finding {
    let name = &config.slot_name;
    Finding::fail("slot", format!("{name} is not made, and nothing was created: {reason}"))
        .remedy("mend that first, then run the same command again")
        .statement(format!("{};", slot_statement(config, failover)))
}

/// What a slot for standbys needs of the server.
async fn failover(session: &Session) -> Result<Vec<Finding>> {
    let mut findings: Vec<Finding> = check::failover(session).await?.into_iter().collect();
    if session.version().major() < 17 {
        findings.push(Finding::fail("slot for standbys", "--failover needs PostgreSQL 17 or newer"));
    }
    Ok(findings)
}

/// A slot whose name is nearly another one's was probably to be that one; made, it would keep WAL for nobody.
async fn not_meant(
    config: &Config,
    session: &Session,
    is_sure: impl FnOnce(&str) -> Result<bool>,
) -> Result<Option<Finding>> {
    let (client, name) = (session.client(), &config.slot_name);
    if Slot::read(client, name).await?.is_some() {
        return Ok(None);
    }
    let Some(near) = slot::nearly(client, name).await? else { return Ok(None) };
    if is_sure(&format!("There is the slot {near}. Make {name} beside it"))? {
        return Ok(None);
    }
    let finding = Finding::fail("slot", format!("{name} is not made: there is {near}, nearly the same name"));
    Ok(Some(finding.remedy("correct slot_name; if it is to be a slot of its own, say --yes")))
}

/// What has to be there before the slot, and the slot.
async fn create_slot(config: &Config, session: &Session, wanted: &Wanted) -> (Vec<Finding>, Finding) {
    let failover = wanted.failover;
    let before = match Slot::read(session.client(), &config.slot_name).await {
        Ok(None) => publication::create(config, session, wanted.accept_publication_rule).await,
        Ok(Some(_)) => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let (made, error) = match before {
        Ok(made) => match made_or_found(config, session, failover).await {
            Ok(finding) => return (made, finding),
            Err(error) => (made, error),
        },
        Err(error) => (Vec::new(), error),
    };
    let finding = check::plugin_failure("slot", config, session.version().major(), error);
    // Whoever may can run it as it is; the rights that we lack are among the other findings.
    (made, finding.statement(format!("{};", slot_statement(config, failover))))
}

async fn made_or_found(config: &Config, session: &Session, failover: bool) -> Result<Finding> {
    let name = &config.slot_name;
    if let Some(found) = Slot::read(session.client(), name).await? {
        if found.confirmed_flush_lsn.is_none() && found.lost_because().is_none() {
            let maker =
                found.active_pid.map_or_else(|| "another session".to_owned(), |pid| format!("process {pid}"));
            return Err(Error::new(Kind::Locked, format!("the slot {name} is being made by {maker}")).hint(
                "it waits for the transactions that are open now: run the same command again when it is done",
            ));
        }
        return Ok(Finding::ok("slot", format!("{name} exists already")));
    }
    slot::refuse_half_switched(session.client(), name).await?;
    // It waits for every transaction that is open now to end.
    let made = session.client().batch_execute(&slot_statement(config, failover)).await;
    made.context(|| format!("creating the slot {name}"))?;
    // Nothing is written down about it: whoever comes next finds it on the server.
    faults::hit("setup.slot_made")?;
    Ok(Finding::ok("slot", format!("{name} created; it keeps WAL from now on")))
}

/// Without our slot, whether the plugin can be loaded shows in one that goes with the session. (A slot that is there
/// is asked itself.) `None` when that cannot be told: the reason stands among the other findings.
async fn try_plugin(config: &Config, session: &Session) -> Result<Option<Finding>> {
    if Slot::read(session.client(), &config.slot_name).await?.is_some() {
        return Ok(None);
    }
    let plugin = config.source.as_str();
    Ok(match load(session, config.source).await {
        Ok(()) => Some(Finding::ok(plugin, "it can be loaded")),
        Err(error) if slot::is_about_plugin(&error) => {
            Some(check::plugin_failure(plugin, config, session.version().major(), error))
        }
        Err(_) => None,
    })
}

/// The way out where wal2json is missing or refused and nothing is archived yet.
async fn other_plugin(config: &Config, session: &Session) -> Option<Finding> {
    let refused = load(session, config.source).await.is_err_and(|error| slot::is_about_plugin(&error));
    let is_safe = pgoutput::check_server(session.version().num).is_ok();
    if !refused || !is_safe || load(session, Source::Pgoutput).await.is_err() {
        return None;
    }
    let finding = Finding::warn("source", "pgoutput can be loaded, which is part of PostgreSQL");
    Some(finding.remedy(
        "to do without wal2json set source = \"pgoutput\" in the settings, then run the same command again",
    ))
}

/// The plugin is loaded before open transactions are waited for.
async fn load(session: &Session, plugin: Source) -> Result<()> {
    let plugin = plugin.as_str();
    let sql = format!(
        "SET statement_timeout = '2s';
        SELECT pg_create_logical_replication_slot('syncdata_try_' || pg_backend_pid(), '{plugin}', true);
        SELECT pg_drop_replication_slot('syncdata_try_' || pg_backend_pid())"
    );
    let tried = session.client().batch_execute(&sql).await.context(|| format!("loading {plugin}"));
    let tried = match tried {
        Err(error) if sqlstate(&error) == Some(&SqlState::QUERY_CANCELED) => Ok(()),
        tried => tried,
    };
    let reset = session.client().batch_execute("RESET statement_timeout").await;
    tried.and(reset.context(|| "setting the session back".to_owned()))
}

fn slot_statement(config: &Config, failover: bool) -> String {
    let options = if failover { ", false, false, true" } else { "" };
    let (name, plugin) = (escape_literal(config.slot_name.as_str()), config.source.as_str());
    format!("SELECT lsn FROM pg_create_logical_replication_slot({name}, '{plugin}'{options})")
}
