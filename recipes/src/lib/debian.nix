# A Debian root filesystem, built as apt would: the essential packages are laid out so that their own dpkg can run, it installs
# them, then the rest in the order of the lock. Each stage is a derivation, so that an edit to a file of the recipe repeats none of
# the package work.
{ bootc, derive, disk, fetch, filesystem, oci, ostree, rootfs }:
let
  inherit (builtins) concatStringsSep elemAt foldl' genList length listToAttrs;

  # Where the packages of a step are.
  debDir = "/run/debs";

  # Files in which dpkg and its helpers write the time; the cleanup of an image has them on its list, too.
  clocks = [
    "/var/log/dpkg.log"
    "/var/log/alternatives.log"
    "/var/log/bootstrap.log"
    "/var/log/apt/history.log"
    "/var/log/apt/term.log"
    "/var/log/apt/eipp.log.xz"
    "/var/cache/ldconfig/aux-cache"
  ];
in
{
  rootfs = recipe:
    let
      plan = __sosRootfsPlan (if builtins.isAttrs recipe && !(recipe ? outPath) then { inherit recipe; } else { file = recipe; });
      inherit (plan) epoch;

      deb = place: d:
        if d ? local then
          (if builtins.isPath d.local then
            "${builtins.path { path = d.local; name = d.file; recursive = false; inherit (d) sha256; }}"
          else
            d.local)
        else
          "${derive.fixed {
            name = d.file;
            __place = place;
            builder = "builtin:fetch";
            inherit (d) urls size;
            # For the message when no source has it any more.
            package = "${d.name} ${d.version}";
            outputHash = d.sha256;
          }}";
      debs = map (n: deb (elemAt plan.places.debs n) (elemAt plan.debs n)) (numbers plan.debs);
      pick = map (elemAt debs);

      # Mounted by number: a file name could occur twice, and the order is the one given to dpkg. Counted anew in each step, so
      # that the step does not depend on what else the recipe installs.
      inside = n: "${debDir}/${toString n}.deb";
      numbers = list: genList (n: n) (length list);
      mounted = indexes: listToAttrs (map (n: { name = inside n; value = elemAt debs (elemAt indexes n); }) (numbers indexes));
      arguments = indexes: concatStringsSep " " (map inside (numbers indexes));

      step = { name, rootfs, mounts ? { }, script }:
        derive.rootfs {
          inherit name mounts epoch;
          inherit (plan) system;
          __place = plan.places.recipe;
          builder = "builtin:step";
          rootfs = "${rootfs}";
          # What packages make below /run is theirs: base-files makes /run/lock, where /var/lock leads.
          tmpfs = [ "/tmp" ];
          script = ''
            # No service may start while packages are configured.
            printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
            chmod 755 /usr/sbin/policy-rc.d
            ${script}
            rm -f /usr/sbin/policy-rc.d
            # The time of the run is in these, and what is made of it must be the same whenever that is.
            rm -f ${concatStringsSep " " clocks}
          '';
          env = {
            DEBIAN_FRONTEND = "noninteractive";
            DEBCONF_NONINTERACTIVE_SEEN = "true";
          };
        };

      # Named after the suite: recipes of the same suite and epoch share these two.
      unpacked = derive.rootfs {
        name = "${plan.suite}-essential-unpacked";
        __place = plan.places.recipe;
        builder = "builtin:debian-unpack";
        debs = pick plan.essential;
        inherit epoch;
        merged_usr = plan.mergedUsr;
      };
      # The variant `extract` has nothing configured.
      configures = plan.variant != "extract";
      essential =
        if configures then
          step {
            name = "${plan.suite}-essential";
            rootfs = unpacked;
            mounts = mounted plan.essential;
            script = "dpkg --install --force-depends ${arguments plan.essential}";
          }
        else
          unpacked;
      preseeded =
        if plan ? debconf && configures then
          step {
            name = "${plan.name}-debconf";
            rootfs = essential;
            mounts."/run/debconf" = builtins.toFile "debconf-selections" plan.debconf;
            script = "debconf-set-selections /run/debconf";
          }
        else
          essential;
      batch = below: number:
        let indexes = elemAt plan.batches number;
        in
        step {
          name = "${plan.name}-packages${if length plan.batches == 1 then "" else "-${toString (number + 1)}"}";
          rootfs = below;
          mounts = mounted indexes;
          script = ''
            dpkg --unpack ${arguments indexes}
            dpkg --configure --pending
          '';
        };
      configured = foldl' batch preseeded (numbers plan.batches);

      # What starts a machine, and certainly comes from no package and no file of the recipe. A package from a file may be anything.
      lacks =
        let
          nothing = package: files:
            !(builtins.any (d: d ? local || package d) plan.debs)
            && !(builtins.any (one: builtins.match files one.path != null) (plan.edit.files or [ ]));
        in
        {
          kernel = nothing (d: builtins.match ".*(linux-image|kernel).*" d.name != null) "/boot(/.*)?|/(usr/)?lib(/modules.*)?|/(usr)?";
          # Up to 251 it was part of systemd itself.
          loader = nothing
            (d: builtins.match ".*boot-efi.*" d.name != null || d.name == "systemd" && builtins.compareVersions d.version "252~" < 0)
            "/usr(/lib(/systemd(/boot.*)?)?)?|/";
        };

      drv = derive.rootfs (rootfs.withSources plan.edit // {
        name = "${plan.name}-rootfs";
        __place = plan.places.edit;
        builder = "builtin:rootfs-edit";
        rootfs = "${configured}";
        inherit epoch;
        extended_states = plan.auto;
      });
      whole = drv // {
        inherit epoch;
        inherit (plan) arch;
        packages = plan.debs;
        rootfs = whole;
        oci = oci.oci {
          inherit (plan) name;
          rootfs = whole;
          config.cmd = [ "/bin/sh" ];
        };
        ostree = ostree {
          name = "${plan.name}-ostree";
          ref = plan.name;
          rootfs = whole;
        };
        disk = disk.ofRecipe plan.places.recipe plan.disk {
          inherit (plan) name arch;
          inherit epoch lacks;
          rootfs = whole;
        };
        inherit (whole.disk) qcow2 uki netboot iso provision;
        # Room for what the system writes.
        ext4 = filesystem.ext4 {
          name = "${plan.name}.ext4";
          rootfs = whole;
          free = "256M";
        };
        erofs = filesystem.erofs {
          name = "${plan.name}.erofs";
          rootfs = whole;
        };
        squashfs = filesystem.squashfs {
          name = "${plan.name}.squashfs";
          rootfs = whole;
          acls = plan.disk.acls or "refuse";
        };
        bootc = bootc ({
          name = "${plan.name}-bootc";
          rootfs = whole;
        } // plan.bootc);
      };
    in
    whole;
}
