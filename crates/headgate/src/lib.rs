//! headgate-headgate
