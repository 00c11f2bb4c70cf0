//! headgate-telemetry
