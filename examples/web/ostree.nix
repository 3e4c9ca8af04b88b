# The machine as OSTree commits, and a disk with the last two of them.
{ sos, machine }:
let
  # As OSTree wants it: the kernel beside its modules, the configuration in /usr/etc, nothing in /var.
  system = version: sos.run {
    name = "system-${version}";
    rootfs = sos.rootfs.edit {
      rootfs = machine;
      # It keeps files in /var, which comes empty.
      services.mask = [ "nginx.service" ];
      services.enable = [ "version.service" ];
      file = [
        { path = "/usr/version"; content = version; }
        {
          path = "/etc/systemd/system/version.service";
          content = ''
            [Unit]
            Description=Tell the console which commit runs
            Before=console-state.service
            [Service]
            Type=oneshot
            ExecStart=/bin/sh -c 'o=$(sed "s/.*ostree=//;s/ .*//" /proc/cmdline); echo "this is version $(cat /usr/version), commit $(basename $(readlink -f /sysroot$o))" >/dev/console'
            [Install]
            WantedBy=multi-user.target
          '';
        }
      ];
    };
    result = "rootfs";
    script = ''
      kernel=$(ls /usr/lib/modules)
      mv "/boot/vmlinuz-$kernel" "/usr/lib/modules/$kernel/vmlinuz"
      rm -rf /boot/* /vmlinuz* /initrd* /var/* /efi
      mkdir -p /sysroot
      ln -s sysroot/ostree /ostree
      cp -a /etc /usr/etc
      rm -rf /etc
    '';
  };
  commit = version: parent: sos.ostree {
    name = "commit-${version}";
    ref = "os";
    rootfs = system version;
    bootable = true;
    inherit version parent;
  };
  one = commit "1" null;
  two = commit "2" one;

  # `default` is the entry that starts: the first one, unless it is named.
  diskWith = default: sos.ostreeDisk {
    name = "ostree";
    os = "web";
    cmdline = [ "quiet" "mitigations=off" ];
    deployments = [
      { rootfs = system "2"; commit = two; }
      { rootfs = system "1"; commit = one; }
    ];
    inherit default;
  };
in
{
  inherit one two;
  disk = diskWith null;
  rolledBack = diskWith "ostree-1-*";
}
