derive:
{
  fetchurl =
    { url ? null
    , urls ? (if url == null then throw "sos.fetchurl needs `url` or `urls`" else [ url ])
    , sha256 ? null
    , hash ? null
    , name ? derive.storeName (baseNameOf (builtins.head urls))
    , executable ? false
    , unpack ? false
    }@args:
    let
      given = if hash != null then hash else sha256;
      # Only the bytes of one file can be pinned without looking at them.
      pinned =
        if executable || unpack then
          throw "sos.fetchurl { name = \"${name}\"; } needs a `hash`: `executable` and `unpack` hash a tree, which sos.lock does not pin"
        else
          builtins.__sosPinUrl {
            url = builtins.head urls;
            written = builtins.intersectAttrs { url = null; urls = null; } args;
          };
    in
    if sha256 != null && hash != null then
      throw "sos.fetchurl { name = \"${name}\"; } has both `sha256` and `hash`"
    else
      derive.fixed {
        inherit name urls;
        __place = args;
        builder = "builtin:fetch";
        size = if given == null then pinned.size else null;
        outputHash = if given == null then pinned.sha256 else given;
        outputHashMode = if executable || unpack then "recursive" else "flat";
        executable = if executable then true else null;
        unpack = if unpack then true else null;
      };
}
