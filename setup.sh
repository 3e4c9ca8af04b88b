#!/bin/sh
# Installs the system packages that one front-door job needs, and nothing when they are there.
#
#   sh setup.sh demo|test|check|bench
#
# On Debian and its relatives what is missing is listed and installed, with sudo when not root; elsewhere the programs that are
# missing are named and the job stops. Exit 0: everything is there. Exit 4: this machine lacks something.
set -eu

job=${1:?"usage: sh setup.sh demo|test|check|bench"}
rust=1.90

# A C compiler links Rust programs and builds SQLite, zstd and xz; uidmap holds newuidmap, which lets an ordinary user build root
# filesystems. Package and, behind the colon, the program that shows it is there.
needs="gcc:gcc libc6-dev:gcc make:make ca-certificates:gcc uidmap:newuidmap"
case $job in
demo | check) ;;
# The peers that the tests compare with.
test)
  needs="$needs apt:apt-get dpkg:dpkg-deb busybox-static:busybox nix-bin:nix-build skopeo:skopeo umoci:umoci podman:podman docker-registry:docker-registry"
  needs="$needs python3:python3 python3-jsonschema:python3 passwd:useradd util-linux:unshare mount:mount systemd:systemctl git:git mercurial:hg"
  needs="$needs bash:bash dash:dash tar:tar gzip:gzip bzip2:bzip2 xz-utils:xz zstd:zstd zip:zip ostree:ostree graphviz:dot curl:curl groff-base:groff"
  needs="$needs qemu-system-x86:qemu-system-x86_64 qemu-utils:qemu-img ovmf:qemu-system-x86_64 ipxe-qemu:qemu-system-x86_64"
  needs="$needs systemd-boot-efi:qemu-system-x86_64 sbsigntool:sbverify gdisk:sgdisk fdisk:sfdisk dosfstools:fsck.vfat mtools:mcopy"
  needs="$needs cpio:cpio binutils:objdump openssl:openssl xorriso:xorriso genisoimage:isoinfo"
  needs="$needs e2fsprogs:e2fsck erofs-utils:fsck.erofs squashfs-tools:unsquashfs cryptsetup-bin:veritysetup"
  # libostree is built in for the tests; gpg and openssl make and check signatures.
  needs="$needs libostree-dev:pkg-config pkg-config:pkg-config gnupg:gpg openssl:openssl"
  ;;
bench)
  needs="$needs busybox-static:busybox nix-bin:nix-build python3:python3"
  needs="$needs e2fsprogs:mke2fs erofs-utils:mkfs.erofs squashfs-tools:mksquashfs umoci:umoci ostree:ostree"
  ;;
*)
  echo "setup.sh: unknown job '$job'; it is one of demo, test, check, bench" >&2
  exit 2
  ;;
esac

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null 2>&1; then
    sudo "$@"
  else
    echo "setup.sh: this needs root, and sudo is not installed; run as root: $*" >&2
    exit 4
  fi
}

if command -v dpkg-query >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1; then
  # Some tests ask apt what it would choose, for which it needs its lists.
  lists=$(find /var/lib/apt/lists -name '*_Packages*' 2>/dev/null | head -n 1)
  if [ "$job" = test ] && [ -z "$lists" ]; then
    as_root apt-get update -qq
  fi
  # Twice: apt takes a package away, if one that is new does not go with the version that is installed.
  for round in first second; do
    missing=
    for need in $needs; do
      package=${need%%:*}
      state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
      [ "$state" = installed ] || missing="$missing $package"
    done
    [ -n "$missing" ] || break
    [ "$round" = second ] || as_root apt-get update -qq
    echo "installing:$missing"
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
  done
else
  missing=
  for need in $needs; do
    program=${need##*:}
    # Root needs no program to map its ids, and one program can stand for several packages.
    [ "$program" = newuidmap ] && [ "$(id -u)" = 0 ] && continue
    case "$missing" in *" $program ("*) continue ;; esac
    PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null 2>&1 || missing="$missing $program (Debian: ${need%%:*}),"
  done
  if [ -n "$missing" ]; then
    echo "setup.sh: this is not Debian; '$job' needs these programs, install them and try again:${missing%,}" >&2
    exit 4
  fi
fi

# An ordinary user builds root filesystems with ids of its own; root needs none.
user=$(id -un)
for kind in uid gid; do
  if [ "$(id -u)" != 0 ] && ! grep -qE "^($user|$(id -u)):" "/etc/sub$kind" 2>/dev/null; then
    # The first range behind every other one.
    next=$(cat /etc/subuid /etc/subgid 2>/dev/null | awk -F: 'BEGIN { n = 100000 } { if ($2 + $3 > n) n = $2 + $3 } END { print n }')
    echo "giving $user the subordinate ${kind}s $next to $((next + 65535))"
    as_root usermod "--add-sub${kind}s" "$next-$((next + 65535))" "$user"
  fi
done

if ! command -v cargo >/dev/null 2>&1; then
  echo "setup.sh: cargo is not on PATH; install a Rust toolchain of $rust or newer" >&2
  exit 4
fi
version=$(cargo --version | cut -d ' ' -f 2)
if [ "$(printf '%s\n%s\n' "$rust" "$version" | sort -V | head -n 1)" != "$rust" ]; then
  echo "setup.sh: cargo is $version; install a Rust toolchain of $rust or newer" >&2
  exit 4
fi
