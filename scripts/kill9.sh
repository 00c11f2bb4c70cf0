#!/usr/bin/env bash
# Kills the gateway with -9 in the middle of Admin API writes, 500 times (or as many as the first
# argument says), and checks after each that no acknowledged write is lost.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
rounds=${1:-500}
echo "kill9.sh: $rounds rounds"
HEADGATE_KILL_ROUNDS=$rounds exec cargo test --package headgate --test durability -- \
  --exact kill_9_loses_no_acknowledged_write --nocapture
