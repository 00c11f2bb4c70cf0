use std::time::Duration;

use headgate_model::settings::ResolverSettings;
use headgate_store::Memory;
use headgate_store::WriteOptions;
use headgate_stream::router::Facts;
use serde_json::{Value, json};

use headgate_upstream::Names;

use super::*;

struct Running {
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
    published: Arc<Published>,
}

async fn start() -> Running {
    let store: Arc<dyn Store> = Arc::new(Memory::new(100, Duration::from_secs(60)).unwrap());
    let shared = Arc::new(Shared::new(1, 2, 1));
    let published = Arc::<Published>::default();
    let names = Arc::<Names>::default();
    let settings = ResolverSettings {
        servers: Vec::new(),
        valid: None,
        timeout: Duration::from_secs(1),
        search: true,
        ipv6: true,
    };
    let mut reconciler = Reconciler::new(
        Arc::clone(&store),
        Arc::new(Checker::new(Default::default())),
        Compiler::new(Arc::clone(&names), Arc::default()),
        Arc::new(Resolver::new(names, settings)),
        Arc::clone(&shared),
        Arc::clone(&published),
    );
    let changes = reconciler.load().await.unwrap();
    tokio::spawn(reconciler.follow(changes, mpsc::channel(1).1));
    Running { store, shared, published }
}

impl Running {
    async fn put(&self, key: &str, value: Value) {
        let written = self.store.put(key, value, WriteOptions::default()).await.unwrap();
        self.seen(written.revision).await;
    }

    async fn seen(&self, revision: u64) {
        let mut seen = self.published.revision.subscribe();
        let wait = seen.wait_for(|seen| *seen >= revision);
        tokio::time::timeout(Duration::from_secs(5), wait).await.unwrap().unwrap();
    }

    fn matches(&self, port: u16) -> bool {
        let server = Some(([127, 0, 0, 1], port).into());
        self.shared.snapshot.load().routes.find(&Facts { server, ..Facts::default() }).is_some()
    }

    fn problems(&self) -> Vec<String> {
        let served = self.published.served.load();
        served.problems.iter().map(|problem| problem.subject.clone()).collect()
    }
}

#[tokio::test]
async fn changes_are_served_and_deletes_too() {
    let running = start().await;
    assert!(!running.matches(9100));
    running.put("/stream_routes/1", json!({"id": "1", "server_port": 9100})).await;
    assert!(running.matches(9100));
    let deleted = running.store.delete("/stream_routes/1", WriteOptions::default()).await;
    running.seen(deleted.unwrap().unwrap().revision).await;
    assert!(!running.matches(9100));
}

#[tokio::test]
async fn a_bad_object_keeps_its_last_good_version_and_the_others_are_served() {
    let running = start().await;
    running.put("/stream_routes/1", json!({"id": "1", "server_port": 9100})).await;
    running.put("/stream_routes/1", json!({"id": "1", "server_port": "x"})).await;
    assert!(running.matches(9100));
    assert!(running.problems().contains(&"stream_routes/1".to_owned()));
    running.put("/stream_routes/2", json!({"id": "2", "server_port": 9200})).await;
    assert!(running.matches(9200));
    running
        .put(
            "/stream_routes/1",
            json!({"id": "1", "server_port": 9101, "upstream": {
        "nodes": {"127.0.0.1:1": 1}}}),
        )
        .await;
    assert!(running.matches(9101) && !running.matches(9100));
    assert_eq!(running.problems(), ["stream_routes/2"], "2 has no upstream");
}
