//! `headgate config`: resources out of a store, into one, compared, and checked.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use headgate_stream::plugin::Registry;

use super::Config;
use crate::console;
use crate::transfer::{self, Difference, Place};

/// What to do. Wherever a place is asked for, `store` is the store of the configuration, `-` is
/// standard input, and everything else is a file: apisix.yaml, apisix.json, or what
/// `etcdctl get --prefix /apisix -w json` printed.
#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Write all resources as apisix.yaml
    Export {
        #[command(flatten)]
        config: Config,
        /// Where they come from
        #[arg(long, default_value = "store", value_name = "PLACE")]
        from: String,
        /// File to write; standard output without it
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Write JSON instead of YAML
        #[arg(long)]
        json: bool,
    },
    /// Write the resources of a file into the store
    Import {
        #[command(flatten)]
        config: Config,
        /// Where they come from
        #[arg(value_name = "PLACE")]
        from: String,
        /// Also delete what the file does not have
        #[arg(long)]
        replace: bool,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Compare two places; exits with 1 when they differ
    Diff {
        #[command(flatten)]
        config: Config,
        /// One place
        #[arg(value_name = "PLACE")]
        from: String,
        /// The other one
        #[arg(value_name = "PLACE", default_value = "store")]
        to: String,
    },
    /// Check the resources of a place
    Validate {
        #[command(flatten)]
        config: Config,
        /// Where they are
        #[arg(value_name = "PLACE", default_value = "store")]
        from: String,
    },
}

pub(super) fn run(action: Action, registry: &Registry) -> ExitCode {
    match try_run(action, registry) {
        Ok(code) => code,
        Err(error) => {
            console::err(&format!("headgate: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn try_run(action: Action, registry: &Registry) -> anyhow::Result<ExitCode> {
    match action {
        Action::Export { config, from, output, json } => {
            let work = transfer::Work::new(&config.file, registry)?;
            let items = work.read(&Place::new(&from))?;
            let text = if json { transfer::to_json(&items) } else { transfer::to_yaml(&items) };
            match output {
                Some(path) => transfer::write_file(&path, &text)?,
                None => drop(std::io::stdout().write_all(text.as_bytes())),
            }
            console::err(&format!("exported {} resources", items.len()));
            Ok(ExitCode::SUCCESS)
        }
        Action::Import { config, from, replace, dry_run } => {
            let work = transfer::Work::new(&config.file, registry)?;
            let items = work.read(&Place::new(&from))?;
            let problems = work.check(&items);
            if !problems.is_empty() {
                problems.iter().for_each(|problem| console::err(problem));
                anyhow::bail!("nothing was written, because {} of it is invalid", problems.len());
            }
            let done = work.import(&items, replace, dry_run)?;
            done.iter().for_each(|difference| console::out(&difference.to_string()));
            let verb = if dry_run { "would change" } else { "changed" };
            console::err(&format!("{verb} {} of {} resources", done.len(), items.len()));
            Ok(ExitCode::SUCCESS)
        }
        Action::Diff { config, from, to } => {
            let work = transfer::Work::new(&config.file, registry)?;
            let (from, to) = (work.read(&Place::new(&from))?, work.read(&Place::new(&to))?);
            let differences = Difference::between(&from, &to);
            differences.iter().for_each(|difference| console::out(&difference.to_string()));
            Ok(if differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Action::Validate { config, from } => {
            let work = transfer::Work::new(&config.file, registry)?;
            let items = work.read(&Place::new(&from))?;
            let problems = work.check(&items);
            problems.iter().for_each(|problem| console::err(problem));
            if problems.is_empty() {
                console::out(&format!("{} resources are valid", items.len()));
                return Ok(ExitCode::SUCCESS);
            }
            Ok(ExitCode::FAILURE)
        }
    }
}
