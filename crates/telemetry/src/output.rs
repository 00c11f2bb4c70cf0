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
