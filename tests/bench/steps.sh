#!/usr/bin/env bash
# Milliseconds a step in chains over root filesystems of different sizes; the cost must not grow with the size.
#
#   SOS=path/of/sos [STEPS=200] [FILES="1000 10000 50000"] [BENCH_USER=name] bash tests/bench/steps.sh
#
# Each row is the median of three chains with a fresh salt: steps that do nothing, that change one file, that give a file a
# second name. "back" is one empty step on the head of a chain and one on its middle, in turn: the working tree moves by the difference. "one"
# is one empty step on the head in a process of its own, and "one link" one that gives a file a second name: what they differ by is what a
# process pays for its first hard link. "new files", "other modes" and "removed files" are
# steps that change so many files, with their scripts, and "after" them is an empty step: their trees follow, so that this grows with the files of
# that one step. As root, BENCH_USER names an ordinary user with subordinate ids for whom all is measured again.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
sos=$(realpath "${SOS:?"set SOS to a release build of sos; make bench does"}")
busybox=$(command -v busybox) || { echo "skipped: no busybox"; exit 0; }
steps=${STEPS:-200}
work=$(mktemp -d)
trap '"$sos" --store "$work/store" gc --quiet >/dev/null 2>&1 || true; chmod -R u+w "$work"; rm -rf "$work"' EXIT
export HOME=$work XDG_CONFIG_HOME=$work/none

if [ -n "${BENCH_USER:-}" ] && [ "$(id -u)" = 0 ]; then
  echo "as root:"
  BENCH_USER= STEPS=$steps bash "$0"
  # The checkout and the program may lie where others cannot read.
  cp "$sos" "$work/sos"
  mkdir "$work/bench" "$work/support"
  cp "$here/steps.sh" "$here/steps.nix" "$work/bench/"
  cp "$here/../support/rootfs.nix" "$work/support/"
  chmod 755 "$work"
  echo
  echo "as an ordinary user:"
  su -s /bin/bash "$BENCH_USER" -c "SOS=$work/sos STEPS=$steps FILES='${FILES:-}' bash $work/bench/steps.sh"
  exit
fi

# chain FILES SALT LENGTH SCRIPT WHAT: writes the expression.
chain() {
  printf '(import %s { files = %s; busybox = %s; salt = "%s"; length = %s; script = n: "%s"; }).%s\n' \
    "$here/steps.nix" "$1" "$busybox" "$2" "$3" "$4" "$5" >"$work/chain.nix"
}
build() { "$sos" --store "$work/store" build --no-link --quiet "$work/chain.nix" >/dev/null 2>"$work/said" || { cat "$work/said" >&2; exit 1; }; }
# Microseconds that a build takes.
took() {
  local start end
  start=$(date +%s%N)
  build
  end=$(date +%s%N)
  echo $(((end - start) / 1000))
}
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

# row NAME SCRIPT: three chains on each size; the chain without a step that comes first makes the working tree.
row() {
  local name=$1 script=$2 files i line="| $1 |"
  for files in ${FILES:-1000 10000 50000}; do
    : >"$work/times"
    for i in 1 2 3; do
      chain "$files" "$name-warm-$i" 1 : chain
      build
      chain "$files" "$name-$i" "$steps" "$script" chain
      took >>"$work/times"
    done
    line+=$(median <"$work/times" | awk -v n="$steps" '{ printf " %.1f |", $1 / 1000 / n }')
  done
  echo "$line"
}

# Two heads in turn: a chain of which the first is the middle and the second the end.
back() {
  local files i line="| back |"
  for files in ${FILES:-1000 10000 50000}; do
    : >"$work/times"
    for i in 1 2 3 4; do
      for length in $((steps / 2)) "$steps"; do
        # The chain is there: only the last step, which is another one each time, is built.
        printf 'let c = import %s { files = %s; busybox = %s; salt = "file-1"; length = %s; script = n: "echo ${toString n} > /usr/d0/s8/f321"; }; in c.step "back-%s-%s" { rootfs = "${c.chain}"; script = ":"; }\n' \
          "$here/steps.nix" "$files" "$busybox" "$length" "$length" "$i" >"$work/chain.nix"
        took >>"$work/times"
      done
    done
    line+=$(median <"$work/times" | awk '{ printf " %.1f |", $1 / 1000 }')
  done
  echo "$line"
}

# one NAME SCRIPT: a step in a process of its own on the head of a chain whose tree is there.
one() {
  local name=$1 script=$2 files i line="| $1 |"
  for files in ${FILES:-1000 10000 50000}; do
    : >"$work/times"
    for i in 1 2 3 4 5; do
      printf 'let c = import %s { files = %s; busybox = %s; salt = "file-1"; length = %s; script = n: "echo ${toString n} > /usr/d0/s8/f321"; }; in c.step "%s-%s" { rootfs = "${c.chain}"; script = "%s"; }\n' \
        "$here/steps.nix" "$files" "$busybox" "$steps" "${name// /-}" "$i" "$script" >"$work/chain.nix"
      took >>"$work/times"
    done
    # The first one may have moved the tree.
    line+=$(tail -n +2 "$work/times" | median | awk '{ printf " %.1f |", $1 / 1000 }')
  done
  echo "$line"
}

echo "| ms a step, chains of $steps |$(for files in ${FILES:-1000 10000 50000}; do printf ' %s files |' "$files"; done)"
echo "|---|$(for _ in ${FILES:-1000 10000 50000}; do printf -- '---|'; done)"
for files in ${FILES:-1000 10000 50000}; do
  chain "$files" "" 0 : base
  build
done
# after NAME BASE SCRIPT: a step that changes FILES files of a root with BASE files, and an empty one right after it, each in a process of its own.
# @N@ stands for the number of files, @I@ for the round.
after() {
  local name=$1 files base script i first="| $1 |" last="| after $1 |" step
  for files in ${FILES:-1000 10000 50000}; do
    : >"$work/first"
    : >"$work/times"
    base=${2/@N@/$files}
    for i in 1 2 3; do
      script=${3//@N@/$files}
      step='c.step "'"${name// /-}-$files-$i"'" { rootfs = "${c.chain}"; script = "'"${script//@I@/$i}"'"; }'
      for what in "$step" 'c.step "after-'"${name// /-}-$files-$i"'" { rootfs = "${'"$step"'}"; script = ":"; }'; do
        printf 'let c = import %s { files = %s; busybox = %s; salt = "file-1"; length = 1; script = n: ":"; }; in %s\n' \
          "$here/steps.nix" "$base" "$busybox" "$what" >"$work/chain.nix"
        took >"$work/last"
        [ -s "$work/now" ] || cat "$work/last" >"$work/now"
      done
      cat "$work/now" >>"$work/first"
      cat "$work/last" >>"$work/times"
      rm "$work/now"
    done
    first+=$(median <"$work/first" | awk '{ printf " %.1f |", $1 / 1000 }')
    last+=$(median <"$work/times" | awk '{ printf " %.1f |", $1 / 1000 }')
  done
  printf '%s\n' "$first" "$last"
}

row empty ":"
row file 'echo ${toString n} > /usr/d0/s8/f321'
row link 'busybox ln -f /usr/d0/s1/f$((41 + ${toString n} % 39)) /usr/d0/x'
back
one "one" ":"
one "one link" 'busybox ln -f /usr/d0/s1/f41 /usr/d0/y'
after "new files" 1000 'busybox mkdir /usr/new; n=0; while [ $n -lt @N@ ]; do echo @I@ $n >/usr/new/$n; n=$((n + 1)); done'
after "other modes" @N@ 'busybox chmod -R o-r /usr; echo @I@ >/usr/round'
after "removed files" @N@ 'busybox rm -r /usr/d*/s*; echo @I@ >/usr/round'
