//! The directory and the file: rights, lock, creation that a crash cannot leave half done.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, StorageError};

use super::tables;
use crate::StoreError;

/// Memory redb may use for pages. Readers are served from the in-memory copy, not from here.
const CACHE: usize = 8 * 1024 * 1024;

/// Creates the directory when needed (rights 0700) and locks it for this process.
///
/// The lock is on the directory, not on the file, so that it also covers creating the file. It
/// ends with the process, however that ends.
pub(crate) fn open_directory(dir: &Path) -> Result<File, StoreError> {
    let failed = |error: io::Error| {
        StoreError::Unavailable(format!("cannot open store directory {}: {error}", dir.display()))
    };
    if !dir.is_dir() {
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(error));
            }
            _ => sync_parent(dir).map_err(failed)?,
        }
    }
    let directory = File::open(dir).map_err(failed)?;
    match directory.try_lock() {
        Err(TryLockError::WouldBlock) => Err(in_use(dir)),
        // Some network file systems cannot lock directories; redb still locks the file.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(directory),
    }
}

/// Opens the file, creating it when it does not exist.
pub(super) fn open_database(path: &Path) -> Result<Database, StoreError> {
    if !path.exists() {
        create(path)?;
    }
    let file = OpenOptions::new().read(true).write(true).open(path);
    let file = file.map_err(|error| unavailable(path, &error))?;
    open_file(path, file)
}

/// Builds the file under another name first: redb refuses a file whose creation was interrupted.
fn create(path: &Path) -> Result<(), StoreError> {
    let failed = |error: io::Error| unavailable(path, &error);
    let draft = path.with_extension("redb.new");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(&draft).map_err(failed)?;
    let database = open_file(&draft, file)?;
    tables::initialize(&database)?;
    database.close().map_err(|error| unavailable(path, &error))?;
    fs::rename(&draft, path).map_err(failed)?;
    sync_parent(path).map_err(failed)
}

fn open_file(path: &Path, file: File) -> Result<Database, StoreError> {
    let backend = FileBackend::new(file).map_err(|error| unavailable(path, &error))?;
    let mut builder = Builder::new();
    // Reading the whole (small) file once turns damage into an error here instead of later.
    builder.set_cache_size(CACHE).set_check_integrity_on_open(true);
    builder.create_with_backend(backend).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => in_use(path),
        DatabaseError::UpgradeRequired(version) => {
            corrupt(path, &format!("written in file format {version} of redb"))
        }
        DatabaseError::Storage(StorageError::Corrupted(reason)) => corrupt(path, &reason),
        DatabaseError::Storage(StorageError::Io(error))
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            corrupt(path, &error)
        }
        error => unavailable(path, &error),
    })
}

pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

fn in_use(path: &Path) -> StoreError {
    StoreError::Unavailable(format!("store {} is in use by another process", path.display()))
}

fn unavailable(path: &Path, error: &dyn std::fmt::Display) -> StoreError {
    StoreError::Unavailable(format!("cannot open store {}: {error}", path.display()))
}

pub(super) fn corrupt(path: &Path, reason: &dyn std::fmt::Display) -> StoreError {
    StoreError::Corrupt(format!("store {} is damaged: {reason}", path.display()))
}
