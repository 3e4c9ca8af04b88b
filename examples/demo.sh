#!/bin/sh
# What `make demo` shows: examples/web built into a container image, how big, how long, and how to run it.
set -eu

sos=${SOS:?"set SOS to the sos binary; make demo does"}
case $sos in /*) ;; *) sos=$PWD/$sos ;; esac
here=$(cd "$(dirname "$0")" && pwd)

start=$(date +%s)
image=$("$sos" build "$here/web#image" -o "$here/web/result")
end=$(date +%s)
start_again=$(date +%s%N)
"$sos" build "$here/web#image" --no-link --quiet >/dev/null
end_again=$(date +%s%N)

physical=$("$sos" store info --physical "$image")
digest=$("$sos" store cat "$image/index.json" | grep -o 'sha256:[0-9a-f]*' | head -n 1)
size=$("$sos" store info --size "$image")

cat <<MESSAGE

  image      $image
  digest     $digest
  size       $size
  built in   $((end - start)) s; built again in $(((end_again - start_again) / 1000000)) ms
  on disk    $physical

To run it (podman names the image after the path as it is typed, which must be plain and in lower case):
  cd examples/web && podman run --rm oci:result
To copy it to a registry or an archive:
  skopeo copy oci:examples/web/result oci-archive:web.tar
To change something: edit examples/web/hello/*.c and run \`make demo\` again; only the program and its layer are rebuilt.
MESSAGE
