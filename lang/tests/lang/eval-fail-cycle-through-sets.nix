let
  a = { x = b.y + 1; };
  b = { y = a.x + 0; };
in
a.x
