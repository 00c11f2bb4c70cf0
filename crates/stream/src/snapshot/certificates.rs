//! Certificates by server name, as handshakes look them up (`spec/tls.md`, section 2).
//!
//! The rules are stricter than those of routes: a wildcard stands for exactly one label, and only
//! the most specific candidate counts.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use headgate_model::settings::SslSettings;
use headgate_model::{Entry, Problem, ResourceSet, resource::Ssl};
use headgate_net::tls::server::{ClientAuth, config, offering};
use headgate_net::tls::tickets::context;
use headgate_net::tls::{Policy, ServerConfig, TicketKeys};

use super::material::Material;

/// What a handshake needs to know of an ssl object.
pub struct Certificate {
    /// Id of the object.
    pub id: String,
    /// Its names as written, for the log.
    names: String,
    /// Whether clients have to show a certificate.
    pub demands_client: bool,
    /// Whether the object itself says which application protocols are offered.
    pub says_alpn: bool,
    /// The configuration, or why there is none.
    pub config: Result<Arc<ServerConfig>, String>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why no certificate is served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoCertificate {
    /// The client sent no name and none is assumed.
    #[error(
        "failed to find SNI: please check if the client requests via IP or uses an outdated \
         protocol. If you need to report an issue, provide a packet capture file of the TLS \
         handshake."
    )]
    NoSni,
    /// Nothing has that name.
    #[error("failed to match any SSL certificate by SNI: {sni}")]
    None {
        /// The name.
        sni: String,
        /// The candidate whose wildcard would have to stand for several labels.
        rejected: Option<String>,
    },
}

/// All certificates that are served.
#[derive(Debug, Default)]
pub struct Certificates {
    exact: HashMap<String, Arc<Certificate>>,
    /// By what follows the `*`; the empty one matches every name.
    wildcards: HashMap<String, Arc<Certificate>>,
    /// Lengths of the keys of `wildcards`, longest first.
    lengths: Vec<usize>,
    fallback_sni: Option<Arc<str>>,
    /// Served where nothing else is found.
    default: Option<Arc<Certificate>>,
}

impl Certificates {
    /// The name that a session goes by: the client's, or the one assumed for those without.
    #[must_use]
    pub fn name_for(&self, sni: Option<&str>) -> Option<Arc<str>> {
        sni.map(Into::into).or_else(|| self.fallback_sni.clone())
    }

    /// The certificate for a name, which is in lower case and has no dot at its end.
    ///
    /// # Errors
    /// See [`NoCertificate`].
    pub fn find(&self, sni: Option<&str>) -> Result<&Arc<Certificate>, NoCertificate> {
        self.by_name(sni).or_else(|error| self.default.as_ref().ok_or(error))
    }

    fn by_name(&self, sni: Option<&str>) -> Result<&Arc<Certificate>, NoCertificate> {
        let Some(sni) = sni else { return Err(NoCertificate::NoSni) };
        if let Some(found) = self.exact.get(sni) {
            return Ok(found);
        }
        for length in &self.lengths {
            let Some(start) = sni.len().checked_sub(*length) else { continue };
            let Some((covered, suffix)) = sni.split_at_checked(start) else { continue };
            let Some(found) = self.wildcards.get(suffix) else { continue };
            if suffix.is_empty() || !covered.contains('.') {
                return Ok(found);
            }
            let rejected = Some(found.names.clone());
            return Err(NoCertificate::None { sni: sni.to_owned(), rejected });
        }
        Err(NoCertificate::None { sni: sni.to_owned(), rejected: None })
    }

    fn add(&mut self, name: String, certificate: &Arc<Certificate>) {
        let (map, key) = match name.strip_prefix('*') {
            Some(suffix) => (&mut self.wildcards, suffix.to_owned()),
            None => (&mut self.exact, name),
        };
        // The one configured first wins.
        map.entry(key).or_insert_with(|| Arc::clone(certificate));
    }

    fn finish(mut self) -> Self {
        self.lengths = self.wildcards.keys().map(String::len).collect();
        self.lengths.sort_unstable_by(|a, b| b.cmp(a));
        self.lengths.dedup();
        self
    }
}

/// Compiles [`Certificates`]; what has not changed is kept.
#[derive(Debug)]
pub(super) struct CertificateCompiler {
    policy: Policy,
    fallback_sni: Option<Arc<str>>,
    tickets: Option<TicketKeys>,
    /// Id of the object that is served where nothing else is found.
    default: Option<String>,
    /// By id, with the revision it was compiled from.
    known: HashMap<String, (u64, Arc<Certificate>)>,
    /// What the current index was made of.
    objects: Vec<Arc<Entry<Ssl>>>,
    current: Arc<Certificates>,
}

impl CertificateCompiler {
    pub(super) fn new(settings: &SslSettings) -> Self {
        let mut compiler = Self {
            policy: Policy::default(),
            fallback_sni: None,
            tickets: None,
            default: None,
            known: HashMap::new(),
            objects: Vec::new(),
            current: Arc::default(),
        };
        compiler.set(settings);
        compiler
    }

    /// Goes by other settings from now on. Ticket keys stay, so that clients can still resume.
    pub(super) fn set(&mut self, settings: &SslSettings) {
        let versions = settings.protocols.iter().map(String::as_str);
        let policy = Policy { ciphers: settings.ciphers.clone(), ..Policy::default() };
        self.policy = policy.with_versions(versions);
        self.fallback_sni = settings.fallback_sni.as_deref().map(Into::into);
        self.default.clone_from(&settings.default_certificate);
        self.tickets = match (settings.session_tickets, self.tickets.take()) {
            (false, _) => None,
            (true, Some(keys)) => Some(keys),
            (true, None) => TicketKeys::new()
                .inspect_err(|error| {
                    tracing::error!(
                        %error,
                        "no keys for session tickets; TLS sessions are not resumed"
                    );
                })
                .ok(),
        };
        self.forget();
        let fallback_sni = self.fallback_sni.clone();
        self.current = Arc::new(Certificates { fallback_sni, ..Certificates::default() });
    }

    /// Keeps nothing of what was compiled before.
    pub(super) fn forget(&mut self) {
        self.known.clear();
        self.objects.clear();
    }

    /// The index of `set`, and what cannot be served.
    pub(super) fn compile(
        &mut self,
        set: &ResourceSet,
        material: &Material,
        problems: &mut Vec<Problem>,
    ) -> Arc<Certificates> {
        let is_current = self.objects.len() == set.ssls.len()
            && self.objects.iter().zip(set.ssls.iter()).all(|(old, new)| Arc::ptr_eq(old, new));
        if !is_current {
            self.rebuild(set, material);
        }
        if let Some(id) = self.default.as_ref().filter(|id| !self.known.contains_key(*id)) {
            let message = format!(
                "no ssl resource that is enabled and of type server has the id {id}, so clients \
                 without a matching certificate are refused"
            );
            let problem =
                Problem::warning("ssl/default", "apisix.ssl.default_certificate", message);
            problems.push(problem.help(format!("create /apisix/admin/ssls/{id}, or name another")));
        }
        for (_, certificate) in self.known.values() {
            if let Err(error) = &certificate.config {
                problems.push(problem(&certificate.id, error));
            }
        }
        Arc::clone(&self.current)
    }

    fn rebuild(&mut self, set: &ResourceSet, material: &Material) {
        let mut known = HashMap::new();
        let fallback_sni = self.fallback_sni.clone();
        let mut index = Certificates { fallback_sni, ..Certificates::default() };
        for entry in set.ssls.iter().filter(|entry| entry.value.is_served()) {
            let unchanged =
                self.known.remove(&entry.id).filter(|(revision, _)| *revision == entry.modified);
            let certificate = match unchanged {
                Some((_, certificate)) => certificate,
                None => Arc::new(self.certificate(entry, material)),
            };
            for name in entry.value.names() {
                index.add(name, &certificate);
            }
            known.insert(entry.id.clone(), (entry.modified, certificate));
        }
        self.known = known;
        self.objects = set.ssls.iter().cloned().collect();
        let default = self.default.as_ref().and_then(|id| self.known.get(id));
        index.default = default.map(|(_, certificate)| Arc::clone(certificate));
        self.current = Arc::new(index.finish());
    }

    fn certificate(&self, entry: &Entry<Ssl>, material: &Material) -> Certificate {
        let ssl = &entry.value;
        let names = match &ssl.sni {
            Some(name) => format!("matched SNI: {name}"),
            None => format!("matched SNIs: {}", serde_json::json!(ssl.snis)),
        };
        Certificate {
            id: entry.id.clone(),
            names,
            demands_client: ssl.client.is_some(),
            says_alpn: ssl.alpn.is_some(),
            config: self
                .config(entry, material)
                .map(|config| offering(&config, ssl.alpn.as_deref().unwrap_or_default())),
        }
    }

    fn config(&self, entry: &Entry<Ssl>, material: &Material) -> Result<Arc<ServerConfig>, String> {
        let ssl = &entry.value;
        let pairs: Result<Vec<_>, _> =
            ssl.pairs().map(|(cert, key)| material.pair(cert, &key.0)).collect();
        let client = ssl.client.as_ref();
        let ca = client.map(|client| material.text(&client.ca, "client.ca")).transpose()?;
        let client_auth = client.zip(ca.as_deref()).map(|(client, ca)| ClientAuth {
            ca,
            depth: usize::try_from(client.depth).unwrap_or(usize::MAX),
        });
        let policy = match &ssl.ssl_protocols {
            Some(versions) => {
                self.policy.clone().with_versions(versions.iter().map(String::as_str))
            }
            None => self.policy.clone(),
        };
        let depth = client.map_or(0, |client| client.depth).to_be_bytes();
        let bound = [entry.id.as_bytes(), ca.as_deref().unwrap_or_default().as_bytes(), &depth];
        let tickets = self.tickets.as_ref().map(|keys| (keys, context(&bound)));
        config(pairs?, client_auth, &policy, tickets).map_err(|error| error.to_string())
    }
}

fn problem(id: &str, error: &str) -> Problem {
    let message = format!("failed to fetch ssl config: {error}");
    Problem::warning("ssl/unusable", format!("ssls/{id}"), message)
        .help(format!("mend or delete /apisix/admin/ssls/{id}; handshakes for its names fail"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn certificates(objects: &[(&str, serde_json::Value)]) -> Certificates {
        let mut index = Certificates::default();
        for (id, names) in objects {
            let ssl: Ssl = serde_json::from_value(names.clone()).unwrap();
            let certificate = Arc::new(Certificate {
                id: (*id).to_owned(),
                names: format!("matched SNI: {id}"),
                demands_client: false,
                says_alpn: false,
                config: Err(String::new()),
            });
            for name in ssl.names() {
                index.add(name, &certificate);
            }
        }
        index.finish()
    }

    fn found<'a>(all: &'a Certificates, sni: &str) -> &'a str {
        all.find(Some(sni)).map_or("", |found| found.id.as_str())
    }

    #[test]
    fn sn_10_the_most_specific_certificate() {
        let all = certificates(&[
            ("any", json!({"sni": "*"})),
            ("wildcard", json!({"sni": "*.X.org."})),
            ("exact", json!({"snis": ["a.x.org", "b.test"]})),
            ("later", json!({"sni": "a.x.org"})),
        ]);
        assert_eq!(found(&all, "a.x.org"), "exact");
        assert_eq!(found(&all, "b.test"), "exact");
        assert_eq!(found(&all, "c.x.org"), "wildcard");
        assert_eq!(found(&all, "x.org"), "any");
        assert_eq!(found(&all, "other.test"), "any");
    }

    #[test]
    fn sn_13_a_wildcard_is_one_label_and_there_is_no_second_choice() {
        let all = certificates(&[("w", json!({"sni": "*.x.org"})), ("any", json!({"sni": "*"}))]);
        let error = all.find(Some("p.q.x.org")).unwrap_err();
        assert_eq!(
            error,
            NoCertificate::None {
                sni: "p.q.x.org".to_owned(),
                rejected: Some("matched SNI: w".to_owned()),
            }
        );
        let text = "failed to match any SSL certificate by SNI: p.q.x.org";
        assert_eq!(error.to_string(), text);
        let suffix = certificates(&[("s", json!({"sni": "*x.org"}))]);
        assert_eq!(found(&suffix, "ax.org"), "s");
        assert_eq!(found(&suffix, "a.x.org"), "");
        assert_eq!(all.find(None).unwrap_err(), NoCertificate::NoSni);
    }

    #[test]
    fn the_default_certificate_is_for_everybody_else() {
        let mut all = certificates(&[("w", json!({"sni": "*.x.org"})), ("d", json!({"sni": "d"}))]);
        all.default = all.exact.get("d").cloned();
        assert_eq!(found(&all, "a.x.org"), "w");
        assert_eq!(found(&all, "a.b.x.org"), "d");
        assert_eq!(found(&all, "other.test"), "d");
        assert_eq!(all.find(None).map(|it| it.id.as_str()), Ok("d"));
    }

    #[test]
    fn a_star_in_a_list_is_a_star() {
        let all = certificates(&[("any", json!({"snis": ["*"]}))]);
        assert_eq!(found(&all, "a.b.c.test"), "any");
    }
}
