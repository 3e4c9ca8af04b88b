# Bootstrap steps: a tree in the format of live-bootstrap. What the tree says comes from `__sosBootstrapPlan`; here it becomes one
# derivation for each command of stage0, and one for each step, over the root that the step before has left.
{ derive, oci, ostree }:
{ tree
, settings ? [ ]
, extraDistfiles ? { }
, name ? "bootstrap"
  # The least size of the disk that a machine without a kernel boots: steps make their own file systems on it.
, imageMebibytes ? 0
, start ? null
  # What runs scripts, in a root that is no seed of upstream's; the first step is run by it then, and not by kaem.
, shell ? null
}@args:
let
  inherit (builtins) elemAt foldl' genList length listToAttrs map;

  plan = __sosBootstrapPlan {
    inherit tree settings extraDistfiles;
    bash = shell != null;
  };
  inherit (plan) system;
  # As upstream leaves its files.
  epoch = 0;

  # A directory comes without its links: what they lead to is placed for itself, so that a link and a copy are the same.
  source = path:
    if builtins.readFileType path == "directory" then
      "${builtins.path {
        inherit path;
        name = derive.storeName (baseNameOf path);
        filter = file: type: type != "symlink" && baseNameOf file != ".git";
      }}"
    else
      "${builtins.path { inherit path; name = derive.storeName (baseNameOf path); }}";
  shown = part:
    if part ? text then
      "${builtins.toFile (derive.storeName (baseNameOf part.at)) part.text}"
    else
      source part.source;
  places = parts: listToAttrs (map (part: { name = part.at; value = shown part; }) parts);

  step = attrs:
    {
      inherit system epoch;
      builder = "builtin:step";
      __place = args;
      bare = true;
    } // attrs;

  edit = attrs:
    derive.rootfs ({
      builder = "builtin:rootfs-edit";
      __place = args;
      inherit epoch;
    } // attrs);

  # stage0, one derivation for each command.
  commands = map
    (one:
      derive.tree (step {
        name = derive.storeName "stage0-${one.name}";
        inherit (one) command cwd env tmpfs;
        mounts = listToAttrs (map
          (input: {
            name = input.at;
            value = if input ? made then "${elemAt commands input.made}" else source input.source;
          })
          one.inputs);
      }))
    plan.stage0.commands;

  # stage0 as upstream runs it: the seed reads one script, and everything follows.
  whole = derive.rootfs (step {
    name = "stage0-${plan.arch}";
    rootfs = "${edit {
      name = "stage0-${plan.arch}-sources";
      files = map (entry: { path = entry.at; source = source entry.source; }) plan.stage0.entries;
    }}";
    command = plan.stage0.whole;
    env.PATH = "/bin";
    tmpfs = [ ];
  }) // { inherit epoch; };

  # The root that steps begin with: the programs of stage0, and the files of the seed.
  base = edit {
    name = "${name}-base";
    files = map
      (file:
        removeAttrs file [ "made" ]
        // (if file ? made then { source = "${elemAt commands file.made}"; } else { })
        // (if file ? source then { source = source file.source; } else { }))
      plan.seed.files;
  };
  # The digests of stage0, looked at by the program that it ends with: one root for each list of them, over the one before.
  answers = foldl'
    (done: check:
      let
        root = derive.rootfs
          (step {
            name = derive.storeName "stage0-${check.name}";
            rootfs = "${done.root}";
            command = [ plan.stage0.sha256sum "-c" "/${check.name}" ];
            env = { };
            layers."/${check.name}" = source check.source;
          }) // { inherit epoch; };
      in
      {
        inherit root;
        all = done.all // { ${check.name} = root; };
      })
    { root = base; all = { }; }
    plan.stage0.check;
  checked = answers.root;

  # All of it by name: the run as a whole, each command, each list of digests.
  stage0 = whole // answers.all // listToAttrs (genList
    (n: { inherit ((elemAt plan.stage0.commands n)) name; value = elemAt commands n; })
    (length commands));

  # Only what runs from here on is told of the variables.
  seed = derive.rootfs (step {
    name = "${name}-seed";
    rootfs = "${edit {
      name = "${name}-variables";
      rootfs = "${checked}";
      files = plan.seed.cfg;
    }}";
    inherit (plan.seed) command env;
    timeless = true;
    layers = places plan.seed.layers;
  });

  # Files from outside. `after` is what has to be there first: nothing is fetched for a step before the step before it is done,
  # so that a run stops where something is missing, and not before it began.
  fetched = after: step: place: file:
    let called = __sosFileName file.name; in
    derive.fixed {
      # From this the name is read again, by `sos serve` and for messages.
      name = called.store;
      __place = place;
      builder = "builtin:fetch";
      # For the message when nobody has it.
      distfile = step;
      urls = [ "mirror://distfiles/${called.url}" ] ++ file.urls;
      git = file.git or null;
      outputHash = file.sha256;
      inherit after;
    };
  inOrder = root: step: place: files:
    (foldl'
      (done: file:
        let one = "${fetched done.after step place file}";
        in {
          # For the root as well: the file before may be there already.
          after = [ "${root}" one ];
          all = done.all // { ${file.at} = one; };
        })
      { after = [ "${root}" ]; all = { }; }
      files).all;

  # Where the manifest has a step.
  placeOf = one: plan.places.${one.index};

  run = root: one:
    let
      ran = derive.rootfs (step {
        name = derive.storeName one.name;
        __place = placeOf one;
        rootfs = "${root}";
        inherit (one) script env watch;
        shell = if shell != null then shell else one.shell;
        parallel = if one.parallel then true else null;
        # A time before the epoch is mostly that of a time zone.
        timeless = true;
        layers = places one.layers;
        # Its own copies: it may change and remove them, and they are in no root.
        copies = inOrder root one.name (placeOf one) one.distfiles;
      });
      # What the step packed, as it wrote it.
      package = derive.tree {
        name = derive.storeName (baseNameOf one.package);
        __place = placeOf one;
        builder = "builtin:rootfs-file";
        rootfs = "${ran}";
        path = one.package;
      };
    in
    ran
    // { inherit epoch; inherit (one) tree target pass; }
    // (if one ? package then { inherit package; } else { });

  # A root of somebody else's gets what steps read before they begin.
  started = edit {
    name = "${name}-start";
    rootfs = "${start}";
    files = plan.config;
  };
  first = if start != null then started else if plan ? seed then seed else
  derive.refuse
    {
      message = "sos.bootstrap has no `start`, and its tree has no `seed`";
    } [ "tree" ]
    args;

  # Every step, in order: its root, and what was asked of it.
  chain = foldl'
    (done: one:
      let root = run done.root one;
      in {
        inherit root;
        all = done.all ++ [ root ];
      })
    { root = first; all = [ ]; }
    plan.steps;

  # The disk that a machine without a kernel boots, and what it imports later. Only these need every file at once.
  image = __sosBootstrapImage { inherit tree settings; };
  payload = __sosBootstrapPayload { inherit tree settings; };
  all = files: listToAttrs (map (file: { name = file.at; value = "${fetched null "the image" args file}"; }) files);
  hex0Image = files:
    derive.blobs ({
      name = "init.img";
      __place = args;
      builder = "builtin:builder-hex0-image";
      stage1 = source image.stage1;
      stage2 = source image.stage2;
      files = places image.files // all files;
      # Where files from outside are to be, if there are any or not.
      directories = [ "/external/distfiles" ];
      inherit (image) commands;
    } // (if imageMebibytes == 0 then { } else { mebibytes = size; }));
  # A disk is no larger than the numbers of its sectors are.
  size =
    if builtins.isInt imageMebibytes && imageMebibytes > 0 && imageMebibytes <= 2097152 then imageMebibytes
    else
      derive.refuse
        {
          message = "`imageMebibytes` is a number of MiB, from 0 to 2097152";
          help = "an image that needs more than that number is as large as it must be";
        } [ "imageMebibytes" ]
        args;
  payloadImage = wide:
    if payload ? files then
      derive.blobs
        {
          name = "payload.img";
          __place = args;
          builder = "builtin:payload-image";
          files = listToAttrs (map (file: { inherit (file) name; value = "${fetched null "the payload" args file}"; }) payload.files);
          inherit wide;
        }
    else
      derive.refuse
        {
          message = "`${payload.manifest}` has no `improve: import_payload`, and without it nothing reads a payload";
          help = "without it `#builder-hex0-image` has every file that is needed before there is a network";
        } [ "tree" ]
        args;

  # The root as one file, with owners, links and times: what `tar -x` makes a root of again.
  tarball = root:
    derive.blobs {
      name = "${name}.tar.gz";
      builder = "builtin:oci-layer";
      __place = args;
      rootfs = "${root}";
      compression = "gzip";
      single = true;
      inherit epoch;
    };

  withImages = root:
    root // {
      tar = tarball root;
      oci = oci.oci { inherit name epoch; rootfs = root; };
      ostree = ostree { inherit name epoch; rootfs = root; };
    };

  # NAME.PASS; NAME is the last pass. Each tree has passes of its own.
  passes = roots: builtins.mapAttrs
    (_: roots:
      (withImages (elemAt roots (length roots - 1)))
      // listToAttrs (map (root: { name = root.pass; value = withImages root; }) roots))
    (builtins.groupBy (root: root.target) roots);
  trees = builtins.mapAttrs (_: passes) (builtins.groupBy (root: root.tree) chain.all);
  extensions = removeAttrs trees [ "steps" ];
  # What only an extension has needs not be asked for under its tree.
  steps = foldl' (all: tree: extensions.${tree} // all) (trees.steps or { }) (builtins.attrNames extensions);
in
extensions // withImages chain.root // {
  inherit steps stage0;
  # By this the program knows a tree of steps, and what it was asked for.
  bootstrap = { inherit tree settings extraDistfiles; shell = shell != null; };
  seed = first;
  # Every digest that the tree says a result has, with the root that it is in.
  pins = map
    (pin: pin // {
      root =
        if pin ? file then fetched null pin.of args pin.file
        else if pin ? step then elemAt chain.all pin.step
        else if pin.kind == "seed" then seed
        else checked;
      target = pin.of or (if pin ? step then (elemAt plan.steps pin.step).name else pin.kind);
    })
    plan.pins;
  # `bare` is without files from outside: it boots, and ends where the first one is needed.
  builder-hex0-image = hex0Image image.distfiles // { bare = hex0Image [ ]; };
  payload-image = payloadImage false // { wide = payloadImage true; };
  rootfs = withImages chain.root;
  # A list: names of files are no names by which the members of a set are built.
  distfiles = builtins.attrValues (listToAttrs (builtins.concatLists (map
    (one: map (file: { inherit (file) name; value = fetched null one.name (placeOf one) file; }) one.distfiles)
    plan.steps)));
}
