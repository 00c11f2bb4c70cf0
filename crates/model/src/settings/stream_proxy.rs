//! `apisix.stream_proxy`: whether the stream plane runs, and its listeners.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use serde_json::{Value, json};

use super::ListenEntry;
use super::entry::{self, Refusal};
use super::reading::Reading;
use crate::listen::{ListenAddr, ListenDefaults, ListenerSpec, ProxyVersion, Transport};

const TCP: &str = "apisix.stream_proxy.tcp";
const UDP: &str = "apisix.stream_proxy.udp";

/// Every port of both transports, twice over; more is a mistake that would eat the memory.
const MOST: usize = 4 * 65_535;

/// A listener and the path of the entry it came from.
pub(super) struct Listener {
    pub(super) spec: ListenerSpec,
    pub(super) path: Rc<str>,
}

/// Whether the stream plane runs. A `stream_proxy` section without `proxy_mode` switches it on, as
/// it did before `proxy_mode` existed.
pub(super) fn is_on(reading: &mut Reading<'_>) -> bool {
    let has = reading.get("apisix.stream_proxy").is_some();
    let mode = reading.text("apisix.proxy_mode").map(str::to_owned);
    match mode.as_deref() {
        Some("http") if has => {
            let at = reading.place("apisix.proxy_mode");
            let message = "stream_proxy has no effect: proxy_mode http leaves the stream plane off";
            let note = reading.warning("stream-proxy/off", "apisix.stream_proxy", message);
            let note = note.label("these listeners are not opened");
            let help = "set apisix.proxy_mode to http&stream (or stream), or remove stream_proxy";
            note.help(help).related(at, "switched off here");
            false
        }
        Some("http") => false,
        Some(mode) if !has => {
            let message = format!("proxy_mode {mode} has no listeners: stream_proxy is missing");
            let note = reading.warning("stream-proxy/none", "apisix.proxy_mode", message);

            note.label("asks for a stream plane")
                .help("add listeners:\napisix:\n  stream_proxy:\n    tcp:\n      - 9100");
            false
        }
        _ => has,
    }
}

/// Reads all listeners, in the order of the file, and finds duplicates among them.
pub(super) fn listeners(reading: &mut Reading<'_>) -> Vec<Listener> {
    let mut found = Vec::new();
    for (path, transport) in [(TCP, Transport::Tcp), (UDP, Transport::Udp)] {
        let items = reading.get(path).and_then(Value::as_array).cloned().unwrap_or_default();
        for (index, item) in items.iter().enumerate() {
            let path: Rc<str> = format!("{path}[{index}]").into();
            let flags = Flags::of(reading, item, transport);
            match addresses(reading, item, &path, transport) {
                Ok(all) if found.len() + all.len() > MOST => {
                    let message = format!("more than {MOST} listeners");
                    let note = reading.error("stream-proxy/too-many", &path, message);
                    note.label("one too many").help("listen on fewer ports");
                    return found;
                }
                Ok(all) => found.extend(all.into_iter().map(|addr| Listener {
                    spec: flags.spec(addr, transport),
                    path: Rc::clone(&path),
                })),
                Err(refusal) => report(reading, &path, item, transport, refusal),
            }
        }
    }
    let none = reading.get(TCP).is_none() && reading.get(UDP).is_none();
    if none && reading.get("apisix.stream_proxy").is_some() {
        let message = "stream_proxy has neither tcp nor udp, so nothing listens";
        let note = reading.warning("stream-proxy/none", "apisix.stream_proxy", message);
        note.label("no listeners").help("add tcp: [9100] or udp: [9200]");
    }
    duplicates(reading, &found);
    found
}

/// The entries as they are written, each with the listeners that it stands for.
pub(super) fn entries(reading: &Reading<'_>, listeners: &[Listener]) -> Vec<ListenEntry> {
    let mut entries: Vec<ListenEntry> = Vec::new();
    for Listener { spec, path } in listeners {
        if let Some(last) = entries.last_mut().filter(|last| last.path == **path) {
            last.listeners.push(spec.clone());
            continue;
        }
        let item = reading.get(path).cloned().unwrap_or_default();
        let mut document = json!({
            "addr": item.get("addr").cloned().unwrap_or(item),
            "protocol": if spec.transport == Transport::Tcp { "tcp" } else { "udp" },
        });
        let flags = [
            ("tls", spec.tls),
            ("tls_passthrough", spec.tls_passthrough),
            ("proxy_protocol", spec.proxy_protocol),
            ("proxy_protocol_to_upstream", spec.proxy_protocol_to_upstream.is_some()),
        ];
        if let Some(members) = document.as_object_mut() {
            let on = flags.into_iter().filter(|(_, is_on)| *is_on);
            members.extend(on.map(|(name, _)| (name.to_owned(), Value::Bool(true))));
            if let Some(version) = spec.proxy_protocol_to_upstream {
                members.insert("proxy_protocol_version".to_owned(), version.number().into());
            }
            if let Some(most) = spec.max_connections {
                members.insert("max_connections".to_owned(), most.into());
            }
        }
        let listeners = vec![spec.clone()];
        entries.push(ListenEntry { path: path.to_string(), document, listeners });
    }
    entries
}

/// What TCP listeners do that do not say it themselves.
pub(super) fn defaults(reading: &Reading<'_>) -> ListenDefaults {
    ListenDefaults {
        proxy_protocol: reading.is_on("apisix.proxy_protocol.enable_tcp_pp"),
        proxy_protocol_to_upstream: reading
            .is_on("apisix.proxy_protocol.enable_tcp_pp_to_upstream"),
        proxy_protocol_version: proxy_version(reading, &Value::Null),
    }
}

fn addresses(
    reading: &Reading<'_>,
    item: &Value,
    path: &str,
    transport: Transport,
) -> Result<Vec<ListenAddr>, Refusal> {
    match item {
        Value::Object(map) => match map.get("addr") {
            Some(addr) => entry::parse(addr, transport),
            None => Err(Refusal {
                code: "stream-proxy/addr",
                reason: super::wording::schema(
                    &reading.role,
                    path,
                    "property \"addr\" is required",
                ),
                label: "no addr",
                help: "add addr: - addr: 9100".to_owned(),
            }),
        },
        other => entry::parse(other, transport),
    }
}

/// Records a refused entry, in the words of the schema where that comes first.
fn report(
    reading: &mut Reading<'_>,
    path: &str,
    item: &Value,
    transport: Transport,
    refusal: Refusal,
) {
    let addr = item.get("addr");
    let at = if addr.is_some() { format!("{path}.addr") } else { path.to_owned() };
    let value = addr.unwrap_or(item);
    let schema_first = refusal.code == "stream-proxy/type"
        || (value.is_number() && refusal.reason.starts_with("port must be"));
    let list = if transport == Transport::Tcp { "tcp" } else { "udp" };
    let message = if refusal.code == "stream-proxy/addr" {
        refusal.reason
    } else if schema_first {
        let inner =
            super::wording::schema(&reading.role, &at, "object matches none of the required");
        format!("{inner} ({})", refusal.reason)
    } else {
        format!("invalid stream_proxy.{list} entry: {}", refusal.reason)
    };
    reading.error(refusal.code, &at, message).label(refusal.label).help(refusal.help);
}

/// The switches of one entry.
struct Flags {
    tls: bool,
    tls_passthrough: bool,
    alpn: Vec<String>,
    proxy_in: bool,
    proxy_out: Option<ProxyVersion>,
    most: Option<u32>,
}

impl Flags {
    fn of(reading: &Reading<'_>, item: &Value, transport: Transport) -> Self {
        let own = |name: &str| {
            item.get(name).filter(|value| !value.is_null()).map(|value| *value == Value::Bool(true))
        };
        let most = item.get("max_connections").and_then(super::reading::whole);
        let most = most.and_then(|most| u32::try_from(most).ok());
        if transport == Transport::Udp {
            // The switches for all are for TCP. A datagram has no room for a line of text.
            let proxy_out =
                (own("proxy_protocol_to_upstream") == Some(true)).then_some(ProxyVersion::V2);
            return Self {
                tls: false,
                tls_passthrough: false,
                alpn: Vec::new(),
                proxy_in: false,
                proxy_out,
                most,
            };
        }
        // An entry that says it itself, yes or no, beats the switch for all.
        let or_global = |name: &str, global: &str| {
            own(name).unwrap_or_else(|| reading.is_on(&format!("apisix.proxy_protocol.{global}")))
        };
        let proxy_out = or_global("proxy_protocol_to_upstream", "enable_tcp_pp_to_upstream");
        Self {
            tls: own("tls") == Some(true),
            tls_passthrough: own("tls_passthrough") == Some(true),
            alpn: texts(item.get("alpn")),
            proxy_in: or_global("proxy_protocol", "enable_tcp_pp"),
            proxy_out: proxy_out.then(|| proxy_version(reading, item)),
            most,
        }
    }

    fn spec(&self, addr: ListenAddr, transport: Transport) -> ListenerSpec {
        ListenerSpec {
            addr,
            transport,
            tls: self.tls,
            tls_passthrough: self.tls_passthrough,
            alpn: self.alpn.clone(),
            proxy_protocol: self.proxy_in,
            proxy_protocol_to_upstream: self.proxy_out,
            max_connections: self.most,
        }
    }
}

/// The strings of a list; other values are refused by the table of keys.
fn texts(value: Option<&Value>) -> Vec<String> {
    let items = value.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// The version of headers that connections by a TCP entry send: its own, or that of all.
fn proxy_version(reading: &Reading<'_>, item: &Value) -> ProxyVersion {
    let own = item.get("proxy_protocol_version").filter(|value| !value.is_null());
    let version = own.or_else(|| reading.get("apisix.proxy_protocol.version_to_upstream"));
    match version.and_then(super::reading::whole) {
        Some(2) => ProxyVersion::V2,
        _ => ProxyVersion::V1, // other values are refused by the table of keys
    }
}

/// Finds equal addresses; one problem for each pair of entries.
fn duplicates(reading: &mut Reading<'_>, listeners: &[Listener]) {
    let mut seen: HashMap<(Transport, &ListenAddr), &Listener> = HashMap::new();
    let mut pairs = HashSet::new();
    for listener in listeners {
        let key = (listener.spec.transport, &listener.spec.addr);
        let Some(first) = seen.get(&key) else {
            seen.insert(key, listener);
            continue;
        };
        if first.path == listener.path || !pairs.insert((&first.path, &listener.path)) {
            continue;
        }
        let message = same_item(reading, &first.path, &listener.path)
            .unwrap_or_else(|| format!("a duplicate listen {}", listener.spec.addr));
        let other = reading.place(&item_path(reading, &first.path));
        let at = item_path(reading, &listener.path);
        let note = reading.error("stream-proxy/duplicate", &at, message);
        let note = note.label(format!("{} again", listener.spec));

        note.help("remove one of the two, or change its address or port")
            .related(other, format!("{} is opened here already", listener.spec));
    }
}

/// The reference's message when two items of a list are written alike.
fn same_item(reading: &Reading<'_>, first: &str, second: &str) -> Option<String> {
    if reading.get(first)? != reading.get(second)? {
        return None;
    }
    let (list, a) = first.trim_end_matches(']').rsplit_once('[')?;
    let (_, b) = second.trim_end_matches(']').rsplit_once('[')?;
    let (a, b) = (a.parse::<usize>().ok()? + 1, b.parse::<usize>().ok()? + 1);
    let reason = format!("expected unique items but items {a} and {b} are equal");
    Some(super::wording::schema(&reading.role, list, &reason))
}

/// The place to point at: `addr` of a mapping, else the item.
pub(super) fn item_path(reading: &Reading<'_>, path: &str) -> String {
    let addr = format!("{path}.addr");
    if reading.get(&addr).is_some() { addr } else { path.to_owned() }
}
