//! The logical slot, read through SQL: peek, and only what is durable is consumed.
//!
//! `pg_logical_slot_get_changes` hands changes out and forgets them in one call; a client that dies in between
//! has lost them. So that call is split here: `peek` changes nothing on the server, `confirm` moves the slot to a
//! commit whose changes are safe, and looks whether it really moved.

use std::pin::pin;
use syncdata_service::postgres::ServerContext as _;

use futures_util::TryStreamExt as _;
use postgres_protocol::escape::escape_literal;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::SlotName;
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::Config;
use syncdata_service::faults;
use syncdata_service::postgres::{db_error, sqlstate};
use tokio_postgres::binary_copy::BinaryCopyOutStream;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{PgLsn, Type};
use tokio_postgres::{GenericClient, Transaction};

use crate::source::catalog::Slot;
use crate::source::connection::Connection;
use crate::source::role;
use crate::source::wait::Waiting;

/// No message is read, whatever its prefix: any role can write one that cannot be printed, and nothing behind it could
/// ever be read again. The plugin has no switch for that; a prefix that is the only one asked for and is left out as
/// well lets none pass. (An empty list of prefixes would let all pass.)
const NO_MESSAGES: [(&str, &str); 2] =
    [("add-msg-prefixes", "syncdata"), ("filter-msg-prefixes", "syncdata")];

const PLUGIN: &str = "wal2json";

/// The output plugin that the server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plugin {
    /// `wal2json 2.7`, or what can be known of it.
    pub name: String,
    /// Can it print NaN and the infinities?
    pub numbers_as_text: bool,
}

/// One call of the slot.
#[derive(Clone, Debug)]
pub(crate) struct Peek<'a> {
    pub slot: &'a SlotName,
    pub plugin: Plugin,
    /// wal2json's `add-tables`; empty selects no table at all.
    pub filter: &'a str,
    /// Stops with the first transaction that ends at or past it.
    pub upto: Lsn,
    /// Stops with the transaction in which this many lines are reached.
    pub lines_max: Option<u32>,
}

/// Why a peek failed, as far as that decides what comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Connection, restart, another reader: try the same again.
    Passing,
    /// The server refuses the plugin, the slot is gone: no smaller call would help.
    Slot,
    /// Perhaps one transaction cannot be read, or all of them not in one answer.
    Content,
}

impl Plugin {
    /// Asks what the server's wal2json understands. Needs the slot, reads next to nothing, and is asked once.
    pub(crate) async fn probe(connection: &mut Connection, slot: &SlotName) -> Result<Plugin> {
        let peek = |plugin: &Plugin| Peek {
            slot,
            plugin: plugin.clone(),
            filter: "",
            upto: Lsn::from_u64(1),
            lines_max: Some(1),
        };
        let mut plugin = Plugin { name: String::new(), numbers_as_text: true };
        match peek(&plugin).run(connection, |_| Ok(())).await {
            Err(error) if is_unknown_option(&error) => {
                plugin.numbers_as_text = false;
                peek(&plugin).run(connection, |_| Ok(())).await?;
            }
            probed => probed?,
        }
        plugin.name = plugin.name_on(connection).await?;
        Ok(plugin)
    }

    /// PostgreSQL 18 names the versions of loaded modules; before, only the options tell.
    async fn name_on(&self, connection: &Connection) -> Result<String> {
        if connection.facts.major() >= 18 {
            let sql = "SELECT version FROM pg_get_loaded_modules() \
                WHERE file_name ~ '^wal2json' AND version IS NOT NULL";
            let rows = connection.session.client().query_typed(sql, &[]).await;
            if let Some(row) = rows.context(|| "asking for wal2json's version".to_owned())?.first() {
                return Ok(format!("wal2json {}", row.get::<_, &str>(0)));
            }
        }
        Ok(if self.numbers_as_text { "wal2json 2.6 or newer" } else { "wal2json 2.5 or older" }.to_owned())
    }

    /// What this plugin cannot say, as manifests and `status` name it.
    pub(crate) fn degraded(&self) -> Vec<String> {
        if self.numbers_as_text { Vec::new() } else { vec!["numeric-nan".to_owned()] }
    }
}

impl Peek<'_> {
    /// In a transaction of its own, so that its failure leaves the session usable.
    pub(crate) async fn run(
        &self,
        connection: &mut Connection,
        take: impl FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        let waiting = connection.waiting.clone();
        let tx = connection.transaction().await?;
        self.read(&tx, &waiting, take).await
    }

    /// Hands the answer's lines to `take`, one by one, as they come.
    pub(crate) async fn read(
        &self,
        client: &Transaction<'_>,
        waiting: &Waiting,
        mut take: impl FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        let doing = || format!("reading the slot {}", self.slot);
        let sql = self.sql();
        let answer = waiting.for_answer(async { client.copy_out(&sql).await.context(doing) }).await?;
        let mut rows = pin!(BinaryCopyOutStream::new(answer, &[Type::TEXT]));
        // Before the first of them the server decodes all of the answer.
        let mut next = waiting.for_answer(async { rows.try_next().await.context(doing) }).await?;
        while let Some(row) = next {
            take(row.try_get(0).context(doing)?)?;
            next = rows.try_next().await.context(doing)?;
        }
        Ok(())
    }

    /// COPY takes no parameters. It is binary, because text would escape every backslash of the JSON again.
    fn sql(&self) -> String {
        let lines_max = self.lines_max.map_or("NULL".to_owned(), |lines| lines.to_string());
        let mut options = vec![
            ("format-version", "2"),
            ("include-lsn", "1"),
            ("include-xids", "1"),
            ("include-timestamp", "1"),
            ("include-transaction", "1"),
            ("include-types", "0"),
            // Which columns are bytea, whose prefix is not printed, and which are numbers.
            ("include-type-oids", "1"),
            ("add-tables", self.filter),
        ];
        options.extend(NO_MESSAGES);
        if self.plugin.numbers_as_text {
            options.push(("numeric-data-types-as-string", "1"));
        }
        let options: Vec<String> =
            options.iter().flat_map(|(name, value)| [escape_literal(name), escape_literal(value)]).collect();
        format!(
            "COPY (SELECT data FROM pg_catalog.pg_logical_slot_peek_changes({}, {}, {lines_max}, {})) \
             TO STDOUT (FORMAT binary)",
            escape_literal(self.slot.as_str()),
            escape_literal(&self.upto.to_string()),
            options.join(", ")
        )
    }
}

/// Moves the slot to `upto`, of which all is durable, and makes sure that it moved. Called again, it goes on
/// where it was: a slot that stands there already is success.
pub(crate) async fn confirm(connection: &Connection, slot: &SlotName, upto: Lsn) -> Result<Slot> {
    let client = connection.session.client();
    let before = read(client, slot).await?;
    if before.confirmed_flush_lsn >= Some(upto) {
        return Ok(before);
    }
    faults::hit("slot.before_advance")?;
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
pub(crate) async fn read(client: &impl GenericClient, name: &SlotName) -> Result<Slot> {
    let slot = Slot::read(client, name).await?.ok_or_else(|| {
        does_not_exist(name).hint(
            "it is never made again in silence, because changes were lost with it: run \
             `syncdata-archiver setup --create-slot`; the loss is then published as a gap",
        )
    })?;
    usable(name, slot)
}

/// The same before anything was archived from it: one that is not there has never been, as far as anybody knows.
pub(crate) async fn read_first(client: &impl GenericClient, name: &SlotName) -> Result<Slot> {
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

/// Among the slots that this database has, the one whose name is most like it.
pub(crate) async fn nearest(client: &impl GenericClient, name: &SlotName) -> Result<Option<String>> {
    let sql = "SELECT slot_name::text FROM pg_replication_slots
        WHERE slot_type = 'logical' AND database = current_database() AND NOT temporary";
    let rows = client.query_typed(sql, &[]).await.context(|| "asking the source for its slots".to_owned())?;
    let near = |name_there: String| (strsim::jaro_winkler(name.as_str(), &name_there), name_there);
    let best = rows.iter().map(|row| near(row.get(0))).max_by(|a, b| a.0.total_cmp(&b.0));
    // Below that, the suggestion would be a guess.
    Ok(best.filter(|best| best.0 > 0.7).map(|best| best.1))
}

fn does_not_exist(name: &SlotName) -> Error {
    Error::new(Kind::NotFound, format!("the replication slot {name} does not exist"))
}

fn usable(name: &SlotName, slot: Slot) -> Result<Slot> {
    if slot.plugin != PLUGIN {
        let message =
            format!("the replication slot {name} uses the output plugin {}, not {PLUGIN}", slot.plugin);
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

fn is_unknown_option(error: &Error) -> bool {
    db_error(error).is_some_and(|said| said.message().contains("numeric-data-types-as-string"))
}

impl Trouble {
    pub(crate) fn of(error: &Error) -> Trouble {
        match sqlstate(error) {
            // The gate for output plugins, a missing slot, a lost slot, a missing library.
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
            Some(state) if *state == SqlState::QUERY_CANCELED => Trouble::Passing,
            _ => match error.kind() {
                Kind::Unreachable | Kind::Locked | Kind::NoSpace | Kind::Io => Trouble::Passing,
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
    fn everything_in_the_statement_is_a_literal() {
        let plugin = Plugin { name: String::new(), numbers_as_text: false };
        let slot = "syncdata_slot".parse().expect("a name");
        let filter = r"public.it\'s,public.back\\slash";
        let peek = Peek { slot: &slot, plugin, filter, upto: Lsn::from_u64(0x10), lines_max: None };
        let sql = peek.sql();
        assert!(sql.contains(r"'add-tables',  E'public.it\\''s,public.back\\\\slash'"), "{sql}");
        assert!(sql.contains("'0/10', NULL,"), "{sql}");
        assert!(!sql.contains("numeric-data-types-as-string"), "{sql}");
        let none_pass = ["'add-msg-prefixes', 'syncdata'", "'filter-msg-prefixes', 'syncdata'"];
        assert!(none_pass.iter().all(|option| sql.contains(option)), "{sql}");
    }

    #[test]
    fn a_poisoned_answer_is_told_from_a_broken_line() {
        assert_eq!(Trouble::of(&Error::new(Kind::Unreachable, "gone")), Trouble::Passing);
        assert_eq!(Trouble::of(&Error::new(Kind::NoSpace, "the spool is full")), Trouble::Passing);
        assert_eq!(Trouble::of(&Error::new(Kind::Corrupt, "a strange line")), Trouble::Content);
    }
}
