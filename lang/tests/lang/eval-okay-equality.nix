let
  f = x: x;
  loop = { self = loop; };
in
[
  (f == f)
  ([ f ] == [ f ])
  (1 == 1.0)
  (loop == loop)
  ({ type = "derivation"; outPath = "o"; a = 1; } == { type = "derivation"; outPath = "o"; a = 2; })
  ([ (throw "not looked at") ] == [ ])
]
