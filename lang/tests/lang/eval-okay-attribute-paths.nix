{
  a.b.c = 1;
  a = { d = 2; };
  a.b."e f" = 3;
  ${null} = throw "never there";
  "${"g"}" = 4;
}
