//! The file (or terminal, or pipe) behind a log, and opening it again after rotation.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// Opens a log for appending, creating its directory when needed.
///
/// `/dev/stdout` and `/dev/stderr` mean the descriptors the process was started with: under a
/// service manager these are often sockets, which cannot be opened by name.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    match path.to_str() {
        Some("/dev/stdout") => return Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?)),
        Some("/dev/stderr") => return Ok(File::from(io::stderr().as_fd().try_clone_to_owned()?)),
        _ => {}
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    OpenOptions::new().append(true).create(true).open(path)
}

/// What to write to a new file when `rest` of `buffer` was left: from the start of the line that
/// was cut, so that the new file begins with a whole line.
pub(crate) fn from_line_start<'a>(buffer: &'a [u8], rest: &[u8]) -> &'a [u8] {
    let done = buffer.get(..buffer.len() - rest.len()).unwrap_or_default();
    let start = done.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    buffer.get(start..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_line_is_repeated_whole() {
        let buffer = b"one\ntwo\nthree\n";
        assert_eq!(from_line_start(buffer, b"ree\n"), b"three\n");
        assert_eq!(from_line_start(buffer, b"two\nthree\n"), b"two\nthree\n");
        assert_eq!(from_line_start(buffer, buffer), buffer);
    }
}
