# A root filesystem of about 350 MB, and images of it; `salt` is in one small file.
{ salt ? "" }:
{ sos, ... }:
let
  host = sos.debian.rootfs {
    name = "host";
    suite = "bookworm";
    variant = "minbase";
    include = [ "systemd" "openssh-server" "linux-image-cloud-amd64" "python3" "nginx" ];
    epoch = 1700000000;
  };
in
rec {
  base = host;
  changed =
    if salt == "" then base
    else sos.rootfs.edit { rootfs = base; name = "changed"; files = [ { path = "/etc/salt"; content = salt; } ]; };
  whole = sos.oci { name = "whole"; rootfs = changed; };
  packages = sos.oci { name = "packages"; rootfs = changed; layering = "packages"; };
}
