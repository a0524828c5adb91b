#!/usr/bin/env bash
# Install the Debian packages that tests, demos and generators call. Run as an ordinary user it only says what is missing.
set -euo pipefail
packages=(gcc libc6-dev make git jq protobuf-compiler libprotobuf-dev libiscsi-bin qemu-utils qemu-block-extra fio
  e2fsprogs xfsprogs util-linux mount fuse3 iproute2 nftables iptables conntrack ethtool socat openssl
  prometheus runc containernetworking-plugins busybox-static procps tmux)
missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" != 0 ]; then
  echo "missing Debian packages: ${missing[*]}" >&2
  echo "as root: apt-get install -y --no-install-recommends ${missing[*]}" >&2
  exit 1
fi
echo "installing Debian packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q >/dev/null
apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
