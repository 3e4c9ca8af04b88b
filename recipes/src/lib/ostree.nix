derive:
# A repository is an object with files of its own metadata, like a root filesystem: `sos export` makes a directory of it.
{ name
, rootfs
, ref ? name
, mode ? "archive"
, subject ? name
, body ? ""
, version ? null
, metadata ? { }
, bootable ? false
, parent ? null
, epoch ? rootfs.epoch or 1
}@args:
let
  modes = [ "archive" "bare-user" ];
  known =
    if builtins.elem mode modes then
      true
    else
      derive.refuse
        {
          message = "sos.ostree { name = \"${name}\"; } has mode = \"${toString mode}\"; it can be \"archive\" or \"bare-user\"";
        } [ "mode" ]
        args;
in
assert known;
derive.rootfs (derive.typed "sos.ostree" {
  name = "text";
  ref = "text";
  subject = "text";
  body = "text";
  version = "text";
  metadata = "textSet";
  bootable = "bool";
  epoch = "int";
} args {
  inherit name ref mode subject body version metadata bootable epoch;
  builder = "builtin:ostree";
  __place = args;
  rootfs = "${rootfs}";
  parent = if parent == null then null else "${parent}";
}) // { inherit ref; }
