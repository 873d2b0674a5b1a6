//! The commands that are not the daemon: each asks the running daemon first, where there may be one.

pub(crate) mod pending;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;
use syncdata_service::postgres::ServerContext as _;

use serde_json::json;
use syncdata_formats::error::Context as _;
use syncdata_formats::name::TablePattern;
use syncdata_formats::signature::SigningKey;
use syncdata_formats::time::Timestamp;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::{Config, split_list};
use syncdata_service::finding::{Finding, Level, worst};
use syncdata_service::output::Output;
use tokio_postgres::types::Type;

use self::pending::Pending;
use crate::poll::Archiver;
use crate::program::check;
use crate::program::cli::{DeclareGapArguments, Setup, SnapshotArguments};
use crate::program::daemon::{self, Answer, DeclareGap, PruneOrder};
use crate::program::setup;
use crate::program::status::{Frame, SourceStatus, Status};
use crate::prune;
use crate::snapshot;
use crate::source::catalog::{Position, Slot};
use crate::source::connection::{Connection, Work};
use crate::spool::holdings::Holdings;

pub(crate) async fn status(config: &Config, output: Output) -> Result<ExitCode> {
    let status = match daemon::ask_status(config).await? {
        Some(status) => status,
        None => without_daemon(config).await,
    };
    output.document(&json!(status), &status.text());
    Ok(ExitCode::from(u8::from(!status.healthy)))
}

/// What spool and source say themselves.
async fn without_daemon(config: &Config) -> Status {
    let location = config.archive().map(|archive| format!("{}", archive.dir().display())).unwrap_or_default();
    let frame = Frame {
        wal_guard: config.wal_guard.as_u64(),
        spool_max: config.spool_max.as_u64(),
        location: &location,
        now: Timestamp::now(),
    };
    let mut status = Status {
        status: "not-started".into(),
        poll_frequency_seconds: config.data_sync_freq.as_secs(),
        problems: vec!["no daemon is running".into()],
        ..Status::default()
    };
    let mut flush = Default::default();
    match source_status(config, frame).await {
        Ok((source, at)) => {
            flush = at;
            status.source = source;
            if status.source.is_none() {
                status.problems.push(format!("the replication slot {} does not exist", config.slot_name));
            }
        }
        Err(error) => status.problems.push(error.one_line()),
    }
    match Holdings::look(&config.spool_dir) {
        Ok(Some(holdings)) => status.spooled(frame, &holdings, flush),
        Ok(None) => {}
        Err(error) => status.problems.push(error.one_line()),
    }
    status.seen_at(Timestamp::now())
}

async fn source_status(
    config: &Config,
    frame: Frame<'_>,
) -> Result<(Option<SourceStatus>, syncdata_formats::lsn::Lsn)> {
    let connection = Connection::open(config).await?;
    let client = connection.session.client();
    let position = Position::read(client).await?;
    let slot = Slot::read(client, &config.slot_name).await?;
    let status =
        slot.map(|slot| SourceStatus::of(&slot, config.slot_name.to_string(), position.flush, frame, None));
    Ok((status, position.flush))
}

pub(crate) async fn check(config: &Config, output: Output) -> Result<ExitCode> {
    let mut findings = check::source(config).await;
    findings.extend(check::archive(config).await);
    Ok(output.findings(&findings))
}

pub(crate) async fn set_up(config: &Config, arguments: &Setup, output: Output) -> Result<ExitCode> {
    let findings = setup::run(config, arguments, |words| output.words(words)).await?;
    if output.is_json() {
        return Ok(output.findings(&findings));
    }
    // Words for the person; the statements alone on stdout, to be piped into psql.
    for finding in &findings {
        output.words(&finding.to_string());
    }
    for statement in findings.iter().flat_map(|finding| &finding.statements) {
        output.line(statement);
    }
    Ok(exit_code(&findings))
}

pub(crate) async fn snapshot(
    config: &Config,
    arguments: &SnapshotArguments,
    output: Output,
) -> Result<ExitCode> {
    let options = snapshot::Options {
        tables: arguments.tables.as_deref().map(patterns).transpose()?,
        rate: arguments.rate.map(|rate| rate.as_u64()),
        full: arguments.full,
        wait: arguments.wait.map(Into::into),
    };
    let taken = snapshot::take(config, &options).await?;
    // Loading it takes the changes up to its end. It stands all the same.
    if let Err(error) = daemon::poll_now(config).await {
        output.words(&format!(
            "the snapshot is complete; the changes that belong to it come with the next poll, since this one failed: {}",
            error.one_line()
        ));
    }
    output.document(&json!(taken), &taken.text());
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn prune(config: Config, dry_run: bool, output: Output) -> Result<ExitCode> {
    if config.keep_days.is_none() {
        return Err(prune::not_configured());
    }
    let order = PruneOrder { dry_run };
    let plan = match daemon::ask(&config, "/prune", Some(&json!(order))).await? {
        Some(Answer { plan: Some(plan), .. }) => plan,
        Some(answer) => {
            output.words(&answer.message);
            return Ok(ExitCode::from(answer.exit_code));
        }
        None => Archiver::new(config)?.prune(dry_run).await?,
    };
    output.document(&json!({"dry_run": dry_run, "plan": plan}), &plan.text());
    Ok(ExitCode::SUCCESS)
}

fn patterns(list: &str) -> Result<Vec<TablePattern>> {
    let items = split_list(list).filter(|items| !items.is_empty());
    let items = items.ok_or_else(|| Error::bad_input("a list of tables", list))?;
    items.iter().map(|item| item.parse()).collect()
}

fn exit_code(findings: &[Finding]) -> ExitCode {
    ExitCode::from(u8::from(worst(findings) == Level::Fail))
}

pub(crate) async fn declare_gap(
    config: Config,
    arguments: &DeclareGapArguments,
    output: Output,
) -> Result<ExitCode> {
    let gap = DeclareGap { upto: arguments.upto, reason: arguments.reason.clone() };
    if let Some(answer) = daemon::ask(&config, "/declare-gap", Some(&json!(gap))).await? {
        output.words(&answer.message);
        return Ok(ExitCode::from(answer.exit_code));
    }
    let outcome = Archiver::new(config)?.declare_gap(gap.upto, &gap.reason).await?;
    let (exit_code, message) = daemon::declared_gap(&gap, &outcome);
    output.words(&message);
    Ok(ExitCode::from(exit_code))
}

pub(crate) async fn drop_slot(config: &Config, force: bool, output: Output) -> Result<ExitCode> {
    let name = &config.slot_name;
    let mut connection = Connection::open(config).await?;
    // A running archiver would not even notice before its next poll.
    connection.lock(Work::Reading, name).await?;
    let Some(slot) = Slot::read(connection.session.client(), name).await? else {
        output.words(&format!("the replication slot {name} does not exist"));
        return Ok(ExitCode::SUCCESS);
    };
    if !force && slot.lost_because().is_none() {
        refuse_while_pending(config, &mut connection).await?;
    }
    let sql = "SELECT pg_drop_replication_slot($1)";
    let dropped = connection.session.client().query_typed(sql, &[(&name.as_str(), Type::NAME)]).await;
    dropped.context(|| format!("dropping the replication slot {name}"))?;
    output.words(&format!("the replication slot {name} is dropped; changes from now on are not kept"));
    Ok(ExitCode::SUCCESS)
}

/// WAL that is no change of a captured table may wait: there is always some on a busy server.
async fn refuse_while_pending(config: &Config, connection: &mut Connection) -> Result<()> {
    let name = &config.slot_name;
    let hint = "run `syncdata-archiver run --once` first, or say --force: the changes are then lost";
    let refuse = |what: &str| Error::new(Kind::Refused, format!("{what} in the slot {name}")).hint(hint);
    let waits = pending::waits(config, connection).await;
    match waits.map_err(|error| refuse("nobody can say whether changes wait").caused_by(error))? {
        Pending::Nothing => Ok(()),
        Pending::Changes => Err(refuse("changes wait")),
        Pending::TooMuchToTell => Err(refuse("there is more than one poll reads")),
    }
}

pub(crate) fn keygen(file: &Path, output: Output) -> Result<ExitCode> {
    let (secret, public) = SigningKey::generate()?;
    let mut public_file = file.as_os_str().to_owned();
    public_file.push(".pub");
    write_new(file, &secret, 0o600)?;
    write_new(Path::new(&public_file), &public, 0o644)?;
    output.words(&format!("secret key: {} (signing_key of the archiver)", file.display()));
    output.words(&format!("public key: {} (verify_key of the applier)", Path::new(&public_file).display()));
    Ok(ExitCode::SUCCESS)
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<()> {
    let doing = || format!("writing {}", path.display());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).context(doing)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).context(doing)
}
