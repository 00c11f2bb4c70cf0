//! The text of `docs/reference/config.md`, made from the table of keys.

use super::{Key, Use, all};

/// The page: every key headgate reads, then the older spellings, then keys without effect.
#[must_use]
pub fn page() -> String {
    let mut page = String::from(
        "# config.yaml\n\n\
         Every key headgate reads. The page is generated from the table in `crates/model/src/settings/keys/`\n\
         (`HEADGATE_BLESS=1 cargo nextest run -p headgate-model`); `conf/config.example.yaml` shows the same keys\n\
         in use.\n\n\
         Relative paths start from the *home* directory: the parent of the folder `conf` that holds the file, or the\n\
         folder of the file when it has another name. Strings and keys may contain `${{VAR}}` and\n\
         `${{VAR:=default}}`; a value that is made of variables becomes a number or boolean when it looks like one.\n\
         `~` deletes a default. A section that is empty or `~` keeps its defaults (in the reference it loses them).\n\
         Times are written as `500ms`, `30s`, `5m`, `12h`, `30d`; a bare number is seconds.\n\n\
         Environment: `APISIX_WORKER_PROCESSES` beats `nginx_config.worker_processes`;\n\
         `APISIX_DEPLOYMENT_ETCD_HOST` counts as an etcd in the file.\n",
    );
    let mut top = "";
    for key in all().filter(|key| key.used == Use::Read) {
        let section = key.path.split('.').next().unwrap_or_default();
        if section != top {
            top = section;
            page.push_str(&format!(
                "\n## {section}\n\n| key | type | default | meaning |\n|---|---|---|---|\n"
            ));
        }
        page.push_str(&row(key));
    }
    page.push_str("\n## Older spellings\n\nUnderstood, with a warning that shows the new form.\n\n| older | now |\n|---|---|\n");
    for key in all() {
        if let Use::Moved(to) = key.used {
            page.push_str(&format!("| `{}` | `{to}` |\n", key.path));
        }
    }
    page.push_str("\n## Known, without effect\n\nAccepted, with one warning for each group.\n\n| key | reason |\n|---|---|\n");
    for key in all() {
        if let Use::Idle(reason) = key.used {
            page.push_str(&format!("| `{}` | {reason} |\n", key.path));
        }
    }
    page
}

fn row(key: &Key) -> String {
    let default = match key.default {
        "" => "-".to_owned(),
        json => format!("`{json}`"),
    };
    let doc = key.doc.replace('|', "\\|");
    format!("| `{}` | {} | {default} | {doc} |\n", key.path, key.shape.name())
}

/// Compares a generated page with the file; rewrites it when `HEADGATE_BLESS` is set.
#[cfg(test)]
pub(in crate::settings) fn check_page(name: &str, text: &str) {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference").join(name);
    if std::env::var_os("HEADGATE_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == text, "{} is stale; run with HEADGATE_BLESS=1", path.display());
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_is_fresh() {
        super::check_page("config.md", &super::page());
    }
}
