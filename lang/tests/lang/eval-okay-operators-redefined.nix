# `-`, `*`, `/` and the comparisons stand for functions that a program can define anew, as far as its names reach.
let
  outside = [ (3 - 1) (-3) (2 * 3) (4 / 2) (3 > 1) (1 >= 3) ];
  sub = let __sub = a: b: [ "sub" a b ]; in [ (3 - 1) (-3) (5 + 1) ];
  others = let __mul = a: b: "mul"; __div = a: b: "div"; in [ (2 * 3) (4 / 2) (2 - 1) ];
  less =
    let __lessThan = a: b: [ a b ] == [ 1 3 ];
    in [ (1 < 3) (3 < 1) (3 > 1) (1 > 3) (1 <= 3) (3 >= 1) (1 >= 3) ];
  parameter = (__sub: 9 - 4) (a: b: "given");
  pattern = ({ __mul ? (a: b: "default") }: 9 * 4) { };
  recursive = (rec { __div = a: b: "rec"; x = 9 / 4; }).x;
  # A `with` gives no names that are there already.
  withs = with { __sub = a: b: "with"; }; 9 - 4;
  imported = builtins.scopedImport { __sub = a: b: "scoped"; } (builtins.toFile "x" "9 - 4");
  lazy = let __sub = a: b: a; in 7 - (throw "never");
in
{ inherit outside sub others less parameter pattern recursive withs imported lazy; }
