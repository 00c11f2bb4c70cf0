#!/usr/bin/env bash
# Runs under Miri what of headgate's `unsafe` code needs no system call (docs/internals/unsafe.md).
#
#   rustup toolchain install nightly --profile minimal --component miri --component rust-src
#   scripts/miri.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# A folder of its own: the flags differ from those of every other build.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target/miri}
cargo +nightly miri setup
# Addresses and control messages as the kernel writes them.
cargo +nightly miri test -p headgate-net --lib udp::message
