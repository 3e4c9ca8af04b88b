#!/usr/bin/env bash
# An image of a root filesystem of about 350 MB, gzip, against `umoci insert`; one changed file; nothing to do; memory.
#
#   SOS=path/of/sos [ROUNDS=5] [BENCH_STORE=dir with the root filesystem] bash tests/bench/image.sh
#
# Both begin with the files at hand, sos with those of its store and umoci with a directory of the same content. What sos remembers of
# compressed files is forgotten before each round, and the time of creation is another one, so that every layer is made anew.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
rounds=${ROUNDS:-5}
# A store that is kept has the images of earlier runs.
fresh=$(($(date +%s) % 90000000))
command -v umoci >/dev/null || { echo "skipped: no umoci"; exit 0; }
# shellcheck source=lib.sh
source "$here/lib.sh"
store=${BENCH_STORE:-$work/store}

# recipe SALT: writes the recipe.
recipe() { printf 'args@{ sos, ... }: import %s { salt = "%s"; } args\n' "$here/image.nix" "$1" >"$work/sos.nix"; }
# once EPOCH: a recipe with another time of creation over the same files.
once() {
  printf 'args@{ sos, ... }: { image = sos.oci { name = "image"; rootfs = (import %s { } args).base; epoch = %s; }; }\n' \
    "$here/image.nix" "$1" >"$work/sos.nix"
}
build() { "$sos" --store "$store" build --no-link --quiet "$work#$1"; }
forget() {
  python3 - "$store" <<'PY'
import pathlib, sqlite3, sys
for db in pathlib.Path(sys.argv[1]).glob("db/*"):
    if db.read_bytes()[:6] == b"SQLite":
        with sqlite3.connect(db) as con:
            if con.execute("select 1 from sqlite_master where name = 'derived'").fetchone():
                con.execute("delete from derived")
PY
}
layers() {
  python3 - "$1" <<'PY'
import json, pathlib, sys
top = pathlib.Path(sys.argv[1])
blob = lambda one: json.loads((top / "blobs" / one["digest"].replace(":", "/")).read_bytes())
index = json.loads((top / "index.json").read_bytes())
print("\n".join(sorted(layer["digest"] for layer in blob(index["manifests"][0])["layers"])))
PY
}

recipe ""
build base >/dev/null 2>"$work/said" || { echo "skipped: the root filesystem does not build here: $(head -n 1 "$work/said")"; exit 0; }
"$sos" --store "$store" export "$work#base" "dir:$work/root" >/dev/null 2>&1
echo "root filesystem: $(du -sm "$work/root" | cut -f 1) MiB, $(find "$work/root" | wc -l) entries, $(nproc) cores"

# The largest blob of a layout.
largest() { find "$1/blobs" -type f -printf '%s\n' | sort -n | tail -n 1 | awk '{ printf "%.1f", $1 / 1e6 }'; }
: >"$work/a"; : >"$work/b"; : >"$work/c"
for ((i = 1; i <= rounds; i++)); do
  rm -rf "$work/umoci"
  umoci init --layout "$work/umoci"
  umoci new --image "$work/umoci:x"
  writing umoci insert --image "$work/umoci:x" "$work/root" / >>"$work/a"
  once $((1600000000 + fresh + i))
  forget
  writing "$sos" --store "$store" build --no-link --quiet "$work#image" >>"$work/b"
  # And once more, with all pieces known but the layer.
  once $((1500000000 + fresh + i))
  writing "$sos" --store "$store" build --no-link --quiet "$work#image" >>"$work/c"
done
echo
echo "| one gzip layer | umoci ms | sos ms | ratio |"
echo "|---|---|---|---|"
row "wall time" "$(column 2 "$work/a")" "$(column 2 "$work/b")"
row "CPU time" "$(column 1 "$work/a")" "$(column 1 "$work/b")"
row "wall time, pieces known" "$(column 2 "$work/a")" "$(column 2 "$work/c")"
echo
echo "MB of the layer: umoci $(largest "$work/umoci"), sos $(largest "$store/tree/$(basename "$(build image)")")"

recipe before
build packages >"$work/before"
layers "$store/tree/$(basename "$(cat "$work/before")")" >"$work/layers.before"
: >"$work/a"
for ((i = 1; i <= rounds; i++)); do
  recipe "after $fresh $i"
  took build packages >>"$work/a"
done
layers "$store/tree/$(basename "$(cat "$work/out")")" >"$work/layers.after"
echo "one changed file: $(($(median <"$work/a") / 1000)) ms (limit 2000), $(comm -13 "$work/layers.before" "$work/layers.after" | wc -l) of $(wc -l <"$work/layers.after") layers differ (limit 2)"
: >"$work/a"
for ((i = 1; i <= 11; i++)); do took build packages >>"$work/a"; done
echo "nothing to do: $(($(median <"$work/a") / 1000)) ms (limit 50)"
forget
once $((1400000000 + fresh))
python3 "$here/peak.py" "$sos" --store "$store" build --no-link --quiet "$work#image" | awk '{ printf "peak memory: %d MiB (limit 400)\n", $1 / 1024 }'
