derive:
let
  # `source`s become store paths, each by itself: an edit to one changes no other.
  withSources = plan:
    plan // (if plan ? files then {
      files = map (file: if file ? source then file // { source = derive.source file.source; } else file) plan.files;
    } else { });

  # A set with an output becomes the text of its path: its other attributes are not part of a recipe.
  plainly = value:
    if builtins.isAttrs value then
      (if value ? outPath then "${value}" else builtins.mapAttrs (_: plainly) value)
    else if builtins.isList value then
      map plainly value
    else
      value;
in
{
  inherit plainly withSources;

  edit = { rootfs, name ? "${rootfs.name or "rootfs"}-edited", epoch ? rootfs.epoch or 1, ... }@args:
    let
      changes = builtins.__sosRootfsEdit (plainly (removeAttrs args [ "rootfs" "name" "epoch" ]));
    in
    derive.rootfs (withSources changes // {
      inherit name epoch;
      builder = "builtin:rootfs-edit";
      rootfs = "${rootfs}";
    }) // {
      inherit epoch;
      arch = rootfs.arch or "amd64";
    };
}
