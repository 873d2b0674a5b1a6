//! Everything that could be wrong, looked at without changing anything: what `check` prints.

mod archive;
mod server;
mod tables;

use syncdata_formats::error::Error;
use syncdata_service::config::Config;
use syncdata_service::finding::Finding;

use self::archive::Newest;
use crate::target::postgres::local::Local;

pub(crate) async fn all(config: &Config) -> Vec<Finding> {
    // Settings that cannot be used end the command before it gets here.
    let mut findings = vec![Finding::ok("settings", "understood; `config` shows them and their origins")];
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
    findings
}

async fn of_server(config: &Config, local: &Local, newest: &Newest, findings: &mut Vec<Finding>) {
    if let Err(error) = server::look(config, local, newest, findings).await {
        findings.push(failed("local server", &error));
    }
    if let Err(error) = tables::look(local, newest, findings).await {
        findings.push(failed("tables", &error));
    }
}

fn failed(subject: &str, error: &Error) -> Finding {
    Finding::of_error(subject, error)
}
