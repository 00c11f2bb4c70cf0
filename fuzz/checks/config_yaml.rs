//! config.yaml, of any content: settings or problems that point into the text.

use std::path::Path;

use headgate_model::settings::Settings;

/// All of `bytes` is the file.
pub(crate) fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let env = |name: &str| (name == "SET").then(|| "9100".to_owned());
    let loaded = Settings::parse(text, Path::new("/srv/conf/config.yaml"), &env);
    assert!(loaded.settings.is_some() || !loaded.problems.is_empty(), "refused without a reason");
    for problem in &loaded.problems {
        assert!(!problem.to_string().is_empty());
    }
}
