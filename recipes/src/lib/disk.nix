derive:
# Bootable disks of a root filesystem. The value is the raw image; other forms of it hang on it: `qcow2`, `uki`, `netboot`,
# `iso`, `provision`. Ids follow from the name and the seed, never from what is on the disk: a slot keeps its id from version to version,
# and the kernel's command line can name it.
let
  inherit (builtins) concatStringsSep elem elemAt filter foldl' genList head length listToAttrs map;

  # Names of EFI programs, by Debian's name of the architecture.
  platforms = {
    amd64 = { default = "BOOTX64.EFI"; name = "x64"; root = "root"; verity = "root-verity"; };
    arm64 = { default = "BOOTAA64.EFI"; name = "aa64"; root = "root-arm64"; verity = "root-arm64-verity"; };
  };

  # FAT and the loader do not tell large letters from small ones.
  small = builtins.replaceStrings
    [ "A" "B" "C" "D" "E" "F" "G" "H" "I" "J" "K" "L" "M" "N" "O" "P" "Q" "R" "S" "T" "U" "V" "W" "X" "Y" "Z" ]
    [ "a" "b" "c" "d" "e" "f" "g" "h" "i" "j" "k" "l" "m" "n" "o" "p" "q" "r" "s" "t" "u" "v" "w" "x" "y" "z" ];

  # Names of derivations begin with it, and so do files on the disk.
  named = name: place:
    if name == "" then
      derive.refuse { message = "the `name` of a disk cannot be empty"; help = "write what the machine is called, as in `name = \"web\"`"; } [ "name" ] place
    else name;

  # Whether the loader takes the entry `id` for what it is told to start: `?` is a letter, `*` any number of them, `[a-c]` one of those,
  # and large letters are small ones.
  startsWhat = pattern: id:
    let
      literal = builtins.replaceStrings [ "\\" "." "+" "(" ")" "|" "^" "$" "{" "}" "*" "?" ] [ "\\\\" "\\." "\\+" "\\(" "\\)" "\\|" "\\^" "\\$" "\\{" "\\}" ".*" "." ];
      # Sets of letters, as they are, between what is literal.
      parts = builtins.split "(\\[[^][!^\\]+])" (small pattern);
      expression = concatStringsSep "" (map (part: if builtins.isList part then head part else builtins.replaceStrings [ "[" "]" ] [ "\\[" "]" ] (literal part)) parts);
    in
    builtins.match expression (small id) != null;

  # `given` is what a recipe says, read and checked; `place` is where messages point. `lacks` is what the root filesystem is known not
  # to have before it is built.
  make = place: given: { rootfs, name, epoch, arch, lacks ? { kernel = false; loader = false; } }:
    let
      refuse = message: names: derive.refuse { message = "the disk `${name}` ${message}"; } names place;
      without = { code, message, help }: derive.refuse { inherit code help; message = "the disk `${name}` cannot start: ${message}"; } [ "include" ] place;
      # The root filesystem, where its kernel is needed, and where its boot loader or the stub that comes with it is.
      kernelRoot =
        if lacks.kernel then
          without {
            code = "disk-no-kernel";
            message = "no package of the recipe is a kernel, and no file of it lies in `/boot` or `/usr/lib/modules`";
            help = "add `linux-image-${arch}`, or `linux-image-cloud-${arch}` for virtual machines, to `include`; `boot = \"none\"` makes a disk that nothing starts";
          }
        else "${rootfs}";
      loaderRoot =
        if lacks.loader then
          without {
            code = "disk-file-missing";
            message = "no package of the recipe brings systemd-boot and its stub";
            help = "add `systemd-boot-efi` to `include`, or name the files: `loader` and `stub`";
          }
        else "${rootfs}";
      platform = platforms.${arch} or (refuse "is for ${arch}, for which there is no boot loader here" [ "arch" ]);
      uuid = role: __sosUuid { inherit seed role; };
      path = attribute: if given ? ${attribute} then derive.source given.${attribute} else null;

      seed = given.seed or name;
      version = given.version or "1";
      boot = given.boot or "uki";
      filesystem = given.filesystem or "ext4";
      # What becomes of access control lists in squashfs, wherever this makes one.
      acls = given.acls or null;
      modules = given.modules or [ ];
      kernel = given.kernel or null;
      tries = given.tries or null;
      console = given.console or "ttyS0";
      busybox = path "busybox";
      stub = path "stub";
      id = "${name}_${version}";
      isReadOnly = filesystem != "ext4";
      # A kernel that has the file system as a module, as most have, needs an initrd.
      wantedInitrd = given.initrd or (if isReadOnly then "own" else "none");
      # What the system writes goes to memory where the root cannot take it.
      volatile =
        let wanted = given.volatile or (if isReadOnly && wantedInitrd != "none" then "overlay" else "none");
        in
        if wanted == "overlay" && wantedInitrd == "none" then
          refuse "has `volatile = \"overlay\"`, which an initrd lays over the root: give it `initrd = \"own\"`" [ "volatile" "initrd" ]
        else wanted;
      # Whether every block of the root is compared with a hash when it is read.
      verity =
        if !(given.verity or false) then false
        else if !isReadOnly then
          refuse "has `verity`, and nothing may write to a root with hashes: choose `filesystem = \"erofs\"` or \"squashfs\"" [ "verity" "filesystem" ]
        else if boot != "uki" then
          refuse "has `verity`, whose hash must be part of the kernel image: leave `boot` at \"uki\"" [ "verity" "boot" ]
        else if wantedInitrd == "none" then
          refuse "has `verity`, which an initrd sets up: leave `initrd` out, or choose \"own\" or \"distribution\"" [ "verity" "initrd" ]
        else true;
      release = {
        IMAGE_ID = name;
        IMAGE_VERSION = version;
      };

      # A derivation of this disk.
      part = suffix: builder: attrs: derive.blobs ({
        name = "${named name place}${suffix}";
        builder = "builtin:${builder}";
        __place = place;
      } // attrs);

      # Partitions, as a recipe would give them.
      esp = {
        name = "esp";
        type = "esp";
        size = given.esp-size or null;
      };
      root = {
        name = "root";
        type = platform.root;
        size = given.root-size or null;
        attributes = if isReadOnly then [ "read-only" ] else [ "grow" ];
        inherit filesystem;
        free = if isReadOnly then 0 else given.free or 67108864;
        rootfs = true;
      };
      # Hashes over so many bytes: blocks of 128 hashes, level over level, and one block that describes them.
      hashBytes = size:
        let levels = blocks: if blocks <= 1 then 0 else let above = (blocks + 127) / 128; in above + levels above;
        in 4096 * (1 + levels ((size + 4095) / 4096));
      hashes = of: {
        name = "${of.name}-verity";
        type = platform.verity;
        attributes = [ "read-only" ];
        size = if of.size == null then null else hashBytes of.size;
      };
      withHashes = of: if verity then [ of (hashes of) ] else [ of ];
      slot = letter: root // {
        name = "root-${letter}";
        attributes = if isReadOnly then [ "read-only" ] else [ ];
        size = given.root-size or (refuse "has two slots and needs `root-size`: both are as large as any version will ever be" [ "slots" ]);
      };
      # A type that was written as a UUID is a word by now, if there is one for it.
      isEsp = one: one.type or "linux" == "esp";
      layout =
        if given ? partitions && boot != "none" && !(builtins.any isEsp given.partitions) then
          refuse "cannot start: it has no partition of type \"esp\", where firmware looks for what it starts; add one, or choose `boot = \"none\"`" [ "partition" "partitions" ]
        else given.partitions or standard;
      # Without `[[partition]]`.
      standard =
        if given.slots or 1 == 1 then [ esp ] ++ withHashes root
        else [ esp ] ++ withHashes (slot "a") ++ withHashes (removeAttrs (slot "b") [ "rootfs" "filesystem" ]);

      # With hashes the file system is made first, since the kernel image has to know them.
      rootImage = part ".${filesystem}" "filesystem" {
        rootfs = "${rootfs}";
        uuid = uuid "filesystem root";
        inherit filesystem epoch acls;
      };
      rootHashes = part "-verity" "verity" { image = "${rootImage}"; uuid = uuid "verity"; };
      # What a version can be in: a partition for roots of this architecture, and whatever has the root filesystem, since that is what
      # the entry of the first version starts.
      slotPartitions = filter (one: isRoot one || one.type or "linux" == platforms.${arch}.root or null) layout;
      hashPartitions = filter (one: one.type or "linux" == platform.verity) layout;
      # The partition with the hashes of each root: the first belongs to the first, and so on.
      partners =
        if length slotPartitions != length hashPartitions then
          refuse "has `verity`, and needs a partition of type `${platform.verity}` for each one with `rootfs = true` or of type `${platform.root}`, in the same order" [ "partition" "partitions" ]
        else
          listToAttrs (genList (i: { name = (elemAt slotPartitions i).name; value = elemAt hashPartitions i; }) (length slotPartitions));
      partner = one: partners.${one.name};
      # By partition, what is copied into it.
      images =
        if !verity then { }
        else
          foldl' (all: one: all // { ${one.name} = "${rootImage}"; ${(partner one).name} = "${rootHashes}/hashes"; }) { } roots;

      lowered = map
        (one:
          let
            isCopied = images ? ${one.name};
          in derive.present {
            inherit (one) name;
            type = one.type or "linux";
            uuid = one.uuid or (uuid "partition ${one.name}");
            size = one.size or null;
            rest = one.rest or null;
            attributes = one.attributes or [ ];
            filesystem = if isCopied then null else one.filesystem or (if isEsp one then "vfat" else null);
            filesystem_uuid = one.filesystem-uuid or (uuid "filesystem ${one.name}");
            label = one.label or (if isEsp one then "ESP" else null);
            rootfs =
              if one.rootfs or false == false || isCopied then null
              else if one.rootfs == true then "${rootfs}"
              else one.rootfs;
            free = one.free or null;
            inherit acls;
            image = images.${one.name} or (if one ? image then derive.source one.image else null);
            files =
              if isEsp one then loaderFiles // systemFiles bootRoot // derive.sources (one.files or { })
              else if one ? files then derive.sources one.files
              else null;
          })
        layout;

      # The partition that the kernel is told of.
      isRoot = one: one.rootfs or false == true;
      roots = filter isRoot layout;
      idOf = one: one.uuid or (uuid "partition ${one.name}");
      rootOf = one: {
        uuid = idOf one;
        hashes = if verity then idOf (partner one) else null;
      };
      bootRoot =
        if roots == [ ] then
          refuse "has no partition with the root filesystem: give one `rootfs = true`" [ "partition" "partitions" ]
        else
          rootOf (head roots);

      consoles = if console == "none" then [ ] else [ "console=tty0" "console=${console}" ];
      cmdline = root: concatStringsSep " " (
        # Without an initrd the kernel waits for the disk only if it is told to.
        (if verity then
          [
            "root=/dev/mapper/root"
            "systemd.verity_root_data=PARTUUID=${root.uuid}"
            "systemd.verity_root_hash=PARTUUID=${root.hashes}"
            # A root that was changed must not go on running with a part of its files.
            "systemd.verity_root_options=panic-on-corruption"
          ]
        else [ "root=PARTUUID=${root.uuid}" ])
        ++ [ (if isReadOnly then "ro" else "rw") "rootwait" ]
        ++ (if volatile == "none" then [ ] else [ "systemd.volatile=${volatile}" ])
        ++ (if isReadOnly then [ "rootfstype=${filesystem}" ] else [ ])
        ++ consoles
        # A system that cannot start is started again, and the loader counts.
        ++ (if tries == null && given.slots or 1 == 1 then [ ] else [ "panic=5" ])
        ++ given.cmdline or [ ]
      );

      makeInitrd = suffix: filesystems: required: more: part suffix "initrd" ({
        rootfs = kernelRoot;
        modules = required ++ modules;
        inherit filesystems kernel busybox epoch;
      } // more);
      ownInitrd = makeInitrd "-initrd" [ filesystem ]
        ((if verity then [ "dm_verity" ] else [ ]) ++ (if volatile == "overlay" then [ "overlay" ] else [ ]))
        (if verity then {
          useful = [ "crypto-sha256" ];
          programs = [ "/usr/sbin/veritysetup" ];
        } else { });
      initrds =
        let wanted = wantedInitrd;
        in
        if wanted == "none" then [ ]
        else if wanted == "own" then [ "${ownInitrd}" ]
        else if wanted == "distribution" then [ "distribution" ]
        else [ (derive.source wanted) ];

      # That of the root filesystem, when none is named.
      ownStub = if stub == null then builtins.seq loaderRoot null else stub;
      makeUki = root: part "_${version}.efi" "uki" {
        rootfs = kernelRoot;
        stub = ownStub;
        cmdline = cmdline root;
        roothash = if verity then "${rootHashes}/roothash" else null;
        os_release = release;
        inherit kernel initrds;
      };

      # What starts one version of the system, with its root in a partition.
      # No directory for each version: an update then adds files to directories that the first version has made.
      directory =
        if elem (small name) [ "boot" "linux" "systemd" ] then
          derive.refuse
            {
              message = "the disk `${name}` has `boot = \"entries\"`, and its kernels cannot be in `EFI/${name}`: that directory is the loader's, whatever its case";
              help = "give it another `name`, or leave `boot` at \"uki\"";
            } [ "name" ]
            place
        else "EFI/${name}";
      linuxName = "${directory}/${version}-linux";
      initrdName = i: "${directory}/${version}-initrd${toString i}";
      systemFiles = root:
        if boot == "none" then
          { }
        else if boot == "uki" then
          { "EFI/Linux/${id}.efi" = "${makeUki root}"; }
        else
          {
            ${linuxName} = derive.present { kernel_of = kernelRoot; version = kernel; };
            "loader/entries/${id}.conf".text = concatStringsSep "\n" (
              [ "title ${name} ${version}" "version ${version}" "sort-key ${name}" "linux /${linuxName}" ]
              ++ genList (i: "initrd /${initrdName i}") (length initrds)
              ++ [ "options ${cmdline root}" "" ]
            );
          } // listToAttrs (genList
            (i: {
              name = initrdName i;
              value =
                if elemAt initrds i == "distribution" then derive.present { initrd_of = "${rootfs}"; version = kernel; }
                else elemAt initrds i;
            })
            (length initrds));

      loader = if given ? loader then derive.source given.loader else "${loaderRoot}/usr/lib/systemd/boot/efi/systemd-boot${platform.name}.efi";
      startFiles = {
        "EFI/BOOT/${platform.default}" = loader;
        "EFI/systemd/systemd-boot${platform.name}.efi" = loader;
        "loader/loader.conf".text = "timeout ${toString (given.timeout or 0)}\neditor no\ndefault ${name}_*\n";
      };
      loaderFiles = if boot == "none" then { } else startFiles;

      disk = part ".raw" "disk" {
        uuid = uuid "disk";
        size = given.size or null;
        partitions = lowered;
        inherit epoch;
      };
      netboot = part "-netboot" "netboot" {
        rootfs = kernelRoot;
        stub = ownStub;
        initrd = "${makeInitrd "-netboot-initrd" [ ] [ "loop" "overlay" "squashfs" ] { }}";
        filesystem = "squashfs";
        cmdline = concatStringsSep " " (consoles ++ given.cmdline or [ ]);
        os_release = release;
        uki = id;
        inherit kernel epoch acls;
      };
      # The loader and one program with everything in it: a root on an optical drive would need drivers that kernels for virtual
      # machines lack.
      iso = part ".iso" "iso" {
        label = name;
        uuid = uuid "iso";
        partition_uuid = uuid "partition iso";
        filesystem_uuid = uuid "filesystem iso";
        files = startFiles // { "EFI/Linux/${id}.efi" = "${netboot}/${id}.efi"; };
        inherit epoch;
      };
      # What `sos provision` works from: the layout, and for each slot the files that start it.
      slots = map
        (one: {
          inherit (one) name;
          files = systemFiles (rootOf one);
          images =
            if verity then { ${one.name} = "${rootImage}"; ${(partner one).name} = "${rootHashes}/hashes"; }
            else { };
        })
        slotPartitions;
      provision = part "-provision" "provision" {
        inherit epoch version slots;
        image = name;
        uuid = uuid "disk";
        size = given.size or null;
        partitions = lowered;
        root = "${rootfs}";
        # Counters are for new versions beside one that starts: the first one has none.
        tries = if tries == null then 3 else tries;
        filesystem = if isReadOnly then filesystem else "ext4";
      };
    in
    disk // {
      inherit netboot iso provision;
      initrd = ownInitrd;
      uki = makeUki bootRoot;
      qcow2 = part ".qcow2" "qcow2" { disk = "${disk}"; };
    };

  # A disk of OSTree systems: the first deployment starts, the others can be chosen. `sysroot` is what is on its root.
  ofCommits =
    { name
    , deployments
    , os ? null
    , cmdline ? [ ]
    , console ? "ttyS0"
    , timeout ? 0
    , default ? null
    , modules ? [ ]
    , size ? null
    , esp-size ? null
    , free ? null
    , seed ? name
    , busybox ? null
    , loader ? null
    , epoch ? null
    , arch ? null
    }@args:
    let
      time = if epoch != null then epoch else newest.epoch or 1;
      what = if builtins.isString name then "sos.ostreeDisk { name = \"${name}\"; }" else "sos.ostreeDisk";
      # Read before anything is made of it: a problem of the language would not say which attribute it is about.
      words = derive.typed what
        {
          name = "text";
          os = "text";
          default = "text";
          arch = "text";
          epoch = "int";
        }
        args
        # One problem of a name is not also one of what follows from it.
        { inherit name os default arch epoch; };
      wanted = if words.os == null then words.name else words.os;
      nameOfIt = if os == null then "name" else "os";
      machine = if words.arch != null then words.arch else newest.arch or "amd64";
      # It is a part of paths and of entries of the loader.
      system =
        if builtins.match "[A-Za-z0-9_][A-Za-z0-9._-]*" wanted != null then
          wanted
        else
          derive.refuse
            {
              message = "`${nameOfIt}` of ${what} is ${derive.typeAndValue wanted}, which cannot be the name of an OSTree system";
              help = "it has letters, digits and `._-`, and begins with none of `.-`" + (if os != null then "" else "; `os` can be another name than that of the disk");
            } [ nameOfIt ]
            args;
      newest =
        if builtins.isList deployments && deployments != [ ] then
          (head deployments).rootfs
        else
          derive.refuse { message = "${what} needs `deployments`, a list of `{ rootfs, commit }`"; } [ "deployments" ] args;
      # What would be refused as a ref only when the repository of the disk is made.
      refOf = one:
        let ref = one.ref or one.commit.ref;
        in
        if builtins.isString ref && builtins.match "[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*" ref != null then
          ref
        else
          derive.refuse
            {
              message = "`ref` of a deployment of ${what} must be a ref such as \"os/amd64/stable\", and is ${derive.typeAndValue ref}";
            } [ "ref" ]
            one;
      # As libostree calls them: the first deployment has the last number.
      entries = genList (i: "ostree-${toString (length deployments - i)}-${system}.conf") (length deployments);
      started =
        if words.default == null || words.default == "@saved" || builtins.any (startsWhat words.default) entries then
          words.default
        else
          derive.refuse
            {
              message = "`default` of ${what} is `${words.default}`, and no entry of the loader is called so";
              help = "the entries are ${concatStringsSep ", " (map (one: "`${one}`") entries)}, of the deployments in their order; without `default` the first one starts";
            } [ "default" ]
            args;
      # Read as those of a recipe.
      given = __sosDisk (builtins.intersectAttrs
        { size = null; esp-size = null; free = null; cmdline = null; console = null; timeout = null; modules = null; seed = null; }
        args);
      serial = given.console or console;
      platform = platforms.${machine} or (derive.refuse { message = "${what} is for ${machine}, for which there is no boot loader here"; } [ "arch" ] args);
      uuid = role: __sosUuid { seed = given.seed or words.name; inherit role; };
      loaderFile = if loader != null then derive.source loader else "${newest}/usr/lib/systemd/boot/efi/systemd-boot${platform.name}.efi";
      initrd = derive.blobs {
        name = "${words.name}-initrd";
        builder = "builtin:initrd";
        __place = args;
        rootfs = "${newest}";
        filesystems = [ "ext4" ];
        busybox = if busybox == null then null else derive.source busybox;
        modules = given.modules or modules;
        epoch = time;
      };
      sysroot = derive.rootfs {
        name = "${words.name}-sysroot";
        builder = "builtin:ostree-sysroot";
        __place = args;
        initrd = "${initrd}";
        options = concatStringsSep " " ([ "root=PARTUUID=${uuid "partition root"}" "rw" ]
          ++ (if serial == "none" then [ ] else [ "console=tty0" "console=${serial}" ]) ++ given.cmdline or cmdline);
        deployments = map (one: { rootfs = "${one.rootfs}"; repository = "${one.commit}"; ref = refOf one; }) deployments;
        os = system;
        epoch = time;
      };
      disk = derive.blobs {
        name = "${named words.name args}.raw";
        builder = "builtin:disk";
        __place = args;
        uuid = uuid "disk";
        partitions = [
          (derive.present {
            name = "esp";
            type = "esp";
            uuid = uuid "partition esp";
            filesystem = "vfat";
            filesystem_uuid = uuid "filesystem esp";
            label = "ESP";
            size = given.esp-size or null;
            files = {
              "EFI/BOOT/${platform.default}" = loaderFile;
              "loader/loader.conf".text = "timeout ${toString (given.timeout or timeout)}\neditor no\n"
                + (if started == null then "" else "default ${started}\n");
              # Kernels and entries, as they are on the root.
              "" = { directory = "${sysroot}/boot"; };
            };
          })
          {
            name = "root";
            type = platform.root;
            uuid = uuid "partition root";
            filesystem = "ext4";
            filesystem_uuid = uuid "filesystem root";
            attributes = [ "grow" ];
            rootfs = "${sysroot}";
            free = given.free or 268435456;
          }
        ];
        size = given.size or null;
        epoch = time;
      };
    in
    disk // {
      inherit sysroot initrd;
      qcow2 = derive.blobs { name = "${words.name}.qcow2"; builder = "builtin:qcow2"; __place = args; disk = "${disk}"; };
    };
in
{
  inherit ofCommits;

  # What a recipe file says of its disk was checked with the rest of it.
  ofRecipe = make;

  disk =
    { rootfs
    , name ? rootfs.name or "system"
    , epoch ? rootfs.epoch or 1
    , arch ? rootfs.arch or "amd64"
    , ...
    }@args:
    make args (__sosDisk (removeAttrs args [ "rootfs" "name" "epoch" "arch" ])) {
      inherit rootfs name epoch arch;
    };
}
