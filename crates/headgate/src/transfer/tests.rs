use serde_json::json;

use super::*;

fn some() -> Vec<Item> {
    items(
        [
            ("/stream_routes/b", json!({"server_port": 1, "create_time": 5})),
            ("/stream_routes/a", json!({"id": 7, "desc": "on"})),
            ("/upstreams/1", json!({"nodes": {"a:1": 1}})),
            ("/secrets/vault/1", json!({"uri": "http://x"})),
            ("/consumers/jack", json!({"username": "jack"})),
            ("/consumers/jack/credentials/k", json!({"plugins": {}})),
            ("/plugins", json!([])),
            ("/unknown/1", json!({})),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value)),
    )
}

fn read(text: &str, format: FileFormat) -> Vec<Item> {
    let mut items = standalone::parse(text, Path::new("x"), format, &|_| None).unwrap().items;
    items.iter_mut().for_each(|item| item.pointer.clear());
    items
}

#[test]
fn what_is_exported_reads_the_same() {
    let items = some();
    assert_eq!(items.len(), 6);
    for (text, format) in [(to_yaml(&items), FileFormat::Yaml), (to_json(&items), FileFormat::Json)]
    {
        let back = read(&text, format);
        assert_eq!(Difference::between(&items, &back), [], "{text}");
        let routes = |items: &[Item]| {
            let routes = items.iter().filter(|item| item.kind == Kind::StreamRoute);
            routes.map(|item| item.id.clone()).collect::<Vec<_>>()
        };
        assert_eq!(routes(&back), ["b", "a"], "the order is kept");
    }
    assert_eq!(to_yaml(&[]), "#END\n");
}

#[test]
fn differences_name_members_and_no_values() {
    let before = some();
    let mut after = some();
    after.remove(0);
    after[0].value["desc"] = "hush".into();
    after[1].id = "2".into();
    let lines: Vec<_> =
        Difference::between(&before, &after).iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        ["~ stream_routes/a: desc", "+ upstreams/2", "- stream_routes/b", "- upstreams/1"]
    );
}

#[test]
fn dumps_of_etcd_are_read() {
    let kv = |key: &str, value: &str, created: u64| json!({"key": STANDARD.encode(key), "value": STANDARD.encode(value), "create_revision": created});
    let kvs = [
        kv("/apisix/stream_routes/", "init_dir", 1),
        kv("/apisix/stream_routes/a", "{\"id\":\"a\"}", 9),
        kv("/apisix/stream_routes/b", "{\"id\":\"b\"}", 8),
        kv("/other/stream_routes/c", "{}", 7),
        kv("/apisix/gen_id", "1", 7),
    ];
    let found = of_etcdctl(&kvs, "/apisix");
    let keys: Vec<_> = found.iter().map(Item::key).collect();
    assert_eq!(keys, ["/stream_routes/b", "/stream_routes/a"]);
}
