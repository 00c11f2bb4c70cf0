//! The command line: what can be said, and who does it.

mod cluster;
mod config;
mod plugins;
mod process;
mod test;
mod upgrade;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use headgate_stream::plugin::Registry;

use crate::{console, demo};

/// L4 gateway that speaks the configuration language of Apache APISIX.
#[derive(Debug, Parser)]
#[command(name = "headgate", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway in the foreground; it logs to standard error
    Run(Config),
    /// Check the configuration and explain every problem
    Test {
        #[command(flatten)]
        config: Config,
        /// How problems are printed
        #[arg(long, value_enum, default_value_t = Format::Human)]
        format: Format,
    },
    /// List the plugins of this program
    Plugins,
    /// Print the version
    Version,
    /// Show a gateway at work: start one, create routes, send bytes through them
    Demo,
    /// End the running gateway at once
    Stop(Config),
    /// End the running gateway when its connections have finished
    Quit(Config),
    /// Make the running gateway read its configuration again, if that passes the test
    Reload(Config),
    /// Replace the running gateway by a new process; connections stay where they are until they end
    Upgrade {
        #[command(flatten)]
        config: Config,
        /// Program of the new process [default: the path that the running one was started with]
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
        /// Seconds that the new process has until it must serve
        #[arg(long, value_name = "SECONDS", default_value_t = crate::upgrade::progress::START_LIMIT.as_secs())]
        timeout: u64,
    },
    /// Move resources between stores and files, and compare them
    Config {
        #[command(subcommand)]
        action: config::Action,
    },
    /// Show the nodes that share the store of the running gateway
    Cluster {
        #[command(flatten)]
        config: Config,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Write the manual pages into a folder, for packages
    #[command(hide = true)]
    Manual {
        /// Where they go
        folder: PathBuf,
    },
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

#[derive(Debug, Args)]
struct Config {
    /// Configuration file
    #[arg(
        short = 'c',
        long = "config",
        value_name = "FILE",
        env = "HEADGATE_CONFIG",
        hide_env_values = true,
        default_value = "conf/config.yaml"
    )]
    file: PathBuf,
}

/// How `headgate test` prints problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people, with excerpts of the file
    Human,
    /// A JSON array
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Cli {
    /// Does what was asked for.
    pub(crate) fn run(self, registry: &Registry) -> ExitCode {
        match self.command {
            Command::Run(config) => crate::run::serve(config.file, registry),
            Command::Test { config, format } => test::run(&config.file, format, registry),
            Command::Plugins => {
                console::out(plugins::list(registry).trim_end());
                ExitCode::SUCCESS
            }
            Command::Version => {
                console::out(Self::command().render_version().trim_end());
                ExitCode::SUCCESS
            }
            Command::Demo => demo::run(),
            Command::Stop(config) => reported(process::stop(&config.file)),
            Command::Quit(config) => reported(process::quit(&config.file)),
            Command::Reload(config) => reported(process::reload(&config.file)),
            Command::Upgrade { config, binary, timeout } => {
                reported(upgrade::run(&config.file, binary, timeout))
            }
            Command::Config { action } => config::run(action, registry),
            Command::Cluster { config, json } => reported(cluster::show(&config.file, json)),
            Command::Manual { folder } => reported(manual(&folder)),
            Command::Completions { shell } => {
                complete(shell);
                ExitCode::SUCCESS
            }
        }
    }
}

fn reported(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::err(&format!("headgate: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn manual(folder: &std::path::Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    Ok(clap_mangen::generate_to(Cli::command(), folder)?)
}

fn complete(shell: Shell) {
    let shell = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "headgate", &mut script);
    console::out(String::from_utf8_lossy(&script).trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
    }

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_configuration_file_is_named_in_every_way() {
        for line in ["headgate run -c a/b.yaml", "headgate run --config a/b.yaml"] {
            let Ok(Command::Run(config)) = parse(line) else { panic!("{line}") };
            assert_eq!(config.file, PathBuf::from("a/b.yaml"));
        }
        for command in ["run", "test", "stop", "quit", "reload", "upgrade"] {
            assert!(parse(&format!("headgate {command} -c x")).is_ok(), "{command}");
            assert!(parse(&format!("headgate {command}")).is_ok(), "{command}");
            assert!(parse(&format!("headgate {command} x")).is_err(), "{command}");
        }
    }

    #[test]
    fn formats_and_shells_are_chosen() {
        let Ok(Command::Test { format, .. }) = parse("headgate test") else { panic!() };
        assert_eq!(format, Format::Human);
        let Ok(Command::Test { format, .. }) = parse("headgate test --format json") else {
            panic!()
        };
        assert_eq!(format, Format::Json);
        assert!(parse("headgate test --format xml").is_err());
        assert!(parse("headgate completions fish").is_ok());
        assert!(parse("headgate completions powershell").is_err());
    }

    #[test]
    fn what_is_unknown_is_named() {
        let error = parse("headgate conquer").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("conquer"));
        let version = parse("headgate -V").unwrap_err();
        assert_eq!(version.exit_code(), 0);
        assert_eq!(version.to_string().trim(), Cli::command().render_version().trim());
    }
}
