//! What systemd is told (sd_notify(3)). Without it, nobody listens and nothing happens.

use sd_notify::NotifyState;

/// The configuration is being read again, or a successor is being started.
pub(crate) fn reloading() {
    let mut state = vec![NotifyState::Reloading];
    state.extend(NotifyState::monotonic_usec_now().ok());
    let _ = sd_notify::notify(&state);
}

/// It serves, again.
pub(crate) fn ready() {
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// Another process is the main one, and serves.
pub(crate) fn succeeded_by(pid: u32) {
    let state = [NotifyState::MainPid(pid), NotifyState::Ready, NotifyState::Status("serving")];
    let _ = sd_notify::notify(&state);
}

/// A line for `systemctl status`.
pub(crate) fn status(text: &str) {
    let _ = sd_notify::notify(&[NotifyState::Status(text)]);
}
