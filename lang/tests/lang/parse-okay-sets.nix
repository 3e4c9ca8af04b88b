{ b, a ? 1, ... }@all: rec { inherit a; inherit (all) c; "x y" = b; d.e = 1; ${a} = 2; }
