//! From the command `run` to its exit code: read the file, start, obey signals, stop.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use headgate_model::Severity;
use headgate_model::settings::Settings;
use headgate_stream::plugin::Registry;
use headgate_telemetry::log;

use crate::pid::PidFile;
use crate::preflight::load;
use crate::signals::{Request, Signals};
use crate::upgrade::{self, FirstWord, News, Outcome, Started, Succession};
use crate::{assemble, confine, process_log, reload, report, service_manager};

/// Threads of the control side.
const CONTROL_THREADS: usize = 2;

/// Runs the gateway until a signal ends it.
pub(crate) fn serve(config: PathBuf, registry: &Registry) -> ExitCode {
    let started = Started::now();
    let first_word = FirstWord::find();
    let loaded = load(&config);
    if !loaded.problems.is_empty() {
        let color = io::stderr().is_terminal();
        let text = report::human(&loaded.problems, &loaded.source, color);
        let _ = io::stderr().write_all(text.as_bytes());
    }
    let Some(settings) = loaded.settings else {
        if let Some(predecessor) = first_word {
            let errors = loaded.problems.iter().filter(|it| it.severity == Severity::Error);
            let errors: Vec<_> = errors.map(ToString::to_string).collect();
            predecessor.fail(&format!("its configuration has errors: {}", errors.join("; ")));
        }
        return ExitCode::FAILURE;
    };
    match run(settings, registry, &started, first_word) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "headgate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(
    settings: Settings,
    registry: &Registry,
    started: &Started,
    first_word: Option<FirstWord>,
) -> anyhow::Result<()> {
    let refused = |error: &anyhow::Error| {
        if let Some(predecessor) = &first_word {
            predecessor.fail(&format!("{error:#}"));
        }
    };
    // Before the first thread: what is given up here is given up by all.
    let said = confine::confine(&settings).inspect_err(refused)?;
    let log = process_log::start(&settings).inspect_err(refused)?;
    said.log();
    let last_lines = log.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("starting the control threads")?;
    let result = runtime.block_on(until_stopped(settings, log, registry, started, first_word));
    runtime.shutdown_timeout(Duration::from_secs(1));
    last_lines.flush(Duration::from_secs(1));
    result
}

async fn until_stopped(
    settings: Settings,
    log: log::Handle,
    registry: &Registry,
    started: &Started,
    first_word: Option<FirstWord>,
) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("listening for signals")?;
    let file = settings.file.clone();
    let path = settings.process.pid_file.clone();
    let mut succession = Succession::of(first_word).context("hearing the old process")?;
    let mut gateway = match assemble::start(settings, log, registry, &mut succession).await {
        Ok(gateway) => gateway,
        Err(error) => {
            succession.fails(&format!("{error:#}")).await;
            return Err(error);
        }
    };
    let mut pid_file = None;
    if succession.has_predecessor() {
        // The pid file is that of the old process, until it lets go.
        gateway.planes.is_ready.store(true, Ordering::Release);
        succession.serves().await;
    } else {
        pid_file = told(&path, PidFile::create(&path));
        gateway.announce_ready();
    }
    let mut link = None;
    loop {
        let request = tokio::select! {
            request = signals.next() => request,
            news = succession.news() => {
                if matches!(news, News::Commit) {
                    pid_file = told(&path, PidFile::succeed(&path));
                    gateway.announce_ready();
                    succession.committed().await;
                }
                gateway.take_news(news);
                continue;
            }
        };
        match request {
            Request::Reload => {
                service_manager::reloading();
                reload::reload(&mut gateway, load(&file)).await;
                service_manager::ready();
            }
            Request::ReopenLogs => gateway.reopen_logs(),
            Request::Upgrade => {
                let chain = &mut succession;
                match upgrade::run(&gateway, &mut signals, started, &mut pid_file, chain).await {
                    Outcome::Failed => {}
                    Outcome::Replaced(mut new) => {
                        gateway.is_replaced = true;
                        new.drain(&gateway, &mut signals, &mut succession).await;
                        link = Some(new);
                        break;
                    }
                    Outcome::Stopped(request) => {
                        if request == Request::GracefulStop {
                            gateway.drain(&mut signals).await;
                        }
                        break;
                    }
                }
            }
            Request::GracefulStop => {
                gateway.drain(&mut signals).await;
                break;
            }
            Request::Stop => break,
        }
    }
    let shared = Arc::clone(&gateway.shared);
    gateway.stop().await;
    if let Some(new) = link {
        new.tell_counts(&shared).await; // the last ones
    }
    Ok(())
}

/// The pid file; without one the process goes on and says so.
fn told(path: &Path, file: io::Result<PidFile>) -> Option<PidFile> {
    file.inspect_err(|error| {
        let path = path.display();
        tracing::warn!(%path, %error, "no pid file; `headgate stop` will not find this process");
    })
    .ok()
}
