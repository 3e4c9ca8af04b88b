let
  a = { x = b.y + 1; };
  b = { y = a.x; };
in
a.x
