//! The commands that are not the daemon: each asks the running daemon first, where there may be one, and prints what
//! came of it.

use std::io::IsTerminal as _;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use syncdata_formats::name::TablePattern;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::alerts;
use syncdata_service::checks;
use syncdata_service::config::{Config, Program, split_list};
use syncdata_service::confirm::confirm;
use syncdata_service::daemon::Stop;
use syncdata_service::finding::{Finding, Level, worst};
use syncdata_service::output::Output;
use syncdata_service::own_files;

use crate::operations;
use crate::operations::declare_gap::DeclareGap;
use crate::operations::drop_slot::Dropped;
use crate::operations::older_rows;
use crate::operations::prune::Prune;
use crate::operations::remembered;
use crate::operations::setup::Wanted;
use crate::poll::archiver::Archiver;
use crate::program::answer::Answer;
use crate::program::cli::{DeclareGapArguments, ProofArguments, Setup, SnapshotArguments, one_list};
use crate::program::client::{self, Works};
use crate::program::life;
use crate::program::poll_log::PollLog;
use crate::program::stopping::unless_stopped;
use crate::proof;
use crate::prune;
use crate::snapshot::{Options, Taken};
use crate::spool::executions::Trigger;

/// One poll. A running daemon does it, if there is one and its settings are to be used.
pub(crate) async fn run_once(config: Config, as_configured: bool, output: Output) -> Result<ExitCode> {
    if as_configured && let Some(answer) = client::ask(&config, "/poll", None).await? {
        return Ok(polled(&answer, output));
    }
    let mut archiver = Archiver::new(config)?;
    let stop = Stop::new();
    stop.on_signals()?;
    let canceller = archiver.canceller();
    match unless_stopped(operations::poll::poll(&mut archiver, Trigger::Command), &stop, &canceller).await {
        Some(outcome) => {
            let outcome = outcome?;
            PollLog::default().note(&outcome);
            Ok(polled(&Answer::of_poll(&outcome), output))
        }
        // Everything up to here is safe; the next run goes on.
        None => {
            output.document(&json!({"clean": true, "stopped": true}), "");
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn polled(answer: &Answer, output: Output) -> ExitCode {
    if answer.error.is_some() {
        return unanswered(answer, output);
    }
    if !answer.message.is_empty() {
        output.words(&answer.message);
    }
    output.document(&json!({"clean": answer.exit_code == 0}), "");
    ExitCode::from(answer.exit_code)
}

/// What the daemon says instead of what it was asked for.
fn unanswered(answer: &Answer, output: Output) -> ExitCode {
    output.words(&answer.message);
    output.document(&answer.document(), "");
    ExitCode::from(answer.exit_code)
}

pub(crate) async fn status(config: &Config, output: Output) -> Result<ExitCode> {
    let status = match client::ask_status(config).await? {
        Some(status) => status,
        None => operations::status::without_daemon(config).await,
    };
    output.document(&json!(status), &status.text());
    Ok(ExitCode::from(u8::from(!status.healthy)))
}

/// What the service manager calls the end is in the environment that it gives.
pub(crate) async fn daemon_ended(config: &Config) -> Result<ExitCode> {
    let result = std::env::var("SERVICE_RESULT").unwrap_or_else(|_| "success".to_owned());
    alerts::speak_for(Program::Archiver, config, &life::journal(config), &result).await?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn check(config: &Config, deep: bool, output: Output) -> Result<ExitCode> {
    let mut findings = operations::check::check(config).await;
    match client::ask_settings(config).await {
        Ok(Some(running)) => findings.push(checks::daemon_settings(config, &running, client::RELOAD)),
        Ok(None) => {}
        Err(error) => findings.push(Finding::of_error("daemon", &error)),
    }
    if deep {
        let counted = operations::numbers::count(config).await;
        findings.push(counted.unwrap_or_else(|error| Finding::of_error("NaN", &error)));
    }
    Ok(output.findings(&findings))
}

pub(crate) async fn set_up(config: &Config, arguments: &Setup, output: Output) -> Result<ExitCode> {
    let wanted = Wanted {
        slot: arguments.create_slot,
        triggers: arguments.create_triggers,
        accept_publication_rule: arguments.accept_publication_rule,
        failover: arguments.failover,
        user: arguments.create_user,
        password_file: arguments.password_file.clone(),
    };
    let is_sure = |question: &str| {
        let can_be_asked = std::io::stdin().is_terminal();
        Ok(arguments.yes || can_be_asked && confirm("setup --create-slot", question)?)
    };
    let mut findings = match arguments.switch_source {
        Some(to) => {
            refuse_beside_the_daemon(config, "setup --switch-source").await?;
            remembered::refuse_second_spool(config).await?;
            operations::switch_source::switch(config, to, wanted.accept_publication_rule).await?
        }
        None => operations::setup::setup(config, &wanted, |words| output.words(words), is_sure).await?,
    };
    let needed = match older_rows::look(config).await {
        Ok(needed) => Some(needed),
        Err(error) if arguments.snapshot && worst(&findings) != Level::Fail => {
            return Err(error.context("no snapshot is taken: nobody knows of which tables"));
        }
        // Without a source there is nothing to say of it, and why stands among the findings already.
        Err(_) if worst(&findings) == Level::Fail => None,
        Err(error) => {
            findings.push(Finding::of_error(older_rows::SUBJECT, &error));
            None
        }
    };
    findings.extend(needed.iter().map(|(_, finding)| finding.clone()));
    if output.is_json() && !arguments.snapshot {
        return Ok(output.findings(&findings));
    }
    // Words for the person; the statements alone on stdout, to be piped into psql.
    for finding in &findings {
        output.words(&finding.to_string());
    }
    if !output.is_json() {
        findings.iter().flat_map(|finding| &finding.statements).for_each(|statement| output.line(statement));
    }
    if !output.is_json() {
        output.words(&format!(
            "next: {}",
            next(&findings, needed.as_ref().is_some_and(|(tables, _)| !tables.is_empty()))
        ));
    }
    let goes_on = arguments.snapshot && worst(&findings) != Level::Fail;
    let wanted = needed.map(|(tables, _)| tables).filter(|tables| goes_on && !tables.is_empty());
    let taken = match wanted {
        Some(tables) => {
            let exactly = tables.into_iter().map(TablePattern::Table).collect();
            Some(
                take_snapshot(config, &Options { tables: Some(exactly), ..Options::default() }, output)
                    .await?,
            )
        }
        None => None,
    };
    let is_healthy =
        worst(&findings) != Level::Fail && taken.as_ref().is_none_or(|taken| taken.left_out.is_empty());
    let document = json!({"healthy": is_healthy, "findings": findings, "snapshot": taken});
    output.document(&document, &taken.map(|taken| taken.text()).unwrap_or_default());
    Ok(ExitCode::from(u8::from(!is_healthy)))
}

/// What comes after `setup`.
fn next(findings: &[Finding], needs_snapshot: bool) -> &'static str {
    let mut failed = findings.iter().filter(|finding| finding.level == Level::Fail).peekable();
    if failed.peek().is_some() {
        return match failed.any(|finding| !finding.statements.is_empty()) {
            true => "run the statements above as superuser (psql), then this command again",
            false => "mend what failed, then run this command again",
        };
    }
    match needs_snapshot {
        true => {
            "systemctl enable --now syncdata-archiver (or: syncdata-archiver run); then: syncdata-archiver snapshot"
        }
        false => "systemctl enable --now syncdata-archiver (or: syncdata-archiver run)",
    }
}

pub(crate) async fn snapshot(
    config: &Config,
    arguments: &SnapshotArguments,
    output: Output,
) -> Result<ExitCode> {
    let options = Options {
        tables: one_list(&arguments.tables).as_deref().map(patterns).transpose()?,
        rate: arguments.rate.map(|rate| rate.as_u64()),
        full: arguments.full,
        wait: arguments.wait.map(Into::into),
    };
    let taken = take_snapshot(config, &options, output).await?;
    output.document(&json!(taken), &taken.text());
    Ok(ExitCode::from(u8::from(!taken.left_out.is_empty())))
}

/// With words for what is not in it.
async fn take_snapshot(config: &Config, options: &Options, output: Output) -> Result<Taken> {
    let poll = async || client::poll_now(config).await;
    let stop = Stop::new();
    stop.on_signals()?;
    let taking = async {
        // Its locks and its memory lie in the spool: a member of the daemon's group asks the daemon.
        let works = client::daemon_works(config).await?;
        if works != Works::Elsewhere && !own_files::is_of_another(&config.spool_dir) {
            if works == Works::Nowhere {
                remembered::refuse_second_spool(config).await?;
            }
            return operations::snapshot::snapshot(config, options, poll).await;
        }
        match client::ask(config, "/snapshot", Some(&json!(options))).await? {
            Some(answer) => answer.into_snapshot(),
            // What may be looked at says itself whose it is.
            None if config.spool_dir.exists() => operations::snapshot::snapshot(config, options, poll).await,
            None => Err(Error::new(
                Kind::Refused,
                format!("{} belongs to another account, and no daemon answers", config.spool_dir.display()),
            )
            .hint("start the daemon (systemctl start syncdata-archiver), or run this command with sudo")),
        }
    };
    let snapshot = tokio::select! {
        snapshot = taking => snapshot?,
        () = stop.asked() => {
            return Err(Error::new(Kind::Refused, "stopped by a signal: no snapshot was made, and the archive is as it was")
                .hint("run it again: parts that were sent already are not sent twice"));
        }
    };
    for left in &snapshot.taken.left_out {
        output.words(&format!("left out: {}: {}\nhint: {}", left.table, left.reason, left.remedy));
    }
    if let Some(error) = snapshot.not_polled {
        output.words(&format!(
            "the snapshot is complete; the changes that belong to it come with the next poll, since this one failed: {}",
            error
        ));
    }
    Ok(snapshot.taken)
}

/// A running daemon makes it, since only the process that reads the stream can; else it is made here. 0: every table is
/// proved. 1: some are not, or none could be now.
pub(crate) async fn proof(config: Config, arguments: &ProofArguments, output: Output) -> Result<ExitCode> {
    let tables = one_list(&arguments.tables).as_deref().map(patterns).transpose()?;
    let options = proof::Options {
        tables: tables.map(|tables| tables.iter().map(ToString::to_string).collect()),
        rate: arguments.rate.map(|rate| rate.as_u64()),
        wait_seconds: Some(std::time::Duration::from(arguments.wait).as_secs()),
    };
    let made = match client::ask(&config, "/proof", Some(&json!(options))).await? {
        Some(Answer { proof: Some(made), .. }) => made,
        Some(answer) => return Ok(unanswered(&answer, output)),
        None => match operations::proof::here(config, &options).await {
            Ok(made) => made,
            Err(error) if error.kind().is_transient() => return Ok(output.error(&error, 1)),
            Err(error) => return Err(error),
        },
    };
    output.document(&json!(made), &made.text());
    Ok(ExitCode::from(u8::from(!made.not_proved.is_empty())))
}

pub(crate) async fn prune(config: Config, dry_run: bool, output: Output) -> Result<ExitCode> {
    if config.keep_days.is_none() && config.keep_singles.is_none() {
        return Err(prune::not_configured());
    }
    let request = Prune { dry_run };
    let plan = match client::ask(&config, "/prune", Some(&json!(request))).await? {
        Some(Answer { plan: Some(plan), .. }) => plan,
        Some(answer) => return Ok(unanswered(&answer, output)),
        None => {
            remembered::refuse_second_spool(&config).await?;
            let mut archiver = Archiver::new(config)?;
            let foreseen = operations::rollups::before_prune(&archiver, dry_run).await?;
            let mut plan = operations::prune::prune(&mut archiver, request, Trigger::Command).await?;
            plan.notes.extend(foreseen);
            plan
        }
    };
    output.document(&json!({"dry_run": dry_run, "plan": plan}), &plan.text());
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn declare_gap(
    config: Config,
    arguments: &DeclareGapArguments,
    output: Output,
) -> Result<ExitCode> {
    let gap = DeclareGap { upto: arguments.upto, reason: arguments.reason.clone() };
    let answer = match client::ask(&config, "/declare-gap", Some(&json!(gap))).await? {
        Some(answer) => answer,
        None => {
            remembered::refuse_second_spool(&config).await?;
            let declared = operations::declare_gap::declare_gap(&mut Archiver::new(config)?, &gap).await?;
            Answer::new(declared.exit_code(), declared.text())
        }
    };
    Ok(unanswered(&answer, output))
}

pub(crate) async fn drop_slot(config: &Config, force: bool, output: Output) -> Result<ExitCode> {
    let name = &config.slot_name;
    refuse_beside_the_daemon(config, "drop-slot").await?;
    let removal = operations::drop_slot::drop_slot(config, force).await?;
    output.words(&match removal.slot {
        Dropped::Now => format!("the replication slot {name} is dropped; changes from now on are not kept"),
        Dropped::WasNotThere => format!("the replication slot {name} does not exist"),
    });
    removal.left.iter().for_each(|finding| output.words(&finding.to_string()));
    let statements = removal.left.iter().flat_map(|finding| &finding.statements);
    let statements: String = statements.map(|statement| format!("{statement}\n")).collect();
    let findings: Vec<&Finding> = removal.left.iter().collect();
    let document =
        json!({"slot": name.as_str(), "dropped": removal.slot == Dropped::Now, "findings": findings});
    output.document(&document, &statements);
    Ok(ExitCode::SUCCESS)
}

async fn refuse_beside_the_daemon(config: &Config, command: &str) -> Result<()> {
    if client::ask_status(config).await?.is_none() {
        return Ok(());
    }
    let name = &config.slot_name;
    Err(Error::new(Kind::Locked, format!("the daemon of these settings runs, and reads the slot {name}"))
        .hint(format!(
            "stop it first: systemctl stop syncdata-archiver (or SIGTERM to its process), then {command} again"
        )))
}

/// 0: nothing is left. 1: the role or what is beside the slot stays, or nobody wanted it.
pub(crate) async fn drop_all(
    config: &Config,
    force: bool,
    yes: bool,
    login: Option<&str>,
    output: Output,
) -> Result<ExitCode> {
    refuse_beside_the_daemon(config, "drop-slot").await?;
    let acting = login.map_or_else(|| Ok(config.clone()), |login| config.with_login(login))?;
    let (name, role) = (&config.slot_name, crate::source::role::ROLE);
    let (location, file) = (acting.postgres()?.location(), config.settings_file());
    output.words(&format!("Drop the replication slot {name} and the role {role} at {location} ({file})"));
    if !yes && !confirm("drop-slot --all", "Go on")? {
        output.words("nothing was changed");
        output.document(&json!({"removed": false, "findings": []}), "");
        return Ok(ExitCode::from(1));
    }
    let removal = operations::drop_slot::drop_slot(&acting, force).await?;
    let slot = match removal.slot {
        Dropped::Now => format!("{name} is dropped; changes from now on are not kept"),
        Dropped::WasNotThere => format!("{name} does not exist"),
    };
    let role = operations::drop_slot::drop_role(&acting).await?;
    // What is beside the slot goes last: the role's rights on it are taken away before.
    let left = removal.left.map(|finding| Finding { level: Level::Fail, ..finding });
    Ok(output.removal(&[Finding::ok("slot", slot), role].into_iter().chain(left).collect::<Vec<_>>()))
}

pub(crate) fn keygen(file: &Path, output: Output) -> Result<ExitCode> {
    let public_file = operations::keygen::keygen(file)?;
    output.words(&format!("secret key: {} (signing_key of the archiver)", file.display()));
    output.words(&format!("public key: {} (verify_key of the applier)", public_file.display()));
    output.document(&json!({"secret_key": file, "public_key": public_file}), "");
    Ok(ExitCode::SUCCESS)
}

fn patterns(list: &str) -> Result<Vec<TablePattern>> {
    let items = split_list(list).filter(|items| !items.is_empty());
    let items = items.ok_or_else(|| Error::bad_input("a list of tables", list))?;
    items.iter().map(|item| item.parse()).collect()
}
