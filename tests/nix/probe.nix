# The probe with one input of each kind, and what it needs to look for things that must not be there.
{ hostFile, hostPid, hostPort, hostSocket, mark }:
let
  inherit (builtins) path placeholder unsafeDiscardStringContext;
  system = "x86_64-linux";
  tools = path { path = ./tools; name = "tools"; };
in
{
  other = path { path = ./other; name = "other"; };
  probe = derivation {
    inherit system hostFile hostPid hostPort hostSocket mark;
    name = "probe";
    builder = path { path = ./probe; name = "probe"; };
    inputDir = path { path = ./dir; name = "dir"; };
    inputFile = path { path = ./file; name = "file"; };
    inputLink = derivation {
      name = "link";
      inherit system;
      builder = "${tools}/bin/busybox";
      args = [ "ln" "-s" "/nowhere" (placeholder "out") ];
    };
    # In the store, but no input.
    otherObject = unsafeDiscardStringContext "${path { path = ./other; name = "other"; }}";
  };
}
