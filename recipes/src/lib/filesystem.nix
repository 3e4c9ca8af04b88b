derive:
# Images of file systems are single files. UUIDs that are not given follow from what is in the file system.
let
  filesystem = type: options:
    { rootfs
    , name ? "${rootfs.name or "root"}.${type}"
    , size ? null
    , epoch ? null
    , ...
    }@args:
    let
      dates = derive.datesOf rootfs epoch;
      unknown = builtins.attrNames (removeAttrs args ([ "rootfs" "name" "size" "epoch" ] ++ options));
      isSize = value:
        value == null || builtins.isInt value && value >= 0
        || builtins.isString value && builtins.match "[0-9]+[KMGT]?" value != null;
      badSizes = builtins.filter (one: !(isSize (args.${one} or null))) [ "size" "free" ];
      first = builtins.head (unknown ++ badSizes);
      aclWords = [ "drop" "refuse" ];
    in
    if unknown != [ ] then
      derive.refuse
        {
          message = "sos.${type} has no attribute `${first}`; it knows ${builtins.concatStringsSep ", " ([ "rootfs" "name" "size" "epoch" ] ++ options)}";
        } [ first ]
        args
    else if badSizes != [ ] then
      derive.refuse
        {
          message = "`${first}` of sos.${type} must be a number of bytes, or a string such as \"512M\" or \"2G\"";
        } [ first ]
        args
    else if args ? acls && !(builtins.elem args.acls aclWords) then
      derive.refuse { message = "`acls` of sos.${type} must be one of \"drop\", \"refuse\""; } [ "acls" ] args
    else
      derive.blobs (derive.typed "sos.${type}" {
        name = "text";
        label = "text";
        uuid = "text";
        epoch = "int";
      } args (dates // {
        inherit name size;
        filesystem = type;
        builder = "builtin:filesystem";
        __place = args;
        rootfs = "${rootfs}";
        label = args.label or null;
        uuid = args.uuid or null;
        free = args.free or null;
        acls = args.acls or null;
      })) // (if dates ? epoch then { inherit (dates) epoch; } else { });
in
{
  ext4 = filesystem "ext4" [ "label" "uuid" "free" ];
  erofs = filesystem "erofs" [ "label" "uuid" ];
  # It has no access control lists: one is an error, unless `acls = "drop"` leaves them out with a warning in the log.
  squashfs = filesystem "squashfs" [ "acls" ];

  # Two files: `hashes`, which goes beside the image, and `roothash`, which the kernel is told.
  verity = { image, name ? "${image.name or "image"}-verity", salt ? null, uuid ? null }@args:
    derive.blobs (derive.typed "sos.verity" {
      name = "text";
      salt = "text";
      uuid = "text";
    } args {
      inherit name salt uuid;
      builder = "builtin:verity";
      __place = args;
      image = "${image}";
    });
}
