[
  (builtins.groupBy (x: if x > 1 then "big" else "small") [ 1 2 3 ])
  (builtins.zipAttrsWith (n: vs: vs) [ { a = 1; } { a = 2; b = 3; } ])
  (builtins.partition (x: x > 1) [ 1 2 3 ])
  (builtins.catAttrs "a" [ { a = 1; } { } { a = 2; } ])
  (builtins.intersectAttrs { a = 1; } { a = 2; b = 3; })
]
