//! Answers of servers to the questions of health checks: whether they serve.

pub mod mysql;
pub mod postgres;
pub mod redis;

/// Why an answer does not show a server that serves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unwell(String);
