# Root filesystems, a program compiled in one of them, and what the others become with the program in it: an image and a disk.
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

  # The same as a machine that starts by itself: `sos boot run .#disk`.
  machine = sos.rootfs.edit {
    name = "machine-rootfs";
    rootfs = sos.debian.rootfs ./machine.rootfs.toml;
    file = [
      { path = "/usr/local/bin/hello"; source = "${hello}/bin/hello"; mode = "0755"; }
    ];
  };
  # NVMe and ext4 are built into this kernel: it needs no initrd to find its root.
  disk = sos.disk {
    name = "web";
    rootfs = machine;
    cmdline = [ "quiet" "mitigations=off" ];
  };
  # The same with a root that nobody changes unseen: each block is compared with a hash when it is read, and the kernel image has
  # the hash of these. What the system writes goes to memory.
  verified = sos.disk {
    name = "web";
    rootfs = machine;
    filesystem = "erofs";
    verity = true;
    cmdline = [ "quiet" "mitigations=off" ];
  };
  # The same as commits, of which a disk has two: the new one starts, and the one before can.
  ostree = import ./ostree.nix { inherit sos machine; };

  # Over the network, and from an optical drive, the root is a squashfs, which has no place for the ACL of the journal's directory
  # and refuses it (`acls = "drop"` would leave the list out): without the directory the journal is in memory, where everything else that this machine writes is too.
  diskless = sos.disk {
    name = "web";
    rootfs = sos.rootfs.edit {
      name = "diskless-rootfs";
      rootfs = machine;
      cleanup.paths = [ "/var/log/journal" ];
    };
    cmdline = [ "quiet" "mitigations=off" ];
  };
in
{
  inherit toolchain web hello image machine disk verified;
  inherit (disk) qcow2 uki;
  inherit (diskless) netboot iso;
  ostree-disk = ostree.disk;
}
