# Two root filesystems, a program compiled in one of them, and an image of the other with the program in it.
{ sos, ... }:
let
  toolchain = sos.debian.rootfs ./toolchain.rootfs.toml;
  web = sos.debian.rootfs ./web.rootfs.toml;

  hello = sos.run {
    name = "hello";
    rootfs = toolchain;
    mounts."/src" = ./hello;
    cwd = "/tmp";
    script = ''
      make -f /src/Makefile SRC=/src
      make -f /src/Makefile SRC=/src PREFIX="$out" install
    '';
  };

  image = sos.oci {
    name = "web-image";
    rootfs = web;
    # One layer for each entry: a change of the program rebuilds this one, not the host below.
    layers = [ { files."/usr/local/bin/hello" = "${hello}/bin/hello"; } ];
    config = {
      entrypoint = [ "/usr/local/bin/hello" ];
      exposedPorts = [ "8080/tcp" ];
      workdir = "/";
      labels."org.opencontainers.image.title" = "web";
    };
  };
in
{
  inherit toolchain web hello image;
}
