//! The command line.

use std::path::PathBuf;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use syncdata_archive::verify;
use syncdata_formats::lsn::Lsn;
use syncdata_service::config::{Files, Source};

/// Archives the changes of a production PostgreSQL on a backup host.
#[derive(Debug, Parser)]
#[command(name = "syncdata-archiver", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// May stand before or after the command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The settings file (instead of DATA_SYNC_CONFIG, ~/.config/syncdata/archiver.toml, /etc/syncdata/archiver.toml)
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A file of environment variables, NAME=value a line
    #[arg(long, global = true, value_name = "FILE")]
    pub env_file: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long, global = true)]
    pub json: bool,
    /// Say more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Log as JSON, one object a line
    #[arg(long, global = true)]
    pub log_json: bool,
}

impl Global {
    pub(crate) fn files(&self) -> Files {
        Files { config: self.config.clone(), env_file: self.env_file.clone() }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check the source and create what is missing; print what a DBA has to run
    Setup(Setup),
    /// Archive: as a daemon, or one poll
    Run(Run),
    /// Copy tables as they are at one moment into the archive, while production works
    Snapshot(SnapshotArguments),
    /// Digest tables as they are at one place of the stream, so that copies can be compared with them
    Proof(ProofArguments),
    /// Remove from the archive what is older than keep_days and needed by nobody
    Prune {
        /// Print what would be removed, and remove nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// What the archiver does, how far it is, and what is wrong
    Status,
    /// Look for everything that could be wrong; each line with its remedy
    Check {
        /// Also read all rows of captured tables, and count what wal2json before 2.6 cannot say
        #[arg(long)]
        deep: bool,
    },
    /// Prove that the archive, or manifests named by hand, are sound; changes nothing
    Verify(verify::Arguments),
    /// Drop the replication slot
    DropSlot {
        /// Even while changes wait in it: they are lost
        #[arg(long)]
        force: bool,
        /// The role syncdata_user too, with its grants: nothing of ours is left on the server
        #[arg(long)]
        all: bool,
        /// Do not ask
        #[arg(long, requires = "all")]
        yes: bool,
        /// Connect as this role, a DBA's, instead of pg_user, which cannot drop itself
        #[arg(long = "as", value_name = "ROLE", requires = "all")]
        login: Option<String>,
    },
    /// Declare changes as missing and go on after them
    DeclareGap(DeclareGapArguments),
    /// Make a key for signing manifests
    Keygen {
        /// The secret key's file; the public key goes beside it with the ending .pub
        #[arg(default_value = "syncdata.key")]
        file: PathBuf,
    },
    /// Says that the daemon has failed: for ExecStopPost= of its unit
    #[command(hide = true)]
    DaemonEnded,
    /// Settings that hold, and where they come from
    Config,
    /// Print a shell completion script
    Completions { shell: Shell },
    /// Print the manual page
    Man {
        /// Write the pages of all commands into this folder instead
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Setup {
    /// Create the replication slot
    #[arg(long)]
    pub create_slot: bool,
    /// With source = "triggers", create what notes which rows are touched
    #[arg(long, conflicts_with_all = ["create_slot", "create_user"])]
    pub create_triggers: bool,
    /// With source = "pgoutput", do without the event triggers that protect production
    #[arg(long)]
    pub accept_publication_rule: bool,
    /// Let a running archive go on with another output plugin: wal2json or pgoutput
    #[arg(long, value_name = "PLUGIN", value_parser = plugin, conflicts_with_all = ["create_slot", "create_user", "snapshot"])]
    pub switch_source: Option<Source>,
    /// Let the slot be synchronized to standbys (PostgreSQL 17 and newer)
    #[arg(long, requires = "create_slot")]
    pub failover: bool,
    /// Do not ask whether a slot is meant whose name is nearly another one's
    #[arg(long, requires = "create_slot")]
    pub yes: bool,
    /// Create the role syncdata_user
    #[arg(long)]
    pub create_user: bool,
    /// The role's password; else it is asked for, or made
    #[arg(long, value_name = "FILE", requires = "create_user")]
    pub password_file: Option<PathBuf>,
    /// Take a snapshot of the tables that need one: those that had rows when their capture began
    #[arg(long)]
    pub snapshot: bool,
    /// Tables and patterns, instead of the setting `tables`
    #[arg(long, value_name = "A,B", num_args = 1..)]
    pub tables: Vec<String>,
}

fn plugin(name: &str) -> Result<Source, String> {
    let all = [Source::Wal2json, Source::Pgoutput];
    all.into_iter().find(|source| source.as_str() == name).ok_or_else(|| "wal2json or pgoutput".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct DeclareGapArguments {
    /// Where the gap ends: the end of the commit that cannot be read, or later
    #[arg(long, value_name = "LSN")]
    pub upto: Lsn,
    /// Why, for everybody who asks later
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotArguments {
    /// Tables and patterns, instead of all that is captured
    #[arg(long, value_name = "A,B", num_args = 1..)]
    pub tables: Vec<String>,
    /// Read no more than so many bytes of rows in a second, such as 20MiB
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    pub rate: Option<ByteSize>,
    /// Send every part whole, whatever the archive has of earlier snapshots
    #[arg(long)]
    pub full: bool,
    /// Give up if transactions that are open now have not ended by then, such as 10min
    #[arg(long, value_name = "DURATION")]
    pub wait: Option<humantime::Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct ProofArguments {
    /// Tables and patterns, instead of all that is captured
    #[arg(long, value_name = "A,B", num_args = 1..)]
    pub tables: Vec<String>,
    /// Give up if transactions that are open now have not ended by then
    #[arg(long, value_name = "DURATION", default_value = "10min")]
    pub wait: humantime::Duration,
    /// Read no more than so many bytes of rows in a second, such as 20MiB
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    pub rate: Option<ByteSize>,
}

fn rate(text: &str) -> Result<ByteSize, String> {
    let rate = text.trim().parse::<ByteSize>().ok().filter(|rate| rate.as_u64() > 0);
    rate.ok_or_else(|| "a size above 0: 20MiB, or a number of bytes".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Tables and patterns, instead of the setting `tables`
    #[arg(long, value_name = "A,B", num_args = 1..)]
    pub tables: Vec<String>,
    /// One poll, then exit: 0 all shipped, 1 safe in the spool only or a gap, 2 nothing could be read
    #[arg(long)]
    pub once: bool,
}

impl Command {
    /// `--tables`, where the command has it in place of the setting. (`snapshot` has it beside the setting.)
    pub(crate) fn tables(&self) -> Option<String> {
        match self {
            Command::Setup(Setup { tables, .. }) | Command::Run(Run { tables, .. }) => one_list(tables),
            _ => None,
        }
    }

    /// The daemon is the service itself.
    pub(crate) fn works_in_the_spool(&self) -> bool {
        match self {
            Command::Run(run) => run.once,
            Command::Setup(setup) => setup.switch_source.is_some() || setup.snapshot,
            Command::Snapshot(_) | Command::Proof(_) | Command::Prune { .. } | Command::DeclareGap(_) => true,
            _ => false,
        }
    }
}

/// Lists, or words, or both: one list. `None`: it was not given.
pub(super) fn one_list(tables: &[String]) -> Option<String> {
    (!tables.is_empty()).then(|| tables.join(","))
}
