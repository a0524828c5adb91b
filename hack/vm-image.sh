#!/usr/bin/env bash
# The virtual machine of `make e2e-vm`: a stock Debian with its stock kernel, open-iscsi and multipathd, built once and kept. The image
# has nothing of ours but a unit that unpacks what the test hands in as its second disk. Prints the directory of the image.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${IOMESH_VM_CACHE:-$HOME/.cache/iomesh/vm}
key=$(sha256sum hack/vm-image.sh | cut -c1-16)
dir=$cache/$key
if [ -s "$dir/root.img" ]; then
  echo "$dir"
  exit 0
fi
[ "$(id -u)" = 0 ] || { echo "building the virtual machine's image needs root" >&2; exit 1; }
mkdir -p "$cache"
work=$(mktemp -d "$cache/build.XXXXXX")
trap 'umount -l "$work/root/proc" 2>/dev/null || true; rm -rf --one-file-system "$work"' EXIT
root=$work/root
echo "building the virtual machine's image (Debian bookworm, about 3 minutes)" >&2
{
  debootstrap --variant=minbase \
    --include=systemd-sysv,udev,kmod,iproute2,procps,open-iscsi,multipath-tools,sg3-utils,e2fsprogs,xfsprogs,fio,initramfs-tools,zstd \
    bookworm "$root" http://deb.debian.org/debian
  mount -t proc proc "$root/proc"
  DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get install -y -q --no-install-recommends linux-image-cloud-amd64
  umount "$root/proc"
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}
} >"$work/log" 2>&1 || { tail -30 "$work/log" >&2; exit 1; }

echo iomesh-vm >"$root/etc/hostname"
echo '/dev/vda / ext4 errors=remount-ro 0 1' >"$root/etc/fstab"
# Every disk is claimed that is not exempted: the line under test is the documented one.
cat >"$root/etc/multipath.conf" <<'CONF'
defaults {
  find_multipaths "greedy"
  user_friendly_names yes
}
blacklist {
  device {
    vendor "IOMESH"
    product "VOLUME"
  }
}
CONF
cat >"$root/etc/systemd/system/iomesh-guest.service" <<'UNIT'
[Unit]
Description=what the test hands in
After=iscsid.service multipathd.service
[Service]
ExecStartPre=/bin/mkdir -p /var/lib/payload
ExecStartPre=/bin/tar -xf /dev/vdb -C /var/lib/payload
ExecStart=/var/lib/payload/guest
StandardOutput=journal+console
StandardError=journal+console
[Install]
WantedBy=multi-user.target
UNIT
chroot "$root" systemctl -q enable iomesh-guest.service iscsid.service multipathd.service
chroot "$root" systemctl -q mask open-iscsi.service systemd-timesyncd.service fstrim.timer e2scrub_all.timer apt-daily.timer apt-daily-upgrade.timer
cp "$root"/boot/vmlinuz-* "$work/vmlinuz"
cp "$root"/boot/initrd.img-* "$work/initrd"
rm -rf "$root"/boot/*
truncate -s 2G "$work/root.img.new"
mke2fs -q -t ext4 -d "$root" "$work/root.img.new"
rm -rf --one-file-system "$root"
mkdir -p "$dir"
mv "$work/vmlinuz" "$work/initrd" "$work/log" "$dir/"
mv "$work/root.img.new" "$dir/root.img" # last: its presence says that the image is whole
echo "$dir"
