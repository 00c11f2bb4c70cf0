//! What commands print. A reader that has gone away (`headgate test | head -1`) is no error.

use std::io::{IsTerminal, Write as _};

/// Writes to standard output.
pub(crate) fn out(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Writes to standard error.
pub(crate) fn err(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Whether `stream` is a terminal that shows colour, and nobody objects (`NO_COLOR`).
pub(crate) fn shows_color(stream: &impl IsTerminal) -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    stream.is_terminal() && !is_set("NO_COLOR") && !is_dumb
}
