//! That `verify` looked at the whole archive, kept in our tables for `status`: the command may run as another user than the
//! daemon, and in another home.

use syncdata_archive::verify::LastVerify;
use syncdata_formats::error::Result;
use syncdata_service::config::Config;
use syncdata_service::postgres::ServerContext as _;

use crate::target::postgres::local::Local;
use crate::target::postgres::meta;

/// Nothing is made for it: without our tables there is nobody who asks.
pub async fn note(config: &Config, last: LastVerify) -> Result<()> {
    let local = Local::connect(config).await?;
    meta::check_current(&local.session, &local.meta).await?;
    let update = format!(
        "UPDATE {}.data_sync_checkpoint SET verified_at = $1::text::timestamptz, verify_problems = $2 \
         WHERE verified_at IS NULL OR verified_at <= $1::text::timestamptz",
        local.meta
    );
    let problems = i64::try_from(last.problems).unwrap_or(i64::MAX);
    let noted = local.session.client().execute(&update, &[&last.at.to_string(), &problems]).await;
    noted.context(|| "noting when the archive was verified".to_owned())?;
    Ok(())
}
