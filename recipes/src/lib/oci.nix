derive:
let
  # A function for its argument names: a misspelt one is an error of the language, with a place.
  checkedConfig =
    { entrypoint ? null
    , cmd ? null
    , env ? null
    , user ? null
    , workdir ? null
    , labels ? null
    , exposedPorts ? null
    , volumes ? null
    , stopSignal ? null
    }@config:
    derive.present (derive.typed "the `config` of sos.oci" {
      entrypoint = "texts";
      cmd = "texts";
      user = "text";
      workdir = "text";
      env = "environment";
      labels = "textSet";
      exposedPorts = "texts";
      volumes = "texts";
      stopSignal = "text";
    } config config);

  ociLayer =
    { name ? "layer"
    , files ? null
    , tree ? null
    , at ? null
    , rootfs ? null
    , base ? null
    , diff ? null
    , owner ? null
    , epoch ? rootfs.epoch or base.epoch or 1
    , compression ? null
    , level ? null
    }@args:
    let
      path = name: value: if value == null then null else derive.sourceAt args name value;
    in
    derive.tree (derive.typed "the layer `${name}`" {
      name = "text";
      at = "text";
      diff = "bool";
      owner = "text";
      epoch = "int";
      compression = "compression";
      level = "int";
    } args {
      inherit name at diff owner epoch compression level;
      builder = "builtin:oci-layer";
      __place = args;
      files = if files == null then null else derive.sources files;
      tree = path "tree" tree;
      rootfs = path "rootfs" rootfs;
      base = path "base" base;
    });
in
{
  inherit ociLayer;

  oci =
    { name
    , rootfs
    , layers ? [ ]
    , config ? { }
    , tag ? "latest"
    , epoch ? rootfs.epoch or 1
    , arch ? rootfs.arch or "amd64"
    , compression ? null
    , level ? null
    , annotations ? null
    }@args:
    let
      shared = { inherit epoch compression level; };
      bottom = ociLayer (shared // {
        name = "${name}-layer-0";
        inherit rootfs;
      });
      isLayer = value: (value.type or null) == "derivation";
      # Each layer is a derivation of its own: a change rebuilds only the layer that holds it.
      layer = i:
        let given = builtins.elemAt layers i;
        in
        if isLayer given then
          given
        else if !(builtins.isAttrs given) then
          derive.refuse
            {
              code = "recipe-wrong-type";
              message = "element ${toString i} of `layers` of sos.oci must be a set or a layer, and is a ${builtins.typeOf given}";
            } [ "layers" ]
            args
        else
          ociLayer (shared // {
            name = "${name}-layer-${toString (i + 1)}";
            # Parents of placed files take their owner and mode from the image below; of a root filesystem only the
            # difference to it is stored.
            base = rootfs;
            diff = if given ? rootfs then true else null;
          } // given);
      all = [ bottom ] ++ builtins.genList layer (builtins.length layers);
    in
    derive.tree (derive.typed "sos.oci" {
      name = "text";
      tag = "text";
      epoch = "int";
      annotations = "textSet";
    } args {
      inherit name tag epoch arch annotations;
      builder = "builtin:oci";
      __place = args;
      layers = map (one: "${one}") all;
      config = checkedConfig config;
    }) // { layers = all; inherit rootfs; };
}
