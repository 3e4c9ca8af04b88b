# Derivations that use what the sandbox has to offer. Each is built by sos and by real Nix, from the same `.drv`.
let
  tools = builtins.path { path = ./tools; name = "tools"; };
  busybox = "${tools}/bin/busybox";
  system = "x86_64-linux";
  make = name: script: more: derivation ({
    inherit name system;
    builder = busybox;
    args = [ "sh" "-euc" "bb() { ${busybox} \"$@\"; }\n${script}" ];
  } // more);
  addressed = { __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; };
  structured = name: script: more: derivation ({
    inherit name system;
    __structuredAttrs = true;
    builder = busybox;
    args = [ "sh" "-euc" "bb() { ${busybox} \"$@\"; }\nout=${placeholder "out"}\n${script}" ];
  } // more);
  inherit (builtins) placeholder toFile unsafeDiscardOutputDependency unsafeDiscardStringContext;

  text = toFile "text" "some text\n";
  naming = toFile "naming" "more ${text}\n";
  flat = builtins.path { path = ./tools/bin/busybox; name = "flat"; recursive = false; sha256 = builtins.hashFile "sha256" ./tools/bin/busybox; };
  sources = { inherit text naming flat; };
  lib = make "lib" "bb mkdir -p $out/lib $dev $doc; echo ${naming} > $out/lib/a; echo $out > $dev/out; echo $out > $out/self; echo doc > $doc/x" {
    outputs = [ "out" "dev" "doc" ];
  };
in
rec {
  inherit lib;
  fine = {
    environment = make "environment" "bb env | bb sort > $out; bb stat -c '%n %a %u %g %s' /build/* /build/.[a-z]* | bb sort >> $out; bb cat $bigPath >> $out" {
      big = "b\n'\"\nö";
      passAsFile = [ "big" "none" ];
      HOME = "/h";
      TMPDIR = "/x";
      TERM = "dumb";
      NIX_STORE = "/y";
    };
    sources = make "sources" "for f in $texts; do bb cat $f; done > $out; bb ls -l ${flat} | bb cut -c1-10 >> $out" { texts = [ text naming ]; };
    outputs = lib;
    user = make "user" "bb cat ${lib.dev}/out > $out; bb ls /nix/store >> $out" { };
    graph = make "graph" "bb cat /build/g /build/h-1.x > $out" { exportReferencesGraph = [ "g" lib "h-1.x" "${lib.dev}/out" ]; };
    graph-of-drv = make "graph-of-drv" "bb cat /build/g > $out" { exportReferencesGraph = [ "g" lib.drvPath ]; };
    drv-text = make "drv-text" "bb cat ${unsafeDiscardOutputDependency lib.drvPath} > $out; bb ls /nix/store >> $out" { };
    file = make "file" "echo x > $out; bb chmod 755 $out" { };
    link = make "link" "bb ln -s ${lib}/lib $out" { };
    dangling = make "dangling" "bb ln -s /nowhere $out" { };
    modes = make "modes" "bb mkdir $out; cd $out; for m in 000 400 644 755 711 4711; do echo $m > f$m; bb chmod $m f$m || true; done; bb mkdir -m 700 d; bb touch -t 203001010000 d/old; bb ln f644 hard; umask 077; echo > masked" { };
    names = make "names" "bb mkdir $out; cd $out; for n in ' ' -x 'a\\b' é \"$(echo -e 'new\\nline')\" .hidden; do echo \"$n\" > \"./$n\"; done; bb mkdir empty" { };
    machine = make "machine" "bb uname -m > $out; bb cat /proc/self/personality >> $out" { };
    machine32 = make "machine32" "bb uname -m > $out; bb cat /proc/self/personality >> $out" { system = "i686-linux"; };
    fixed = make "fixed" "echo -n \"$NIX_OUTPUT_CHECKED $WORD\" > $out; bb cat /etc/nsswitch.conf 1>&2" {
      outputHashMode = "flat";
      outputHashAlgo = "sha256";
      outputHash = builtins.hashString "sha256" "1 from outside";
      impureEnvVars = [ "WORD" ];
    };
    fixed-tree = make "fixed-tree" "bb mkdir $out; echo 1 > $out/f" {
      outputHashMode = "recursive";
      outputHashAlgo = "sha1";
      outputHash = "sha1-9gyRsX//aEHiBVPXTAWiYSoPplQ=";
    };
    references = make "references" "echo ${lib} ${lib.dev} > $out; echo $out >> $out" {
      allowedReferences = [ lib lib.dev "out" ];
      disallowedReferences = [ lib.doc ];
      allowedRequisites = [ lib lib.dev text naming ];
      disallowedRequisites = [ lib.doc tools ];
    };
    structured = structured "structured" "bb cat .attrs.sh .attrs.json > $out; bb env | bb grep -v -e NIX_ATTRS -e SHLVL | bb sort > ${placeholder "dev"}" {
      outputs = [ "out" "dev" ];
      exportReferencesGraph = { g = [ lib.dev ]; h = [ lib naming ]; };
      passAsFile = [ "text" ];
      text = "x";
      numbers = [ 0 (-1) 1.5 100.0 1.0e20 1.0e-7 0.1 4294967297 9007199254740993 1234567.25 ];
      float = 1.5;
      whole = 100.0;
      large = 1.0e20;
      long = 4294967297;
      null = null;
      yes = true;
      no = false;
      list = [ 1 "x y" null true 2.0 ];
      nested = [ [ 1 ] ];
      set = { b = 1; a = "it's"; };
      deep.er = { x = 1; };
      "no-name" = 1;
      unicode = "ö\n\t\\\"x";
      empty = [ ];
      none = { };
      own = placeholder "dev";
    };
    checked = structured "checked" "echo ${lib.dev} > $out; echo > ${placeholder "dev"}" {
      outputs = [ "out" "dev" ];
      outputChecks = {
        out = { maxSize = 1000; maxClosureSize = 10000; allowedReferences = [ lib.dev ]; disallowedRequisites = [ lib.doc ]; };
        dev = { allowedReferences = [ ]; maxSize = 200; };
      };
    };
    addressed = make "addressed" "bb mkdir $out; echo $out/bin > $out/self; bb ln -s $out/self $out/link; echo $dev > $out/dev; echo ${lib} > $dev" (addressed // { outputs = [ "out" "dev" ]; });
    addressed-user = make "addressed-user" "bb cat ${fine.addressed}/self ${fine.addressed.dev} > $out" { };
    profile = make "profile" "echo x > $out" { __sandboxProfile = "(allow everything)"; };
    off = make "off" "echo x > $out" { __noChroot = false; };
    # Enough inputs for a prepared directory, which the later ones share.
    many =
      let
        texts = builtins.genList (n: toFile "text-${toString n}" "${toString n}\n") 100;
        one = n: below: make "many-${toString n}" "bb mkdir $out; bb cat $texts > $out/all; bb ls /nix/store > $out/seen; echo ${below} > $out/below; bb chmod 555 $out" { inherit texts; };
      in
      one 4 (one 3 (one 2 (one 1 text)));
    buildenv = derivation {
      name = "buildenv";
      system = "builtin";
      builder = "builtin:buildenv";
      manifest = text;
      derivations = [ "true" 5 1 lib "true" 4 2 lib.dev lib.doc "false" 5 1 fine.modes ];
    };
  };

  # What `nix-channel` builds.
  channel = derivation {
    name = "channel";
    system = "builtin";
    builder = "builtin:unpack-channel";
    channelName = "stable";
    src = builtins.path { path = ./channel.tar; name = "channel.tar"; };
  };

  # Refused by both.
  bad = {
    references = make "references" "bb mkdir $out; echo ${lib} > $out/named" { allowedReferences = [ ]; };
    itself = make "itself" "echo $out > $out" { allowedReferences = [ ]; };
    requisites = make "requisites" "echo ${lib.dev} > $out" { allowedRequisites = [ lib.dev ]; };
    disallowed = make "disallowed" "bb mkdir $out; bb ln -s ${lib.dev} $out/x" { disallowedReferences = [ lib.dev ]; };
    disallowed-requisites = make "disallowed-requisites" "echo ${lib.dev} > $out" { disallowedRequisites = [ text ]; };
    specifier = make "specifier" "echo x > $out" { allowedReferences = [ "nothing" ]; };
    size = structured "size" "echo 12345 > $out" { outputChecks.out.maxSize = 100; };
    closure-size = structured "closure-size" "echo ${lib} > $out" { outputChecks.out.maxClosureSize = 600; };
    own-requisites = structured "own-requisites" "echo $out > $out" { outputChecks.out.allowedRequisites = [ ]; };
    list = structured "list" "echo x > $out" { outputChecks.out.allowedReferences = [ 1 ]; };
    no-sandbox = make "no-sandbox" "echo x > $out" { __noChroot = true; };
    host = make "host" "echo x > $out" { __impureHostDeps = [ "/etc/hostname" ]; };
    odd = make "odd" "echo x > $out" { exportReferencesGraph = [ "g" ]; };
    graph-name = make "graph-name" "echo x > $out" { exportReferencesGraph = [ "../g" lib ]; };
    graph-path = make "graph-path" "echo x > $out" { exportReferencesGraph = [ "g" "/etc/passwd" ]; };
    graph-input = make "graph-input" "echo x > $out" { exportReferencesGraph = [ "g" (unsafeDiscardStringContext "${lib.doc}") ]; };
    fixed-reference = make "fixed-reference" "echo ${text} > $out" {
      outputHashMode = "flat";
      outputHashAlgo = "sha256";
      outputHash = builtins.hashString "sha256" "${text}\n";
    };
    circle = make "circle" "echo $dev > $out; echo $out > $dev" (addressed // { outputs = [ "out" "dev" ]; });
    pipe = make "pipe" "bb mkfifo $out" { };
    executable = make "executable" "echo x > $out; bb chmod 755 $out" { outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "x\n"; };
  };

  # Newer than Nix 2.8.
  discards = structured "discards" "echo ${lib} $out > $out" { unsafeDiscardReferences.out = true; };
  own-allowed = structured "own-allowed" "echo $out > $out" { outputChecks.out = { allowedRequisites = [ ]; ignoreSelfRefs = true; }; };
}
