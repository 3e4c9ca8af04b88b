# Derivations in the Nix language. Each attribute is a target: `sos build .#greeting`, `sos build .#counted`.
{ sos, name ? "world", ... }:
let
  # A small Debian to run commands in; a recipe can also be a file of its own, `sos.debian.rootfs ./x.rootfs.toml`.
  debian = sos.debian.rootfs {
    name = "tools";
    suite = "bookworm";
    variant = "essential";
    epoch = "2026-07-01T00:00:00Z";
  };

  # A command in that root filesystem; what it leaves in $out is the result.
  command = name: mounts: script: sos.run {
    inherit name mounts;
    rootfs = debian;
    script = ''
      mkdir "$out"
      ${script}
    '';
  };
in
rec {
  inherit debian;

  # `sos build .#greeting --argstr name you` makes another one.
  greeting = command "greeting" { } ''echo "Hello, ${name}!" > "$out/greeting"'';

  # Depends on `greeting`, and is not built again when that comes out the same.
  counted = command "counted" { "/in" = greeting; } ''wc -c < /in/greeting > "$out/bytes"'';
}
