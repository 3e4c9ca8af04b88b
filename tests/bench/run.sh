#!/usr/bin/env bash
# Ratios of sos against real Nix, alternated in one run, medians; prints a table for BENCHMARKS.md.
#
#   SOS=path/of/sos [ROUNDS=5] [BENCH_LIB=dir of the nixpkgs lib] bash tests/bench/run.sh [demo|log|steps|filesystem|image|ostree|lang|engine]
#
# First, without a peer: how long the demo takes when there is nothing to do, beside its limit, what a busy log costs, and what a step
# costs (steps.sh, bootstrap.sh). The inputs of the rest are those of ../shared/bench; without that folder there is no more to measure.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
inputs=$top/../shared/bench
# shellcheck source=lib.sh
source "$here/lib.sh"
export NIX_CONFIG="experimental-features = nix-command ca-derivations"
rounds=${ROUNDS:-5}
only=${1:-all}

# The second build of examples/web: median of eleven runs, in a store of its own.
if [ "$only" = all ] || [ "$only" = demo ]; then
  cp -r "$top/examples/web" "$work/web"
  rm -f "$work/web/sos.lock" "$work/web/result"
  demo() { "$sos" --store "$work/demo" build --no-link --quiet "$work/web#image"; }
  if demo >/dev/null 2>"$work/said"; then
    for ((i = 1; i <= 11; i++)); do took demo; done | median |
      awk '{ printf "demo, nothing to do: %.1f ms (limit 100 ms): %s\n\n", $1 / 1000, $1 < 100000 ? "kept" : "NOT KEPT" }'
  else
    echo "skipped: the demo does not build here: $(head -n 1 "$work/said")"
  fi
  [ "$only" = all ] || exit 0
fi

# Ten thousand lines a second, for ten seconds on each display; the limit is 5 %.
if [ "$only" = all ] || [ "$only" = log ]; then
  SOS=$sos python3 "$here/log_lines.py"
  echo
  [ "$only" = all ] || exit 0
fi

# Steps do not depend on ../shared/bench either.
if [ "$only" = all ] || [ "$only" = steps ]; then
  SOS=$sos bash "$here/steps.sh"
  SOS=$sos bash "$here/bootstrap.sh"
  echo
  [ "$only" = all ] || exit 0
fi

if [ "$only" = all ] || [ "$only" = filesystem ]; then
  SOS=$sos bash "$here/filesystem.sh"
  echo
  [ "$only" = all ] || exit 0
fi

# Nor do images.
if [ "$only" = all ] || [ "$only" = image ]; then
  SOS=$sos bash "$here/image.sh"
  echo
  [ "$only" = all ] || exit 0
fi

if [ "$only" = all ] || [ "$only" = ostree ]; then
  SOS=$sos bash "$here/ostree.sh"
  echo
  [ "$only" = all ] || exit 0
fi

[ -d "$inputs" ] || { echo "skipped: no ../shared/bench"; exit 0; }
command -v nix-instantiate >/dev/null || { echo "skipped: no nix-instantiate"; exit 0; }

# compare NAME 'command of Nix' 'command of sos': wall time.
compare() {
  local name=$1 a=$2 b=$3 i
  : >"$work/a"
  : >"$work/b"
  for ((i = 1; i <= rounds; i++)); do
    export ROUND=$i
    took bash -c "$a" >>"$work/a"
    took bash -c "$b" >>"$work/b"
  done
  row "$name" "$(median <"$work/a")" "$(median <"$work/b")"
}

# evaluate NAME ARGUMENT..: CPU time and peak memory of an evaluation; sos evaluates each time anew.
evaluate() {
  local name=$1 i
  shift
  : >"$work/a"
  : >"$work/b"
  for ((i = 1; i <= rounds; i++)); do
    usage nix-instantiate --store dummy:// --eval --strict "$@" >>"$work/a"
    usage "$sos" eval --no-eval-cache --strict "${@:1:$#-1}" --file "${@: -1}" >>"$work/b"
  done
  echo "$name $(column 1 "$work/a") $(column 1 "$work/b") $(column 3 "$work/a") $(column 3 "$work/b")" | tee -a "$work/lang" |
    awk '{ printf "| %s | %.0f | %.0f | %.2f | %.0f | %.0f | %.2f |\n", $1, $2/1000, $3/1000, $3/$2, $4/1024, $5/1024, $5/$4 }'
}

# again NAME ARGUMENT..: CPU and wall time of an evaluation that was done before.
again() {
  local name=$1 i
  shift
  : >"$work/a"
  # Twice: what was written a moment ago is read once more.
  "$sos" eval "$@" >/dev/null && "$sos" eval "$@" >/dev/null
  for ((i = 1; i <= rounds; i++)); do
    usage "$sos" eval "$@" >>"$work/a"
  done
  echo "$(column 1 "$work/a") $(column 2 "$work/a")" | awk -v n="$name" '{ printf "| %s | %.1f | %.1f |\n", n, $1/1000, $2/1000 }'
}

echo "commit $(git -C "$top" rev-parse --short HEAD 2>/dev/null || echo unknown), $rounds rounds, $(nproc) cores, $(nix-instantiate --version)"
echo

if [ "$only" != engine ]; then
  echo "| evaluation | Nix CPU ms | sos CPU ms | sos/Nix | Nix MB | sos MB | sos/Nix |"
  echo "|---|---|---|---|---|---|---|"
  for file in "$inputs"/lang/*.nix; do
    name=$(basename "$file" .nix)
    if [ "$name" = modules ]; then
      [ -n "${BENCH_LIB:-}" ] || { echo "| modules | skipped: BENCH_LIB is not set | | | | | |"; continue; }
      evaluate "$name" -I "lib=$BENCH_LIB" "$file"
    else
      evaluate "$name" "$file"
    fi
  done
  awk '{ s += log($3 / $2); m += log($5 / $4) } END { printf "| geometric mean | | | %.2f | | | %.2f |\n\n", exp(s / NR), exp(m / NR) }' "$work/lang"

  # Every file of the tree is read by the first evaluation.
  mkdir "$work/flake"
  for ((i = 0; i < 2000; i++)); do echo "$i" >"$work/flake/f$i.nix"; done
  # shellcheck disable=SC2016 # `${..}` is for the evaluator.
  echo 'builtins.foldl'"'"' (a: i: a + import (./. + "/f${toString i}.nix")) 0 (builtins.genList (i: i) 2000)' >"$work/flake/all.nix"
  echo '{ outputs = _: { sum = import ./all.nix; }; }' >"$work/flake/flake.nix"
  sleep 3
  echo "| second evaluation, 2000 files read | CPU ms | wall ms |"
  echo "|---|---|---|"
  again "a file" --file "$work/flake/all.nix"
  again "a flake" "path:$work/flake#sum"
  echo
fi

if [ "$only" != lang ]; then
  echo "| build | Nix ms | sos ms | sos/Nix |"
  echo "|---|---|---|---|"
  busybox=$(command -v busybox)
  gen() { python3 "$inputs/engine/gen_dag.py" layers 1000 --builder "$busybox" "$@"; }
  gen -o "$work/noop.nix"
  nix_build="nix-build --store $work/nix --no-out-link --option sandbox-paths $busybox --option sandbox true -j 2 --option build-users-group ''"
  sos_build="$sos --store $work/sos --config build.sandbox-paths=[\\\"$busybox\\\"] build --no-link -j 2"
  bash -c "$nix_build $work/noop.nix" >/dev/null 2>&1 || echo "note: nix-build cannot build here" >&2
  bash -c "$sos_build $work/noop.nix" >/dev/null 2>&1
  compare "no-op, 1000 derivations" "$nix_build $work/noop.nix" "$sos_build $work/noop.nix"
  rounds=3
  for i in 1 2 3; do gen --salt "$i.$$" -o "$work/cold$i.nix"; done
  compare "cold, 1000 derivations" "$nix_build $work/cold\$ROUND.nix" "$sos_build $work/cold\$ROUND.nix"
  # One derivation of 1000 is another one each time, and everything that needs it gets equal inputs. Nix 2.8 stands beside it.
  rounds=5
  for i in 0 1 2 3 4 5; do gen --ca --same --input-salt 0 --salt "$i.$$" -o "$work/cut$i.nix"; done
  bash -c "$nix_build $work/cut0.nix" >/dev/null 2>&1
  bash -c "$sos_build $work/cut0.nix" >/dev/null 2>&1
  compare "one changed of 1000, equal output" "$nix_build $work/cut\$ROUND.nix" "$sos_build $work/cut\$ROUND.nix"
  median <"$work/b" |
    awk '{ printf "\none changed of 1000, equal output: %.1f ms (limit 150 ms): %s\n", $1 / 1000, $1 < 150000 ? "kept" : "NOT KEPT" }'
  # Memory of all processes of sos at once, the builders not counted, as often as it can be looked at.
  gen --salt "memory.$$" -o "$work/memory.nix"
  python3 "$here/peak.py" $(bash -c "printf '%s\n' $sos_build") --quiet "$work/memory.nix" |
    awk '{ printf "peak memory of a build of 1000: %.1f MiB, the main process alone %.1f MiB (limit 64 MiB): %s\n", $1 / 1024, $2 / 1024, $1 < 65536 ? "kept" : "NOT KEPT" }'
fi
