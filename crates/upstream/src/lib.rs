//! headgate-upstream
