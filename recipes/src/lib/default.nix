# The `sos` library. Everything here ends in plain derivations with in-process builders, so that what a recipe makes is cached,
# shared and content-addressed like anything else.
let
  derive = import ./derive.nix;
  fetch = import ./fetch.nix derive;
  filesystem = import ./filesystem.nix derive;
  oci = import ./oci.nix derive;
  ostree = import ./ostree.nix derive;
  disk = import ./disk.nix derive;
  rootfs = import ./rootfs.nix derive;
  bootc = import ./bootc.nix { inherit derive oci ostree; };
  debian = import ./debian.nix { inherit bootc derive disk fetch filesystem oci ostree rootfs; };
  run = import ./run.nix derive;
  bootstrap = import ./bootstrap.nix { inherit derive oci ostree; };
in
{
  # fetchurl { url | urls, sha256 | hash, name?, executable?, unpack? }: a file, pinned by its hash or else by sos.lock.
  inherit (fetch) fetchurl;

  # debian.rootfs ./x.rootfs.toml, or debian.rootfs { suite = "bookworm"; ... }: a root filesystem.
  debian = { inherit (debian) rootfs; };

  # rootfs.edit { rootfs, name?, files?, users?, ... }: a root filesystem with files, users and services changed.
  rootfs = { inherit (rootfs) edit; };

  # run { name, rootfs, script | command, mounts?, env?, cwd?, result? }: a command in a root filesystem.
  inherit run;

  # bootstrap { tree, settings?, extraDistfiles?, start?, name?, imageMebibytes? }: a tree of bootstrap steps, one derivation for each.
  inherit bootstrap;

  # oci { name, rootfs | from, layers?, layering?, config?, tag? }: an OCI image layout; ociLayer { name, files | tree | rootfs }: one
  # layer of it. oci.pull { ref, digest? }: an image of a registry; oci.rootfs { image }: its files; oci.index { name, images }: images
  # for several machines.
  inherit (oci) oci ociLayer;

  # ostree { name, rootfs, ref?, version?, bootable?, parent?, mode? }: a commit in an OSTree repository of its own.
  # Also ostree.checkout { repository, ref? | commit? }, ostree.pull { url, commit }: the root filesystem of a commit;
  # ostree.container { repository }: an image that holds the commit as it is.
  inherit ostree;

  # disk { name, rootfs, boot?, initrd?, cmdline?, size?, slots?, partitions?, ... }: a bootable disk; its attributes qcow2, uki,
  # netboot and provision are other forms of it.
  disk = disk.disk;

  # ostreeDisk { name, deployments = [ { rootfs, commit } ... ], os?, ... }: a disk with OSTree systems, of which the first one starts.
  ostreeDisk = disk.ofCommits;

  # ext4 | erofs | squashfs { rootfs, name?, label?, uuid?, size?, free?, epoch? }: an image of a file system. verity { image, ... }:
  # the hashes that protect one.
  inherit (filesystem) ext4 erofs squashfs verity;
  # bootc { rootfs, name?, layout?, strict?, ref?, version? }: a root filesystem as hosts of bootc and OSTree boot it; also .oci and .ostree of it.
  inherit bootc;
}
