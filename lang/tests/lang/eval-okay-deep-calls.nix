let
  sum = n: if n == 0 then 0 else 1 + sum (n - 1);
  nest = n: if n == 0 then 0 else builtins.head (map (x: 1 + nest (n - 1)) [ 1 ]);
  fold = n: if n == 0 then 0 else builtins.foldl' (a: x: 1 + fold (n - 1)) 0 [ 1 ];
in
[ (sum 9000) (nest 4500) (fold 4000) ]
