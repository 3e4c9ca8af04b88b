derive:
let
  # The path of a repository, for `what`. A directory of the project would become a tree, without what a repository has beside it.
  repositoryPath = what: args:
    if builtins.isPath args.repository then
      derive.refuse
        {
          message = "`repository` of ${what} is a directory, and must be what `sos.ostree` makes";
          help = "for a commit of a repository elsewhere, `sos.ostree.pull { url = \"file:///...\"; commit = \"...\"; }` is its root file system";
        } [ "repository" ]
        args
    else "${args.repository}";

  # A repository is an object with files of its own metadata, like a root filesystem: `sos export` makes a directory of it.
  commit =
    { name
    , rootfs
    , ref ? name
    , mode ? "archive"
    , subject ? name
    , body ? ""
    , version ? null
    , metadata ? { }
    , bootable ? false
    , parent ? null
    , empty-xattrs ? "refuse"
    , epoch ? null
    }@args:
    let
      dates = derive.datesOf rootfs epoch;
      modes = [ "archive" "bare-user" ];
      known =
        if builtins.elem mode modes then
          if builtins.elem empty-xattrs [ "drop" "refuse" ] then
            true
          else
            derive.refuse { message = "`empty-xattrs` of sos.ostree must be one of \"drop\", \"refuse\""; } [ "empty-xattrs" ] args
        else
          derive.refuse
            {
              message = "sos.ostree { name = \"${name}\"; } has mode = \"${toString mode}\"; it can be \"archive\" or \"bare-user\"";
            } [ "mode" ]
            args;
    in
    assert known;
    derive.rootfs (derive.typed "sos.ostree" {
      name = "text";
      ref = "text";
      subject = "text";
      body = "text";
      version = "text";
      metadata = "textSet";
      bootable = "bool";
      epoch = "int";
    } args (dates // {
      inherit name ref mode subject body version metadata bootable empty-xattrs;
      builder = "builtin:ostree";
      __place = args;
      rootfs = "${rootfs}";
      parent = if parent == null then null else "${parent}";
    })) // {
      inherit ref;
      arch = rootfs.arch or "amd64";
    } // (if dates ? epoch then { inherit (dates) epoch; } else { });

  # The root filesystem of a commit: of the repository that `sos.ostree` made, by its ref or a commit.
  checkout = { repository, name ? "${repository.name or "ostree"}-rootfs", ref ? repository.ref or null, commit ? null }@args:
    derive.rootfs (derive.typed "sos.ostree.checkout" {
      name = "text";
      ref = "text";
      commit = "text";
    } args {
      inherit name ref commit;
      builder = "builtin:ostree-checkout";
      __place = args;
      repository = repositoryPath "sos.ostree.checkout" args;
    }) // {
      epoch = repository.epoch or 1;
      arch = repository.arch or "amd64";
    };

  # The root filesystem of a commit somewhere else. Its checksum says what comes, so nothing else pins it.
  pull = { url, commit, name ? "ostree-${builtins.substring 0 12 commit}", arch ? "amd64", epoch ? 1 }@args:
    derive.rootfs (derive.typed "sos.ostree.pull" {
      url = "text";
      commit = "text";
      name = "text";
    } args {
      inherit name url commit;
      builder = "builtin:ostree-pull";
      __place = args;
    }) // { inherit arch epoch; };

  # An image that holds a commit as it is, for hosts that deploy commits out of images.
  container =
    { repository
    , name ? "${repository.name or "ostree"}-container"
    , ref ? repository.ref or null
    , tag ? "latest"
    , arch ? repository.arch or "amd64"
    , layers ? 16
    , labels ? { }
    , cmd ? [ "/sbin/init" ]
    }@args:
    let
      named =
        if ref != null then
          true
        else
          derive.refuse { message = "sos.ostree.container needs `ref`: its `repository` does not say which one it has"; } [ "repository" ] args;
    in
    assert named;
    derive.blobs (derive.typed "sos.ostree.container" {
      name = "text";
      ref = "text";
      tag = "text";
      layers = "int";
      labels = "textSet";
      cmd = "texts";
    } args {
      inherit name ref tag arch layers labels cmd;
      builder = "builtin:ostree-container";
      __place = args;
      repository = repositoryPath "sos.ostree.container" args;
    });
in
{
  inherit checkout pull container;
  __functor = _: commit;
}
