//! Names of HTTP plugins: known, so that whole configurations can be stored; none is run here.

/// The HTTP plugins that the reference enables when `plugins` is absent from `config.yaml`, by
/// descending priority.
pub const DEFAULT: &[&str] = &[
    "real-ip",
    "ai",
    "client-control",
    "proxy-control",
    "request-id",
    "zipkin",
    "ext-plugin-pre-req",
    "fault-injection",
    "mocking",
    "serverless-pre-function",
    "cors",
    "ip-restriction",
    "ua-restriction",
    "referer-restriction",
    "csrf",
    "uri-blocker",
    "request-validation",
    "chaitin-waf",
    "multi-auth",
    "openid-connect",
    "cas-auth",
    "authz-casbin",
    "authz-casdoor",
    "wolf-rbac",
    "ldap-auth",
    "hmac-auth",
    "basic-auth",
    "jwt-auth",
    "jwe-decrypt",
    "key-auth",
    "acl",
    "consumer-restriction",
    "attach-consumer-label",
    "forward-auth",
    "opa",
    "authz-keycloak",
    "proxy-cache",
    "body-transformer",
    "ai-request-rewrite",
    "ai-prompt-guard",
    "ai-prompt-template",
    "ai-prompt-decorator",
    "ai-rag",
    "ai-aws-content-moderation",
    "ai-aliyun-content-moderation",
    "ai-proxy-multi",
    "ai-proxy",
    "ai-rate-limiting",
    "proxy-mirror",
    "proxy-rewrite",
    "workflow",
    "api-breaker",
    "limit-conn",
    "limit-count",
    "limit-req",
    "gzip",
    "traffic-split",
    "redirect",
    "response-rewrite",
    "mcp-bridge",
    "degraphql",
    "kafka-proxy",
    "grpc-transcode",
    "grpc-web",
    "http-dubbo",
    "public-api",
    "prometheus",
    "datadog",
    "lago",
    "loki-logger",
    "elasticsearch-logger",
    "echo",
    "loggly",
    "http-logger",
    "splunk-hec-logging",
    "skywalking-logger",
    "google-cloud-logging",
    "sls-logger",
    "tcp-logger",
    "kafka-logger",
    "rocketmq-logger",
    "syslog",
    "udp-logger",
    "file-logger",
    "clickhouse-logger",
    "tencent-cloud-cls",
    "inspect",
    "example-plugin",
    "aws-lambda",
    "azure-functions",
    "openwhisk",
    "openfunction",
    "serverless-post-function",
    "ext-plugin-post-req",
    "ext-plugin-post-resp",
    "ai-cache",
];

/// HTTP plugins of the reference that must be enabled by hand.
const OPTIONAL: &[&str] = &[
    "brotli",
    "dubbo-proxy",
    "error-log-logger",
    "gm",
    "graphql-limit-count",
    "graphql-proxy-cache",
    "log-rotate",
    "node-status",
    "ocsp-stapling",
    "opentelemetry",
    "saml-auth",
    "server-info",
    "skywalking",
];

/// Whether the reference has an HTTP plugin of that name, enabled or not.
#[must_use]
pub fn is_known(name: &str) -> bool {
    DEFAULT.contains(&name) || OPTIONAL.contains(&name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique() {
        let all: HashSet<_> = DEFAULT.iter().chain(OPTIONAL).collect();
        assert_eq!(all.len(), DEFAULT.len() + OPTIONAL.len());
        assert!(is_known("key-auth") && !is_known("mqtt-proxy"));
    }
}
