#!/usr/bin/env bash
# Images of a Debian of about 350 MB by sos and by mke2fs -d, mkfs.erofs and mksquashfs, alternated: wall and CPU time, medians. The
# goal is 0.6 of mke2fs -d.
#
#   SOS=path/of/sos [ROUNDS=3] bash tests/bench/filesystem.sh
#
# Each round has a store of its own in which no image is known, on a copy of the one with the root filesystem. What sos takes is the
# whole command: looking the recipe up, the image, its hashes, its place in the store. Needs root, for owners.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
rounds=${ROUNDS:-3}
command -v mke2fs >/dev/null || { echo "skipped: no mke2fs"; exit 0; }
[ "$(id -u)" = 0 ] || { echo "skipped: only root can check a root filesystem out with its owners"; exit 0; }
# shellcheck source=lib.sh
source "$here/lib.sh"
system filesystem.nix

kinds=ext4
command -v mkfs.erofs >/dev/null && kinds="$kinds erofs"
command -v mksquashfs >/dev/null && kinds="$kinds squashfs"
# The same with the program that others use.
peer() {
  rm -f "$work/peer.image"
  case $1 in
  ext4) writing mke2fs -q -F -t ext4 -d "$work/tree" "$work/peer.image" 512M ;;
  erofs) writing mkfs.erofs --quiet -T1 "$work/peer.image" "$work/tree" ;;
  # The level that sos has.
  squashfs) writing mksquashfs "$work/tree" "$work/peer.image" -quiet -no-progress -comp zstd -Xcompression-level 15 ;;
  esac 2>>"$work/said"
}
for ((i = 1; i <= rounds; i++)); do
  fresh
  for kind in $kinds; do
    peer "$kind" >>"$work/$kind.peer"
    writing "$sos" --store "$work/store" build --no-link --quiet "$work/recipe#$kind" >>"$work/$kind.sos"
  done
  writing "$sos" --store "$work/store" build --no-link --quiet "$work/recipe#next" >>"$work/next.sos"
  writing "$sos" --store "$work/store" build --no-link --quiet "$work/recipe#ext4" >>"$work/none.sos"
done

echo
echo "| image | peer ms | sos ms | ratio |"
echo "|---|---|---|---|"
for kind in $kinds; do
  row "$kind, wall time" "$(column 2 "$work/$kind.peer")" "$(column 2 "$work/$kind.sos")"
  row "$kind, CPU time" "$(column 1 "$work/$kind.peer")" "$(column 1 "$work/$kind.sos")"
done
echo
printf 'ext4 with one file changed: %d ms; nothing to do: %d ms; peak memory of ext4: %d MiB\n' \
  $(($(column 2 "$work/next.sos") / 1000)) $(($(column 2 "$work/none.sos") / 1000)) $(($(column 3 "$work/ext4.sos") / 1024))
