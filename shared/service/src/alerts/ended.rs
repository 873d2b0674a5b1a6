//! Speaks for a daemon that cannot: the service manager runs this when the daemon has ended (`ExecStopPost=`). The alert is
//! in the daemon's journal; the next daemon says that it is over, once it has lasted.

use std::time::Duration;

use syncdata_formats::error::Result;
use syncdata_formats::time::Timestamp;
use tracing::warn;

use super::{AlertKind, Bad, Journal, Sink};
use crate::config::{Config, Program};
use crate::faults;

/// The unit's TimeoutStopSec= is longer.
const PATIENCE: Duration = Duration::from_secs(15);

/// `result` is what the service manager calls the end: `SERVICE_RESULT`. One alert for each such word until a daemon has
/// lasted again: who comes and goes all the time says so once.
pub async fn speak_for(program: Program, config: &Config, journal: &Journal, result: &str) -> Result<()> {
    if result == "success" || !config.enable_sync_monitoring {
        return Ok(());
    }
    let mut book = journal.read();
    if book.also(Bad::new(AlertKind::DaemonFailed, result, 1, 1), Timestamp::now()) {
        journal.write(&book)?;
        faults::hit("alerts.kept")?;
    }
    let telling = async {
        for sink in Sink::all(config) {
            while let Some((alert, event)) = book.due(sink.name()) {
                let (id, message) = (alert.id, alert.message(program, event));
                if let Err(error) = sink.tell(message).await {
                    warn!(sink = sink.name(), error = %error.with_hint(), "an alert was not taken, the daemon says it again");
                    break;
                }
                book.told(id, sink.name(), event);
                journal.write(&book)?;
            }
        }
        Ok(())
    };
    // What was not said by then the daemon says.
    tokio::time::timeout(PATIENCE, telling).await.unwrap_or(Ok(()))
}
