# Files, directories, the search path, caching by path.
let lib = import <lib>; in [ (lib.double 4) (import ./dir) (import ./dir/default.nix) (scopedImport { x = 1; } (builtins.toFile "f" "x + 1")) ]
