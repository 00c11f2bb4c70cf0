#!/usr/bin/env bash
# Builds a Debian package from a built program, with dpkg-deb alone.
#
#   packaging/deb/build.sh BINARY [VERSION] [FOLDER]
#
# VERSION: what the program says, unless given. FOLDER: where the .deb goes, target/packages unless given.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
binary=${1:?usage: $0 BINARY [VERSION] [FOLDER]}
version=${2:-$("$binary" version | awk '{print $2}')}
out=${3:-target/packages}
arch=$(dpkg --print-architecture)
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
put() { install -D -m "$1" "$2" "$tree/$3"; }

put 755 "$binary" usr/bin/headgate
put 644 packaging/systemd/headgate.service lib/systemd/system/headgate.service
put 644 packaging/systemd/headgate.service.d/50-hardening.conf \
  lib/systemd/system/headgate.service.d/50-hardening.conf
put 644 packaging/headgate.sysusers usr/lib/sysusers.d/headgate.conf
put 644 packaging/headgate.tmpfiles usr/lib/tmpfiles.d/headgate.conf
put 644 packaging/headgate.logrotate etc/logrotate.d/headgate
put 640 packaging/deb/config.yaml etc/headgate/config.yaml
put 644 conf/config.example.yaml usr/share/doc/headgate/config.example.yaml
put 644 README.md usr/share/doc/headgate/README.md
put 644 LICENSE usr/share/doc/headgate/copyright
gzip -9n <CHANGELOG.md >"$tree/usr/share/doc/headgate/changelog.gz"

"$binary" manual "$tree/usr/share/man/man1"
gzip -9n "$tree"/usr/share/man/man1/*
mkdir -p "$tree"/usr/share/{bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d}
"$binary" completions bash >"$tree/usr/share/bash-completion/completions/headgate"
"$binary" completions zsh >"$tree/usr/share/zsh/vendor-completions/_headgate"
"$binary" completions fish >"$tree/usr/share/fish/vendor_completions.d/headgate.fish"

# A dynamic program needs the libc that it was linked with; a static one needs nothing.
depends=""
if needed=$(objdump -p "$binary" 2>/dev/null | grep -oE 'GLIBC_[0-9.]+' | sort -Vu | tail -1) && [[ -n $needed ]]; then
  depends="libc6 (>= ${needed#GLIBC_}), libgcc-s1"
fi
mkdir -p "$tree/DEBIAN"
{
  echo "Package: headgate"
  echo "Version: $version"
  echo "Architecture: $arch"
  echo "Maintainer: the headgate authors <headgate@localhost>"
  echo "Section: net"
  echo "Priority: optional"
  [[ -z $depends ]] || echo "Depends: $depends"
  echo "Installed-Size: $(du -sk --exclude=DEBIAN "$tree" | cut -f1)"
  echo "Description: L4 gateway for TCP, TLS and UDP"
  echo " headgate relays connections and datagrams from its listeners to servers, by routes"
  echo " that are changed while it runs. It speaks the configuration language of the stream"
  echo " proxy of Apache APISIX."
} >"$tree/DEBIAN/control"
printf '%s\n' /etc/headgate/config.yaml /etc/logrotate.d/headgate >"$tree/DEBIAN/conffiles"
for script in postinst prerm postrm; do put 755 packaging/deb/$script DEBIAN/$script; done
(cd "$tree" && find . -type f -not -path './DEBIAN/*' -printf '%P\0' | sort -z | xargs -0 md5sum) >"$tree/DEBIAN/md5sums"
find "$tree" -type d -exec chmod 755 {} +
mkdir -p "$out"
dpkg-deb --root-owner-group -Zgzip --build "$tree" "$out/headgate_${version}_${arch}.deb"
