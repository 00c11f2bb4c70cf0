//! One question about a name: `/etc/hosts` first, then the name servers of `apisix.dns_resolver`
//! or of the system.

use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use headgate_model::settings::ResolverSettings;
use headgate_upstream::names::{Resolved, Service, is_service};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};

use super::Answer;
use super::resolv_conf;

/// Files that a resolver is built from; it is built again when one of them changes.
const FILES: [&str; 2] = ["/etc/hosts", resolv_conf::PATH];
/// Attempts within the time limit of a query.
const ATTEMPTS: usize = 2;
/// Most targets of a service that are resolved.
const MOST_TARGETS: usize = 64;

/// Asks name servers.
pub(super) struct Dns {
    settings: ResolverSettings,
    current: Mutex<Option<Built>>,
}

impl fmt::Debug for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dns").finish_non_exhaustive()
    }
}

struct Built {
    from: [Option<SystemTime>; FILES.len()],
    resolver: Arc<TokioResolver>,
}

impl Dns {
    pub(super) fn new(settings: &ResolverSettings) -> Self {
        Self { settings: settings.clone(), current: Mutex::new(None) }
    }

    /// The addresses of a name, or the servers of a service. The error is for people.
    pub(super) async fn look_up(&self, name: &str) -> Result<Answer, String> {
        let resolver = self.resolver()?;
        let limit = self.settings.timeout;
        let answer = async {
            match is_service(name) {
                true => self.services(&resolver, name).await,
                false => self.addresses(&resolver, name).await,
            }
        };
        let late = |_| Err(format!("no answer within {limit:?}"));
        tokio::time::timeout(limit, answer).await.unwrap_or_else(late)
    }

    /// IPv4 is preferred, as the reference does; IPv6 only stands in where there is no IPv4.
    async fn addresses(&self, resolver: &TokioResolver, name: &str) -> Result<Answer, String> {
        let v4 = records(resolver, name, RecordType::A).await;
        let is_empty = v4.as_ref().map_or(true, |lookup| ips(lookup).next().is_none());
        let lookup = match is_empty && self.settings.ipv6 {
            true => match (records(resolver, name, RecordType::AAAA).await, v4) {
                (Ok(v6), _) if ips(&v6).next().is_some() => v6,
                // What was wrong with the first query says more.
                (_, Err(error)) | (Err(error), _) => return Err(error),
                (Ok(_), Ok(v4)) => v4,
            },
            false => v4?,
        };
        let addresses: Vec<_> = ips(&lookup).map(|ip| Resolved { ip, service: None }).collect();
        if addresses.is_empty() {
            return Err("the answer has no usable address".to_owned());
        }
        Ok(Answer { addresses, valid: time_to_live(&lookup) })
    }

    /// The servers of a service: lower priorities first, weights shared by the addresses of a
    /// target (`spec/upstream.md`, section 8, dns).
    async fn services(&self, resolver: &TokioResolver, name: &str) -> Result<Answer, String> {
        let lookup = records(resolver, name, RecordType::SRV).await?;
        let mut valid = time_to_live(&lookup);
        let mut targets = Vec::new();
        let records = lookup.answers().iter().filter_map(|record| match &record.data {
            RData::SRV(service) => Some(service),
            _ => None,
        });
        let mut reason = None;
        for service in records.take(MOST_TARGETS) {
            match self.addresses(resolver, &service.target.to_string()).await {
                Ok(answer) => {
                    valid = valid.min(answer.valid);
                    let ips = answer.addresses.into_iter().map(|resolved| resolved.ip).collect();
                    targets.push((service.port, service.priority, service.weight, ips));
                }
                Err(error) => reason = Some(format!("{}: {error}", service.target)),
            }
        }
        let addresses = share(targets);
        if addresses.is_empty() {
            return Err(reason.unwrap_or_else(|| "the answer has no service record".to_owned()));
        }
        Ok(Answer { addresses, valid })
    }

    /// The resolver for the files as they are now.
    fn resolver(&self) -> Result<Arc<TokioResolver>, String> {
        let from = FILES.map(|file| fs::metadata(file).and_then(|file| file.modified()).ok());
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(built) = current.as_ref().filter(|built| built.from == from) {
            return Ok(Arc::clone(&built.resolver));
        }
        let resolver = Arc::new(build(&self.settings).map_err(|error| error.to_string())?);
        *current = Some(Built { from, resolver: Arc::clone(&resolver) });
        Ok(resolver)
    }
}

fn build(settings: &ResolverSettings) -> Result<TokioResolver, hickory_resolver::net::NetError> {
    let (config, mut options) = resolv_conf::read();
    let (domain, search, servers) = config.into_parts();
    let servers = match settings.servers.is_empty() {
        true => servers,
        false => settings.servers.iter().map(|server| name_server(*server)).collect(),
    };
    let config = match settings.search {
        true => ResolverConfig::from_parts(domain, search, servers),
        false => ResolverConfig::from_name_servers(servers),
    };
    // Answers are kept by us, for their time to live.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Always;
    options.attempts = ATTEMPTS;
    // Room for more than 512 bytes, and a second way for answers that do not fit.
    options.edns0 = true;
    options.try_tcp_on_error = true;
    options.timeout = settings.timeout / (ATTEMPTS as u32 + 1);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build()
}

fn name_server(server: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    let connections = connections.map(|mut connection| {
        connection.port = server.port();
        connection
    });
    NameServerConfig::new(server.ip(), true, connections.into())
}

async fn records(resolver: &TokioResolver, name: &str, kind: RecordType) -> Result<Lookup, String> {
    resolver.lookup(name, kind).await.map_err(|error| error.to_string())
}

fn ips(lookup: &Lookup) -> impl Iterator<Item = IpAddr> {
    lookup.answers().iter().filter_map(|record| record.data.ip_addr())
}

/// The least time to live of an answer, aliases included.
fn time_to_live(lookup: &Lookup) -> Duration {
    let seconds = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or_default();
    Duration::from_secs(seconds.into())
}

/// Shares the weight of each target among its addresses, in whole numbers.
fn share(targets: Vec<(u16, u16, u16, Vec<IpAddr>)>) -> Vec<Resolved> {
    const fn gcd(a: u64, b: u64) -> u64 {
        if b == 0 { a } else { gcd(b, a % b) }
    }
    let counts = targets.iter().map(|(.., ips)| ips.len().max(1) as u64);
    // Beyond a million the shares are not worth their exactness.
    let common = counts.fold(1_u64, |lcm, count| (lcm / gcd(lcm, count) * count).min(1_000_000));
    let mut resolved = Vec::new();
    for (port, priority, weight, ips) in targets {
        let share = u64::from(weight.max(1)) * common / ips.len().max(1) as u64;
        let weight = u32::try_from(share.max(1)).unwrap_or(u32::MAX);
        let service = Some(Service { port, priority, weight });
        resolved.extend(ips.into_iter().map(|ip| Resolved { ip, service }));
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_shared_by_the_addresses_of_a_target() {
        let ips = |lasts: &[u8]| lasts.iter().map(|last| [10, 0, 0, *last].into()).collect();
        let weights = |targets| -> Vec<u32> {
            let shared = share(targets).into_iter();
            shared.filter_map(|resolved| resolved.service.map(|service| service.weight)).collect()
        };
        assert_eq!(weights(vec![(1, 0, 5, ips(&[1]))]), [5]);
        assert_eq!(weights(vec![(1, 0, 0, ips(&[1])), (1, 0, 1, ips(&[2]))]), [1, 1]);
        assert_eq!(weights(vec![(1, 0, 2, ips(&[1, 2])), (1, 0, 1, ips(&[3]))]), [2, 2, 2]);
        assert_eq!(
            weights(vec![(1, 0, 1, ips(&[1, 2])), (1, 0, 1, ips(&[3, 4, 5]))]),
            [3, 3, 2, 2, 2]
        );
        assert!(weights(vec![(1, 0, 1, Vec::new())]).is_empty());
    }

    #[test]
    fn services_are_told_by_their_form() {
        for (name, expected) in [
            ("_db._tcp.example.com", true),
            ("_sip._udp.a", true),
            ("_db.example.com", false),
            ("db._tcp.example.com", false),
            ("db.example.com", false),
            ("_._tcp.a", false),
        ] {
            assert_eq!(is_service(name), expected, "{name}");
        }
    }
}
