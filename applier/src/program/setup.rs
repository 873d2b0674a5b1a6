//! `setup`, and what comes after it.

use std::collections::BTreeSet;
use std::process::ExitCode;

use serde_json::json;
use syncdata_formats::error::Result;
use syncdata_service::config::{Config, LocalWrites};
use syncdata_service::confirm::confirm;
use syncdata_service::finding::{Finding, Level, worst};
use syncdata_service::output::Output;

use super::arguments::SetupArguments;
use super::check;
use crate::operations::setup::{SetUp, setup};
use crate::operations::uninstall;

pub(super) async fn set_up(config: &Config, arguments: &SetupArguments, output: Output) -> Result<ExitCode> {
    let wanted = arguments.wanted();
    let done = setup(config, &wanted, |words| output.words(words)).await?;
    let mut findings = done.findings.clone();
    // What the database lacks is said by what was to make it; the rest of the world is looked at when that is done.
    if worst(&findings) != Level::Fail {
        findings.extend(check::all(config).await);
    }
    let is_done = worst(&findings) != Level::Fail;
    let next = next(config, &done, arguments, &findings);
    if output.is_json() {
        output.document(&json!({"healthy": is_done, "findings": findings, "next": next}), "");
        return Ok(ExitCode::from(u8::from(!is_done)));
    }
    // Words for the person; the statements alone on stdout, to be piped into psql.
    for finding in &findings {
        output.words(&finding.to_string());
    }
    let mut printed = BTreeSet::new();
    for statement in findings.iter().flat_map(|finding| &finding.statements) {
        if printed.insert(statement) {
            output.line(statement);
        }
    }
    output.words(&format!("next: {}", next.join("\n      ")));
    Ok(ExitCode::from(u8::from(!is_done)))
}

/// 0: nothing is left. 1: the role stays, or nobody wanted it.
pub(super) async fn uninstall(
    config: &Config,
    yes: bool,
    login: Option<&str>,
    output: Output,
) -> Result<ExitCode> {
    let acting = login.map_or_else(|| Ok(config.clone()), |login| config.with_login(login))?;
    let is_sure = |question: &str| {
        output.words(question);
        Ok(yes || confirm("uninstall", "Go on")?)
    };
    match uninstall::uninstall(&acting, &config.postgres()?.user, is_sure).await? {
        Some(findings) => Ok(output.removal(&findings)),
        None => {
            output.words("nothing was changed");
            output.document(&json!({"removed": false, "findings": []}), "");
            Ok(ExitCode::from(1))
        }
    }
}

/// What to do, in this order.
fn next(config: &Config, done: &SetUp, arguments: &SetupArguments, findings: &[Finding]) -> Vec<String> {
    let failed = findings.iter().filter(|finding| finding.level == Level::Fail);
    let lacks_statements = failed.clone().any(|finding| !finding.statements.is_empty());
    if lacks_statements {
        return vec!["run the statements above as superuser (psql), then this command again".to_owned()];
    }
    if failed.count() > 0 {
        return vec!["mend what failed, then run this command again".to_owned()];
    }
    let mut next = Vec::new();
    if !done.missing.is_empty() && !arguments.create_tables {
        let missing: Vec<String> = done.missing.iter().map(|table| table.shell_word()).collect();
        next.push(format!(
            "syncdata-applier setup --create-tables  # or by hand, as they are at the source: {}",
            missing.join(" ")
        ));
    }
    let here: Vec<String> = done.here.iter().map(|table| table.shell_word()).collect();
    match here.as_slice() {
        [] if done.missing.is_empty() => {
            next.push(
                "make the tables as they are at the source, then: syncdata-applier add-tables NAME…"
                    .to_owned(),
            );
        }
        [] => {}
        here => next.push(format!("syncdata-applier add-tables {}", here.join(" "))),
    }
    if config.local_writes == LocalWrites::Allow {
        let again =
            if arguments.create_role { "; this command, run again, grants what it takes" } else { "" };
        next.push(format!(
            "local_writes = \"block\" in the settings ({}): nobody but syncdata writes the copy then, not even by mistake{again}",
            config.settings_file()
        ));
    }
    next.push("systemctl enable --now syncdata-applier  # or: syncdata-applier start".to_owned());
    next
}
