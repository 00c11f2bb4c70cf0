use serde_json::json;

use super::*;
use crate::plugin::PluginCatalog;

fn file(text: &str) -> Result<Standalone, Box<Problem>> {
    let env = |name: &str| match name {
        "PORT" => Some("9100".to_owned()),
        "LINES" => Some("a\n      b\n      c".to_owned()),
        _ => None,
    };
    parse(text, Path::new("conf/apisix.yaml"), FileFormat::Yaml, &env)
}

fn checked(text: &str) -> (Standalone, Vec<String>) {
    let mut found = file(text).unwrap();
    let mut lines = Vec::new();
    let checker = Checker::new(PluginCatalog::default());
    found.check(&checker, &mut |line, _| lines.push(line.to_owned()));
    (found, lines)
}

#[test]
fn items_have_ids_and_the_later_of_two_wins() {
    let found = file(
        "stream_routes:\n  - id: 1\n    server_port: 1\n  - server_port: 2\n  - {id: \"1\", server_port: 3}\n\
         consumers:\n  - username: jack\n  - {id: jack/credentials/k, plugins: {}}\n\
         secrets: [{id: vault/1}]\nupstreams:\nservices: {}\n#END\n",
    )
    .unwrap();
    let keys: Vec<_> = found.items.iter().map(Item::key).collect();
    assert_eq!(
        keys,
        [
            "/stream_routes/1",
            "/stream_routes/arr_2",
            "/consumers/jack",
            "/consumers/jack/credentials/k",
            "/secrets/vault/1"
        ]
    );
    assert_eq!(found.items[0].value, json!({"id": "1", "server_port": 3}));
    assert_eq!(found.items[1].value["id"], "arr_2");
    assert_eq!(found.problems.len(), 1);
    assert_eq!(found.problems[0].code, "standalone/duplicate-id");
    assert_eq!(found.problems[0].place.as_ref().unwrap().line, 5);
    assert_eq!(found.problems[0].related[0].place.line, 2);
}

#[test]
fn an_id_stays_as_it_is_written() {
    let found = file("upstreams: [{id: 7}, {id: \"8\"}, {id: true}]\n#END\n").unwrap();
    let ids: Vec<_> = found.items.iter().map(|item| item.value["id"].clone()).collect();
    assert_eq!(ids, [json!(7), json!("8"), json!("arr_3")]);
    assert_eq!(found.items[0].key(), "/upstreams/7");
}

#[test]
fn the_list_of_plugins_is_no_resource() {
    let found = file("plugins: [{name: a}, {name: b, stream: true}]\n#END\n").unwrap();
    assert!(found.items.is_empty() && found.problems.is_empty());
    let list = found.plugins.unwrap();
    assert_eq!((list.http, list.stream), (vec!["a".to_owned()], vec!["b".to_owned()]));
    assert_eq!(file("plugins:\n#END\n").unwrap().plugins, None);
    let found = file("upstreams: []\nplugins: [a]\n#END\n").unwrap();
    assert_eq!((found.plugins, found.problems[0].code), (None, "standalone/plugins"));
    assert_eq!(found.problems[0].place.as_ref().unwrap().line, 2);
}

#[test]
fn the_end_flag_is_near_the_end() {
    for (text, good) in [
        ("#END", true),
        ("routes:\n#END\n", true),
        ("#END      ", true),
        ("#END       ", false),
        ("routes:\n", false),
        ("#END\nroutes:\n", false),
        ("", false),
        ("# ü\n#END\n", true),
    ] {
        assert_eq!(file(text).is_ok(), good, "{text:?}");
    }
    let problem = file("routes:\n").unwrap_err();
    assert_eq!(problem.message, "missing valid end flag in file conf/apisix.yaml");
}

#[test]
fn variables_are_text_and_places_stay() {
    let found = file(
        "stream_routes:\n  - server_port: ${{PORT}}\n    desc: \"${{PORT}}\"\n    name: >-\n      ${{LINES}}\n  - 7\n#END\n",
    )
    .unwrap();
    assert_eq!(found.items[0].value["server_port"], 9100);
    assert_eq!(found.items[0].value["desc"], "9100");
    let problem = &found.problems[0];
    assert_eq!(
        problem.message,
        "invalid item data of [stream_routes/2], val: 7, it should be an object"
    );
    let place = problem.place.as_ref().unwrap();
    assert_eq!((place.line, place.column), (6, 5));
    let missing = file("routes:\n  - ${{NOPE}}\n#END\n").unwrap_err();
    assert_eq!(missing.message, "can't find environment variable NOPE");
    assert_eq!(missing.place.unwrap().line, 2);
}

#[test]
fn broken_objects_are_taken_out_with_their_place() {
    let (found, lines) = checked(
        "stream_routes:\n  - id: good\n    upstream: {nodes: {\"127.0.0.1:1\": 1}}\n  - id: bad\n    upstream:\n      type: roundrobin\n      nodes:\n        - {host: a, port: 70000, weight: 1}\n  - id: odd\n    plugins: {nope: {}}\n#END\n",
    );
    assert_eq!(found.items.len(), 1);
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("failed to check item data of [stream_routes] err:invalid configuration: property \"upstream\" validation failed: "), "{}", lines[0]);
    assert!(lines[0].contains(" ,val: {\"id\":\"bad\""), "{}", lines[0]);
    assert!(lines[1].contains("err:unknown plugin [nope] ,val: "), "{}", lines[1]);
    let place = found.problems[0].place.as_ref().unwrap();
    assert!(place.line >= 7, "{place:?}");
    assert_eq!(found.problems[1].place.as_ref().unwrap().line, 9);
}

#[test]
fn private_keys_are_not_shown() {
    let (_, lines) = checked("ssls:\n  - {id: 1, sni: a.test, cert: x, key: hush}\n#END\n");
    assert_eq!(lines.len(), 1);
    assert!(!lines[0].contains("hush"), "{}", lines[0]);
}

#[test]
fn json_needs_no_mark() {
    let env = |name: &str| (name == "PORT").then(|| "9100".to_owned());
    let read = |text: &str| parse(text, Path::new("apisix.json"), FileFormat::Json, &env);
    let found = read("{\"stream_routes\": [{\"server_port\": \"${{PORT}}\"}, 3]}").unwrap();
    assert_eq!(found.items[0].value["server_port"], 9100);
    assert_eq!(found.problems[0].place.as_ref().unwrap().column, 50);
    let broken = read("{\"stream_routes\": [\n{]}").unwrap_err();
    assert!(broken.message.starts_with("failed to decode json: "), "{}", broken.message);
    assert_eq!(broken.place.unwrap().line, 2);
    assert!(read("[]").is_err());
}

#[test]
fn ten_thousand_routes_are_not_too_many() {
    let mut text = String::from("stream_routes:\n");
    for n in 0..10_000 {
        text.push_str(&format!(
            "  - id: r{n}\n    server_port: {}\n    upstream:\n      type: roundrobin\n      nodes:\n        - host: 10.0.0.1\n          port: 80\n          weight: 1\n",
            n % 60_000 + 1
        ));
    }
    text.push_str("#END\n");
    assert_eq!(file(&text).unwrap().items.len(), 10_000);
}
