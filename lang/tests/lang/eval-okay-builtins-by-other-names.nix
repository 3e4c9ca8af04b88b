# Builtins that the evaluator learns of only when they are called.
let
  inherit (builtins) addErrorContext all concatMap elemAt foldl' head length mapAttrs tail tryEval;
  add = foldl' (a: b: a + b);
in [
  (addErrorContext (throw "nobody asks for the message") 1)
  (tryEval (addErrorContext "a" (throw "b"))).success
  (all (x: x > 0) (tail [ 0 1 2 ]))
  (concatMap (x: x) [ [ ] [ 1 2 ] ])
  (concatMap (x: x) [ [ 1 ] [ ] [ 2 3 ] [ 4 ] ])
  (concatMap (x: x) [ [ ] [ ] ])
  (elemAt (tail (tail [ 1 2 3 ])) 0)
  (add 0 [ 1 2 3 ])
  (length (head [ [ 1 2 ] ]))
  (mapAttrs { __functor = _: n: v: n + v; } { a = "b"; })
  (mapAttrs (n: v: n + v) { a = "b"; })
]
