//! From the command `run` to its exit code: read the file, start, obey signals, stop.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use headgate_model::settings::Settings;
use headgate_stream::plugin::Registry;
use headgate_telemetry::log;

use crate::pid::PidFile;
use crate::preflight::load;
use crate::signals::{Request, Signals};
use crate::{assemble, confine, process_log, reload, report};

/// Threads of the control side.
const CONTROL_THREADS: usize = 2;

/// Runs the gateway until a signal ends it.
pub(crate) fn serve(config: PathBuf, registry: &Registry) -> ExitCode {
    let loaded = load(&config);
    if !loaded.problems.is_empty() {
        let color = io::stderr().is_terminal();
        let text = report::human(&loaded.problems, &loaded.source, color);
        let _ = io::stderr().write_all(text.as_bytes());
    }
    let Some(settings) = loaded.settings else { return ExitCode::FAILURE };
    match run(settings, registry) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "headgate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: Settings, registry: &Registry) -> anyhow::Result<()> {
    // Before the first thread: what is given up here is given up by all.
    let said = confine::confine(&settings)?;
    let log = process_log::start(&settings)?;
    said.log();
    let last_lines = log.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("starting the control threads")?;
    let result = runtime.block_on(until_stopped(settings, log, registry));
    runtime.shutdown_timeout(Duration::from_secs(1));
    last_lines.flush(Duration::from_secs(1));
    result
}

async fn until_stopped(
    settings: Settings,
    log: log::Handle,
    registry: &Registry,
) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("listening for signals")?;
    let file = settings.file.clone();
    let pid_file = settings.process.pid_file.clone();
    let mut gateway = assemble::start(settings, log, registry).await?;
    let _pid_file = PidFile::create(&pid_file)
        .inspect_err(|error| {
            let path = pid_file.display();
            tracing::warn!(%path, %error, "no pid file; `headgate stop` will not find this process");
        })
        .ok();
    gateway.announce_ready();
    loop {
        match signals.next().await {
            Request::Reload => reload::reload(&mut gateway, load(&file)).await,
            Request::ReopenLogs => gateway.reopen_logs(),
            Request::GracefulStop => {
                gateway.drain(&mut signals).await;
                break;
            }
            Request::Stop => break,
        }
    }
    gateway.stop().await;
    Ok(())
}
