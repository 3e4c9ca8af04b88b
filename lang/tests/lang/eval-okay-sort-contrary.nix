builtins.length (builtins.sort (a: b: true) (builtins.genList (i: i) 100))
