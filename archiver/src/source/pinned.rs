//! How every session with the source is: its name, and the settings that do not depend on the role.

use syncdata_service::postgres::PinnedSettings;

/// What administrators see in `pg_stat_activity`.
pub(crate) const APPLICATION_NAME: &str = "syncdata-archiver";

/// What decides about the text of values, and that nothing of ours writes.
pub(crate) fn pinned() -> PinnedSettings {
    PinnedSettings::new()
        .with("default_transaction_read_only", "on")
        // If we are killed, a call of the slot must not go on for nobody and keep the slot from the next run.
        .with("client_connection_check_interval", "1s")
}
