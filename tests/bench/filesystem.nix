# What is measured: each kind of the same root filesystem, and ext4 of one in which one file differs.
{ sos, ... }: rec {
  os = sos.debian.rootfs ./os.rootfs.toml;
  changed = sos.rootfs.edit {
    rootfs = os;
    files = [ { path = "/etc/motd"; content = "changed\n"; } ];
  };
  ext4 = sos.ext4 { name = "os.ext4"; rootfs = os; size = "512M"; };
  next = sos.ext4 { name = "os.ext4"; rootfs = changed; size = "512M"; };
  erofs = sos.erofs { name = "os.erofs"; rootfs = os; };
  # As mksquashfs does, the ACL of the journal is left out.
  squashfs = sos.squashfs { name = "os.squashfs"; rootfs = os; acls = "drop"; };
}
