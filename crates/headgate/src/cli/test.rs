//! `headgate test`.

use std::path::Path;
use std::process::ExitCode;

use crate::report;

use super::Format;
use crate::console;

/// Checks the file and prints all its problems.
pub(super) fn run(file: &Path, format: Format) -> ExitCode {
    let loaded = crate::load(file);
    let passed = loaded.settings.is_some();
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
