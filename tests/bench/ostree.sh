#!/usr/bin/env bash
# An archive commit of a Debian of about 350 MB by sos and by `ostree commit`, alternated: wall and CPU time, medians. Then a commit of
# the same with one file changed, and one that is there already.
#
#   SOS=path/of/sos [ROUNDS=3] bash tests/bench/ostree.sh
#
# Each round has a store of its own in which nothing is known of any file, on a copy of the one with the root filesystem. ostree does
# not sync (core.fsync=false), since its sync of every object would be most of what is measured; sos syncs once. Needs root, for owners.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
rounds=${ROUNDS:-3}
command -v ostree >/dev/null || { echo "skipped: no ostree"; exit 0; }
[ "$(id -u)" = 0 ] || { echo "skipped: only root can check a root filesystem out with its owners"; exit 0; }
# shellcheck source=lib.sh
source "$here/lib.sh"
system ostree.nix
# A commit does not hold what is in /dev, and ostree refuses it.
rm -rf "$work/tree/dev"/*

for f in ostree sos next none; do : >"$work/$f.times"; done
for ((i = 1; i <= rounds; i++)); do
  rm -rf "$work/repo"
  ostree --repo="$work/repo" init --mode=archive
  ostree --repo="$work/repo" config set core.fsync false
  writing ostree --repo="$work/repo" commit --branch=os --no-bindings --subject=os --timestamp=@1782864000 --tree=dir="$work/tree" >>"$work/ostree.times"
  fresh
  build() { writing "$sos" --store "$work/store" build --no-link --quiet "$work/recipe#$1"; }
  build commit >>"$work/sos.times"
  build next >>"$work/next.times"
  build commit >>"$work/none.times"
done
# Both must have made the same commit, else the numbers mean nothing.
ours=$("$sos" --store "$work/store" export "$work/recipe#commit" "ostree:$work/ours" --quiet | cut -d ' ' -f 1)
theirs=$(ostree --repo="$work/repo" rev-parse os)
[ "$ours" = "$theirs" ] || { echo "the commits differ: $ours and $theirs" >&2; exit 1; }

echo
echo "| archive commit | ostree ms | sos ms | ratio |"
echo "|---|---|---|---|"
row "wall time" "$(column 2 "$work/ostree.times")" "$(column 2 "$work/sos.times")"
row "CPU time" "$(column 1 "$work/ostree.times")" "$(column 1 "$work/sos.times")"
echo
printf 'one file changed: %d ms; nothing to do: %d ms; peak memory of a whole commit: %d MiB\n' \
  $(($(column 2 "$work/next.times") / 1000)) $(($(column 2 "$work/none.times") / 1000)) $(($(column 3 "$work/sos.times") / 1024))
