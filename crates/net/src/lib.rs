//! headgate-net
