# Sourced by the measuring scripts beside it, which set `here` before. Gives them `sos`, `work` (a directory that goes with the script)
# and what follows.
# shellcheck shell=bash disable=SC2034,SC2154 # the one who sources uses or sets them

sos=$(realpath "${SOS:?"set SOS to a release build of sos; make bench does"}")
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
export HOME=$work/home XDG_CONFIG_HOME=$work/none
mkdir -p "$HOME"

# Microseconds that a command takes; what it prints is in $work/out and $work/said.
took() {
  local start end
  start=$(date +%s%N)
  "$@" >"$work/out" 2>"$work/said" || { echo "failed: $*" >&2; cat "$work/said" >&2; exit 1; }
  end=$(date +%s%N)
  echo $(((end - start) / 1000))
}
# Memory that was in use just now, as much as an artifact needs, before each run of sos and of its peer: a virtual machine may have to
# get memory that lay idle back from its host, page by page, and then that is what is measured. And a disk at rest: a peer that leaves
# its output in the memory of the kernel would have it written while sos runs.
warm() {
  dd if=/dev/zero of="$work/warm" bs=1M count=1024 status=none
  rm "$work/warm"
  sync
}
# CPU time and wall time of a command in microseconds, peak memory in KiB.
usage() { python3 "$here/usage.py" "$@"; }
# The same of a command that writes an artifact.
writing() {
  warm
  usage "$@"
}
# Of the numbers on standard input.
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
# column N FILE: the median of a column.
column() { cut -d ' ' -f "$1" "$2" | median; }
# row NAME A B: a line of a table from two medians in microseconds, in milliseconds, and their ratio.
row() { awk -v n="$1" -v a="$2" -v b="$3" 'BEGIN { printf "| %s | %.1f | %.1f | %.2f |\n", n, a / 1000, b / 1000, b / a }'; }
# system RECIPE: makes the root filesystem that artifacts are measured on in the store $work/base, with RECIPE beside this file as
# sos.nix, and its files as $work/tree; ends the script where that does not build.
system() {
  mkdir "$work/recipe"
  cp "$here/$1" "$work/recipe/sos.nix"
  cp "$here/os.rootfs.toml" "$work/recipe/"
  made() { "$sos" --store "$work/base" "$@" --quiet >/dev/null 2>"$work/said"; }
  made build --no-link "$work/recipe#os" || { echo "skipped: the root filesystem does not build here: $(head -n 1 "$work/said")"; exit 0; }
  made export "$work/recipe#os" "dir:$work/tree"
  echo "root filesystem: $(find "$work/tree" | wc -l) entries, $(du -sm "$work/tree" | cut -f 1) MB, $(nproc) cores"
}
# A store in which no artifact is known: a copy of $work/base as $work/store.
fresh() {
  rm -rf "$work/store"
  cp -a --reflink=auto "$work/base" "$work/store"
  sync
}
