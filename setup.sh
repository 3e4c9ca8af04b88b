#!/bin/sh
# Installs the system packages that one front-door job needs, and nothing when they are there.
#
#   sh setup.sh demo|test|check|bench
#
# On Debian and its relatives what is missing is listed and installed, with sudo when not root; elsewhere it is
# named and the job stops. Exit 0: everything is there. Exit 4: this machine lacks something.
set -eu

job=${1:?"usage: sh setup.sh demo|test|check|bench"}

# A C compiler links Rust programs and builds SQLite, zstd and xz; uidmap holds newuidmap, which lets an
# ordinary user build root filesystems.
packages="gcc libc6-dev make ca-certificates uidmap"
case $job in
demo | check) ;;
# The peers that the tests compare with.
test) packages="$packages apt dpkg busybox-static nix-bin skopeo umoci podman python3 passwd util-linux iproute2 mount git" ;;
bench) packages="$packages busybox-static nix-bin python3" ;;
*)
  echo "setup.sh: unknown job '$job'" >&2
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
  missing=
  for package in $packages; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
  done
  if [ -n "$missing" ]; then
    echo "installing:$missing"
    as_root apt-get update -qq
    # shellcheck disable=SC2086
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
  fi
else
  missing=
  for tool in gcc make newuidmap; do
    command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
  done
  if [ -n "$missing" ]; then
    echo "setup.sh: this is not Debian; install what provides:$missing" >&2
    echo "setup.sh: (Debian's packages for '$job' are: $packages)" >&2
    exit 4
  fi
fi

# An ordinary user builds root filesystems with ids of its own; root needs none.
user=$(id -un)
if [ "$(id -u)" != 0 ] && ! grep -qE "^($user|$(id -u)):" /etc/subuid 2>/dev/null; then
  # The first range behind every other one.
  next=$(awk -F: 'BEGIN { n = 100000 } { if ($2 + $3 > n) n = $2 + $3 } END { print n }' /etc/subuid /etc/subgid 2>/dev/null || echo 100000)
  echo "giving $user the subordinate ids $next to $((next + 65535))"
  as_root usermod --add-subuids "$next-$((next + 65535))" --add-subgids "$next-$((next + 65535))" "$user"
fi

if ! command -v cargo >/dev/null 2>&1; then
  echo "setup.sh: cargo is not on PATH; install a Rust toolchain of 1.90 or newer" >&2
  exit 4
fi
