[
  (builtins.tryEval (throw "x"))
  (builtins.tryEval (assert false; 1))
  (builtins.tryEval <nowhere>).success
  (let t = throw "x"; in [ (builtins.tryEval t).success (builtins.tryEval t).success ])
]
