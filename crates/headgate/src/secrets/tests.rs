use headgate_model::Entry;
use serde_json::json;

use super::*;

#[test]
fn references_are_taken_apart() {
    let parts = split("$secret://vault/1/db/users/password").unwrap_or_else(|it| panic!("{it}"));
    assert_eq!((parts.manager.as_str(), parts.key.as_str()), ("vault/1", "db/users/password"));
    for (text, error) in [
        ("$secret://", "error format: no secret manager"),
        ("$secret://vault", "error format: no secret conf id"),
        ("$secret://vault/1", "error format: no secret key id"),
        ("$secret://vault/1/", "error format: no secret key id"),
        ("$secret://nope/1/a/b", "no secret manager: nope"),
    ] {
        assert_eq!(split(text).err().as_deref(), Some(error));
    }
}

#[test]
fn references_are_found_wherever_they_are() {
    let mut found = BTreeSet::new();
    references(&json!({"a": ["$secret://x", {"b": "$secret://y"}], "c": "$env://z"}), &mut found);
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["$secret://x", "$secret://y"]);
}

fn managers(id: &str, revision: u64) -> Collection<Value> {
    let mut managers = Collection::default();
    let document = json!({"uri": "http://x y", "prefix": "p", "token": "t"});
    managers.insert(Arc::new(Entry {
        id: id.to_owned(),
        value: document.clone(),
        document: document.into(),
        created: 1,
        modified: revision,
    }));
    managers
}

#[tokio::test]
async fn what_cannot_be_resolved_says_why_and_is_asked_again_when_its_manager_changes() {
    let secrets = Secrets::default();
    let reference = "$secret://vault/1/a/b".to_owned();
    let wanted = || BTreeSet::from([reference.clone()]);
    secrets.prepare(&Collection::default(), wanted()).await;
    let expected = format!("no secret conf, secret_uri: {reference}");
    assert_eq!(secrets.look_up(&reference), Err(expected));
    assert_eq!(secrets.generation(), 0);
    secrets.prepare(&managers("vault/1", 5), wanted()).await;
    let error = secrets.look_up(&reference).unwrap_err();
    assert!(error.contains("is not a URI"), "{error}");
    assert_eq!(secrets.generation(), 1, "what was compiled before is out of date");
    secrets.prepare(&managers("vault/1", 5), BTreeSet::new()).await;
    assert!(secrets.state().known.is_empty());
}

#[test]
fn a_known_value_outlives_a_failure_of_the_same_manager() {
    let secrets = Secrets::default();
    let take = |manager, result: Result<&str, &str>| {
        secrets.take("r".into(), manager, result.map(str::to_owned).map_err(str::to_owned));
        secrets.look_up("r")
    };
    assert_eq!(take(1, Ok("a")), Ok("a".into()));
    assert_eq!(take(1, Err("down")), Ok("a".into()));
    assert_eq!((secrets.generation(), secrets.counts()), (0, [0, 1, 0]));
    assert_eq!(take(1, Ok("b")), Ok("b".into()));
    assert_eq!((secrets.generation(), secrets.counts()), (1, [1, 0, 0]));
    assert_eq!(take(2, Err("down")), Err("down".into()), "it was another manager's");
    assert_eq!(take(0, Err("gone")), Err("gone".into()));
    assert_eq!(secrets.counts(), [0, 0, 1]);
}
