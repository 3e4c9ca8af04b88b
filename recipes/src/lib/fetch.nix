derive:
{
  fetchurl =
    { url ? null
    , urls ? (if url == null then derive.refuse { message = "sos.fetchurl needs `url` or `urls`"; } [ ] args else [ url ])
    , sha256 ? null
    , hash ? null
    , name ? derive.storeName (baseNameOf (builtins.head urls))
    , executable ? false
    , unpack ? false
    }@args:
    let
      given = if hash != null then hash else sha256;
      checked = __sosCheckHash {
        hash = given;
        __place = builtins.intersectAttrs { hash = null; sha256 = null; } args;
      };
      # Only the bytes of one file can be pinned without looking at them.
      pinned =
        if executable || unpack then
          derive.refuse
            {
              message = "sos.fetchurl { name = \"${name}\"; } needs a `hash`: `executable` and `unpack` hash a tree, which sos.lock does not pin";
              help = "add `hash = \"\";`: the error of the first build names the right one";
            } [ "executable" "unpack" ]
            args
        else
          __sosPinUrl {
            url = builtins.head urls;
            written = builtins.intersectAttrs { url = null; urls = null; } args;
          };
    in
    if sha256 != null && hash != null then
      derive.refuse { message = "sos.fetchurl { name = \"${name}\"; } has both `sha256` and `hash`"; } [ "sha256" "hash" ] args
    else
      derive.fixed {
        inherit name urls;
        __place = args;
        builder = "builtin:fetch";
        size = if given == null then pinned.size else null;
        outputHash = if given == null then pinned.sha256 else checked;
        outputHashMode = if executable || unpack then "recursive" else "flat";
        executable = if executable then true else null;
        unpack = if unpack then true else null;
      };
}
