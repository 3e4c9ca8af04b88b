# The commit that is measured, and one of a root filesystem in which one file differs.
{ sos, ... }: rec {
  os = sos.debian.rootfs ./os.rootfs.toml;
  changed = sos.rootfs.edit {
    rootfs = os;
    files = [ { path = "/etc/motd"; content = "changed\n"; } ];
  };
  commit = sos.ostree { name = "os"; rootfs = os; };
  next = sos.ostree { name = "os"; rootfs = changed; };
}
