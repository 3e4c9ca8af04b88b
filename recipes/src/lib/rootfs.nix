derive:
let
  # `source`s become store paths, each by itself: an edit to one changes no other.
  withSources = plan:
    plan // (if plan ? files then {
      files = map (file: if file ? source then file // { source = derive.source file.source; } else file) plan.files;
    } else { });
in
{
  inherit withSources;

  edit = { rootfs, name ? "${rootfs.name or "rootfs"}-edited", epoch ? rootfs.epoch or 1, ... }@args:
    let
      changes = __sosRootfsEdit (removeAttrs args [ "rootfs" "name" "epoch" ]);
    in
    derive.rootfs (withSources (removeAttrs changes [ "places" ]) // {
      inherit name epoch;
      builder = "builtin:rootfs-edit";
      __place = changes.places // args;
      rootfs = "${rootfs}";
    }) // {
      inherit epoch;
      arch = rootfs.arch or "amd64";
      below = rootfs;
    };
}
