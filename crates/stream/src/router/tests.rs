use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use headgate_model::resource::StreamRoute;
use proptest::prelude::*;

use super::*;

fn route(remote: &str, server: &str, port: u16, sni: &str) -> (Predicates, Vec<String>) {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let route = StreamRoute {
        remote_addr: text(remote),
        server_addr: text(server),
        server_port: (port > 0).then_some(port),
        ..StreamRoute::default()
    };
    (Predicates::of(&route).unwrap(), text(sni).into_iter().collect())
}

fn router(routes: &[(&str, &str, u16, &str)]) -> Router<usize> {
    let routes = routes.iter().enumerate().map(|(number, (remote, server, port, sni))| {
        let (predicates, sni) = route(remote, server, *port, sni);
        (predicates, sni, number)
    });
    Router::new(routes.collect())
}

fn find(router: &Router<usize>, client: &str, server: &str, sni: &str) -> Option<usize> {
    let facts = Facts {
        client: Some(client.parse().unwrap()),
        server: Some(server.parse().unwrap()),
        sni: (!sni.is_empty()).then_some(sni),
        alpn: &[],
    };
    router.find(&facts).copied()
}

#[test]
fn first_configured_wins() {
    let both = router(&[("", "", 9100, ""), ("", "", 9100, "")]);
    assert_eq!(find(&both, "10.0.0.1", "10.0.0.2:9100", ""), Some(0));
    let catch_all = router(&[("", "", 0, ""), ("10.0.0.1", "", 9100, "")]);
    assert_eq!(find(&catch_all, "10.0.0.1", "10.0.0.2:9100", ""), Some(0));
    let last = router(&[("10.0.0.1", "", 9100, ""), ("", "", 0, "")]);
    assert_eq!(find(&last, "10.0.0.1", "10.0.0.2:9100", ""), Some(0));
    assert_eq!(find(&last, "10.0.0.9", "10.0.0.2:9100", ""), Some(1));
}

#[test]
fn all_predicates_must_hold() {
    let one = router(&[("10.0.0.0/8", "127.0.0.2", 9100, "")]);
    assert_eq!(find(&one, "10.1.2.3", "127.0.0.2:9100", ""), Some(0));
    assert_eq!(find(&one, "11.1.2.3", "127.0.0.2:9100", ""), None);
    assert_eq!(find(&one, "10.1.2.3", "127.0.0.1:9100", ""), None);
    assert_eq!(find(&one, "10.1.2.3", "127.0.0.2:9101", ""), None);
}

#[test]
fn families_do_not_mix() {
    let routes = router(&[("0.0.0.0/0", "", 0, ""), ("::/0", "", 0, "")]);
    assert_eq!(find(&routes, "::1", "[::1]:1", ""), Some(1));
    assert_eq!(find(&routes, "1.1.1.1", "[::1]:1", ""), Some(0));
}

#[test]
fn names_go_from_exact_to_wildcard_to_plain() {
    let routes = router(&[
        ("", "", 0, ""),
        ("", "", 0, "*"),
        ("", "", 0, "*.test.com"),
        ("10.0.0.1", "", 0, "A.Test.com"),
    ]);
    let server = "127.0.0.1:1";
    assert_eq!(find(&routes, "10.0.0.1", server, "a.test.com"), Some(3));
    assert_eq!(find(&routes, "10.0.0.2", server, "a.test.com"), Some(2), "next shorter name");
    assert_eq!(find(&routes, "10.0.0.2", server, "p.q.test.com"), Some(2), "any depth");
    assert_eq!(find(&routes, "10.0.0.2", server, "test.com"), Some(1));
    assert_eq!(find(&routes, "10.0.0.2", server, ""), Some(0), "no SNI");
}

#[test]
fn says_what_came_nearest() {
    let routes = router(&[("10.0.0.1", "", 9100, ""), ("", "127.0.0.2", 9101, "")]);
    let facts = Facts {
        client: Some("10.0.0.9".parse().unwrap()),
        server: Some("127.0.0.1:9101".parse().unwrap()),
        sni: None,
        alpn: &[],
    };
    let (route, why) = routes.explain(&facts).unwrap();
    assert_eq!(*route, 1);
    assert_eq!(why, "server_addr wants 127.0.0.2/32 but the session has 127.0.0.1");
}

#[test]
fn malformed_addresses_are_named() {
    for bad in ["abc", "::/999", ":/24", "300.1.1.1", "10.0.0.0/33", ""] {
        let route = StreamRoute { remote_addr: Some(bad.to_owned()), ..StreamRoute::default() };
        let error = Predicates::of(&route).unwrap_err();
        assert_eq!(error.to_string(), format!("invalid remote_addr: {bad}"));
    }
}

fn any_ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0_u8..2, 0_u8..3).prop_map(|(c, d)| Ipv4Addr::new(10, 0, c, d).into()),
        (0_u16..2, 0_u16..3).prop_map(|(g, h)| Ipv6Addr::new(0xfd, 0, 0, 0, 0, 0, g, h).into()),
    ]
}

fn any_network() -> impl Strategy<Value = String> {
    (any_ip(), 0_u8..3).prop_map(|(ip, cut)| {
        let width: u8 = if ip.is_ipv4() { 32 } else { 128 };
        format!("{ip}/{}", width - [0, 8, width][usize::from(cut)])
    })
}

fn any_route() -> impl Strategy<Value = (String, String, u16, String)> {
    let network = || prop_oneof![Just(String::new()), any_network()];
    let names = ["", "", "a.b.c", "*.b.c", "*b.c", "*.c", "*", "x.b.c"];
    (network(), network(), 0_u16..3, prop::sample::select(names.to_vec()))
        .prop_map(|(remote, server, port, sni)| (remote, server, port, sni.to_owned()))
}

/// The specification read literally.
fn naive(routes: &[(Predicates, Vec<String>, usize)], facts: &Facts<'_>) -> Option<usize> {
    if let Some(sni) = facts.sni {
        let mut names: Vec<&str> =
            routes.iter().filter_map(|route| route.1.first().map(String::as_str)).collect();
        names.sort_by_key(|name| (name.starts_with('*'), std::cmp::Reverse(name.len())));
        for name in names {
            let fits = match name.strip_prefix('*') {
                Some(suffix) => sni.ends_with(suffix),
                None => sni == name,
            };
            let mut same =
                routes.iter().filter(|route| route.1.first().is_some_and(|it| it == name));
            if fits && let Some(route) = same.find(|route| route.0.hold(facts)) {
                return Some(route.2);
            }
        }
    }
    routes.iter().find(|route| route.1.is_empty() && route.0.hold(facts)).map(|route| route.2)
}

proptest! {
    #[test]
    fn finds_what_a_scan_finds(
        routes in prop::collection::vec(any_route(), 0..40),
        client in any_ip(),
        server in any_ip(),
        port in 1_u16..3,
        sni in prop::sample::select(vec!["", "a.b.c", "x.b.c", "q.x.b.c", "b.c", "c", "zb.c", "d"]),
    ) {
        let routes: Vec<_> = routes
            .iter()
            .enumerate()
            .map(|(number, (remote, server, port, sni))| {
                let (predicates, sni) = route(remote, server, *port, sni);
                (predicates, sni, number)
            })
            .collect();
        let facts = Facts {
            client: Some(client),
            server: Some(SocketAddr::new(server, port)),
            sni: (!sni.is_empty()).then_some(sni),
            alpn: &[],
        };
        let expected = naive(&routes, &facts);
        prop_assert_eq!(Router::new(routes).find(&facts).copied(), expected);
    }
}

fn named(names: &[&str], alpn: &[&str], number: usize) -> (Predicates, Vec<String>, usize) {
    let owned = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    (Predicates { alpn: owned(alpn), ..Predicates::default() }, owned(names), number)
}

#[test]
fn several_names_and_protocols() {
    let routes = Router::new(vec![
        named(&["a.test", "*.b.test"], &["mqtt", "amqp"], 0),
        named(&["a.test"], &[], 1),
        named(&[], &["h2"], 2),
        named(&[], &[], 3),
    ]);
    assert!(routes.asks_for_tls());
    let find = |sni: &str, offered: &[&str]| {
        let alpn: Vec<_> = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let sni = (!sni.is_empty()).then_some(sni);
        routes.find(&Facts { sni, alpn: &alpn, ..Facts::default() }).copied()
    };
    assert_eq!(find("a.test", &["x", "amqp"]), Some(0));
    assert_eq!(find("c.b.test", &["mqtt"]), Some(0));
    assert_eq!(find("a.test", &["h2"]), Some(1));
    assert_eq!(find("c.b.test", &["h2"]), Some(2));
    assert_eq!(find("c.b.test", &[]), Some(3));
    assert_eq!(find("", &["h2"]), Some(2));
    let facts = Facts { sni: Some("z.test"), ..Facts::default() };
    let only = Router::new(vec![named(&["a.test"], &["h2"], 0)]);
    let (_, why) = only.explain(&facts).unwrap();
    assert_eq!(
        why,
        "sni wants a.test but the session has z.test and alpn wants h2 but the session has no ALPN"
    );
    let plain = Router::new(vec![named(&[], &[], 0)]);
    assert!(!plain.asks_for_tls());
}
