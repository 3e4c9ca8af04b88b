{ derive, oci, ostree }:
# A root filesystem laid out for hosts that bootc or OSTree boots, and checked by their rules. `.oci` is its image, `.ostree` its commit,
# for which the configuration is moved to /usr/etc.
{ rootfs
, name ? "${rootfs.name or "rootfs"}-bootc"
, layout ? "container"
, arrange ? true
, strict ? false
, ref ? name
, version ? null
, epoch ? rootfs.epoch or 1
}@args:
let
  layouts = [ "container" "ostree" ];
  known =
    if builtins.elem layout layouts then
      true
    else
      derive.refuse
        {
          message = "sos.bootc { layout = \"${toString layout}\"; } is not known; it can be \"container\" or \"ostree\"";
        } [ "layout" ]
        args;
  arranged = name: layout:
    derive.rootfs (derive.typed "sos.bootc" {
      name = "text";
      arrange = "bool";
      strict = "bool";
      ref = "text";
      version = "text";
      epoch = "int";
    } args {
      inherit name layout arrange strict epoch;
      builder = "builtin:bootc";
      __place = args;
      rootfs = "${rootfs}";
    }) // {
      inherit epoch layout;
      arch = rootfs.arch or "amd64";
    };
  container = arranged name "container";
  commit = arranged "${name}-ostree" "ostree";
  committed = ostree {
    name = "${name}-commit";
    inherit ref version;
    rootfs = commit;
    bootable = true;
  };
in
assert known;
(if layout == "ostree" then arranged name "ostree" else container) // {
  oci = oci.oci {
    inherit name;
    rootfs = container;
    config = {
      cmd = [ "/sbin/init" ];
      labels."containers.bootc" = "1";
      labels."ostree.bootable" = "true";
    };
    annotations."containers.bootc" = "1";
  };
  # The commit itself in an image, for hosts that have OSTree.
  ostree = committed // {
    container = ostree.container { repository = committed; };
  };
}
