let d = derivation { name = "d"; system = "s"; builder = "b"; outputs = [ "out" "dev" ]; }; in [
  (builtins.getContext "${d}${d.dev}")
  (builtins.getContext (builtins.substring 0 0 d.drvPath))
  (builtins.getContext (builtins.unsafeDiscardOutputDependency d.drvPath))
  (builtins.hasContext (builtins.head (builtins.match "(.*)" "${d}")))
]
