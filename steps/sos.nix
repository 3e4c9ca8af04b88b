# This repository's own tree of bootstrap steps, over binary seeds of Debian: see ../seeds/bootstrap/README.md.
{ sos, settings ? [ ] }:
sos.bootstrap {
  name = "bootstrap";
  tree = ../.;
  inherit settings;
  shell = [ "/bin/sh" ];
  start = sos.run {
    name = "bootstrap-start";
    rootfs = sos.debian.rootfs ../seeds/bootstrap/seed.rootfs.toml;
    result = "rootfs";
    epoch = 0;
    shell = [ "/bin/busybox" "sh" "-eu" ];
    # The programs of busybox by their names, where Debian has no better one.
    script = ''
      for applet in $(/bin/busybox --list); do
        [ -e "/bin/$applet" ] || /bin/busybox ln -s busybox "/bin/$applet"
      done
      mkdir -p /external/distfiles /external/repo
    '';
  };
}
