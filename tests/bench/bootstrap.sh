#!/usr/bin/env bash
# Bootstrap steps: stage0 against the same tree run by `unshare` and `chroot`, the run with nothing to do, and what surrounds a step.
#
#   SOS=path/of/sos SOS_LIVE_BOOTSTRAP=checkout [ROUNDS=5] [STEPS=40] [FILES="1000 10000 50000"] bash tests/bench/bootstrap.sh
#
# Wall time, alternated, medians. Goals: stage0 with a derivation for each command at most 1.3 of the plain run; nothing to do below
# 100 ms; the same error of upstream's tree again below 1 s; what surrounds a step below 80 ms, whatever the size of its root.
set -euo pipefail

sos=$(realpath "${SOS:?"set SOS to a release build of sos; make bench does"}")
busybox=$(command -v busybox) || { echo "skipped: no busybox"; exit 0; }
rounds=${ROUNDS:-5}
steps=${STEPS:-40}
work=$(mktemp -d)
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
export HOME=$work XDG_CONFIG_HOME=$work/none

median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }
# Milliseconds that a command takes; what it says goes into `said`, and how it ends is looked at there.
took() {
  local start end
  start=$(date +%s%N)
  "$@" >"$work/out" 2>"$work/said" || true
  end=$(date +%s%N)
  echo $(((end - start) / 1000000))
}

# stage0 as it is, in namespaces and a root of its own.
plain() {
  rm -rf "$work/root"
  mkdir "$work/root"
  cp -a "$tree/seed/stage0-posix/." "$work/root"
  rm -rf "$work/root/.git"
  took unshare --user --map-root-user --mount --pid --net --fork env -i PATH=/bin \
    "$(command -v chroot)" "$work/root" /bootstrap-seeds/POSIX/AMD64/kaem-optional-seed /kaem.amd64
  # The run ends with a look at its digests.
  [ "$(cat "$work/out" "$work/said" | grep -c ': OK$')" -ge 19 ] || { tail -5 "$work/out" "$work/said" >&2; exit 1; }
}
# The same with derivations, in an empty store; `$@` are what is asked for.
ours() {
  rm -rf "$work/store"
  took "$sos" --store "$work/store" build --no-link --offline --set ARCH=amd64 "$@"
  grep -q '^built [1-9].*, failed' "$work/said" && { cat "$work/said" >&2; exit 1; }
  grep -q '^built [1-9]' "$work/said" || { cat "$work/said" >&2; exit 1; }
}

against_upstream() {
  local each=() name i
  while read -r _ name; do each+=("$tree#stage0.${name##*/}"); done <"$tree/seed/stage0-posix/amd64.answers"
  for i in $(seq "$rounds"); do
    plain >>"$work/plain"
    ours "${each[@]}" >>"$work/each"
    ours "$tree#stage0" >>"$work/whole"
  done
  # The error at the first file that nobody has, once with all before it and then again.
  again() { SOS_MIRRORS_DISTFILES=file:///nonexistent took "$sos" --store "$work/store" build --no-link --offline --set ARCH=amd64 "$tree"; }
  again >/dev/null
  for i in $(seq "$rounds"); do again >>"$work/again"; done
  grep -q bootstrap-distfile-missing "$work/said" || { cat "$work/said" >&2; exit 1; }
  for i in $(seq "$rounds"); do
    took "$sos" --store "$work/store" build --no-link --offline --set ARCH=amd64 "$tree#simple-patch-1.0" >>"$work/nothing"
  done
  grep -q '^built 0,' "$work/said" || { cat "$work/said" >&2; exit 1; }
  for name in plain each whole nothing; do eval "$name=$(median <"$work/$name")"; done
  # shellcheck disable=SC2154
  cat <<TABLE
| upstream's tree, amd64, median of $rounds | ms | of the plain run | goal |
|---|---|---|---|
| stage0, plain \`unshare\` and \`chroot\` | $plain | 1 | |
| stage0, one derivation | $whole | $(awk "BEGIN { printf \"%.2f\", $whole / $plain }") | |
| stage0, a derivation for each command | $each | $(awk "BEGIN { printf \"%.2f\", $each / $plain }") | 1.3 |
| nothing to do, all that can be built | $nothing | | 100 ms |
| again to the error at \`mes-0.27.1\` | $(median <"$work/again") | | 1000 ms |
TABLE
}

# A tree of $1 steps over a root of $2 files; the salt $3 makes all of the steps new.
small() {
  local count=$1 files=$2 salt=$3 n
  rm -rf "$work/tree/steps"
  mkdir -p "$work/tree/steps/improve"
  for n in $(seq "$count"); do
    echo "build: s$n" >>"$work/tree/steps/manifest"
    mkdir "$work/tree/steps/s$n"
    echo "echo $salt $n >/usr/n" >"$work/tree/steps/s$n/pass1.sh"
  done
  printf 'ARCH=amd64\n' >"$work/tree/steps/bootstrap.cfg"
  printf 'export PATH=/bin\n' >"$work/tree/steps/env"
  printf 'build() { . "/steps/$1/$2"; }\n' >"$work/tree/steps/helpers.sh"
  : >"$work/tree/steps/SHA256SUMS.pkgs"
  cat >"$work/tree/sos.nix" <<NIX
{ sos }:
let
  tool = builtins.path { path = $busybox; name = "busybox"; };
in
sos.bootstrap {
  tree = ./.;
  shell = [ "/bin/sh" ];
  start = sos.run {
    name = "start-$files";
    rootfs = null;
    result = "rootfs";
    epoch = 0;
    mounts."/busybox" = tool;
    shell = [ "/busybox" "sh" "-eu" ];
    script = ''
      /busybox mkdir -p /bin /usr
      /busybox cp /busybox /bin/busybox
      /bin/busybox --install -s /bin
      n=0
      while [ \$n -lt $files ]; do
        d=/usr/d\$((n / 1000))/s\$((n / 40))
        [ \$((n % 40)) -gt 0 ] || mkdir -p \$d
        echo "content of \$n" > \$d/f\$n
        n=\$((n + 1))
      done
    '';
  };
}
NIX
}

a_step() {
  local files i
  echo "| a step with all around it, chains of $steps, median of 3 | ms | goal |"
  echo "|---|---|---|"
  for files in ${FILES:-1000 10000 50000}; do
    small 1 "$files" warm
    took "$sos" --store "$work/store" build --no-link "$work/tree" >/dev/null
    grep -q '^built [1-9]' "$work/said" || { cat "$work/said" >&2; exit 1; }
    : >"$work/step"
    for i in 1 2 3; do
      small "$steps" "$files" "$i"
      took "$sos" --store "$work/store" build --no-link "$work/tree" >>"$work/step"
      grep -q "^built $steps," "$work/said" || { cat "$work/said" >&2; exit 1; }
    done
    echo "| root of $files files | $(median <"$work/step" | awk -v n="$steps" '{ printf "%.1f", $1 / n }') | 80 |"
  done
}

tree=${SOS_LIVE_BOOTSTRAP:-}
if [ -f "$tree/steps/manifest" ]; then
  against_upstream
  echo
else
  echo "skipped: SOS_LIVE_BOOTSTRAP does not name a checkout of live-bootstrap"
fi
a_step
