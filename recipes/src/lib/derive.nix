# How every derivation of the library is made: structured attributes, and an address that follows from the content, so that an
# input that is rebuilt to the same bytes stops the rebuild there. `__place` is what the user wrote, for messages; it does not get
# into the derivation.
let
  # An attribute that is null was not given.
  present = attrs: removeAttrs attrs (builtins.filter (name: attrs.${name} == null) (builtins.attrNames attrs));

  structured = {
    system = "builtin";
    __structuredAttrs = true;
  };

  floating = mode: algo: attrs:
    derivation (structured // {
      __contentAddressed = true;
      outputHashMode = mode;
      outputHashAlgo = algo;
    } // present attrs);

  characters = text: builtins.genList (i: builtins.substring i 1 text) (builtins.stringLength text);
  # A value as a message shows it, behind its type.
  shown = value:
    let text = builtins.unsafeDiscardStringContext value;
    in
    if builtins.isString value then
      ": ${builtins.toJSON (if builtins.stringLength text > 60 then "${builtins.substring 0 60 text}..." else text)}"
    else if builtins.isInt value || builtins.isFloat value || builtins.isBool value then ": ${builtins.toJSON value}"
    else "";
  typeAndValue = value: "a ${builtins.typeOf value}${shown value}";

  allowed = builtins.listToAttrs (
    map (char: { name = char; value = char; })
      (characters "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-._?=")
  );
in
rec {
  inherit present typeAndValue;

  # Ends the evaluation with a problem that is shown where the user wrote the attribute `names` of `given`, or else the whole.
  # `more` are further problems of the same kind, each with a `message`, a `name` and perhaps another `given`.
  refuse = { code ? "recipe-bad-value", message, help ? null, more ? [ ] }: names: given:
    let
      place = names: given:
        let at = builtins.intersectAttrs (builtins.listToAttrs (map (name: { inherit name; value = null; }) names)) given;
        in if at == { } then given else at;
    in
    __sosRefuse {
      inherit code message help;
      __place = place names given;
      more = map (one: { inherit (one) message; __place = place [ one.name ] (one.given or given); }) more;
    };

  # Refuses while evaluating what a builder would refuse only when it runs: `types` names the kind of each attribute, `given` is
  # what the user wrote, for the place.
  typed = what: types: given: attrs: sound (problems what types given attrs) attrs;

  # Gives the attributes when there are no problems, else tells all of them.
  sound = problems: attrs:
    let first = builtins.head problems;
    in
    if problems == [ ] then
      attrs
    else
      refuse
        {
          code = "recipe-wrong-type";
          inherit (first) message;
          more = builtins.tail problems;
        } [ first.name ]
        first.given;

  # Lists what `typed` refuses.
  problems = what: types: given: attrs:
    let
      isText = value: builtins.isString value || builtins.isPath value || value ? outPath;
      isVariable = one: builtins.isString one && builtins.match "[^=]+=.*" one != null;
      isPrintable = value: isText value || builtins.isInt value || builtins.isBool value || value == null;
      kinds = {
        set = { test = builtins.isAttrs; words = "a set"; };
        list = { test = builtins.isList; words = "a list"; };
        # What `toString` makes a variable of.
        variables = {
          test = value: builtins.isAttrs value && builtins.all isPrintable (builtins.attrValues value);
          element = isPrintable;
          words = "a set of strings";
        };
        textSet = {
          test = value: builtins.isAttrs value && builtins.all isText (builtins.attrValues value);
          element = isText;
          words = "a set of strings";
        };
        environment = {
          test = value: kinds.textSet.test value || builtins.isList value
            && builtins.all isVariable value;
          elementOf = value: if builtins.isList value then isVariable else isText;
          words = "a set of strings, or a list of strings such as \"NAME=value\"";
        };
        text = { test = isText; words = "a string"; };
        texts = {
          test = value: builtins.isList value && builtins.all isText value;
          element = isText;
          words = "a list of strings";
        };
        int = { test = builtins.isInt; words = "a whole number"; };
        bool = { test = builtins.isBool; words = "true or false"; };
        compression = {
          test = value: builtins.elem value [ "gzip" "zstd" "none" ];
          words = "one of \"gzip\", \"zstd\", \"none\"";
        };
      };
      # What is no set or list cannot become what the builder is given of one, so it is looked at as it was written.
      isSet = name: builtins.elem types.${name} [ "set" "list" "variables" "textSet" ];
      value = name:
        let raw = given.${name} or null;
        in if isSet name && raw != null && !(builtins.isAttrs raw) then raw else attrs.${name} or null;
      bad = name: value name != null && !(kinds.${types.${name}}.test (value name));
      wrong = builtins.filter bad (builtins.attrNames types);
      # The first wrong one of a list or a set.
      inside = kind: value:
        let
          fits = if kind ? elementOf then kind.elementOf value else kind.element or (_: true);
          wrong =
            if builtins.isList value then
              builtins.filter (i: !(fits (builtins.elemAt value i))) (builtins.genList (i: i) (builtins.length value))
            else if builtins.isAttrs value then
              builtins.filter (name: !(fits value.${name})) (builtins.attrNames value)
            else [ ];
          first = builtins.head wrong;
        in
        if wrong == [ ] then ""
        else if builtins.isList value then "; element ${toString first} is ${typeAndValue (builtins.elemAt value first)}"
        else "; `${first}` is ${typeAndValue value.${first}}";
      problem = name:
        let
          kind = kinds.${types.${name}};
          is = value name;
        in
        {
          inherit name given;
          message = "`${name}` of ${what} must be ${kind.words}, and is ${typeAndValue is}${inside kind is}";
        };
    in
    map problem wrong;

  # The output is a tree of files.
  tree = floating "recursive" "sha256";

  # The output is a root filesystem, with owners, modes and devices.
  rootfs = floating "rootfs" "blake3";

  # A tree that is addressed by what its files hold: for large ones. One of them that is a blob of the store is not read again, and no
  # file is hashed a second time.
  blobs = floating "tree" "blake3";

  # The output is known beforehand: `outputHash`, with `outputHashMode` flat unless it says otherwise.
  fixed = attrs:
    derivation (structured // {
      outputHashMode = "flat";
      outputHashAlgo = "sha256";
    } // present attrs);

  # The root filesystems that one was made of, one after the other.
  chain = one: (if one ? below then chain one.below else [ ]) ++ [ one ];

  # The image that a root filesystem began as, if its date is known only when it is read.
  originOf = rootfs:
    let image = (builtins.head (chain rootfs)).image or null;
    in if image ? epoch then null else image;

  # The date of what is made of a root filesystem, as attributes of its builder: one that is given, one that the root filesystem has, or
  # that of the image that it began as.
  datesOf = rootfs: given:
    let
      epoch = if given != null then given else rootfs.epoch or 1;
      origin = originOf rootfs;
    in
    if given == null && epoch == 1 && origin != null then
      { epochOf = source origin; epochArch = rootfs.arch or "amd64"; }
    else { inherit epoch; };

  # A text that can name a store path.
  storeName = text:
    let
      replaced = builtins.concatStringsSep "" (map (char: allowed.${char} or "-") (characters text));
      name = builtins.unsafeDiscardStringContext replaced;
    in
    if name == "" || builtins.substring 0 1 name == "." then "x${name}" else name;

  # Brings a source into the store by itself: its key depends on its content and its last name, not on where it lies or on what lies
  # beside it. What is in the store already stays as it is.
  source = value:
    if builtins.isPath value then
      "${builtins.path {
        path = value;
        name = storeName (baseNameOf value);
      }}"
    else
      "${value}";

  # The same, for the attribute `name` of what the user wrote: a file that is not there is told with its place.
  sourceAt = given: name: value:
    if builtins.isPath value && !(builtins.pathExists value) then
      refuse
        {
          code = "recipe-file-missing";
          message = "there is no file `${toString value}`";
        } [ name ]
        given
    else
      source value;

  # A set of sources.
  sources = given: builtins.mapAttrs (sourceAt given) given;
}
