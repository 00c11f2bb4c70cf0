//! Reading config.yaml, with the checks that need more than the file: is the access-log format
//! made of known variables, do the certificates of the Admin API exist and fit together?

use std::path::Path;

use headgate_model::settings::{Loaded, Settings, StoreSettings};
use headgate_model::yaml::Document;
use headgate_model::{Problem, Severity, standalone};
use headgate_stream::plugin::Registry;

use crate::access_log;
use crate::catalog::Catalog;

/// Reads a configuration file with the environment of this process and reports everything that
/// would keep it from being used.
#[must_use]
pub fn load(path: &Path) -> Loaded {
    let mut loaded = Settings::load(path, &|name| std::env::var(name).ok());
    let Some(settings) = &loaded.settings else { return loaded };
    let problems: Vec<_> = [log_format(settings), admin_tls(settings)]
        .into_iter()
        .flatten()
        .map(|(problem, pointer)| locate(problem, pointer, &loaded))
        .collect();
    if problems.iter().any(|problem| problem.severity == Severity::Error) {
        loaded.settings = None;
    }
    loaded.problems.splice(0..0, problems);
    loaded
}

/// Checks the file with resources, of a standalone data plane. What is found there does not keep the
/// gateway from starting, so that [`load`] leaves it out.
#[must_use]
pub(crate) fn resources(settings: &Settings, registry: &Registry) -> Vec<Problem> {
    let StoreSettings::File(file) = &settings.store else { return Vec::new() };
    let mut problems = match std::fs::read_to_string(&file.path) {
        Err(error) => {
            let message = format!("failed to read local file {}: {error}", file.path.display());
            vec![
                Problem::error("standalone/file", "", message)
                    .help("write the file; the gateway serves nothing without it"),
            ]
        }
        Ok(text) => {
            let env = |name: &str| std::env::var(name).ok();
            match standalone::parse(&text, &file.path, file.format, &env) {
                Err(problem) => vec![*problem],
                Ok(mut found) => {
                    match Catalog::new(settings, registry) {
                        Ok(catalog) => {
                            let checker = catalog.checker(found.plugins.as_ref());
                            found.check(&checker, &mut |_, _| {});
                        }
                        Err(error) => {
                            let message = format!("{error:#}");
                            found.problems.push(Problem::error("encryption/keyring", "", message));
                        }
                    }
                    found.problems
                }
            }
        }
    };
    for place in problems.iter_mut().filter_map(|problem| problem.place.as_mut()) {
        // Positions of another file than the one that is excerpted.
        place.span = usize::MAX..usize::MAX;
    }
    for related in problems.iter_mut().flat_map(|problem| &mut problem.related) {
        related.place.span = usize::MAX..usize::MAX;
    }
    problems
}

type Found = Option<(Problem, &'static str)>;

fn log_format(settings: &Settings) -> Found {
    let error = access_log::format(settings.stream.as_ref()?).err()?;
    let problem = Problem::error(
        "access-log/format",
        "nginx_config.stream.access_log_format",
        format!("invalid access_log_format: {}", error.root_cause()),
    );
    let help = "docs/reference/variables.md lists all variables; write a literal $ nowhere";
    Some((problem.help(help), "/nginx_config/stream/access_log_format"))
}

fn admin_tls(settings: &Settings) -> Found {
    let files = settings.admin.as_ref()?.tls.as_ref()?;
    let error = headgate_admin::server::tls::acceptor(files).err()?;
    let problem = Problem::error(
        "admin/certificate",
        "deployment.admin.admin_api_mtls",
        format!("the Admin API cannot serve HTTPS: {error}"),
    );
    let help = "name readable PEM files: a certificate chain, its key, and the CA of clients";
    Some((problem.help(help), "/deployment/admin/admin_api_mtls"))
}

/// The source hides secrets, but everything in it stands where it stands in the file.
fn locate(problem: Problem, pointer: &str, loaded: &Loaded) -> Problem {
    let Some(settings) = &loaded.settings else { return problem };
    let document = Document::parse(&loaded.source, &settings.file).ok();
    problem.at(document.and_then(|document| document.place(pointer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_the_program_can_check_has_a_place_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        let text = "apisix:\n  stream_proxy: {tcp: [9100]}\nnginx_config:\n  stream:\n    \
                    enable_access_log: true\n    access_log_format: '$request_uri'\ndeployment:\n  \
                    admin:\n    https_admin: true\n    admin_api_mtls:\n      \
                    admin_ssl_cert: /nowhere.crt\n      admin_ssl_cert_key: /nowhere.key\n";
        std::fs::write(&path, text).unwrap();
        let loaded = load(&path);
        assert!(loaded.settings.is_none());
        let found: Vec<_> = loaded
            .problems
            .iter()
            .map(|problem| (problem.code, problem.place.as_ref().map(|place| place.line)))
            .collect();
        assert_eq!(found, [("access-log/format", Some(6)), ("admin/certificate", Some(10))]);
    }
}
