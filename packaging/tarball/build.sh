#!/usr/bin/env bash
# Builds a static program (musl) and a tarball of it.
#
#   packaging/tarball/build.sh [TARGET]       x86_64-unknown-linux-musl unless given
#   BINARY=PATH packaging/tarball/build.sh    the tarball only, of a program that is there
#
# Needs the target (rustup target add x86_64-unknown-linux-musl) and a C compiler for it (musl-tools).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target=${1:-x86_64-unknown-linux-musl}
if [[ -z ${BINARY:-} ]]; then
  rustup target list --installed | grep -qx "$target" || {
    echo "build.sh: the target is not installed: rustup target add $target" >&2
    exit 2
  }
  command -v musl-gcc >/dev/null || {
    echo "build.sh: no C compiler for musl: apt-get install musl-tools" >&2
    exit 2
  }
  CC=musl-gcc RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked -p headgate --target "$target"
  BINARY=target/$target/release/headgate
fi
version=$("$BINARY" version | awk '{print $2}')
name=headgate-$version-$target
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
root=$tree/$name
put() { install -D -m "$1" "$2" "$root/$3"; }
put 755 "$BINARY" bin/headgate
put 640 conf/config.yaml conf/config.yaml
put 644 conf/config.example.yaml conf/config.example.yaml
for file in README.md LICENSE CHANGELOG.md SECURITY.md THREAT_MODEL.md; do put 644 $file $file; done
for file in headgate.service headgate.service.d/50-hardening.conf; do put 644 packaging/systemd/$file systemd/$file; done
"$BINARY" manual "$root/share/man/man1"
mkdir -p "$root/share/completions"
for shell in bash zsh fish; do "$BINARY" completions $shell >"$root/share/completions/headgate.$shell"; done
mkdir -p target/packages
# The same input makes the same file.
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}" \
  -C "$tree" -czf "target/packages/$name.tar.gz" "$name"
(cd target/packages && sha256sum "$name.tar.gz" | tee "$name.tar.gz.sha256")
