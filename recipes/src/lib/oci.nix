derive:
let
  configTypes = {
    entrypoint = "texts";
    cmd = "texts";
    user = "text";
    workdir = "text";
    env = "environment";
    labels = "textSet";
    exposedPorts = "texts";
    volumes = "texts";
    stopSignal = "text";
  };

  # Names that begin or end alike.
  like = word: builtins.filter
    (one:
      let
        length = builtins.stringLength one;
        given = builtins.stringLength word;
      in
      given > 2 && (builtins.substring 0 3 one == builtins.substring 0 3 word
        || length > 3 && builtins.substring (length - 4) 4 one == builtins.substring (if given > 4 then given - 4 else 0) 4 word));
  meant = word: names:
    let found = if builtins.isString word then like word names else [ ];
    in if found == [ ] then "" else "; did you mean `${builtins.head found}`?";

  # What a builder would refuse only when it runs.
  isPort = text:
    let found = builtins.match "0*([1-9][0-9]{0,4})(/(tcp|udp|sctp))?" text;
    in found != null && builtins.fromJSON (builtins.head found) < 65536;
  isTag = text: builtins.match "[A-Za-z0-9]+((--|[-._:@/+])[A-Za-z0-9]+)*" text != null;
  architectures = (__sosArchitectures null).names;
  within = low: high: value: value >= low && value <= high;

  levelProblems = given: { compression ? null, level ? null, ... }:
    let
      levels = { gzip = { low = 1; high = 9; }; zstd = { low = 1; high = 19; }; none = { low = 0; high = 0; }; };
      kind = if compression == null then "gzip" else compression;
      range = levels.${kind};
    in
    if builtins.isInt level && builtins.isString kind && levels ? ${kind} && !(within range.low range.high level) then [{
      name = "level";
      inherit given;
      message = "`level` is ${toString level}; the compression \"${kind}\" has ${if range.low == range.high then "only ${toString range.low}" else "${toString range.low} to ${toString range.high}"}";
    }] else [ ];

  configProblems = config: given:
    if builtins.isAttrs config then
      let
        names = builtins.attrNames configTypes;
        unknown = builtins.filter (name: !(configTypes ? ${name})) (builtins.attrNames config);
        ports = config.exposedPorts or null;
        badPorts = if builtins.isList ports then builtins.filter (one: builtins.isString one && !(isPort one)) ports else [ ];
        workdir = config.workdir or null;
      in
      map
        (name: {
          inherit name;
          given = config;
          message = "`config` of sos.oci has no `${name}`${if meant name names == "" then "." else meant name names} It can have ${builtins.concatStringsSep ", " names}";
        })
        unknown
      ++ derive.problems "the `config` of sos.oci" configTypes config config
      ++ map
        (port: {
          name = "exposedPorts";
          given = config;
          message = "`${port}` in `exposedPorts` of the `config` of sos.oci is not a port; write `80`, `80/tcp` or `53/udp`";
        })
        badPorts
      ++ (if builtins.isString workdir && builtins.substring 0 1 workdir != "/" then [{
        name = "workdir";
        given = config;
        message = "`workdir` of the `config` of sos.oci is `${workdir}`; it must be an absolute path, such as `/${workdir}`";
      }] else [ ])
    else
      derive.problems "sos.oci" { config = "set"; } given given;

  path = args: name: value: if value == null then null else derive.sourceAt args name value;

  # A layer for everybody is a tree, one of our own an object of blobs, which is not read again when it is registered. The bytes of a
  # plain tar are those of its files, and what they refer to is looked for.
  ociLayer = layerAs (compression: derive.tree);
  objectOf = compression: if compression == "none" then derive.tree else derive.rootfs;
  layerAs = kindOf:
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
      # An image with whose date `epoch` is left out: `{ epochOf; arch; tag; }`.
    , dates ? { }
    }@args:
    let
      types = {
        name = "text";
        at = "text";
        diff = "bool";
        owner = "text";
        epoch = "int";
        compression = "compression";
        level = "int";
      };
      values = { inherit name at diff owner epoch compression level; };
      problems = derive.problems "the layer `${name}`" types args values ++ levelProblems args args;
    in
    kindOf compression (derive.sound problems (dates // values // {
      builder = "builtin:oci-layer";
      __place = args;
      files = if files == null then null else derive.sources files;
      tree = path args "tree" tree;
      rootfs = path args "rootfs" rootfs;
      base = path args "base" base;
    }));

  # The root filesystem of an image: its layers on top of each other.
  rootfs =
    { image
    , name ? "${image.name or "image"}-rootfs"
    , tag ? null
    , arch ? image.arch or "amd64"
    , epoch ? image.epoch or 1
    }@args:
    derive.rootfs (derive.typed "sos.oci.rootfs" {
      name = "text";
      tag = "text";
      arch = "text";
    } args {
      inherit name tag arch;
      builder = "builtin:oci-rootfs";
      __place = args;
      image = path args "image" image;
    }) // { inherit arch epoch image; };

  # An image of a registry, pinned by the digest of its manifest or index: the one given, the one in its name, or that of sos.lock.
  pull =
    { ref
    , digest ? null
    , arch ? "amd64"
    , name ? derive.storeName (baseNameOf (builtins.head (builtins.split "[:@]" (baseNameOf ref))))
    }@args:
    let
      types = {
        ref = "text";
        digest = "text";
        arch = "text";
      };
      checked = derive.typed "sos.oci.pull" types args { inherit ref digest arch; };
      inName = builtins.match "[^@]*@(.*)" checked.ref;
      pinned =
        if digest != null then checked.digest
        else if inName != null then builtins.head inName
        else
          __sosPinImage {
            inherit (checked) ref;
            written = builtins.intersectAttrs { ref = null; } args;
          };
      sound =
        if digest != null && inName != null && builtins.head inName != digest then
          derive.refuse
            {
              message = "sos.oci.pull has two digests: `${builtins.head inName}` in its `ref`, and `${digest}`";
              help = "leave one of them out";
            } [ "digest" ]
            args
        else if builtins.match "sha256:[0-9a-f]{64}" pinned != null then
          true
        else
          derive.refuse
            {
              message = "`${pinned}` is not the digest of an image; it must be `sha256:` and 64 digits";
              help = "leave it out to have `sos.lock` pin what the registry has now";
            } [ (if digest != null then "digest" else "ref") ]
            args;
    in
    assert sound;
    derive.blobs {
      inherit name;
      inherit (checked) ref arch;
      digest = pinned;
      builder = "builtin:oci-pull";
      __place = args;
    } // { inherit arch ref; digest = pinned; };

  # Images for several machines under one name.
  index =
    { name
    , images
    , tag ? "latest"
    , annotations ? null
    }@args:
    let
      types = {
        name = "text";
        images = "list";
        tag = "text";
        annotations = "textSet";
      };
      indexes =
        if builtins.isList images then
          builtins.filter (i: (builtins.elemAt images i).builder or null == "builtin:oci-index") (builtins.genList (i: i) (builtins.length images))
        else [ ];
      sound =
        if indexes == [ ] then
          true
        else
          derive.refuse
            {
              message = "element ${toString (builtins.head indexes)} of `images` of sos.oci.index is an index; an index holds images and no indexes";
              help = "name the images of that index here, one by one";
            } [ "images" ]
            args;
    in
    assert sound;
    derive.blobs (derive.typed "sos.oci.index" types args {
      inherit name tag annotations;
      builder = "builtin:oci-index";
      __place = args;
      images = map (derive.sourceAt args "images") images;
    });

  # The image that another one lies on, if its date is not known here.
  origin = { from ? null, rootfs ? null, ... }:
    if from != null then (if from ? epoch then null else from)
    else if rootfs == null then null
    else derive.originOf rootfs;

  layerings = [ "whole" "steps" "packages" ];

  image =
    { name
    , rootfs ? null
    , from ? null
    , fromTag ? null
    , layers ? [ ]
    , layering ? "whole"
    , maxLayers ? null
    , config ? { }
    , tag ? "latest"
      # Without a date of its own it has that of the image below.
    , epoch ? (
        let given = rootfs.epoch or from.epoch or 1;
        in if given == 1 && origin args != null then null else given
      )
    , arch ? rootfs.arch or from.arch or "amd64"
    , compression ? null
    , level ? null
    , annotations ? null
    }@args:
    let
      isLayer = value: (value.type or null) == "derivation";
      elementProblem = i:
        let given = builtins.elemAt layers i;
        in
        if isLayer given || builtins.isAttrs given then
          [ ]
        else
          [{
            name = "layers";
            given = args;
            message = "element ${toString i} of `layers` of sos.oci must be a set or a layer, and is a ${builtins.typeOf given}";
          }];
      say = name: message: [{ inherit name message; given = args; }];
      problems =
        derive.problems "sos.oci" {
          name = "text";
          tag = "text";
          fromTag = "text";
          epoch = "int";
          arch = "text";
          compression = "compression";
          level = "int";
          layers = "list";
          maxLayers = "int";
          annotations = "textSet";
        } args args
        ++ configProblems config args
        ++ (if builtins.isList layers then builtins.concatLists (builtins.genList elementProblem (builtins.length layers)) else [ ])
        ++ levelProblems args args
        ++ (if builtins.elem layering layerings then [ ] else
        say "layering"
          "`layering` of sos.oci must be one of \"whole\", \"steps\", \"packages\", and is ${derive.typeAndValue layering}${meant layering layerings}")
        ++ (if builtins.isString tag && !(isTag tag) then
          say "tag" "`${tag}` is not a tag; it must be letters and digits joined by one of `-._:@/+`"
        else [ ])
        ++ (if builtins.isString arch && !(builtins.elem arch architectures) then
          say "arch" "`${arch}` is no architecture of images, such as \"amd64\" or \"arm64\"${meant arch architectures}"
        else [ ])
        ++ (if builtins.isInt maxLayers && !(within 1 400 maxLayers) then
          say "maxLayers" "`maxLayers` is ${toString maxLayers}; it can be 1 to 400"
        else [ ])
        ++ (if rootfs == null && from == null then say "name" "sos.oci { name = \"${toString name}\"; } needs `rootfs` or `from`" else [ ])
        ++ (if from != null && layering == "packages" then
          say "layering" "`layering = \"packages\"` does not go with `from`: the layers of that image stay as they are"
        else [ ]);

      dates =
        if epoch != null then { }
        else { epochOf = path args "from" (origin args); epochArch = arch; epochTag = if from == null then null else fromTag; };
      ownLayer = layerAs objectOf;
      shared = { inherit epoch compression level dates; };
      below = rootfsOf ({ image = from; inherit arch; } // (if fromTag == null then { } else { tag = fromTag; }));
      # What placed files lie on.
      top = if rootfs == null then below else rootfs;
      same = a: b: "${a}" == "${b}";
      difference = number: base: over:
        ownLayer (shared // {
          name = "${name}-layer-${toString number}";
          inherit base;
          rootfs = over;
          diff = true;
        });
      bottom = ownLayer (shared // {
        name = "${name}-layer-0";
        rootfs = builtins.head steps;
      });
      # From the last one that is the image below.
      after = list:
        let
          length = builtins.length list;
          found = builtins.filter (i: same (builtins.elemAt list i) below) (builtins.genList (i: i) length);
          first = if found == [ ] then 0 else builtins.elemAt found (builtins.length found - 1) + 1;
        in
        builtins.genList (i: builtins.elemAt list (first + i)) (length - first);
      all = if layering == "steps" then derive.chain top else [ top ];
      steps = if from == null then all else [ below ] ++ after all;
      differences = builtins.genList (i: difference (i + 1) (builtins.elemAt steps i) (builtins.elemAt steps (i + 1))) (builtins.length steps - 1);
      chunks = objectOf compression (derive.present {
        name = "${name}-layers";
        builder = "builtin:oci-chunks";
        __place = args;
        rootfs = "${rootfs}";
        inherit maxLayers epoch compression level;
      } // derive.present dates);
      ground =
        if layering == "packages" then [ chunks ]
        else if from == null then [ bottom ] ++ differences
        else differences;
      # Each layer is a derivation of its own: a change rebuilds only the layer that holds it.
      layer = i:
        let given = builtins.elemAt layers i;
        in
        if isLayer given then
          given
        else
          ownLayer (shared // {
            name = "${name}-layer-${toString (i + builtins.length ground)}";
            # Parents of placed files take their owner and mode from the image below; of a root filesystem only the
            # difference to it is stored.
            base = top;
            diff = if given ? rootfs then true else null;
          } // given);
      every = ground ++ builtins.genList layer (builtins.length layers);
      # What is known of the image below, under the names that tools look for.
      based =
        if from ? ref && from ? digest then {
          "org.opencontainers.image.base.name" = from.ref;
          "org.opencontainers.image.base.digest" = from.digest;
        } else { };
      notes = based // (if annotations == null then { } else annotations);
    in
    derive.blobs (derive.sound problems (dates // {
      inherit name tag epoch arch fromTag;
      annotations = if notes == { } then null else notes;
      builder = "builtin:oci";
      __place = args;
      from = path args "from" from;
      layers = map (one: "${one}") every;
      config = derive.present config;
    })) // { layers = every; rootfs = top; inherit arch; } // (if epoch == null then { } else { inherit epoch; });

  rootfsOf = rootfs;
in
{
  inherit ociLayer;

  # A function that has further ones.
  oci = {
    __functor = _: image;
    inherit index pull rootfs;
  };
}
