#!/usr/bin/env bash
# Volumes under a stock Linux kernel in a virtual machine (software emulation; root). See tests/vm.
set -euo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=${CGO_ENABLED:-0}
[ "$(id -u)" = 0 ] || { echo "make e2e-vm needs root: a network namespace and a tap device" >&2; exit 1; }
packages=(qemu-system-x86 debootstrap e2fsprogs iproute2 nftables)
missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null | grep -qx installed || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
fi
image=$(hack/vm-image.sh)
work=$(mktemp -d "${TMPDIR:-/tmp}/iomesh-vm.XXXXXX")
echo "logs and disks: $work"
for p in storaged:./storaged iomesh-csi:./csi guest:./tests/vm/guest e2e-vm:./tests/vm; do
  go build -o "$work/bin/${p%%:*}" "${p#*:}"
done
status=0
unshare --net -- "$work/bin/e2e-vm" -image "$image" -storaged "$work/bin/storaged" -csi "$work/bin/iomesh-csi" -guest "$work/bin/guest" \
  -dir "$work" "$@" || status=$?
if [ $status = 0 ]; then
  rm -rf "$work"
fi
exit $status
