//! The logical slot: only what is durable is consumed.
//!
//! `pg_logical_slot_get_changes` hands changes out and forgets them in one call; a client that dies in between
//! has lost them. So that call is split here: `peek` changes nothing on the server, `confirm` moves the slot to a
//! commit whose changes are safe, and looks whether it really moved.

use std::time::Duration;

use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::SlotName;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::{Config, Source};
use syncdata_service::faults;
use syncdata_service::postgres::ServerContext as _;
use syncdata_service::postgres::{db_error, sqlstate};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{PgLsn, Type};

use crate::source::ask::{Asked, many};
use crate::source::catalog::Slot;
use crate::source::connection::Connection;
use crate::source::role;
use crate::source::stream::Stream;

const PLUGINS: [&str; 3] = ["wal2json", "pgoutput", "triggers"];

/// Why a peek failed, as far as that decides what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Connection, restart, another reader: try the same again.
    Transient,
    /// The server refuses the plugin, the slot is gone: no smaller call would help.
    Slot,
    /// Perhaps one transaction cannot be read, or all of them not in one answer.
    Content,
}

/// Moves the slot to `upto`, of which all is durable, and makes sure that it moved. Called again, it goes on
/// where it was: a slot that stands there already is success.
pub(crate) async fn confirm(connection: &Connection, slot: &SlotName, upto: Lsn) -> Result<Slot> {
    let client = &connection.asked();
    let before = read(client, slot).await?;
    if before.confirmed_flush_lsn >= Some(upto) {
        return Ok(before);
    }
    faults::pass("slot.before_advance").await?;
    if let Some(stream) = &connection.stream {
        let after = confirm_to(stream, client, slot, upto).await?;
        faults::hit("slot.after_advance")?;
        return Ok(after);
    }
    advance(connection, slot, upto).await?;
    faults::hit("slot.after_advance")?;
    let after = read(client, slot).await?;
    if after.confirmed_flush_lsn < Some(upto) {
        let stands = after.confirmed_flush_lsn.map_or("nowhere".to_owned(), |lsn| lsn.to_string());
        let message = format!("the slot {slot} was advanced to {upto} but stands at {stands}");
        return Err(Error::new(Kind::Conflict, message).hint("look for another reader of the slot"));
    }
    Ok(after)
}

/// The process that sends the stream moves the slot. While it is busy it hears of it late, which is no trouble.
async fn confirm_to(stream: &Stream, client: &impl Asked, slot: &SlotName, upto: Lsn) -> Result<Slot> {
    const LOOKS_MAX: u32 = 100;
    const BETWEEN_LOOKS: Duration = Duration::from_millis(10);
    stream.confirm(upto);
    for _ in 0..LOOKS_MAX {
        let now = read(client, slot).await?;
        if now.confirmed_flush_lsn >= Some(upto) || stream.ended().is_some() {
            return Ok(now);
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
    read(client, slot).await
}

/// Lets go of WAL: an advance moves `restart_lsn` to an earlier candidate only, so it is repeated while it moves.
pub(crate) async fn release_wal(connection: &Connection, slot: &SlotName, upto: Lsn) -> Result<Slot> {
    const ROUNDS_MAX: usize = 16;
    let mut state = confirm(connection, slot, upto).await?;
    for _ in 0..ROUNDS_MAX {
        let Some(confirmed) = state.confirmed_flush_lsn else { break };
        advance(connection, slot, confirmed).await?;
        let next = read(connection.session.client(), slot).await?;
        let stands_still = next.restart_lsn == state.restart_lsn;
        state = next;
        if stands_still {
            break;
        }
    }
    Ok(state)
}

/// The slot, which must be there and usable.
pub(crate) async fn read(client: &impl Asked, name: &SlotName) -> Result<Slot> {
    if let Some(slot) = Slot::read(client, name).await? {
        return usable(name, slot);
    }
    refuse_half_switched(client, name).await?;
    Err(does_not_exist(name).hint(
        "it is never made again in silence, because changes were lost with it: run \
         `syncdata-archiver setup --create-slot`; the loss is then published as a gap",
    ))
}

/// The same once nobody else moves it. The process that sent a stream to somebody who has died reads up to a second later what
/// it was told last, and moves the slot then: what is believed of it before is not so afterwards. A reader that stays is met
/// where the slot is read.
pub(crate) async fn read_at_rest(connection: &Connection, name: &SlotName) -> Result<Slot> {
    const LOOKS_MAX: u32 = 60;
    const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
    let client = &connection.asked();
    let mut slot = read(client, name).await?;
    for _ in 0..LOOKS_MAX {
        if connection.stream.is_some() || slot.active_pid.is_none() {
            break;
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
        slot = read(client, name).await?;
    }
    Ok(slot)
}

/// What the slot is called while it gets another plugin.
pub(crate) fn aside(name: &SlotName) -> Result<SlotName> {
    format!("{name}_switch").parse()
}

/// Whether it can be one that an archiver reads.
pub(crate) fn is_ours(slot: &Slot) -> bool {
    PLUGINS.contains(&slot.plugin.as_str())
}

/// A slot that is missing because somebody was changing its plugin: nothing is lost.
pub(crate) async fn refuse_half_switched(client: &impl Asked, name: &SlotName) -> Result<()> {
    let Ok(aside) = aside(name) else { return Ok(()) };
    let Some(found) = Slot::read(client, &aside).await? else { return Ok(()) };
    let message =
        format!("the replication slot {name} was just getting another plugin, and waits as {aside}");
    Err(Error::new(Kind::Locked, message).hint(format!(
        "nothing is lost: run `syncdata-archiver setup --switch-source {}` again, which goes on where it was",
        found.plugin
    )))
}

/// The same before anything was archived from it: one that is not there has never been, as far as anybody knows.
pub(crate) async fn read_first(client: &impl Asked, name: &SlotName) -> Result<Slot> {
    match Slot::read(client, name).await? {
        Some(slot) => usable(name, slot),
        None => {
            let nearest = nearest(client, name).await?;
            Err(does_not_exist(name).hint(remedy_for_none(nearest.as_deref())))
        }
    }
}

pub(crate) fn remedy_for_none(nearest: Option<&str>) -> String {
    let make = "run `syncdata-archiver setup --create-slot`; changes are kept from then on";
    match nearest {
        Some(nearest) => format!("did you mean {nearest}? Then correct slot_name; else {make}"),
        None => make.to_owned(),
    }
}

/// A slot of this database that one mistake at the keyboard, or two, would make of the name.
pub(crate) async fn nearly(client: &impl Asked, name: &SlotName) -> Result<Option<String>> {
    let mut names = names(client).await?.into_iter();
    Ok(names.find(|there| (1..=2).contains(&strsim::osa_distance(name.as_str(), there))))
}

async fn names(client: &impl Asked) -> Result<Vec<String>> {
    let sql = "SELECT slot_name::text FROM pg_replication_slots
        WHERE slot_type = 'logical' AND database = current_database() AND NOT temporary ORDER BY 1";
    let rows = many(client, "asking the source for its slots", sql, &[]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Among the slots that this database has, the one whose name is most like it.
pub(crate) async fn nearest(client: &impl Asked, name: &SlotName) -> Result<Option<String>> {
    let near = |name_there: String| (strsim::jaro_winkler(name.as_str(), &name_there), name_there);
    let best = names(client).await?.into_iter().map(near).max_by(|a, b| a.0.total_cmp(&b.0));
    // Below that, the suggestion would be a guess.
    Ok(best.filter(|best| best.0 > 0.7).map(|best| best.1))
}

fn does_not_exist(name: &SlotName) -> Error {
    Error::new(Kind::NotFound, format!("the replication slot {name} does not exist"))
}

fn usable(name: &SlotName, slot: Slot) -> Result<Slot> {
    if !is_ours(&slot) {
        let message = format!(
            "the replication slot {name} uses the output plugin {}, not wal2json or pgoutput",
            slot.plugin
        );
        return Err(Error::new(Kind::Refused, message)
            .hint("use another slot_name; `syncdata-archiver setup --create-slot` makes it"));
    }
    if let Some(reason) = slot.lost_because() {
        return Err(Error::new(Kind::NotFound, format!("the replication slot {name} is lost ({reason})"))
            .hint(
                "its WAL is gone: run `syncdata-archiver drop-slot --force` and `setup --create-slot`, then \
             `snapshot`; the loss is published as a gap",
            ));
    }
    Ok(slot)
}

/// The setting says how it is read, and the slot was made for one way.
pub(crate) fn check_source(name: &SlotName, slot: &Slot, source: Source) -> Result<()> {
    if slot.plugin == source.as_str() {
        return Ok(());
    }
    let message = format!(
        "the replication slot {name} uses the output plugin {}, not {}, which source says",
        slot.plugin,
        source.as_str()
    );
    Err(Error::new(Kind::Refused, message).hint(format!(
        "set source = \"{}\", or slot_name to another slot; `syncdata-archiver setup --create-slot` makes it",
        slot.plugin
    )))
}

impl Slot {
    pub(crate) fn lost_because(&self) -> Option<&str> {
        let reason = self.invalidation_reason.as_deref();
        if self.wal_status == "lost" || reason.is_some() {
            Some(reason.unwrap_or("wal_removed"))
        } else {
            None
        }
    }
}

async fn advance(connection: &Connection, slot: &SlotName, upto: Lsn) -> Result<()> {
    let upto_lsn = PgLsn::from(upto.as_u64());
    let sql = "SELECT pg_replication_slot_advance($1, $2)";
    let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 2] =
        [(&slot.as_str(), Type::NAME), (&upto_lsn, Type::PG_LSN)];
    let advancing = async {
        let advanced = connection.session.client().query_typed(sql, &parameters).await;
        advanced.context(|| format!("advancing the slot {slot} to {upto}"))
    };
    connection.waiting.for_answer(advancing).await.map(|_| ())
}

impl Trouble {
    pub(crate) fn of(error: &Error) -> Trouble {
        match sqlstate(error) {
            // The gate for output plugins, a missing slot, a lost slot, a missing library.
            // It was not there when the change was written: what is after it may be readable.
            Some(_) if is_without_publication(error) => Trouble::Content,
            Some(state) if is_gate(error) || *state == SqlState::INSUFFICIENT_PRIVILEGE => Trouble::Slot,
            Some(state)
                if [
                    SqlState::UNDEFINED_OBJECT,
                    SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                    SqlState::UNDEFINED_FILE,
                ]
                .contains(state) =>
            {
                Trouble::Slot
            }
            // Cancelled by somebody.
            Some(state) if *state == SqlState::QUERY_CANCELED => Trouble::Transient,
            _ => match error.kind() {
                Kind::Unreachable | Kind::Locked | Kind::NoSpace | Kind::Io => Trouble::Transient,
                Kind::BadInput
                | Kind::Refused
                | Kind::Corrupt
                | Kind::Foreign
                | Kind::NotFound
                | Kind::Conflict
                | Kind::StateDamaged
                | Kind::Rejected => Trouble::Content,
            },
        }
    }
}

/// Minor releases since August 2026 load only the output plugins that a setting lists.
pub(crate) fn is_gate(error: &Error) -> bool {
    sqlstate(error) == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
        && db_error(error).is_some_and(|said| said.message().contains("output plugin"))
}

fn is_without_publication(error: &Error) -> bool {
    sqlstate(error) == Some(&SqlState::UNDEFINED_OBJECT)
        // Messages are in the server's language, names of its functions are not.
        && db_error(error).is_some_and(|said| said.routine() == Some("get_publication_oid"))
}

/// The plugin is not there, or may not be used.
pub(crate) fn is_about_plugin(error: &Error) -> bool {
    is_gate(error) || sqlstate(error) == Some(&SqlState::UNDEFINED_FILE)
}

/// The same for whoever has the settings and the connection at hand.
pub(crate) fn explain_to(error: Error, config: &Config, connection: &Connection) -> Error {
    let user = config.postgres().map_or("", |postgres| postgres.user.as_str());
    explain(error, user, connection.facts.major())
}

/// Adds what a DBA has to run, where that is known.
pub(crate) fn explain(error: Error, user: &str, major: u32) -> Error {
    if is_gate(&error) {
        return error.hint(format!(
            "this minor release loads listed output plugins only, and the slot keeps WAL meanwhile; run as superuser: {}",
            role::allow_plugin(user)
        ));
    }
    if sqlstate(&error) == Some(&SqlState::UNDEFINED_FILE) {
        return error.hint(format!(
            "install wal2json on the source (Debian: apt-get install postgresql-{major}-wal2json); nothing has to be \
             restarted, and nothing was consumed from the slot"
        ));
    }
    if sqlstate(&error) == Some(&SqlState::CONFIGURATION_LIMIT_EXCEEDED) {
        return error.hint(
            "a limit of the server ended the call (temp_file_limit: an answer lies in temporary files first); \
             raise it for this role, or lower poll_max_changes",
        );
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poisoned_answer_is_told_from_a_broken_line() {
        assert_eq!(Trouble::of(&Error::new(Kind::Unreachable, "gone")), Trouble::Transient);
        assert_eq!(Trouble::of(&Error::new(Kind::NoSpace, "the spool is full")), Trouble::Transient);
        assert_eq!(Trouble::of(&Error::new(Kind::Corrupt, "a strange line")), Trouble::Content);
    }
}
