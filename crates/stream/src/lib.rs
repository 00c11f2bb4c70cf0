//! headgate-stream
