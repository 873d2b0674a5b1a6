//! Everything that could be wrong, looked at without changing anything: what `check` prints.

mod archive;
mod local_shape;
mod local_writes;
mod server;
mod states;
mod tables;

use syncdata_formats::error::Error;
use syncdata_service::checks;
use syncdata_service::config::Config;
use syncdata_service::finding::Finding;

use self::archive::Newest;
use super::client;
use crate::target::postgres::local::Local;

pub(crate) async fn all(config: &Config) -> Vec<Finding> {
    // Settings that cannot be used end the command before it gets here.
    let mut findings = vec![understood()];
    let newest = match archive::look(config, &mut findings).await {
        Ok(newest) => newest,
        Err(error) => {
            findings.push(failed("archive", &error));
            Newest::default()
        }
    };
    match Local::connect(config).await {
        Ok(local) => of_server(config, &local, &newest, &mut findings).await,
        Err(error) => findings.push(failed("local server", &error)),
    }
    match client::settings(config).await {
        Ok(Some(running)) => {
            findings.push(checks::daemon_settings(config, &running, "systemctl reload syncdata-applier"));
        }
        Ok(None) => {}
        Err(error) => findings.push(failed("daemon", &error)),
    }
    findings
}

fn understood() -> Finding {
    Finding::ok("settings", "understood; `config` shows them and their origins")
}

/// Where no server is next to the program.
#[cfg(feature = "duckdb")]
pub(super) async fn of_archive(config: &Config) -> Vec<Finding> {
    let mut findings = vec![understood()];
    if let Err(error) = archive::look(config, &mut findings).await {
        findings.push(failed("archive", &error));
    }
    findings
}

/// How tables of the whitelist are.
#[cfg(feature = "duckdb")]
pub(super) fn of_tables(tables: &[crate::operations::status::TableStatus]) -> Vec<Finding> {
    tables.iter().flat_map(states::of_table).collect()
}

async fn of_server(config: &Config, local: &Local, newest: &Newest, findings: &mut Vec<Finding>) {
    if let Err(error) = server::look(config, local, newest, findings).await {
        findings.push(failed("local server", &error));
    }
    if let Err(error) = tables::look(local, newest, findings).await {
        findings.push(failed("tables", &error));
    }
    if let Err(error) = local_writes::look(config, local, findings).await {
        findings.push(failed("local writes", &error));
    }
}

pub(super) fn failed(subject: &str, error: &Error) -> Finding {
    let finding = Finding::of_error(subject, error);
    match finding.remedy {
        Some(_) => finding,
        None => finding.remedy("mend what it says, or what the other lines say, then check again"),
    }
}
