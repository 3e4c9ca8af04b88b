builtins.concatMap (x: x) [ 7 ]
