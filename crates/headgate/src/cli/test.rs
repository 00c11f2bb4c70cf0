//! `headgate test`.

use std::path::Path;
use std::process::ExitCode;

use headgate_model::Severity;
use headgate_stream::plugin::Registry;

use super::Format;
use crate::preflight::resources;
use crate::{console, report};

/// Checks the file and prints all its problems.
pub(super) fn run(file: &Path, format: Format, registry: &Registry) -> ExitCode {
    let mut loaded = crate::load(file);
    let resources = loaded.settings.as_ref().map(|settings| resources(settings, registry));
    let resources = resources.unwrap_or_default();
    let is_broken = resources.iter().any(|problem| problem.severity == Severity::Error);
    let passed = loaded.settings.is_some() && !is_broken;
    loaded.problems.extend(resources);
    match format {
        Format::Json => console::out(&report::json(&loaded.problems, &loaded.source)),
        Format::Human => {
            print(&loaded);
            if passed {
                console::out("configuration test is successful");
            } else {
                console::err("configuration test failed");
            }
        }
    }
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints problems to standard error, for people.
pub(super) fn print(loaded: &headgate_model::settings::Loaded) {
    if !loaded.problems.is_empty() {
        let color = console::shows_color(&std::io::stderr());
        console::err(report::human(&loaded.problems, &loaded.source, color).trim_end());
    }
}
