//! `as-of`: tables as they were at a moment.

use serde_json::json;
use syncdata_formats::error::Result;
use syncdata_service::config::Config;

use super::Answer;
use crate::history::{self, AsOf};

pub async fn as_of(config: &Config, order: &AsOf) -> Result<Answer> {
    let past = history::as_of(config, order).await?;
    let exit_code = u8::from(!past.is_clean());
    Ok(Answer { exit_code, ..Answer::done(past.text(), json!(past)) })
}
