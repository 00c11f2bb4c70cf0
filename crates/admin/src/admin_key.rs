//! The admin key that is made up when `config.yaml` leaves it empty.
//!
//! The reference writes such a key back into `config.yaml`. Here it goes into a file of its own
//! beside the store, so that no program ever rewrites a file that people write.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::rand;
use headgate_model::settings::AdminSettings;

const FILE: &str = "admin.key";
const LENGTH: usize = 32;
const LETTERS: &[u8; 52] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A key that was made up, now or at an earlier start.
#[derive(Clone, PartialEq, Eq)]
pub struct GeneratedKey {
    /// The secret.
    pub key: String,
    /// The file that holds it.
    pub path: PathBuf,
    /// Made just now: the program shows it this one time.
    pub fresh: bool,
}

impl std::fmt::Debug for GeneratedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GeneratedKey")
            .field("key", &"***")
            .field("path", &self.path)
            .field("fresh", &self.fresh)
            .finish()
    }
}

/// Fills empty keys from `<dir>/admin.key`, which is made when it does not exist. Empty keys of
/// role viewer stay empty and match nothing. `None`: no key was empty.
///
/// # Errors
/// The file cannot be read or written, or does not hold a key.
pub fn ensure_admin_key(
    settings: &mut AdminSettings,
    dir: &Path,
) -> io::Result<Option<GeneratedKey>> {
    let mut empty: Vec<_> = settings
        .keys
        .iter_mut()
        .flatten()
        .filter(|key| key.key.is_empty() && !key.viewer)
        .collect();
    if empty.is_empty() {
        return Ok(None);
    }
    let path = dir.join(FILE);
    let generated = match read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(dir, path)?,
        found => GeneratedKey { key: found?, path, fresh: false },
    };
    for key in &mut empty {
        key.key.clone_from(&generated.key);
    }
    Ok(Some(generated))
}

fn read(path: &Path) -> io::Result<String> {
    let text = fs::read_to_string(path)?;
    if fs::metadata(path)?.permissions().mode() & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "others may read the admin key; set mode 0600");
    }
    let key = text.trim();
    if key.len() < LENGTH || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!("{} does not hold an admin key", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    Ok(key.to_owned())
}

/// Writes a new key completely before the file gets its name. Whoever comes first wins.
fn create(dir: &Path, path: PathBuf) -> io::Result<GeneratedKey> {
    fs::create_dir_all(dir)?;
    let key = letters()?;
    let draft = dir.join(format!(".{FILE}.{}", letters()?));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let linked = file
        .write_all(key.as_bytes())
        .and_then(|()| file.write_all(b"\n"))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::hard_link(&draft, &path));
    fs::remove_file(&draft)?;
    match linked {
        Ok(()) => {
            File::open(dir)?.sync_all()?;
            Ok(GeneratedKey { key, path, fresh: true })
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Ok(GeneratedKey { key: read(&path)?, path, fresh: false })
        }
        Err(error) => Err(error),
    }
}

fn letters() -> io::Result<String> {
    let mut text = String::with_capacity(LENGTH);
    let mut bytes = [0; 64];
    while text.len() < LENGTH {
        rand::fill(&mut bytes).map_err(|_| io::Error::other("no random bytes"))?;
        // 208 is four times 52: every letter is equally likely.
        let even = bytes.iter().filter(|byte| **byte < 208);
        let picked = even.filter_map(|byte| LETTERS.get(usize::from(*byte) % LETTERS.len()));
        text.extend(picked.map(|letter| char::from(*letter)).take(LENGTH - text.len()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use headgate_model::settings::AdminKey;

    use super::*;

    fn settings(keys: &[(&str, bool)]) -> AdminSettings {
        let key = |(key, viewer): &(&str, bool)| AdminKey {
            name: "x".to_owned(),
            key: (*key).to_owned(),
            viewer: *viewer,
        };
        AdminSettings {
            listen: "127.0.0.1:0".parse().unwrap(),
            tls: None,
            keys: Some(keys.iter().map(key).collect()),
            allow: None,
            cors: true,
            v3: true,
            server_tokens: true,
            warnings: true,
        }
    }

    fn filled(settings: &AdminSettings) -> Vec<&str> {
        settings.keys.iter().flatten().map(|key| key.key.as_str()).collect()
    }

    #[test]
    fn a_key_is_made_once() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("data");
        let mut first = settings(&[("", false), ("given", false), ("", true)]);
        let made = ensure_admin_key(&mut first, &dir).unwrap().unwrap();
        assert!(made.fresh);
        assert_eq!(made.key.len(), 32);
        assert!(made.key.bytes().all(|byte| byte.is_ascii_alphabetic()));
        assert_eq!(filled(&first), [made.key.as_str(), "given", ""]);
        assert_eq!(fs::metadata(&made.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);

        let mut second = settings(&[("", false)]);
        let again = ensure_admin_key(&mut second, &dir).unwrap().unwrap();
        assert_eq!(again, GeneratedKey { fresh: false, ..made.clone() });
        assert!(!format!("{again:?}").contains(&made.key));
    }

    #[test]
    fn nothing_is_made_without_need() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(ensure_admin_key(&mut settings(&[("a", false)]), home.path()).unwrap(), None);
        let mut none = AdminSettings { keys: None, ..settings(&[]) };
        assert_eq!(ensure_admin_key(&mut none, home.path()).unwrap(), None);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join(FILE), "short").unwrap();
        let error = ensure_admin_key(&mut settings(&[("", false)]), home.path()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
