//! `setup --switch-source`: a running archive goes on with another output plugin, and nothing is missing.
//!
//! ```text
//! publication ─▶ older transactions end ─▶ old slot drained ─▶ copy of it for the new plugin ─▶ both compared
//!   ─▶ old slot dropped ─▶ copy under the old name ─▶ first copy dropped
//! ```
//! A copy begins exactly where its original stands, with the same WAL. Through pgoutput a slot can be read only from where its
//! publication was there for every transaction: up to there the old slot is read and confirmed before it is copied. Killed
//! anywhere, the next call goes on: as long as the old slot is there it begins anew, and without it from the copy, which
//! nobody reads.

use std::collections::BTreeSet;

use syncdata_formats::lsn::Lsn;
use syncdata_formats::name::{SlotName, TableName};
use syncdata_formats::{Error, Kind, Result};
use syncdata_service::config::{Config, Source};
use syncdata_service::faults;
use syncdata_service::finding::{Finding, Level};
use syncdata_service::postgres::ServerContext as _;
use syncdata_service::postgres::{PinnedSettings, Session};
use tokio_postgres::types::Type;
use tracing::info;

use crate::capture::Capture;
use crate::operations::{check, publication as beside};
use crate::poll::archiver::Archiver;
use crate::source::Offered;
use crate::source::catalog::{self, Position, Slot, insert_position};
use crate::source::connection::Connection;
use crate::source::pgoutput::publication;
use crate::source::pinned::APPLICATION_NAME;
use crate::source::production::Production;
use crate::source::slot::{self, aside};
use crate::spool::Spool;

const SUBJECT: &str = "source";

/// How a slot is called, and which plugin reads it.
struct Switch<'a> {
    name: &'a SlotName,
    aside: SlotName,
    to: Source,
    /// The settings with the plugin of before, and with that of afterwards.
    before: Config,
    after: Config,
    session: Session,
}

/// The archiver must not run. Afterwards the setting `source` has to be `to`.
pub(crate) async fn switch(config: &Config, to: Source, accept_rule: bool) -> Result<Vec<Finding>> {
    let from = match to {
        Source::Wal2json => Source::Pgoutput,
        Source::Pgoutput => Source::Wal2json,
        Source::Triggers => return Err(no_switch()),
    };
    let session = Session::open(config.postgres()?, APPLICATION_NAME, &PinnedSettings::new()).await?;
    let with = |source| {
        let mut config = config.clone();
        config.source = source;
        config
    };
    let switch = Switch {
        name: &config.slot_name,
        aside: aside(&config.slot_name)?,
        to,
        before: with(from),
        after: with(to),
        session,
    };
    let left = match switch.carry_out(from, accept_rule).await {
        // What our role may not is among them, for a superuser.
        Err(error) if error.kind() == Kind::Refused => {
            let mut findings = check::source(&switch.after).await;
            findings.retain(|finding| beside::SUBJECTS.contains(&finding.subject.as_str()));
            // Where there is a slot, `setup --create-slot` is not what makes the publication.
            let again = format!(
                "run the statement as superuser, then `syncdata-archiver setup --switch-source {}` again",
                to.as_str()
            );
            for finding in findings.iter_mut().filter(|finding| finding.level == Level::Fail) {
                finding.remedy = Some(again.clone());
            }
            findings.push(Finding::of_error(SUBJECT, &error));
            return Ok(findings);
        }
        carried => carried?,
    };
    let mut findings = check::source(&switch.after).await;
    let plugin = to.as_str();
    let done = match config.source == to {
        true => Finding::ok(SUBJECT, format!("the archive goes on with {plugin}: start the archiver")),
        false => Finding::warn(SUBJECT, format!("the archive goes on with {plugin}"))
            .remedy(format!("set source = \"{plugin}\" in the settings, then start the archiver")),
    };
    findings.extend(left);
    findings.push(done);
    Ok(findings)
}

impl Switch<'_> {
    /// What is left for a superuser to remove.
    async fn carry_out(&self, from: Source, accept_rule: bool) -> Result<Option<Finding>> {
        // Locks of the spool and of the slot are held to the end: nobody reads meanwhile.
        let mut archiver = Archiver::new(self.before.clone())?;
        let connection = archiver.connect().await?;
        archiver.keep(connection);

        let client = self.session.client();
        let (slot, copy) = (Slot::read(client, self.name).await?, Slot::read(client, &self.aside).await?);
        let is = |slot: &Option<Slot>, source: Source| {
            slot.as_ref().is_some_and(|slot| slot.plugin == source.as_str())
        };
        if is(&slot, from) {
            self.drop_if_there(&self.aside).await?;
            self.prepare(&mut archiver, accept_rule).await?;
            // If nobody comes to an end of this, the next poll drops the copy.
            archiver.copies_slot(true)?;
            self.copy(self.name, &self.aside).await?;
            faults::hit("switch.copied")?;
            let compared = self.compare(&mut archiver).await;
            if let Err(error) = compared {
                self.drop_if_there(&self.aside).await?;
                archiver.copies_slot(false)?;
                return Err(error.context("nothing was switched"));
            }
            self.drop_if_there(self.name).await?;
            faults::hit("switch.dropped")?;
        } else if !is(if slot.is_some() { &slot } else { &copy }, self.to) {
            let error = slot::read(client, self.name).await.err();
            return Err(error.unwrap_or_else(|| Error::new(Kind::Refused, "the slot is none of ours")));
        }
        if Slot::read(client, self.name).await?.is_none() {
            self.copy(&self.aside, self.name).await?;
            faults::hit("switch.renamed")?;
        }
        self.drop_if_there(&self.aside).await?;
        archiver.copies_slot(false)?;
        match self.to {
            Source::Wal2json => beside::remove(&self.before, &self.session).await,
            Source::Pgoutput | Source::Triggers => Ok(None),
        }
    }

    /// All that the new plugin could not say is archived and confirmed.
    async fn prepare(&self, archiver: &mut Archiver, accept_rule: bool) -> Result<()> {
        const ROUNDS_MAX: usize = 10;
        let client = self.session.client();
        self.refuse_failover().await?;
        beside::create(&self.after, &self.session, accept_rule).await?;
        faults::hit("switch.published")?;
        for _ in 0..ROUNDS_MAX {
            let published = self.published().await?;
            if self.to == Source::Pgoutput {
                beside::wait_for_older(&self.session).await?;
            }
            self.drain(archiver, insert_position(client).await?).await?;
            faults::hit("switch.drained")?;
            // What was published meanwhile does not count for transactions that are open now.
            if self.published().await? == published {
                return Ok(());
            }
        }
        Err(Error::new(Kind::Locked, "somebody changes the publication again and again")
            .hint("run the command again when that is done; nothing was switched"))
    }

    async fn drain(&self, archiver: &mut Archiver, upto: Lsn) -> Result<()> {
        let outcome = archiver.poll().await?;
        let slot = slot::read(self.session.client(), self.name).await?;
        if slot.confirmed_flush_lsn >= Some(upto) {
            return Ok(());
        }
        let why = [outcome.away, outcome.held_back].into_iter().flatten().next();
        let error = Error::new(Kind::Unreachable, "what the slot has is not all archived and confirmed")
            .hint("bring the backup host back, then run the command again; nothing was switched");
        Err(match why {
            Some(cause) => error.caused_by(cause),
            None => error,
        })
    }

    /// A copy is no slot for standbys, and no statement makes it one.
    async fn refuse_failover(&self) -> Result<()> {
        let sql =
            "SELECT FROM pg_replication_slots s WHERE slot_name = $1 AND to_jsonb(s)->>'failover' = 'true'";
        let rows = self.session.client().query_typed(sql, &[(&self.name.as_str(), Type::TEXT)]).await;
        let rows = rows.context(|| "asking about the slot".to_owned())?;
        if rows.is_empty() {
            return Ok(());
        }
        Err(Error::new(Kind::Refused, "the slot is one that standbys get too, and a copy of it would not be").hint(
            "stop production's writers, run `run --once`, `drop-slot`, then with the new source `setup --create-slot --failover` \
             and `snapshot`: what is written in between is published as a gap",
        ))
    }

    /// The rows of the catalog that say what is published.
    async fn published(&self) -> Result<String> {
        let sql = "SELECT coalesce(string_agg(concat_ws(':', p.oid, p.xmin, r.oid, r.xmin), ',' ORDER BY r.oid), '')
            FROM pg_publication p LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid WHERE p.pubname = $1";
        let name = publication::of_slot(self.name);
        let row = self.session.client().query_typed_one(sql, &[(&name, Type::TEXT)]).await;
        Ok(row.context(|| "reading the publication".to_owned())?.get(0))
    }

    /// What both slots offer is the same: the commits of tables that both can say.
    async fn compare(&self, archiver: &mut Archiver) -> Result<()> {
        let memory = Spool::peek_state(&self.before.spool_dir)?.map(|state| state.memory).unwrap_or_default();
        let mut connection = archiver.connect().await?;
        let upto = Position::settled(connection.session.client()).await?.flush;
        let (schemas, tables) = catalog::catalog(connection.session.client(), None).await?;
        let capture = Capture::passing_over_mistakes(&self.before.tables, &schemas, &tables, &memory).0;
        let published = self.published_tables().await?;
        let of = async |connection: &mut Connection, config: &Config, slot: &SlotName| {
            let source = Production::probe_slot(connection, config.source, slot, self.name).await?;
            let offered = source.offered(connection, &capture, upto).await?;
            Ok::<_, Error>(commits(&offered, &capture, &published))
        };
        let old = of(&mut connection, &self.before, self.name).await?;
        let new = of(&mut connection, &self.after, &self.aside).await?;
        archiver.keep(connection);
        match old.symmetric_difference(&new).next() {
            None => {
                info!(commits = old.len(), "both slots offer the same");
                Ok(())
            }
            Some((end, xid)) => Err(Error::new(
                Kind::Conflict,
                format!("transaction {xid} that ends at {end} is offered by one of the slots only"),
            )
            .hint("tables were altered meanwhile: run the command again")),
        }
    }

    /// Relations of which both plugins hand out rows.
    async fn published_tables(&self) -> Result<BTreeSet<TableName>> {
        let sql = "SELECT schemaname::text, tablename::text FROM pg_publication_tables WHERE pubname = $1";
        let name = publication::of_slot(self.name);
        let rows = self.session.client().query_typed(sql, &[(&name, Type::TEXT)]).await;
        let rows = rows.context(|| "reading the publication".to_owned())?;
        rows.iter().map(|row| TableName::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect()
    }

    async fn copy(&self, from: &SlotName, to: &SlotName) -> Result<()> {
        let sql = "SELECT pg_copy_logical_replication_slot($1, $2, false, $3)";
        let (from, to, plugin) = (from.as_str(), to.as_str(), self.to.as_str());
        let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] =
            [(&from, Type::NAME), (&to, Type::NAME), (&plugin, Type::NAME)];
        let copied = self.session.client().query_typed(sql, &parameters).await;
        copied.context(|| format!("copying the slot {from} to {to}")).map(|_| ())
    }

    async fn drop_if_there(&self, name: &SlotName) -> Result<()> {
        let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1";
        let dropped = self.session.client().query_typed(sql, &[(&name.as_str(), Type::NAME)]).await;
        dropped.context(|| format!("dropping the slot {name}")).map(|_| ())
    }
}

/// Those that changed a captured table which is published too.
fn commits(offered: &[Offered], capture: &Capture, published: &BTreeSet<TableName>) -> BTreeSet<(Lsn, u32)> {
    let counts = |relation: &TableName| published.contains(relation) && capture.table_of(relation).is_some();
    let both = offered.iter().filter(|offered| offered.relations.iter().any(counts));
    both.map(|offered| (offered.transaction.end_lsn, offered.transaction.xid)).collect()
}

fn no_switch() -> Error {
    Error::new(Kind::Refused, "between a slot and triggers there is no switch")
        .hint("use a new archive_dir and spool_dir, then `resync --all --adopt` on the local side")
}
