builtins.partition (x: "") [ 1 ]
