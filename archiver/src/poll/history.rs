//! Whether the source has the history that was archived: asked of its slot, where that has gone back.

use syncdata_formats::Result;
use syncdata_formats::lsn::Lsn;
use syncdata_formats::manifest::SourceKind;
use syncdata_formats::snapshot::Seen;
use syncdata_service::config::Config;

use crate::source::Source as _;
use crate::source::catalog::{self, Slot};
use crate::source::connection::Connection;
use crate::source::event::Transaction;
use crate::source::production::Production;
use crate::source::slot::{self, Trouble};
use crate::source::triggers::reader;
use crate::spool::State;

/// A slot that stands before the last archived commit offers it again, and up to the end of the chain nothing else: or the
/// source has another history.
pub(super) async fn last_commit_missing(
    config: &Config,
    connection: &mut Connection,
    source: &Production,
    slot: &Slot,
    state: &State,
) -> Result<Option<String>> {
    if source.described().kind() == SourceKind::Triggers {
        return notes_have_gone_back(connection, slot, state).await;
    }
    let before_tip = state.last_before_tip(source.described().kind());
    let Some(last) = before_tip.or(state.last_commit) else { return Ok(None) };
    let stands = slot.confirmed_flush_lsn.unwrap_or_default();
    let upto = if before_tip.is_some() { state.tip.end_lsn } else { last.end_lsn };
    if stands >= upto {
        return Ok(None);
    }
    let commits = match source.commits(connection, upto).await {
        // A transaction that cannot be read may stand there, in a gap.
        Err(error) if upto > last.end_lsn && Trouble::of(&error) == Trouble::Content => {
            if stands >= last.end_lsn {
                return Ok(None);
            }
            source.commits(connection, last.end_lsn).await
        }
        commits => commits,
    };
    let commits = commits.map_err(|error| slot::explain_to(error, config, connection))?;
    let is_last = |commit: &Transaction| {
        (commit.end_lsn, commit.xid, commit.committed_at) == (last.end_lsn, last.xid, last.ts)
    };
    let in_words = |commit: &Transaction| {
        format!("transaction {} of {} ending at {}", commit.xid, commit.committed_at, commit.end_lsn)
    };
    let of_archive = format!("transaction {} of {} ending at {}", last.xid, last.ts, last.end_lsn);
    let there = commits.iter().find(|commit| commit.end_lsn >= last.end_lsn);
    if stands < last.end_lsn && !there.is_some_and(is_last) {
        let instead = there.map_or("nothing".to_owned(), in_words);
        return Ok(Some(format!(
            "the archive has {of_archive}, and the source's slot offers {instead} there"
        )));
    }
    let other = commits.iter().find(|commit| commit.end_lsn > last.end_lsn && commit.end_lsn <= upto);
    Ok(other.map(|other| {
        let other = in_words(other);
        format!("after {of_archive} nothing had committed up to {upto}, and the source's slot offers {other}")
    }))
}

/// What was noted has no order of commits to be compared. But what production itself was told, and numbers of transactions that
/// a batch has seen, cannot become less.
async fn notes_have_gone_back(connection: &Connection, slot: &Slot, state: &State) -> Result<Option<String>> {
    let client = connection.session.client();
    if let Some((noted, stands)) =
        state.acknowledged.zip(slot.confirmed_flush_lsn).filter(|(noted, stands)| stands < noted)
    {
        // Triggers that were made anew know nothing of that: what they did not note is a gap.
        let began = reader::read(client).await?.map(|reader| reader::text_of(&reader.snapshot));
        let is_known = state.last_batch.as_ref().is_some_and(|last| Some(&last.began) == began.as_ref());
        if is_known || state.last_batch.is_none() {
            return Ok(Some(format!("its notes were read up to {noted}, and it says {stands}")));
        }
    }
    let Some(last) = state.last_batch.as_ref().and_then(|last| Seen::parse(&last.snapshot)) else {
        return Ok(None);
    };
    let seen = catalog::seen(client).await?;
    let has_gone_back = !seen.includes(&last);
    Ok(has_gone_back
        .then(|| format!("transactions up to {} have been seen, and it is at {}", last.xmax, seen.xmax)))
}

/// Whether the slot, which stands before where it was moved to, offers up to there what it offered when that was read.
pub(super) async fn is_as_it_was(
    config: &Config,
    connection: &mut Connection,
    source: &Production,
    slot: &Slot,
    state: &State,
    flush: Lsn,
) -> Result<bool> {
    if source.described().kind() == SourceKind::Triggers {
        return Ok(true);
    }
    let place = state.position();
    let kind = source.described().kind();
    let known = state.newest_commit.filter(|known| known.place == place && known.kind == kind);
    // Of what is still to be written nothing is known.
    let Some(known) = known.filter(|_| flush >= place) else { return Ok(false) };
    let commits = match source.commits(connection, place).await {
        Err(error) if Trouble::of(&error) == Trouble::Content => return Ok(false),
        commits => commits.map_err(|error| slot::explain_to(error, config, connection))?,
    };
    let stands = slot.confirmed_flush_lsn.unwrap_or_default();
    let newest = commits.iter().rfind(|commit| commit.end_lsn <= place);
    Ok(newest.map_or(known.commit.end_lsn <= stands, |newest| {
        let known = known.commit;
        (newest.end_lsn, newest.xid, newest.committed_at) == (known.end_lsn, known.xid, known.ts)
    }))
}
