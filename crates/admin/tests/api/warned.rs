//! Warnings beside what was stored (extension).

use headgate_admin::Limits;
use headgate_model::settings::AdminSettings;

use crate::bench::{Bench, Planes, settings};

/// Routes are stored, not served, so every write of one is worth a warning.
const ROUTE: &str = r#"{"uri":"/x","upstream":{"nodes":{"10.0.0.1:80":1}}}"#;
const PATH: &str = "/apisix/admin/routes/1";

#[tokio::test]
async fn warnings_stand_beside_key_and_value() {
    for v3 in [true, false] {
        let bench =
            Bench::with(AdminSettings { v3, ..settings() }, Planes::default(), Limits::default());
        for (method, path, body) in [
            ("PUT", PATH, ROUTE),
            ("PATCH", PATH, r#"{"desc":"x"}"#),
            ("POST", "/apisix/admin/routes", ROUTE),
        ] {
            let reply = bench.call(method, path, body).await.json();
            let warning = &reply["warnings"][0];
            assert_eq!(warning["code"], "kind/not-executed", "{method} {reply}");
            assert!(warning["message"].is_string() && warning["hint"].is_string());
            assert!(reply["value"].is_object() == v3 && reply["node"].is_object() != v3);
        }
        assert_eq!(bench.call("GET", PATH, "").await.json().get("warnings"), None);
    }
}

#[tokio::test]
async fn warnings_can_be_switched_off() {
    let settings = AdminSettings { warnings: false, ..settings() };
    let bench = Bench::with(settings, Planes::default(), Limits::default());
    assert_eq!(bench.call("PUT", PATH, ROUTE).await.json().get("warnings"), None);
}
