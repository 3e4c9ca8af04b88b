#!/bin/sh
# The first program: loads the modules that the root needs, finds the root and starts its init. When it ends, the kernel panics,
# and `panic=SECONDS` on its command line starts the machine again, where the loader may choose another entry.
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev

fail() {
  [ -z "$refused" ] || echo "initrd: the kernel did not take$refused" >/dev/console
  echo "initrd: $*" >/dev/console
  exit 1
}

root= type= flags= ostree= mode=ro init=/sbin/init wait=60 volatile=no
roothash= verity_data= verity_hash= verity_options= refused=
for word in $(cat /proc/cmdline); do
  case $word in
  root=*) root=${word#root=} ;;
  rootfstype=*) type=${word#rootfstype=} ;;
  rootflags=*) flags=${word#rootflags=} ;;
  rootdelay=*) wait=${word#rootdelay=} ;;
  ostree=*) ostree=${word#ostree=} ;;
  init=*) init=${word#init=} ;;
  # The words of systemd, so that another initrd may take the place of this one.
  systemd.volatile=*) volatile=${word#systemd.volatile=} ;;
  roothash=*) roothash=${word#roothash=} ;;
  systemd.verity_root_data=*) verity_data=${word#systemd.verity_root_data=} ;;
  systemd.verity_root_hash=*) verity_hash=${word#systemd.verity_root_hash=} ;;
  systemd.verity_root_options=*) verity_options=${word#systemd.verity_root_options=} ;;
  ro | rw) mode=$word ;;
  esac
done

while read -r module; do
  # What is for other processors is refused, which only matters when something fails.
  insmod "/modules/$module" 2>/dev/null || refused="$refused $module"
done </modules/order

# The name of the partition with the id $1, out of the partition table of its disk.
by_id() {
  for entry in /sys/class/block/*; do
    [ -e "$entry/partition" ] || continue
    place=$(readlink -f "$entry")
    disk=${place%/*}
    sector=$(cat "$disk/queue/logical_block_size")
    number=$(cat "$entry/partition")
    # Entries of 128 bytes from the second sector on; the id is 16 bytes inside.
    at=$((sector * 2 / 16 + (number - 1) * 8 + 1))
    set -- "$1" $(dd "if=/dev/${disk##*/}" bs=16 "skip=$at" count=1 2>/dev/null | od -An -v -tx1)
    [ $# = 17 ] || continue
    id=$5$4$3$2-$7$6-$9$8-${10}${11}-${12}${13}${14}${15}${16}${17}
    [ "$id" = "$1" ] && echo "/dev/${entry##*/}" && return
  done
}

by_name() {
  for entry in /sys/class/block/*; do
    grep -qx "PARTNAME=$1" "$entry/uevent" 2>/dev/null && echo "/dev/${entry##*/}" && return
  done
}

find_device() {
  case $1 in
  PARTUUID=*) by_id "$(echo "${1#PARTUUID=}" | tr A-F a-f)" ;;
  PARTLABEL=*) by_name "${1#PARTLABEL=}" ;;
  UUID=* | LABEL=*) findfs "$1" 2>/dev/null ;;
  /dev/*) [ -b "$1" ] && echo "$1" ;;
  esac
}

# Sets `device` to what $1 names, as soon as it is there.
wait_for() {
  tries=$((wait * 10))
  while device=$(find_device "$1"); [ -z "$device" ]; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || fail "there is no $1"
    sleep 0.1
  done
}

# What is written to the root in /lower goes to memory and is gone at the end.
lay_memory_over() {
  mkdir -p /upper
  mount -t tmpfs -o mode=755 tmpfs /upper
  mkdir /upper/data /upper/work
  mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /root ||
    fail "cannot mount an overlay over the root"
}

if [ -e /rootfs.img ]; then
  mkdir -p /lower
  mount -t "${type:-squashfs}" -o loop,ro /rootfs.img /lower || fail "cannot mount the root that came with the kernel"
  lay_memory_over
else
  [ -n "$root" ] || fail "no root= on the kernel's command line"
  if [ -n "$roothash" ]; then
    # Every block of the root is compared with a hash before anything sees it, and the hashes with the one that was named.
    options=
    for option in $(echo "$verity_options" | tr , ' '); do
      options="$options --$option"
    done
    wait_for "$verity_data"
    data=$device
    wait_for "$verity_hash"
    # shellcheck disable=SC2086
    veritysetup open $options "$data" root "$device" "$roothash" || fail "the root is not what roothash= says"
  fi
  wait_for "$root"
  if [ "$volatile" = overlay ]; then
    mkdir -p /lower
    mount ${type:+-t "$type"} -o "ro${flags:+,$flags}" "$device" /lower || fail "cannot mount $device"
    lay_memory_over
  else
    mount ${type:+-t "$type"} -o "$mode${flags:+,$flags}" "$device" /root || fail "cannot mount $device"
  fi
fi

new=/root
if [ -n "$ostree" ]; then
  # The disk has several systems: the one that is meant becomes the root, and the disk is below it.
  system=$(readlink -f "/root$ostree") && [ -d "$system" ] || fail "the disk has no $ostree"
  os=${system#/root/ostree/deploy/}
  new=/system
  mkdir -p /system
  mount --bind "$system" /system
  mount --bind "/root/ostree/deploy/${os%%/*}/var" /system/var
  mount --bind /system/usr /system/usr
  mount -o remount,bind,ro /system/usr
  mount --move /root /system/sysroot
  mount -t tmpfs -o mode=755 tmpfs /system/run
  echo >/system/run/ostree-booted
fi

[ -x "$new$init" ] || [ -L "$new$init" ] || fail "the root has no $init"
for dir in proc sys dev; do
  mount --move "/$dir" "$new/$dir"
done
exec switch_root -c /dev/console "$new" "$init"
