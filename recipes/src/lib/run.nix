derive:
let
  inherit (__sosArchitectures null) systems;

  run =
    { name
    , rootfs
    , script ? null
    , command ? null
    , shell ? null
    , mounts ? { }
    , env ? { }
    , cwd ? null
    , user ? null
    , epoch ? rootfs.epoch or 1
    , arch ? rootfs.arch or "amd64"
    , result ? "tree"
    , timeout ? null
    , tmpfs ? null
    , hostname ? null
    , parallel ? false
    }@args:
    let
      make =
        if result == "tree" then
          derive.tree
        else if result == "rootfs" then
          derive.rootfs
        else
          derive.refuse
            {
              message = "sos.run { name = \"${name}\"; } has result = \"${toString result}\"; it can be \"tree\" or \"rootfs\"";
            } [ "result" ]
            args;
      one =
        if (script == null) == (command == null) then
          derive.refuse { message = "sos.run { name = \"${name}\"; } needs either `script` or `command`"; } [ "script" "command" ] args
        else
          true;
      types = {
        script = "text";
        command = "texts";
        shell = "texts";
        cwd = "text";
        user = "text";
        epoch = "int";
        timeout = "int";
        tmpfs = "texts";
        hostname = "text";
        parallel = "bool";
        mounts = "set";
        env = "variables";
      };
      drv = make (derive.typed "sos.run { name = \"${name}\"; }" types args {
        inherit name script command shell cwd user epoch timeout tmpfs hostname;
        builder = "builtin:step";
        __place = args;
        system = systems.${arch} or (derive.refuse
          {
            message = "sos.run { name = \"${name}\"; } has the unknown arch \"${arch}\"";
            help = "known here: ${builtins.concatStringsSep ", " (builtins.attrNames systems)}";
          } [ "arch" ]
          args);
        # Without one the step begins with nothing but what is mounted.
        rootfs = if rootfs == null then null else "${rootfs}";
        mounts = derive.sources mounts;
        # Booleans are written as a shell would test them.
        env = builtins.mapAttrs (_: value: if value == true then "1" else if value == false then "" else toString value) env;
        parallel = if parallel == false then null else parallel;
      });
    in
    assert one;
    drv // (if result == "rootfs" then { inherit epoch arch; below = rootfs; } else { });
in
run
