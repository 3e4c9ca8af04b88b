# `sos build .#image` makes the image; `sos build` makes all that is named at the end.
{ sos, ... }:
let
  host = sos.debian.rootfs ./host.rootfs.toml;

  hello = sos.run {
    name = "hello";
    rootfs = sos.debian.rootfs ./toolchain.rootfs.toml;
    mounts."/src/hello.c" = ./hello.c;
    script = ''
      mkdir -p "$out/bin"
      gcc -O2 -Wall -Wl,--build-id=none -s -o "$out/bin/hello" /src/hello.c
    '';
  };
in
{
  inherit host hello;

  image = sos.oci {
    name = "image";
    rootfs = host;
    layers = [ { files."/usr/local/bin/hello" = "${hello}/bin/hello"; } ];
    config = {
      entrypoint = [ "/usr/local/bin/hello" ];
      user = "app";
    };
  };
}
